"""Several ways to do the same, timed in turn in one process."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cromss.config import replace_text
from cromss.tables import to_csv

PUBLISHED, OURS = "published way", "ours"


def alternate(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way, in each round once; a first round, in which memory and kernels are fetched, is left out."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[1:] for name, each in seconds.items()}


def compared(what: str, seconds: Mapping[str, list[float]], count: int) -> list[dict[str, Any]]:
    """A row a way: milliseconds for each of `count` things, spread, and how many times faster than the first."""
    (first, reference), *_ = seconds.items()
    rows = []
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(reference, each)]
        low, middle, high = _quartiles([1e3 * s / count for s in each])
        rows.append(
            {
                "what": what,
                "way": name,
                "value": f"{middle:.3f}",
                "unit": "ms",
                "quartiles": f"{low:.3f} to {high:.3f}",
                "ratio": f"{statistics.median(ratios):.2f}" if name != first else "",
                "ratio_range": f"{min(ratios):.2f} to {max(ratios):.2f}" if name != first else "",
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def weighed(what: str, megabytes: Mapping[str, float]) -> list[dict[str, Any]]:
    """The same of memory, weighed once."""
    reference = next(iter(megabytes.values()))
    return [
        {
            "what": what,
            "way": name,
            "value": f"{each:.4g}",
            "unit": "MB",
            "quartiles": "",
            "ratio": "",
            "ratio_range": "",
            "threads": torch.get_num_threads(),
        }
        | ({"ratio": f"{reference / each:.2f}"} if each != reference else {})
        for name, each in megabytes.items()
    ]


def measured(what: str, way: str, values: Sequence[float], unit: str) -> dict[str, Any]:
    """A row of what was measured, once or several times: median, and quartiles of several."""
    low, middle, high = _quartiles(values)
    return {
        "what": what,
        "way": way,
        "value": f"{middle:.4g}",
        "unit": unit,
        "quartiles": f"{low:.4g} to {high:.4g}" if len(values) > 1 else "",
        "ratio": "",
        "ratio_range": "",
        "threads": torch.get_num_threads(),
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values if len(values) > 1 else [*values] * 2, n=4)


def operations_in(work: Callable[[], Any]) -> int:
    """Floating point operations of the convolutions and matrix products in what is done, two a multiplication."""
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def resident_mb(name: str) -> float:
    """Resident memory of this process, now (`VmRSS`) or at its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def wait() -> None:
    """Until a GPU, if there is one, has done all."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """What is measured on; of a CPU its kind, and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def report(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows with machine and date, and print them."""
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, to_csv([row | machine for row in rows]))
    for row in rows:
        ratio = f"{row['ratio']} x ({row['ratio_range']})" if row["ratio"] else ""
        spread = f"({row['quartiles']})" if row["quartiles"] else ""
        print(f"{row['what']:28} {row['way']:18} {row['value']:>9} {row['unit']} {spread}  {ratio}".rstrip())
    print(f"table    {path}")
