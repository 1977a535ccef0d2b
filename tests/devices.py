"""What a GPU is asked to do, seen without one: tensors of a fake one have shapes and no values."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cromss.noisy_labels.smoothing import gaussian_matrix


class Asked(TorchDispatchMode):
    """Counts operations on the GPU, and lists those that bring it something and wait until it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)}
        self.operations[str(operation)] += "cuda" in devices
        if len(devices) > 1 and not kwargs.get("non_blocking"):
            self.waits.append(str(operation))
        return result


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, tensors on `cuda` are fakes; to ask for a value of one, which a GPU would be waited for, is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True), patch.object(Tensor, "pin_memory", lambda unpinned: unpinned):
        gaussian_matrix.cache_clear()
        yield
    gaussian_matrix.cache_clear()
