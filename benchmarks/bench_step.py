"""A whole training step of CromSS on the CPU: the published way against ours.

python benchmarks/bench_step.py

All train the same twin U-Nets from the same weights on the same batch, in turn, after their losses were found equal.
The published way takes the objective term by term, and an optimiser that is not fused; ours comes with gradient
checkpointing, too. Beside the steps, how long their convolutions take, which are the same for all, and how many
operations they are. Peak memory of two steps in a process of its own each.
Results go to benchmarks/bench_step.csv.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from alternation import OURS, PUBLISHED, alternate, compared, measured, operations_in, report, resident_mb, weighed
from published_way import objective
from torch.autograd.profiler import profile

from cromss.config import run
from cromss.models import build_pretrainer
from cromss.models.recomputation import recompute_activations
from cromss.noisy_labels.selection import ramp_up, selected_share
from cromss.objective import CrossModalObjective

EPOCH = 40
CHECKPOINTED = f"{OURS}, checkpointed"
_FORMATS = {False: torch.contiguous_format, True: torch.channels_last}


@dataclass(frozen=True)
class BenchStep:
    """Milliseconds of a training step."""

    encoder: str = "resnet50"
    """Encoder of both U-Nets."""
    fusions: tuple[str, ...] = ("mid", "late")
    """Fusions to time."""
    batch_size: int = 4
    """Samples in the batch."""
    crop_size: int = 256
    """Side of the samples, in pixels."""
    rounds: int = 3
    """Times that every way is timed."""
    threads: int = 2
    """Threads of PyTorch."""
    channels_last: bool = False
    """Ours with channels last, as on GPUs."""
    results: Path = Path("benchmarks/bench_step.csv")
    """Table to write."""


def main(settings: BenchStep) -> None:
    """Compare, time, weigh, write."""
    torch.set_num_threads(settings.threads)
    rows = []
    for fusion in settings.fusions:
        ways = {name: training(settings, fusion, name) for name in (PUBLISHED, OURS, CHECKPOINTED)}
        published, *losses = [way() for way in ways.values()]
        for loss in losses:
            torch.testing.assert_close(loss, published, rtol=1e-4, atol=0)
        rows += compared(f"step, {fusion} fusion", alternate(ways, settings.rounds), 1)
        rows.append(measured(f"convolutions of a step, {fusion} fusion", OURS, [convolutions_ms(ways[OURS])], "ms"))
        rows.append(
            measured(f"operations of a step, {fusion} fusion", OURS, [operations_in(ways[OURS]) / 1e9], "GFLOP")
        )
        peaks = {name: peak_mb(settings, fusion, name) for name in ways}
        del ways
        rows += weighed(f"peak memory, {fusion} fusion", peaks)
    report(rows, settings.results)


def training(settings: BenchStep, fusion: str, name: str) -> Callable[[], torch.Tensor]:
    """A step, to be called again and again; gives the loss."""
    torch.manual_seed(0)
    model = build_pretrainer(fusion, settings.encoder).train()
    images, labels, prior = batch(settings)
    loss_of = published_loss
    if name != PUBLISHED:
        model, loss_of = model.to(memory_format=_FORMATS[settings.channels_last]), our_loss
    if name == CHECKPOINTED:
        recompute_activations(model)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=name != PUBLISHED)

    def step() -> torch.Tensor:
        loss = loss_of(model(**images), labels, prior)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def batch(settings: BenchStep) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Images, labels in blobs and a prior."""
    side, count, random = settings.crop_size, settings.batch_size, torch.Generator().manual_seed(0)
    images = {m: torch.rand(count, bands, side, side, generator=random) for m, bands in (("s1", 2), ("s2", 13))}
    coarse = torch.randint(0, 9, (count, 1, 8, 8), generator=random).float()
    labels = torch.nn.functional.interpolate(coarse, size=(side, side)).squeeze(1).long()
    return images, labels, torch.rand(count, 9, side, side, generator=random).softmax(1)


def published_loss(logits: dict[str, torch.Tensor], labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """The objective as published."""
    return objective(list(logits.values()), labels, prior, selected_share(EPOCH, 80, 0.5), ramp_up(EPOCH, 80))


def our_loss(logits: dict[str, torch.Tensor], labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Ours."""
    ours = CrossModalObjective(9, smoothing_factors=(0.15, 0.05), selection=True)
    return ours(logits, labels, prior, EPOCH)["loss"]


def convolutions_ms(step: Callable[[], torch.Tensor]) -> float:
    """Milliseconds of a step that convolutions take, forward and backward."""
    with profile(use_kineto=False) as seen:
        step()
    return sum(event.self_cpu_time_total for event in seen.key_averages() if "conv" in event.key) / 1e3


def peak_mb(settings: BenchStep, fusion: str, name: str) -> float:
    """Peak resident memory of two steps, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mb, (replace(settings, fusions=(fusion,)), name))


def _peak_mb(settings: BenchStep, name: str) -> float:
    torch.set_num_threads(settings.threads)
    step = training(settings, settings.fusions[0], name)
    for _ in range(2):
        step()
    return resident_mb("VmHWM")


if __name__ == "__main__":
    run(main, BenchStep)
