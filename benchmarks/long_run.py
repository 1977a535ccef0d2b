"""Thousands of steps on a small set: does anything grow that should not?

python benchmarks/long_run.py

A small twin is trained with loader processes, checkpoints and TensorBoard. Every so many steps anonymous memory and
open files of the training process and of its loader processes are counted; pages of the stores are no anonymous memory.
Growth is that of the median of the last tenth of the counts over that of the second tenth. Results go to
benchmarks/long_run.csv.
"""

import multiprocessing
import os
import re
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from alternation import measured, report
from small_runs import write_set

from cromss.config import read, run
from cromss.settings import MultiModalSettings


@dataclass(frozen=True)
class LongRun:
    """Growth of memory and open files over a long training."""

    steps: int = 10_000
    """Steps of the training."""
    every: int = 50
    """Steps between counts."""
    num_workers: int = 2
    """Loader processes."""
    results: Path = Path("benchmarks/long_run.csv")
    """Table to write."""


class Counts(lightning.Callback):
    """Counts of the training process and of its loader processes, by what is counted."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.found: dict[str, list[float]] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Count where it is due."""
        if trainer.global_step % self.every == 0:
            workers = [process.pid for process in multiprocessing.active_children()]
            for name, pids in (("training process", [os.getpid()]), ("loader processes", workers)):
                self._note(f"anonymous memory, {name}", sum(map(anonymous_mb, pids)))
                self._note(f"open files, {name}", sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids))

    def _note(self, what: str, value: float) -> None:
        self.found.setdefault(what, []).append(value)


def main(settings: LongRun) -> None:
    """Train, count, and write the table."""
    torch.set_num_threads(1)
    counts = Counts(settings.every)
    with tempfile.TemporaryDirectory(dir=settings.results.absolute().parent) as home:
        write_set(Path(home) / "set", 50)
        train(Path(home), settings, counts)
        written = sum(file.stat().st_size for file in Path(home, "run").rglob("*") if file.is_file()) / 1e6
    rows = [row for what, each in counts.found.items() for row in rows_of(what, each)]
    report([*rows, measured("files of the run", "", [written], "MB")], settings.results)


def train(home: Path, settings: LongRun, counts: Counts) -> None:
    """All parts of the method, with checkpoints, for so many steps."""
    from cromss.training import pretraining
    from cromss.training.run_folder import RunFolder
    from cromss.training.runs import build_trainer, fit

    flags = f"""--data_path {home}/set --model_type tu-test_resnet --crop_size 16 --batch_size 2 --accelerator cpu
        --epochs {1 + settings.steps // 20} --max_steps {settings.steps} --validation 0.2 --label_smoothing
        --sample_selection --num_workers {settings.num_workers} --save_seconds 5"""
    told = read(MultiModalSettings, flags.split())
    data = pretraining.pretraining_data(told)
    legend = pretraining.legend_of(data.train.labels, told.data.n_classes)
    task = pretraining.pretraining_task(told, pretraining.pretraining_network(told), legend)
    trainer = build_trainer(told.runtime, told.optimisation, RunFolder(home / "run"), [counts], best="val/loss")
    fit(trainer, task, data, None)


def rows_of(what: str, each: list[float]) -> list[dict[str, Any]]:
    """Counts at the start and at the end, and their growth in percent."""
    tenth = max(1, len(each) // 10)
    unit = "MB" if what.startswith("anonymous") else "files"
    first, last = each[tenth : 2 * tenth], each[-tenth:]
    growth = 100 * (statistics.median(last) / statistics.median(first) - 1)
    rows = [measured(what, way, part, unit) for way, part in (("at the start", first), ("at the end", last))]
    return [*rows, measured(what, "growth", [growth], "%")]


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\d+) kB", told, re.M)[1]) * 1024 / 1e6


if __name__ == "__main__":
    run(main, LongRun)
