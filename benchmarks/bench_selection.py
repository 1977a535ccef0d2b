"""Selection and losses of CromSS on one batch: the published way against ours.

python benchmarks/bench_selection.py

Forward alone, and forward with backward, in turn in one process, after losses and gradients were found equal, with
ties, absent classes and such of one pixel. Memory that a step adds at its peak, each in a process of its own.
Results go to benchmarks/bench_selection.csv.
"""

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from alternation import OURS, PUBLISHED, alternate, compared, report, resident_mb, weighed
from published_way import objective

from cromss.config import run
from cromss.noisy_labels.selection import ramp_up, selected_share
from cromss.objective import CrossModalObjective

EPOCH = 40


@dataclass(frozen=True)
class BenchSelection:
    """Milliseconds a batch of selection and losses."""

    batch_size: int = 8
    """Samples in the batch."""
    num_classes: int = 9
    """Classes."""
    crop_size: int = 256
    """Side of the samples, in pixels."""
    rounds: int = 15
    """Times that both ways are timed."""
    threads: int = 1
    """Threads of PyTorch."""
    results: Path = Path("benchmarks/bench_selection.csv")
    """Table to write."""


def main(settings: BenchSelection) -> None:
    """Compare, time, weigh, write."""
    torch.set_num_threads(settings.threads)
    for case in ("usual", "ties"):
        check_equal(settings, case)
    logits, labels, prior = batch(settings)
    ways = {PUBLISHED: published_loss, OURS: our_loss}
    rows = []
    for what, backward in (("forward", False), ("forward and backward", True)):
        timed = {
            name: lambda way=way, backward=backward: step(way, logits, labels, prior, backward)
            for name, way in ways.items()
        }
        rows += compared(what, alternate(timed, settings.rounds), 1)
    report(rows + weighed("peak memory", {name: peak_mb(settings, name) for name in ways}), settings.results)


def batch(settings: BenchSelection, case: str = "usual") -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Logits of two modalities, labels in blobs with one class of one pixel and one that is absent, a prior."""
    side, random = settings.crop_size, torch.Generator().manual_seed(0)
    coarse = torch.randint(0, settings.num_classes - 2, (settings.batch_size, 1, 8, 8), generator=random).float()
    labels = torch.nn.functional.interpolate(coarse, size=(side, side)).squeeze(1).long()
    labels[0, 0, 0] = settings.num_classes - 2
    shape = (settings.batch_size, settings.num_classes, side, side)
    logits = [2 * torch.randn(shape, generator=random) for _ in range(2)]
    for x in logits:
        x.scatter_add_(1, labels.unsqueeze(1), torch.full_like(x[:, :1], 3))
    if case == "ties":
        logits = [x.round() for x in logits]
    return logits, labels, torch.rand(shape, generator=random).softmax(1)


def published_loss(logits: list[torch.Tensor], labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Selection and losses, as published."""
    return objective(logits, labels, prior, selected_share(EPOCH, 80, 0.5), ramp_up(EPOCH, 80))


def our_loss(logits: list[torch.Tensor], labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """The same of ours."""
    ours = CrossModalObjective(logits[0].shape[1], smoothing_factors=(0.15, 0.05), selection=True)
    return ours(dict(zip(("s1", "s2"), logits)), labels, prior, EPOCH)["loss"]


def step(way, logits, labels, prior, backward: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss, and the gradients if they are asked for."""
    leaves = [x.detach().requires_grad_() for x in logits]
    loss = way(leaves, labels, prior)
    return loss, list(torch.autograd.grad(loss, leaves)) if backward else []


def check_equal(settings: BenchSelection, case: str) -> None:
    """Refuse ways that differ in loss or gradients."""
    given = batch(settings, case)
    (a, grads_a), (b, grads_b) = (step(way, *given, backward=True) for way in (published_loss, our_loss))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)
    for x, y in zip(grads_a, grads_b):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-3 * float(x.abs().max()))


def peak_mb(settings: BenchSelection, name: str) -> float:
    """Resident memory that forward and backward of a way add at their peak, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mb, (settings, name))


def _peak_mb(settings: BenchSelection, name: str) -> float:
    torch.set_num_threads(1)
    way, given = {PUBLISHED: published_loss, OURS: our_loss}[name], batch(settings)
    step(way, *batch(replace(settings, batch_size=1)), backward=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident_mb("VmHWM")
    step(way, *given, backward=True)
    return resident_mb("VmHWM") - before


if __name__ == "__main__":
    run(main, BenchSelection)
