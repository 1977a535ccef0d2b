"""GPUs that cannot be used, or whose memory is too small, in one line that says what to do; and none where none is."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_CPU = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Instructions of CPUs, as they are named there."""
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
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not re.search(
            "(?i)cu(da|dnn).*(out of memory|_alloc_failed)", _line(error)
        ):
            raise
        said = ". ".join(_line(error).split(". ")[:_SENTENCES])
        raise ValueError(f"{said}; {advice}") from None


@contextmanager
def deterministic_algorithms(advice: str) -> Iterator[None]:
    """Within, an operation that PyTorch cannot do with the same bits again, and should, is a foreseen error.

    Args:
        advice: What to change.

    Raises:
        ValueError: There was such an operation.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in _line(error):
            raise
        raise ValueError(f"{_line(error).partition(',')[0]}; {advice}") from None


def check_gpu() -> None:
    """Start the driver of the GPU, if there is one.

    Raises:
        ValueError: PyTorch cannot use it: its driver is too old or at fault, or it is itself older than all that this
            build of PyTorch is made for.
    """
    if not torch.cuda.device_count():
        return
    otherwise = "or say --accelerator cpu"
    try:
        torch.cuda.init()
        major, minor = torch.cuda.get_device_capability()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise ValueError(f"the GPU cannot be used ({_line(error)}); mend or renew its driver, {otherwise}") from None
    made_for = [int(number) for arch in torch.cuda.get_arch_list() for number in re.findall(r"^sm_(\d+)", arch)]
    if made_for and 10 * major + minor < min(made_for):
        raise ValueError(
            f"{torch.cuda.get_device_name()} (sm_{major}{minor}): PyTorch {torch.__version__} is made for GPUs from "
            f"sm_{min(made_for)} on; install an older one, for an older CUDA, {otherwise}"
        )


def has_bfloat16() -> bool:
    """Whether there is a GPU that computes in bfloat16, and does not imitate it, which is slow."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def imitates_bfloat16(on_cpu: bool) -> bool:
    """Whether the GPU, or the CPU as far as Linux tells, has no instructions for bfloat16: it is slow there."""
    if not on_cpu:
        return not has_bfloat16()
    return _CPU.exists() and _BFLOAT16.isdisjoint(_CPU.read_text().split())


def as_in_training(device: torch.device) -> torch.autocast:
    """Mixed precision on GPUs that have it, in which trainings compute and score there unless told otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and has_bfloat16())


@contextmanager
def hidden_gpus(hide: bool = True) -> Iterator[None]:
    """Within, there is no GPU, if so told: its driver is not started, and none of its memory taken."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hide:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if hide and before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        elif hide:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def in_any_order() -> Iterator[None]:
    """Within, algorithms need not be deterministic: integers are summed, whose order does not matter."""
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)


def _line(error: Exception) -> str:
    """The first line of what CUDA says; others are of its debugging."""
    return str(error).partition("\n")[0]
