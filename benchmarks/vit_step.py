"""A training step of a ViT under UPerNet: how long, and how much memory, next to a ResNet-50 under UPerNet?

python benchmarks/vit_step.py
python benchmarks/vit_step.py --encoder vit_tiny_patch16_224 --image_size 64 --batch_size 2 --steps 5  # a CPU will do

Forward, backward and AdamW on 13 random bands, on a GPU in mixed precision (bfloat16); both networks one right after
the other. Lines are added to benchmarks/vit_step.csv.
"""

import csv
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from alternation import device_name, wait
from torch import nn
from torch.nn.functional import cross_entropy

from cromss.config import replace_text, run
from cromss.encoder_names import is_vit
from cromss.models import build_segmenter
from cromss.models.recomputation import recompute_activations
from cromss.models.vit import ViTOptions
from cromss.tables import to_csv

REFERENCE = "resnet50"
NUM_BANDS, NUM_CLASSES = 13, 8
WARM_UP = 3


@dataclass(frozen=True)
class ViTStep:
    """Time and memory of a training step."""

    encoder: str = "vit_large_patch16_224"
    """Encoder to measure, beside ResNet-50."""
    image_size: int = 224
    """Side of the images, in pixels."""
    batch_size: int = 32
    """Images a step."""
    grad_checkpointing: bool = False
    """Recompute activations of the network with this encoder in the backward pass."""
    steps: int = 30
    """Steps to time, after three that are not."""
    out: Path = Path("benchmarks/vit_step.csv")
    """Table to add to."""

    def __post_init__(self) -> None:
        for flag, least in (("image_size", 32), ("batch_size", 2), ("steps", 2)):
            if getattr(self, flag) < least:
                raise ValueError(f"--{flag} {getattr(self, flag)}: must be at least {least}")
        if is_checkpointed(self, self.encoder) != self.grad_checkpointing:
            raise ValueError(f"--grad_checkpointing: must be left out with --encoder {REFERENCE}, the reference")


def main(settings: ViTStep) -> None:
    """Measure both networks, add to the table, and print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        build(settings, settings.encoder)  # refuses what cannot be built, before anything is measured
    reference = measured(settings, REFERENCE, device)
    rows = [compared(row, reference) for row in (reference, measured(settings, settings.encoder, device))]
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(settings.out, to_csv([*earlier(settings.out), *rows]))
    print(table(rows))


def measured(settings: ViTStep, encoder_name: str, device: torch.device) -> dict[str, Any]:
    """Median and interquartile range of the time in ms, images/s, and on a GPU the peak memory in MiB."""
    gc.collect()  # what the network before has left
    step = training_step(settings, encoder_name, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [timed(step) for _ in range(WARM_UP + settings.steps)][WARM_UP:]
    quartiles = statistics.quantiles(times, n=4)
    return {
        "encoder": encoder_name,
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "grad_checkpointing": is_checkpointed(settings, encoder_name),
        "ms": round(quartiles[1], 2),
        "ms_iqr": round(quartiles[2] - quartiles[0], 2),
        "images_per_s": round(1000 * settings.batch_size / quartiles[1], 1),
        "peak_mib": round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None,
        "steps": settings.steps,
        "device": device_name(device),
        "torch": version("torch"),
        "date": date.today().isoformat(),
    }


def training_step(settings: ViTStep, encoder_name: str, device: torch.device) -> Callable[[], None]:
    """A step of training on the same random images again and again."""
    network = build(settings, encoder_name).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
    batch, side = settings.batch_size, settings.image_size
    images = torch.randn(batch, NUM_BANDS, side, side, device=device)
    labels = torch.randint(NUM_CLASSES, (batch, side, side), device=device)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()

    return step


def build(settings: ViTStep, encoder_name: str) -> nn.Module:
    """UPerNet on an encoder with random weights."""
    image_size = settings.image_size if is_vit(encoder_name) else 0
    options = ViTOptions(image_size=image_size)
    network = build_segmenter("upernet", encoder_name, NUM_BANDS, NUM_CLASSES, vit=options)
    if is_checkpointed(settings, encoder_name):
        recompute_activations(network)
    return network


def is_checkpointed(settings: ViTStep, encoder_name: str) -> bool:
    """Gradient checkpointing is asked for, and this is not the reference."""
    return settings.grad_checkpointing and encoder_name != REFERENCE


def timed(step: Callable[[], None]) -> float:
    """Time of a step, in ms, until the device has finished it."""
    start = time.perf_counter()
    step()
    wait()
    return 1000 * (time.perf_counter() - start)


def compared(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The row, its time and memory also as multiples of the reference's."""
    ratios = {
        f"{name}_ratio": round(row[name] / reference[name], 2) if reference[name] else None
        for name in ("ms", "peak_mib")
    }
    return row | ratios


def earlier(path: Path) -> list[dict[str, Any]]:
    """Rows that the table has already."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the times and memory, under the device and the date."""
    first = rows[0]
    columns = {
        "encoder": [row["encoder"] for row in rows],
        "ms a step": [f"{row['ms']:.1f} (IQR {row['ms_iqr']:.1f})" for row in rows],
        "images/s": [f"{row['images_per_s']:.1f}" for row in rows],
        "peak MiB": [row["peak_mib"] or "-" for row in rows],
        "time": [f"{row['ms_ratio']:.2f} x" for row in rows],
        "memory": [f"{row['peak_mib_ratio']:.2f} x" if row["peak_mib_ratio"] else "-" for row in rows],
    }
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values())]
    what = f"{first['batch_size']} images of {first['image_size']} px"
    how = ", gradient checkpointing" if rows[-1]["grad_checkpointing"] else ""
    title = f"{first['date']}, {first['device']}, torch {first['torch']}: {what}{how}"
    return "\n".join((f"### {title}", "", *(f"| {' | '.join(map(str, line))} |" for line in lines)))


if __name__ == "__main__":
    run(main, ViTStep)
