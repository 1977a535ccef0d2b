"""Opening a store of 1,000 and of 100,000 tiny locations, of both layouts: time, and anonymous memory it leaves.

    python benchmarks/store_opening.py

Printed is a CSV, the least of five openings, each in a process of its own.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import numpy as np

from cromss.store import LmdbWriter, StoreMeta

COUNTS, REPEATS = (1_000, 100_000), 5

_OPEN = """
import re, sys, time
from cromss.store import open_store

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

before, start = anonymous(), time.perf_counter()
store = open_store(sys.argv[1])
print(1000 * (time.perf_counter() - start), anonymous() - before)
"""


def write_ours(path: Path, count: int) -> None:
    """A store of one byte a location."""
    mask = np.zeros((1, 1), np.uint8)
    with LmdbWriter(path, StoreMeta("labels", (), "uint8", 1, "class id"), batch_size=10_000) as writer:
        for index in range(count):
            writer.write(f"{index:07d}", [mask])
        writer.finish()


def write_published(path: Path, count: int) -> None:
    """The published layout, one byte a season."""
    with lmdb.open(str(path), map_size=1 << 30) as env, env.begin(write=True) as txn:
        for index in range(count):
            txn.put(str(index).encode(), pickle.dumps((bytes(4), (4, 1, 1), f"{index:07d}")))


def main() -> None:
    """Write, open, print."""
    print("layout,locations,milliseconds,anonymous_kib")
    for name, write in (("ours", write_ours), ("published", write_published)):
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "labels.lmdb"
                write(path, count)
                command = [sys.executable, "-c", _OPEN, str(path)]
                runs = [subprocess.check_output(command, text=True).split() for _ in range(REPEATS)]
            milliseconds, memory = (min(float(run[i]) for run in runs) for i in (0, 1))
            print(f"{name},{count},{milliseconds:.1f},{memory:.0f}", flush=True)


if __name__ == "__main__":
    main()
