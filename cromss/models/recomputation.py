"""Gradient checkpointing: activations computed again in the backward pass, not kept: less memory, longer steps."""

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

MOST_WEIGHTS = 400_000
"""Weights up to which a block without attention is recomputed: it computes little for the much that it keeps."""

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute_activations(network: nn.Module) -> int:
    """Let blocks keep nothing but their input for the backward pass, and compute the rest again there.

    Blocks with attention do so, and those of up to `MOST_WEIGHTS` weights: of a ResNet-50 its first two stages, of a
    U-Net its last decoder blocks. Losses, gradients, statistics of BatchNorm and names of weights stay as they are.
    Networks that are compiled leave blocks with BatchNorm to the compiler, which chooses what it recomputes.

    Args:
        network: Any of ours; changed in place. It can be copied after that, but not pickled.

    Returns:
        How many blocks do so.
    """
    worthwhile = [block for block in blocks(network) if _attends(block) or _num_weights(block) <= MOST_WEIGHTS]
    for block in worthwhile:
        if not isinstance(block, _Recomputed):
            block.__class__ = _recomputed(type(block))
    return len(worthwhile)


def blocks(network: nn.Module) -> list[nn.Module]:
    """What a network repeats: the innermost members of lists that have several layers with weights."""
    members = [member for group in network.modules() if isinstance(group, _LISTS) for member in group.children()]
    deep = {block: None for block in members if not isinstance(block, _LISTS[1:]) and _num_layers(block) > 1}
    return [block for block in deep if deep.keys().isdisjoint(list(block.modules())[1:])]


class _Recomputed(nn.Module):
    """Comes before a block's class, as PyTorch's parametrisations do, so that copies compute with their own weights."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        left_to_compiler = norms and torch.compiler.is_compiling()
        if left_to_compiler or not (self.training and torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)
        options = {"context_fn": lambda: (nullcontext(), _StatisticsHeld(norms))} if norms else {}
        inputs = (list(arg) if isinstance(arg, list) else arg for arg in args)  # to which a DenseNet adds afterwards
        return checkpoint(super().forward, *inputs, use_reentrant=False, **options, **kwargs)


@cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Recomputed, kind), {})


class _StatisticsHeld:
    """A block in which the same images do not count for running statistics a second time; once for each repetition."""

    def __init__(self, norms: list[_BatchNorm]) -> None:
        self._norms = norms

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm, (_, num_batches) in zip(self._norms, self._before):
            norm.momentum, norm.num_batches_tracked = 0.0, None if num_batches is None else num_batches.clone()

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, num_batches) in zip(self._norms, self._before):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


def _attends(module: nn.Module) -> bool:
    return any(hasattr(part, "num_heads") for part in module.modules())


def _num_layers(module: nn.Module) -> int:
    return sum(weight.ndim > 1 for weight in module.parameters())


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
