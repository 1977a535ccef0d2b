"""Time to the first batch, time of --help, and memory of a loader process, with few locations and with many.

python benchmarks/start_up.py

Sets of tiny tiles are written, and processes of their own open them and load batches, as pretraining does, in turn.
Bytecode is kept, as that of installed packages is: a start before those counted makes it. The first batch is timed from
the start of the process, and from where all packages are imported; processor time is less where others use the machine.
Memory is that of the loader process that has most, after as many batches of each set: anonymous memory, and what it
alone has written. Results go to benchmarks/start_up.csv.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from alternation import measured, report

from cromss.config import run
from cromss.sensors import S1, S2
from cromss.settings import PretrainData
from cromss.store import LmdbWriter, StoreMeta

HOME = Path(__file__).resolve().parent
SCRIPT = HOME.parent / "train_scripts" / "train_pretrain_mm.py"
FIGURES = {
    "first batch, from the start": "s",
    "first batch, from the imports": "s",
    "first batch, processor time": "s",
    "loader process, anonymous": "MB",
    "loader process, its own": "MB",
}
SIDE = 4


@dataclass(frozen=True)
class StartUp:
    """Seconds to the first batch, and MB of a loader process."""

    locations: tuple[int, ...] = (1_000, 100_000)
    """Sizes of the sets."""
    num_workers: int = 2
    """Loader processes."""
    rounds: int = 5
    """Starts with each set, and of --help."""
    results: Path = Path("benchmarks/start_up.csv")
    """Table to write."""


def main(settings: StartUp) -> None:
    """Write the sets, start, write the table."""
    starts = {count: [] for count in settings.locations}
    with tempfile.TemporaryDirectory(dir=settings.results.absolute().parent) as folder:
        homes = {count: write_set(Path(folder) / str(count), count) for count in settings.locations}
        start(next(iter(homes.values())), settings.num_workers)
        for _ in range(settings.rounds):
            for count, home in homes.items():
                starts[count].append(start(home, settings.num_workers))
    helps = zip(*(help_seconds() for _ in range(settings.rounds)))
    rows = [measured(what, "", each, "s") for what, each in zip(("--help", "--help, processor time"), helps)]
    for i, (what, unit) in enumerate(FIGURES.items()):
        rows += [measured(what, f"{n} locations", [each[i] for each in starts[n]], unit) for n in settings.locations]
    report(rows, settings.results)


def write_set(home: Path, count: int) -> Path:
    """A pretraining set of `count` tiny tiles of one season."""
    home.mkdir()
    names = {"s1": PretrainData.data_name_s1, "s2": PretrainData.data_name_s2, "labels": PretrainData.data_name_label}
    for modality, bands in (("s1", S1.bands), ("s2", S2.bands), ("labels", ())):
        tile = np.ones((len(bands), SIDE, SIDE) if bands else (SIDE, SIDE), np.uint8)
        meta = StoreMeta(modality, bands, "uint8", 1, "ones")
        with LmdbWriter(home / names[modality], meta, batch_size=10_000) as writer:
            for index in range(count):
                writer.write(f"{index:07d}", [tile])
            writer.finish()
    return home


def start(home: Path, num_workers: int) -> tuple[float, ...]:
    """Seconds and MB as in `FIGURES`, of a process that loads batches of a set."""
    flags = f"--crop_size {SIDE} --batch_size 16 --num_workers {num_workers} --accelerator cpu --data_path"
    command = [sys.executable, str(HOME / "first_batch.py"), *flags.split(), str(home)]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_KEPT) as process:
        told = process.stdout.readline().split()
        from_start = time.perf_counter() - begun
        memory = [memory_mb(int(pid)) for pid in process.stdout.readline().split()]
        process.stdin.close()
    if process.returncode:
        raise ValueError(f"{home}: the loading process ended with status {process.returncode}")
    return from_start, *map(float, told), *max(memory)


def memory_mb(pid: int) -> tuple[float, float]:
    """Memory of a process in MB: anonymous pages, and written pages that no other process shares."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return tuple(int(re.search(rf"^{key}: +(\d+) kB", told, re.M)[1]) * 1024 / 1e6 for key in _MEMORY)


_KEPT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_MEMORY = ("Anonymous", "Private_Dirty")


def help_seconds() -> tuple[float, float]:
    """Seconds of the pretraining script's --help, and those in which a processor worked for it."""
    begun, worked = time.perf_counter(), os.times()
    subprocess.run([sys.executable, str(SCRIPT), "--help"], check=True, capture_output=True, env=_KEPT)
    now = os.times()
    cpu = now.children_user - worked.children_user + now.children_system - worked.children_system
    return time.perf_counter() - begun, cpu


if __name__ == "__main__":
    run(main, StartUp)
