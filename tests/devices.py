"""What a GPU is asked to do, seen without one: tensors of a fake one have shapes and no values."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from cromss.noisy_labels.smoothing import gaussian_kernel, gaussian_matrix


class Asked(TorchDispatchMode):
    """Counts operations on the GPU, and lists those that bring it something and wait until it is there.

    From memory that is not pinned, even what should not wait does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        devices = {device for leaf in tree_leaves((args, result)) for device in ("cpu", "cuda") if _is_on(leaf, device)}
        self.operations[str(operation)] += "cuda" in devices
        is_pinned = all(hasattr(leaf, "pinned") for leaf in tree_leaves(args) if _is_on(leaf, "cpu"))
        if len(devices) > 1 and not (kwargs.get("non_blocking") and is_pinned):
            self.waits.append(str(operation))
        return result


def _is_on(leaf: object, device: str) -> bool:
    return isinstance(leaf, Tensor) and leaf.device.type == device


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, tensors on `cuda` are fakes; to ask for a value of one, which a GPU would be waited for, is an error."""
    caches = gaussian_kernel, gaussian_matrix
    for cache in caches:
        cache.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), patch.object(Tensor, "pin_memory", _pinned):
            _skip_where_there_is_none()
            yield
    finally:
        for cache in caches:
            cache.cache_clear()


def put_on_fake_gpu(module: nn.Module) -> None:
    """Replace weights, buffers and what is summed up by fakes on `cuda`, which `module.to` cannot."""
    fakes: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, value in kind.items():
                if value is not None and value not in fakes:
                    fakes[value] = torch.empty_like(value, device="cuda", requires_grad=value.requires_grad)
                kind[name] = None if value is None else fakes[value]
        if isinstance(part, Metric):
            part._device = torch.device("cuda")
            for name, value in part.metric_state.items():
                setattr(part, name, torch.empty_like(value, device="cuda"))


def backward_operations(loss: Tensor) -> set[str]:
    """Names of the operations by which gradients of a loss come, as `ConvolutionBackward0`."""
    found, waiting = set(), [loss.grad_fn]
    while waiting:
        operation = waiting.pop()
        if operation is not None and operation not in found:
            found.add(operation)
            waiting += [before for before, _ in operation.next_functions]
    return {operation.name() for operation in found}


@contextmanager
def mixed_precision() -> Iterator[None]:
    """Autocast to bfloat16 on `cuda`, which `torch.autocast` leaves out where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def _skip_where_there_is_none() -> None:
    try:
        torch.zeros(2, device="cuda")[:, None]
    except RuntimeError:
        pytest.skip(f"PyTorch {torch.__version__} asks a fake GPU for its driver")


def _pinned(memory: Tensor) -> Tensor:
    """Fakes cannot be pinned, so that a mark must do."""
    memory.pinned = True
    return memory
