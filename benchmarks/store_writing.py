"""Writers of stores: how fast they commit, what kills do to them, and how their memory grows.

python benchmarks/store_writing.py

- rate: records of a Sentinel-2 season (13 x 264 x 264 uint8) committed to LMDB with its default durability, and the
  same bytes written to a plain file and synced, in turn; packing them into records (checksums), and the final check
  pass, which reads them back, apart.
- kills: one job killed at random moments and started again until it is finished, against an undisturbed one.
- memory: the writer of orthophotos from raw files, with few and with many locations; anonymous pages at their peak.

Results go to benchmarks/store_writing.csv.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from cromss.config import replace_text, run
from cromss.sensors import S2
from cromss.store import LmdbReader, LmdbWriter, StoreMeta, partial_path
from cromss.tables import to_csv

WRITER = Path(__file__).resolve().parents[1] / "data_prepare" / "write_pretrain_lmdb.py"
META = StoreMeta("s2", S2.bands, "uint8", 4, "uint8 of mean +- 2 std")


@dataclass(frozen=True)
class StoreWriting:
    """Rate, kills and memory of the writers of stores."""

    num_locations: int = 64
    """Locations of four seasons for the rate."""
    rounds: int = 9
    """Times that both ways are timed."""
    kills: int = 30
    """Kills of the job."""
    few: int = 100
    """Locations of the smaller job whose memory is measured."""
    many: int = 10_000
    """Locations of the larger one."""
    results: Path = Path("benchmarks/store_writing.csv")
    """Table to write."""


def main(settings: StoreWriting) -> None:
    """Measure, write the table and print it."""
    machine = {"cores": os.cpu_count(), "lmdb": version("lmdb"), "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory(dir=settings.results.absolute().parent) as home:
        figures = rate(Path(home), settings.num_locations, settings.rounds)
        figures |= killed(Path(home), settings.kills)
        figures |= memory(Path(home), settings.few, settings.many)
    rows = [{"figure": name, "value": value, **machine} for name, value in figures.items()]
    replace_text(settings.results, to_csv(rows))
    for name, value in figures.items():
        print(f"{name:40} {value}")


def rate(home: Path, num_locations: int, rounds: int) -> dict[str, Any]:
    """MB/s of a plain file, of LMDB commits with and without packing, and of the check pass; commits by plain file."""
    images = np.random.default_rng(0).integers(0, 256, (4, 13, 264, 264), np.uint8)
    megabytes, seconds = num_locations * images.nbytes / 1e6, defaultdict(list)
    for _ in range(rounds):
        seconds["plain"].append(settled(lambda: write_plain(home / "plain", images, num_locations)))
        (home / "plain").unlink()
        with LmdbWriter(home / "store", META) as writer:
            seconds["packing_and_commits"].append(settled(lambda: write_locations(writer, images, num_locations)))
            seconds["commits"].append(writer.commit_seconds)
            seconds["check"].append(timed(writer.finish))
        shutil.rmtree(home / "store")
    rates = {f"{name}_mb_s": round(megabytes / statistics.median(times), 1) for name, times in seconds.items()}
    ratios = sorted(plain / commits for plain, commits in zip(seconds["plain"], seconds["commits"]))
    spread = {"ratio_median": statistics.median(ratios), "ratio_min": ratios[0], "ratio_max": ratios[-1]}
    return {"megabytes": round(megabytes)} | rates | {name: round(value, 2) for name, value in spread.items()}


def settled(work) -> float:
    """Seconds that it takes on a disk with nothing else to do, and with memory that a virtual machine really has."""
    os.sync()
    np.ones(1 << 29, np.uint8)
    return timed(work)


def timed(work) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_plain(path: Path, images: np.ndarray, num_locations: int) -> None:
    """The same bytes, one after the other, synced at the end."""
    with path.open("wb", buffering=0) as file:
        for _ in range(num_locations):
            for image in images:
                file.write(image.data)
        os.fsync(file.fileno())


def write_locations(writer: LmdbWriter, images: np.ndarray, num_locations: int) -> None:
    """Locations one after the other, all committed."""
    for index in range(len(writer.location_ids), num_locations):
        writer.write(f"{index:07d}", images)
    writer.commit()


def killed(home: Path, kills: int) -> dict[str, Any]:
    """A raw set written under kills, against the same undisturbed: their manifests, which hold all checksums."""
    draw_orthophotos(home / "city", 400)
    chance, done, started = random.Random(0), 0, 0
    whole, path = home / "whole", home / "killed"
    subprocess.run(command(home / "city", whole), check=True, capture_output=True)
    usual = timed(lambda: subprocess.run(command(home / "city", home / "again"), check=True, capture_output=True))
    while done < kills:
        shutil.rmtree(path, ignore_errors=True)
        while not (path / "exact_labels.lmdb").exists():
            started += 1
            process = subprocess.Popen(command(home / "city", path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if done < kills:
                time.sleep(chance.uniform(0.3, 1.0) * usual)
                process.send_signal(signal.SIGKILL)
            error = process.communicate()[1]
            done += process.returncode == -signal.SIGKILL
            if process.returncode not in (0, -signal.SIGKILL):
                raise ValueError(f"the resumed job failed: {error.decode()[-300:]}")
        for store in sorted(whole.glob("*.lmdb")):
            if (store / "manifest.json").read_bytes() != (path / store.name / "manifest.json").read_bytes():
                raise ValueError(f"{path / store.name}: differs from an undisturbed write after {done} kills")
            ids = LmdbReader(path / store.name).location_ids()
            if len(set(ids)) != len(ids) or partial_path(path / store.name).exists():
                raise ValueError(f"{path / store.name}: doubled ids, or an unfinished store left behind")
    return {"kills": done, "starts": started, "stores_that_differ": 0}


def memory(home: Path, few: int, many: int) -> dict[str, Any]:
    """Peak of anonymous memory of the writer, in MB, for few and for many locations."""
    peaks = {}
    for count in (few, many):
        draw_orthophotos(home / f"city_{count}", count)
        process = subprocess.Popen(command(home / f"city_{count}", home / f"out_{count}"), stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_kb(process.pid))
            time.sleep(0.02)
        if process.returncode:
            raise ValueError(f"the writer ended with status {process.returncode}")
        peaks[f"peak_anonymous_mb_{count}"] = round(peak / 1e3, 1)
    return peaks


def anonymous_kb(pid: int) -> int:
    """Anonymous memory of a process in KB; pages of the LMDB map do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def command(raw: Path, out: Path) -> list[str]:
    """The writer's command line."""
    flags = ["--layout", "nyc", "--band_order", "NIR", "R", "G", "B", "--workers", "2"]
    return [sys.executable, str(WRITER), "--data_path", str(raw), "--out", str(out), *flags]


def draw_orthophotos(root: Path, count: int) -> None:
    """A raw set of small orthophotos with noisy and exact labels."""
    rng = np.random.default_rng(1)
    bands = {"image": (4, 256), "noisy": (1, 4), "label": (1, 9)}
    for name, (num_bands, codes) in bands.items():
        (root / "train" / name).mkdir(parents=True)
        profile = {"driver": "GTiff", "width": 32, "height": 32, "count": num_bands, "dtype": "uint8"}
        for index in range(count):
            with rasterio.open(root / "train" / name / f"{index:06d}.tif", "w", **profile) as dataset:
                dataset.write(rng.integers(0, codes, (num_bands, 32, 32), np.uint8))


if __name__ == "__main__":
    run(main, StoreWriting)
