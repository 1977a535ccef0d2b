"""What the exchange of gradients costs: a CromSS step in two processes with and without it, and in one process.

python benchmarks/ddp_overhead.py

Two processes of one thread each take a step of half the batch: apart, and with their gradients averaged as in training
(gloo, over the loopback); one process takes the whole batch while the other waits; and the gradients alone are summed
over both. All in turn, after the averaged gradients were found to be the mean of those of both processes.
Results go to benchmarks/ddp_overhead.csv.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.distributed as dist
from alternation import alternate, compared, measured, report, weighed
from bench_step import batch, our_loss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cromss.config import run
from cromss.models import build_pretrainer

APART, TOGETHER, ONE, SUM = "two processes, apart", "two processes, DDP", "one process", "gradients alone"


@dataclass(frozen=True)
class DdpOverhead:
    """Milliseconds of a step in two processes and in one."""

    encoder: str = "resnet18"
    """Encoder of both U-Nets."""
    batch_size: int = 8
    """Samples in the batch; each of two processes takes half."""
    crop_size: int = 64
    """Side of the samples, in pixels."""
    rounds: int = 15
    """Times that every way is timed."""
    results: Path = Path("benchmarks/ddp_overhead.csv")
    """Table to write."""


def main(settings: DdpOverhead) -> None:
    """Time and write."""
    torch.set_num_threads(1)
    seconds, megabytes = timed(settings)
    alone = [1e3 * each for each in seconds.pop(SUM)]
    added = [1e3 * (a - b) for a, b in zip(seconds[TOGETHER], seconds[APART])]
    rows = compared("step", seconds, 1)
    rows.append(measured("added to a step", TOGETHER, added, "ms"))
    rows.append(measured("all-reduce", SUM, alone, "ms"))
    report(rows + weighed("gradients", {SUM: megabytes}), settings.results)


def timed(settings: DdpOverhead) -> tuple[dict[str, list[float]], float]:
    """Seconds of every way, in each round once, and MB of the gradients."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (settings, f"file://{folder}/meeting", queue)
        both = [context.Process(target=take_part, args=(rank, 2, *arguments)) for rank in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
    if any(process.exitcode for process in both):
        raise ValueError("a process of the two ended early")
    return queue.get()


def take_part(rank: int, count: int, settings: DdpOverhead, meeting: str, queue: SimpleQueue) -> None:
    """One of `count` processes; the first puts seconds by way, and MB of the gradients."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    images, *masks = batch(settings)
    mine = slice(rank, None, 2)
    half = {name: x[mine] for name, x in images.items()}, *(x[mine] for x in masks)
    bare, whole, averaged = (network(settings) for _ in range(3))
    together = DistributedDataParallel(averaged)
    gradients = torch.cat([x.flatten() for x in backward(bare, half)])
    check_mean(gradients, torch.cat([x.flatten() for x in backward(together, half)]))
    ways = {
        APART: stepping(bare, half),
        TOGETHER: stepping(together, half),
        ONE: stepping(whole, (images, *masks)) if rank == 0 else lambda: None,
        SUM: lambda: dist.all_reduce(gradients.zero_()),
    }
    met = {name: lambda way=way: (way(), dist.barrier()) for name, way in ways.items()}
    seconds = alternate(met, settings.rounds)
    if rank == 0:
        queue.put((seconds, gradients.nbytes / 1e6))
    dist.destroy_process_group()


def network(settings: DdpOverhead) -> nn.Module:
    """Twin U-Nets with a shared decoder, the same in all processes."""
    torch.manual_seed(0)
    return build_pretrainer("mid", settings.encoder).train()


def backward(model: nn.Module, given: tuple) -> list[torch.Tensor]:
    """Gradients of the CromSS loss of a batch."""
    images, labels, prior = given
    model.zero_grad()
    our_loss(model(**images), labels, prior).backward()
    return [parameter.grad for parameter in model.parameters()]


def stepping(model: nn.Module, given: tuple) -> Callable[[], None]:
    """A training step, to be called again and again."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    return lambda: (backward(model, given), optimiser.step())


def check_mean(own: torch.Tensor, averaged: torch.Tensor) -> None:
    """Refuse gradients that are not the mean of those of all processes."""
    mean = own.clone()
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    torch.testing.assert_close(averaged, mean, rtol=1e-4, atol=1e-5 * float(mean.abs().max()))


if __name__ == "__main__":
    run(main, DdpOverhead)
