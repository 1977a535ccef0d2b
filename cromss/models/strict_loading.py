"""Strict loading: every tensor of a part of a network by name and shape, or none."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Tensors = Mapping[str, torch.Tensor]


def own_names(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's tensors by the names foreign files use: timm's wrapper adds `model.` to all of them."""
    tensors = module.state_dict()
    wrapped = all(name.startswith("model.") for name in tensors)
    return {name.removeprefix("model.") if wrapped else name: tensor for name, tensor in tensors.items()}


def pick(
    state_dict: Tensors, prefix: str, module: nn.Module, dispensable: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A module's tensors among those of a file.

    Whatever stands beside its own parts is left out (heads, decoders, mask tokens); within them names and
    shapes must be the same; values are left to `damages`. Only BatchNorm's step counters and what is said to be
    dispensable may be missing.

    Args:
        state_dict: All tensors of the file.
        prefix: What stands before the module's own names.
        module: Where they will be loaded.
        dispensable: Own names that may be missing.

    Returns:
        Tensors by the module's own names, and what keeps them from being loaded, if anything does.
    """
    own = own_names(module)
    first_names = {name.split(".")[0] for name in own}
    behind = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in behind.items() if name.split(".")[0] in first_names}
    wanted = {name: tensor for name, tensor in own.items() if name in found or name not in dispensable}
    problems = [problem for name, tensor in wanted.items() if (problem := _misfit(name, tensor, found.get(name)))]
    return found, problems + [f"{name} has no place in it" for name in found if name not in own]


def damages(module: nn.Module, found: Tensors) -> list[str]:
    """What makes tensors that fit a module by name and shape useless: integers for floats, NaN, infinity."""
    own = own_names(module)
    return [damage for name, tensor in found.items() if (damage := _damage(name, own[name], tensor))]


def fill(module: nn.Module, tensors: Tensors) -> None:
    """Load tensors by foreign names.

    Of a norm, what is not among them starts anew: step counters and shifts (`bias`) become 0, scales (`weight`) 1.
    """
    own = own_names(module)
    new = {name: torch.full_like(own[name], int(name.endswith("weight"))) for name in own.keys() - tensors.keys()}
    full_names = dict(zip(own, module.state_dict()))
    module.load_state_dict({full_names[name]: tensor for name, tensor in (new | dict(tensors)).items()})


class Undrawn(TorchFunctionMode):
    """Within, networks are made of means, zeros most of them, instead of random weights: where a file has every weight.

    Most of the time that it takes to make a network is for drawing: of twins of ResNet-50 three quarters.
    """

    def __torch_function__(
        self, function: Callable, types: Any, arguments: tuple = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function not in _DRAWING:
            return function(*arguments, **options)
        tensor, *more = arguments or (options["tensor"],)
        mean = options.get("mean", more[0] if more else 0) if function is torch.Tensor.normal_ else 0
        with torch.no_grad():
            return tensor.fill_(mean)


_DRAWING = {
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_),
}
"""What fills a tensor at random, or by what it was filled with so; most others call these."""


def _misfit(name: str, own: torch.Tensor, found: torch.Tensor | None) -> str | None:
    """What keeps a tensor of the file from its place in the network, if anything does."""
    if found is None:
        return None if _is_counter(name) else f"{name} is missing"
    return None if found.shape == own.shape else f"{name} is {tuple(found.shape)}, not {tuple(own.shape)}"


def _damage(name: str, own: torch.Tensor, found: torch.Tensor) -> str | None:
    """What makes a tensor useless, if anything does."""
    if own.is_floating_point() and not found.is_floating_point():
        return f"{name} is {found.dtype}, not {own.dtype}"
    return None if torch.isfinite(found).all() else f"{name} holds NaN or infinity"


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
