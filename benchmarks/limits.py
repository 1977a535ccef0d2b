"""How far the prior, selection with losses, and the loader are from what the machine can do at most.

python benchmarks/limits.py

What must be moved and computed is counted; divided by the rates in machine_limits.csv it gives a time that cannot be
gone below with one thread, beside the medians in bench_*.csv. The table is printed and put into benchmarks/README.md.
"""

from dataclasses import dataclass

from alternation import OURS
from pages import HOME, markdown, value, write_tables

TILE, CROP, SEASONS, BANDS, CLASSES = 264**2, 256**2, 4, 15, 9
TAPS = 25  # of a Gaussian of sigma 3, cut at 4 sigma
BATCH = 8


@dataclass(frozen=True)
class Work:
    """Something measured, and what it takes at least.

    Attributes:
        name: What it is.
        table: Its table.
        what: Its row.
        moved: MB read from memory and written to it.
        computed: Millions of float operations.
        read: MB read from disk.
    """

    name: str
    table: str
    what: str
    moved: float
    computed: float = 0.0
    read: float = 0.0


def works() -> list[Work]:
    """What is compared; a line of arithmetic each."""
    sample = value("bench_loader.csv", "read from the files a sample", OURS)
    prior = (SEASONS * TILE + 4 * CLASSES * TILE) / 1e6  # labels of all seasons in, float32 out
    taps = 2 * 2 * TAPS * CLASSES * TILE / 1e6  # rows and columns, a multiplication and an addition a tap
    prepared = (BANDS * TILE + 4 * BANDS * CROP + 2 * 4 * CLASSES * CROP) / 1e6  # images, and the prior cut out
    scores = 4 * BATCH * CLASSES * CROP / 1e6  # of one modality, float32
    given = 3 * scores + 8 * BATCH * CROP / 1e6  # both modalities, prior, labels of 8 bytes
    operations = 2 * 24 * BATCH * CLASSES * CROP / 1e6  # about 24 a score: softmax, logarithm, four losses
    return [
        Work("prior of a sample", "bench_prior.csv", "prior of a sample", prior, taps),
        Work("selection and losses, forward", "bench_selection.csv", "forward", given, operations),
        Work(
            "selection and losses, backward too",
            "bench_selection.csv",
            "forward and backward",
            2 * given + 2 * scores,
            3 * operations,
        ),
        Work("a sample read, in memory", "bench_loader.csv", "read, warm", 2 * sample),
        Work("a sample read, not in memory", "bench_loader.csv", "read, cold", 2 * sample, read=sample),
        Work(
            "a sample read and prepared",
            "bench_loader.csv",
            "read and prepared, warm",
            2 * sample + prior + prepared,
            taps,
        ),
    ]


def tables() -> dict[str, str]:
    """Markdown of all works, by the name of its place on the page."""
    copy, product, disk = (
        value("machine_limits.csv", what, "one thread")
        for what in ("memory copy", "float32 matrix product", "sequential read")
    )
    rows = []
    for work in works():
        limit = max(work.moved / (2 * copy), work.computed / product, work.read / disk)
        median = value(work.table, work.what, OURS)
        rows.append(
            {
                "": work.name,
                "MB moved": f"{work.moved:.2f}",
                f"ms at 2 x {copy:.3g} GB/s": f"{work.moved / (2 * copy):.2f}",
                "MFLOP": f"{work.computed:.0f}" if work.computed else "",
                f"ms at {product:.3g} GFLOP/s": f"{work.computed / product:.2f}" if work.computed else "",
                f"ms of disk at {disk:.2g} GB/s": f"{work.read / disk:.2f}" if work.read else "",
                "measured, ms": f"{median:.2f}",
                "distance": f"{median / limit:.1f} x",
            }
        )
    return {"limits.py": markdown(rows)}


if __name__ == "__main__":
    write_tables(HOME / "README.md", tables())
