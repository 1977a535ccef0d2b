"""Reading and preparing batches: the published way against ours, from LMDBs of the same pixels.

python benchmarks/bench_loader.py

The published way reads all seasons of a pickled record, and filters and augments each sample on the CPU. Ours reads
one season's images and hands over uint8; batches are prepared together, on the CPU here. Warm: the files are in memory.
Cold: they are put out of it before every round. Checksums are verified in the first epoch, in the warm-up round here,
but for a row of its own. Beside them a bare copy of the bytes of a batch of ours, and batches of numbers alone.
Samples are read and prepared with a thread of PyTorch for every core, and with one; what follows with one.
Results go to benchmarks/bench_loader.csv.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import torch
from alternation import OURS, PUBLISHED, alternate, compared, report, weighed
from published_way import Samples
from torch.utils.data import DataLoader

from cromss.batch_transforms import BatchTransform
from cromss.collation import BatchSlots, LateSamples, collate
from cromss.config import run
from cromss.datasets import SeasonStacks
from cromss.default_sets import pretraining_set
from cromss.sensors import S1, S2
from cromss.settings import PretrainData
from cromss.store import LmdbReader, PublishedReader
from cromss.store.environment import forget_environment
from cromss.store.folder import DATA_NAME


@dataclass(frozen=True)
class BenchLoader:
    """Milliseconds a sample of reading and preparing."""

    num_locations: int = 64
    """Synthetic locations."""
    batch_size: int = 8
    """Samples in a batch."""
    num_workers: int = 2
    """Loader processes where reading alone is timed."""
    num_classes: int = 9
    """Classes of the prior."""
    crop_size: int = 256
    """Side of the crops, in pixels."""
    rounds: int = 15
    """Times that every way is timed."""
    save_dir: Path = Path("runs")
    """Where the synthetic set is, or is made."""
    results: Path = Path("benchmarks/bench_loader.csv")
    """Table to write."""


def main(settings: BenchLoader) -> None:
    """Write both layouts, compare what they give, time."""
    data = PretrainData(synthetic_locations=settings.num_locations)
    home = pretraining_set(settings.save_dir, data, ("s1", "s2"))
    names = {"s1": data.data_name_s1, "s2": data.data_name_s2, "labels": data.data_name_label}
    ours = {modality: LmdbReader(home / name) for modality, name in names.items()}
    with tempfile.TemporaryDirectory(dir=settings.save_dir) as folder:
        published = {m: PublishedReader(write_published(Path(folder) / m, store), m) for m, store in ours.items()}
        rows = compare(settings, published, ours)
    report(rows, settings.results)


def compare(settings: BenchLoader, published: dict, ours: dict) -> list[dict]:
    """Rows of all comparisons."""
    transform = BatchTransform(settings.num_classes, settings.crop_size, "ts")
    stacks = SeasonStacks(
        {m: ours[m] for m in ("s1", "s2")}, ours["labels"], {"s1": S1.bands, "s2": S2.bands}, settings.num_classes
    )
    whole, bare = (Samples(published, transform, k) for k in (settings.num_classes, 0))
    check_equal(whole, stacks, transform)

    def loader(samples: torch.utils.data.Dataset | range, workers: int = 0) -> DataLoader:
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        if isinstance(samples, SeasonStacks):
            return DataLoader(LateSamples(samples), settings.batch_size, collate_fn=BatchSlots(), **options)
        return DataLoader(samples, settings.batch_size, **options)

    def prepared() -> None:
        for batch in loader(stacks):
            transform(batch)

    folders = [store.path for store in (*published.values(), *ours.values())]
    count, rows = len(stacks), []
    for name, threads in ((", all cores", os.cpu_count()), ("", 1)):
        torch.set_num_threads(threads)
        rows += compared(
            f"read and prepared, warm{name}",
            alternate({PUBLISHED: lambda: drain(loader(whole)), OURS: prepared}, settings.rounds),
            count,
        )
    workers = {PUBLISHED: loader(bare, settings.num_workers), OURS: loader(stacks, settings.num_workers)}
    workers["numbers alone"] = loader(range(count), settings.num_workers)
    reading = {name: lambda each=each: drain(each) for name, each in workers.items()}
    rows += compared(
        f"read, warm, {settings.num_workers} workers",
        alternate(reading | {"bare copy": copying(stacks, settings.batch_size)}, settings.rounds),
        count,
    )
    alone = {PUBLISHED: lambda: drain(loader(bare)), OURS: lambda: drain(loader(stacks))}
    first = {f"{OURS}, first epoch": lambda: drain(loader(fresh(stacks)))}
    cold = {name: lambda way=way: (evict(folders), way()) for name, way in alone.items()}
    rows += compared("read, warm", alternate(alone | first, settings.rounds), count)
    rows += compared("read, cold", alternate(cold, settings.rounds), count)
    return rows + weighed(
        "read from the files a sample",
        {
            n: megabytes(s, w, count)
            for n, s, w in ((PUBLISHED, published, alone[PUBLISHED]), (OURS, ours, alone[OURS]))
        },
    )


def write_published(path: Path, store: LmdbReader) -> Path:
    """The store's pixels in the published layout: key `str(index)`, value `(bytes, shape, id)`, pickled."""
    with lmdb.open(str(path), map_size=1 << 34) as env:
        for index, name in enumerate(store.location_ids()):
            stack = store.read_seasons(index)
            with env.begin(write=True) as txn:
                txn.put(str(index).encode(), pickle.dumps((stack.tobytes(), stack.shape, name)))
    return path


def check_equal(published: Samples, stacks: SeasonStacks, transform: BatchTransform) -> None:
    """Refuse ways that give other samples."""
    late = LateSamples(stacks)
    ready = transform(collate([late[i] for i in range(4)]))
    for i in range(4):
        expected = published[i]
        torch.testing.assert_close(torch.cat([ready["images"][m][i] for m in ("s1", "s2")]), expected["images"])
        torch.testing.assert_close(ready["prior"][i], expected["prior"], atol=3e-6, rtol=0)
        torch.testing.assert_close(ready["labels"][i], expected["labels"])


def fresh(stacks: SeasonStacks) -> SeasonStacks:
    """The same samples, read anew by readers that have checked no record."""
    images = {modality: LmdbReader(store.path) for modality, store in stacks.images.items()}
    return SeasonStacks(images, LmdbReader(stacks.labels.path), stacks.names, stacks.num_classes)


def drain(batches: Iterable) -> None:
    """Take all of them."""
    for _ in batches:
        pass


def copying(stacks: SeasonStacks, batch_size: int) -> Callable[[], None]:
    """As many copies of a batch as the set has."""
    sample = [array for array in stacks[0].values() if isinstance(array, np.ndarray)]
    source = np.ones(batch_size * sum(array.nbytes for array in sample), np.uint8)
    return lambda: [source.copy() for _ in range(len(stacks) // batch_size)]


def evict(folders: list[Path]) -> None:
    """Put stores out of the page cache, where what is mapped would stay."""
    for folder in folders:
        forget_environment(os.path.realpath(folder))
        evict_file(folder / DATA_NAME)


def evict_file(path: Path) -> None:
    """Put a file out of the page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def megabytes(stores: dict, way: Callable[[], None], count: int) -> float:
    """Bytes of records that a pass reads, in MB a sample."""
    before = sum(store.bytes_read for store in stores.values())
    way()
    return (sum(store.bytes_read for store in stores.values()) - before) / 1e6 / count


if __name__ == "__main__":
    run(main, BenchLoader)
