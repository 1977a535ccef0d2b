"""What all processes have, as one process would have it."""

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """Processes of this training; one where PyTorch is built for no more."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def whole_batch(tensor: Tensor) -> Tensor:
    """`(B, ...)` of each of `P` processes -> `(P * B, ...)` of all, in the order of the processes.

    A loss of it is the same in all processes. Its gradient reaches the own part alone, `P` times as large: the mean
    over processes, which distributed training takes, is the gradient of one process with the whole batch.
    """
    if (count := num_processes()) == 1:
        return tensor
    own = tensor.contiguous()
    parts = [torch.empty_like(own) for _ in range(count)]
    distributed.all_gather(parts, own.detach())
    if own.requires_grad:
        own = own.view_as(own)
        own.register_hook(lambda gradient: count * gradient)
        parts[distributed.get_rank()] = own
    return torch.cat(parts)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number of each process, without a gradient; what runs here does not wait for it."""
    mean = value.detach().clone()
    if (count := num_processes()) > 1:
        distributed.all_reduce(mean)
        mean /= count
    return mean


def largest_of_processes(number: int, device: torch.device) -> int:
    """The largest number of all processes; alone, a process does not wait for its GPU."""
    if num_processes() == 1:
        return number
    largest = torch.tensor(number, device=device)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)
