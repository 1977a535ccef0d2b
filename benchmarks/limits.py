"""How far the benchmarks are from what the machine can do at most.

python benchmarks/limits.py

What must be moved and computed is counted; divided by the rates in machine_limits.csv it gives a time that cannot be
gone below with as many threads, beside the medians in bench_*.csv. Of networks the operations alone are counted. The
tables are printed and put into benchmarks/README.md.
"""

from dataclasses import dataclass

from alternation import OURS
from pages import HOME, markdown, value, write_tables

TILE, CROP, SEASONS, BANDS, CLASSES = 264**2, 256**2, 4, 15, 9
TAPS = 25  # of a Gaussian of sigma 3, cut at 4 sigma
BATCH = 8
ONE_THREAD, TWO_THREADS = "one thread", "two threads"


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
        threads: In which it was measured.
    """

    name: str
    table: str
    what: str
    moved: float = 0.0
    computed: float = 0.0
    read: float = 0.0
    threads: str = ONE_THREAD


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
        *(
            Work(
                f"a training step, {fusion} fusion",
                "bench_step.csv",
                f"step, {fusion} fusion",
                computed=1e3 * value("bench_step.csv", f"operations of a step, {fusion} fusion", OURS),
                threads=TWO_THREADS,
            )
            for fusion in ("mid", "late")
        ),
        Work(
            "a test tile predicted",
            "bench_predict.csv",
            "test tile",
            computed=1e3 * value("bench_predict.csv", "operations of a test tile", "network alone"),
        ),
    ]


def tables() -> dict[str, str]:
    """Markdown of the rates and of all works, by the name of its place on the page."""
    copy, disk = (rate(what) for what in ("memory copy", "sequential read"))
    product = {threads: rate("float32 matrix product", threads) for threads in (ONE_THREAD, TWO_THREADS)}
    rates = [
        {"": "memory copied", ONE_THREAD: f"{copy:.3g} GB/s", TWO_THREADS: ""},
        {"": "matrices multiplied"} | {threads: f"{each:.3g} GFLOP/s" for threads, each in product.items()},
        {"": "read from disk", ONE_THREAD: f"{disk:.2g} GB/s", TWO_THREADS: ""},
    ]
    rows = []
    for work in works():
        spans = work.moved / (2 * copy), work.computed / product[work.threads], work.read / disk
        memory, arithmetic, reading = map(shown, spans)
        median = value(work.table, work.what, OURS)
        rows.append(
            {
                "": work.name,
                "MB moved": shown(work.moved),
                "memory, ms": memory,
                "MFLOP": shown(work.computed, ",.0f"),
                "arithmetic, ms": arithmetic,
                "disk, ms": reading,
                "measured, ms": shown(median),
                "distance": f"{median / max(spans):.1f} x",
            }
        )
    return {"limits.py": markdown(rows), "rates": markdown(rates)}


def shown(number: float, kind: str = ",.2f") -> str:
    """A number, unless it is none."""
    return f"{number:{kind}}" if number else ""


def rate(what: str, threads: str = ONE_THREAD) -> float:
    """What the machine can do of something at most, in GB/s or GFLOP/s."""
    return value("machine_limits.csv", what, threads)


if __name__ == "__main__":
    write_tables(HOME / "README.md", tables())
