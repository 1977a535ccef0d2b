"""What an epoch of CromSS over SSL4EO-S12@NoL costs by GPUs and disk: the tables of scaling.md.

python benchmarks/scaling.py

Bytes and milliseconds of a sample, the rate of a disk and the cost of exchanging gradients are read from the tables
beside this file; steps of GPUs, networks and faster disks are assumed, and stand in the tables as what they are.
The tables are printed and put into benchmarks/scaling.md.
"""

from alternation import OURS, PUBLISHED
from pages import HOME, markdown, value, write_tables

LOCATIONS = 103_793
PARAMETERS = {"mid": 56.06e6, "late": 65.07e6}  # ResNet-50, 13 bands; gradients have 4 bytes each
RATES = (120, 500, 1200)  # samples/s a GPU: the first paper's, wanted of CromSS, and wanted of one modality
GPUS, BATCH = (1, 8, 64, 512), 128  # of one GPU, as in the published command
NODE, LOADERS = 8, 8  # GPUs a node, loader processes a GPU
DISKS = (1, 10, 100)  # GB/s of all nodes together
NETWORKS = (1.25, 12.5, 50)  # GB/s a GPU, each way: 10, 100 and 400 Gb/s
SHARED_DISK, NETWORK = 10, 12.5  # those of the cluster where it is asked what saturates first
DDP, APART, TOGETHER, SUM = "ddp_overhead.csv", "two processes, apart", "two processes, DDP", "gradients alone"


def sample_mb() -> float:
    """MB read a sample: one season of images, labels of all."""
    return value("bench_loader.csv", "read from the files a sample", OURS)


def all_reduce_s(parameters: float, gpus: int, network: float) -> float:
    """Seconds in which a ring sums the gradients of all GPUs, at `network` GB/s each way."""
    return 2 * (gpus - 1) / gpus * 4 * parameters / (network * 1e9)


def steps(gpus: int, batch: int = BATCH) -> int:
    """Steps of an epoch: every process takes equally many samples, and leaves an incomplete batch out."""
    share = -(-LOCATIONS // gpus)
    return share // min(batch, share)


def epochs() -> str:
    """Seconds of an epoch by GPUs and disk, for each rate; those that the disk decides are bold."""
    disk, rows = value("machine_limits.csv", "sequential read", "one thread"), []
    for rate in RATES:
        for gpus in GPUS:
            compute = LOCATIONS / (gpus * rate)
            row = {"GPUs": gpus, "samples/s a GPU": rate, "GB/s that keep up": _short(gpus * rate * sample_mb() / 1e3)}
            row["s, disk not counted"] = _short(compute)
            for each in (disk, *DISKS):
                reading = LOCATIONS * sample_mb() / 1e3 / each
                row[f"s at {each:.3g} GB/s"] = f"**{_short(reading)}**" if reading > compute else _short(compute)
            rows.append(row)
    return markdown(rows)


def exchanges() -> str:
    """Milliseconds of summing gradients, and their share of a step at 500 samples/s a GPU."""
    rows = []
    for fusion, parameters in PARAMETERS.items():
        for gpus in GPUS[1:]:
            row = {"fusion": fusion, "GPUs": gpus, "MB": _short(4 * parameters / 1e6)}
            for network in NETWORKS:
                taken = all_reduce_s(parameters, gpus, network)
                row[f"at {network:g} GB/s"] = f"{_short(1e3 * taken)} ms, {100 * taken * 500 / BATCH:.0f} %"
            rows.append(row)
    return markdown(rows)


def measured_exchange() -> str:
    """What two processes of one machine lose to the exchange, beside what summing takes alone."""
    megabytes, alone = value(DDP, "gradients", SUM), value(DDP, "all-reduce", SUM)
    apart, added = value(DDP, "step", APART), value(DDP, "added to a step", TOGETHER)
    row = {
        "MB of gradients": _short(megabytes),
        "all-reduce alone, ms": _short(alone),
        "GB/s by the formula": f"{megabytes / alone:.2f}",
        "step without exchange, ms": _short(apart),
        "added by the exchange, ms": _short(added),
        "added, % of the step": f"{100 * added / apart:.1f}",
    }
    return markdown([row])


def saturation() -> str:
    """Use of each part by GPUs, in percent of what it can give, and which is fullest: the first to saturate."""
    core_ms, rows = value("bench_loader.csv", "read, cold", OURS), []
    for rate in (500, 1200):
        for gpus in GPUS[1:]:
            use = {
                f"disk of {SHARED_DISK} GB/s": gpus * rate * sample_mb() / 1e3 / SHARED_DISK,
                f"{LOADERS} loaders a GPU": rate * core_ms / 1e3 / LOADERS,
                f"network of {NETWORK} GB/s": all_reduce_s(PARAMETERS["mid"], gpus, NETWORK) * rate / BATCH,
            }
            first = max(use, key=use.get)
            rows.append(
                {"GPUs": gpus, "samples/s a GPU": rate}
                | {f"{name}, %": f"{100 * share:.0f}" for name, share in use.items()}
                | {"fullest": first, "steps an epoch": steps(gpus), "samples left out, %": _left_out(gpus)}
            )
    return markdown(rows)


def copies() -> str:
    """What node-local copies and shards take: GB a node, and seconds to fetch them from the shared disk."""
    location = value("bench_loader.csv", "read from the files a sample", PUBLISHED)  # all seasons
    whole, rows = LOCATIONS * location / 1e3, []
    for gpus in GPUS[1:]:
        nodes = gpus // NODE
        rows.append(
            {
                "GPUs": gpus,
                "nodes": nodes,
                "GB of a whole copy": _short(whole),
                f"s to copy it to all at {SHARED_DISK} GB/s": _short(nodes * whole / SHARED_DISK),
                "GB of a shard": _short(whole / nodes),
                "s to copy all shards": _short(whole / SHARED_DISK),
                "GB/s of a node at 500/s": _short(NODE * 500 * sample_mb() / 1e3),
            }
        )
    return markdown(rows)


def tables() -> dict[str, str]:
    """Name -> Markdown."""
    made = (epochs, measured_exchange, exchanges, saturation, copies)
    return {each.__name__.replace("_", " "): each() for each in made}


def _left_out(gpus: int) -> str:
    return f"{100 * (1 - steps(gpus) * BATCH * gpus / (-(-LOCATIONS // gpus) * gpus)):.0f}"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


if __name__ == "__main__":
    write_tables(HOME / "scaling.md", tables())
