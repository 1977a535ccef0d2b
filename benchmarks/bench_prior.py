"""The label smoothing prior, `ts`: the published way against ours, on real or synthetic season labels.

python benchmarks/bench_prior.py

Both run on the CPU, in turn, after their results were found equal. The published way takes one thread, ours one for
every core, and then one.
Results go to benchmarks/bench_prior.csv.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from alternation import OURS, PUBLISHED, alternate, compared, report
from published_way import prior

from cromss.config import run
from cromss.default_sets import pretraining_set
from cromss.noisy_labels.smoothing import label_prior
from cromss.settings import PretrainData
from cromss.store import open_store


@dataclass(frozen=True)
class BenchPrior:
    """Milliseconds a sample of the label smoothing prior."""

    labels: Path | None = None
    """Store of season labels; the synthetic default without."""
    num_classes: int = 9
    """Classes in it."""
    batch_size: int = 8
    """Samples in a batch."""
    rounds: int = 60
    """Times that both ways are timed."""
    save_dir: Path = Path("runs")
    """Where the synthetic default is, or is made."""
    results: Path = Path("benchmarks/bench_prior.csv")
    """Table to write."""


def main(settings: BenchPrior) -> None:
    """Compare, time, write."""
    labels, num_classes = season_labels(settings), settings.num_classes
    seasons = torch.arange(len(labels)) % labels.shape[1]

    def published():
        return [prior(one.numpy(), int(season), num_classes) for one, season in zip(labels, seasons)]

    def ours():
        return label_prior(labels, seasons, num_classes)

    for expected, got in zip(published(), ours()):
        torch.testing.assert_close(got, torch.from_numpy(expected), atol=2e-6, rtol=0)
    rows = []
    for name, threads in ((", all cores", os.cpu_count()), ("", 1)):
        torch.set_num_threads(threads)
        seconds = alternate({PUBLISHED: published, OURS: ours}, settings.rounds)
        rows += compared(f"prior of a sample{name}", seconds, len(labels))
    report(rows, settings.results)


def season_labels(settings: BenchPrior) -> torch.Tensor:
    """Labels of the first locations, `(B, T, H, W)` uint8."""
    path = settings.labels
    if path is None:
        data = PretrainData(synthetic_locations=settings.batch_size)
        path = pretraining_set(settings.save_dir, data, ("s1", "s2")) / data.data_name_label
    store = open_store(path)
    return torch.stack([torch.from_numpy(store.read_seasons(i).copy()) for i in range(settings.batch_size)])


if __name__ == "__main__":
    run(main, BenchPrior)
