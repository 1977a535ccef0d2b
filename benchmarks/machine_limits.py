"""What this machine can do at most: copying memory, multiplying matrices, reading a file from its disk.

python benchmarks/machine_limits.py

One thread each, and two for matrices, as for a training step; the value is that of the best round, since whatever else
runs can only slow it down. The file is put out of memory before it is read; a disk behind another machine may still
hold it.
Results go to benchmarks/machine_limits.csv; `python benchmarks/limits.py` compares the other benchmarks with them.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alternation import measured, report
from bench_loader import evict_file

from cromss.config import run

THREADS = {2: "two threads", 1: "one thread"}
"""In which matrices are multiplied."""


@dataclass(frozen=True)
class MachineLimits:
    """Rates of memory, matrix products and disk."""

    megabytes: int = 128
    """Memory to copy."""
    side: int = 512
    """Side of the matrices."""
    file_megabytes: int = 256
    """File to read."""
    rounds: int = 100
    """Times that each is timed."""
    results: Path = Path("benchmarks/machine_limits.csv")
    """Table to write; the file to read lies beside it."""


def main(settings: MachineLimits) -> None:
    """Measure and write."""
    rounds = settings.rounds
    rows = []
    for threads, way in THREADS.items():
        torch.set_num_threads(threads)
        rows.append(best("float32 matrix product", product_rates(settings.side, rounds), "GFLOP/s", way))
    rows.append(best("memory copy", copy_rates(settings.megabytes, rounds), "GB/s"))
    with tempfile.NamedTemporaryFile(dir=settings.results.absolute().parent) as file:
        rows.append(best("sequential read", read_rates(Path(file.name), settings.file_megabytes, rounds), "GB/s"))
    report(rows, settings.results)


def best(what: str, rates: Sequence[float], unit: str, way: str = "one thread") -> dict[str, Any]:
    """A row of the highest rate, with the quartiles of all."""
    return measured(what, way, rates, unit) | {"value": f"{max(rates):.4g}"}


def copy_rates(megabytes: int, rounds: int) -> list[float]:
    """GB/s copied: each byte is read once and written once."""
    source, target = (np.ones(megabytes * 1_000_000, np.uint8) for _ in range(2))
    return [source.nbytes / 1e9 / seconds(lambda: np.copyto(target, source)) for _ in range(rounds)]


def product_rates(side: int, rounds: int) -> list[float]:
    """GFLOP/s of products of square matrices, two operations a multiplication and addition."""
    a, b = (torch.rand(side, side) for _ in range(2))
    out = a @ b
    return [2 * side**3 / 1e9 / seconds(lambda: torch.mm(a, b, out=out)) for _ in range(rounds)]


def read_rates(path: Path, megabytes: int, rounds: int) -> list[float]:
    """GB/s of reading a file from its start to its end, 8 MB at once."""
    block = np.random.default_rng(0).integers(0, 256, 8_000_000, np.uint8)
    with path.open("wb") as file:
        for _ in range(-(-megabytes // 8)):
            file.write(block.data)
        os.fsync(file.fileno())
    rates = []
    for _ in range(rounds):
        evict_file(path)
        rates.append(path.stat().st_size / 1e9 / seconds(lambda: _read(path, block)))
    return rates


def seconds(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read(path: Path, buffer: np.ndarray) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer.data):
            pass


if __name__ == "__main__":
    run(main, MachineLimits)
