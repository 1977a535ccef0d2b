"""What to do where a GPU has too little memory, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SENTENCES = 3
"""Of PyTorch's message: that memory is short, how much was wanted, and how much of how much is left."""


@contextmanager
def enough_gpu_memory(advice: str) -> Iterator[None]:
    """Within, or in the function so decorated, a GPU whose memory does not suffice is a foreseen error.

    Args:
        advice: What to change.

    Raises:
        ValueError: It did not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = ". ".join(str(error).split(". ")[:_SENTENCES])
        raise ValueError(f"{said}; {advice}") from None
