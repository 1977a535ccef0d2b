"""Maps of a whole Sentinel-2 scene: memory, rate, what a kill does to them, and whether seams show.

python benchmarks/mapping.py

- jobs: a synthetic scene of 13 bands is mapped by one job, and by one that is killed half way and started again; their
  bytes, peaks of resident memory, and the rate of the first, COG included.
- rate: a part of the scene mapped, and the same prepared tiles through the network alone, in turn.
- seams: the part mapped with two tile sizes and the default overlap. Differences of probabilities and classes between
  them, at places that several tiles of the first see and at others; and how often neighbouring pixels differ in class
  where tiles begin to count, cross and end: in that map, in the other one, whose seams are elsewhere, and elsewhere.

The network is a U-Net from a short transfer to the synthetic DFC2020-like set. Results go to benchmarks/mapping.csv,
where `--parts seams` keeps the rows of the other parts.
"""

import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin

from cromss import synthetic
from cromss.batch_transforms import as_unit
from cromss.config import read, replace_text, run
from cromss.mapping import Predictor, open_predictor, predict_map
from cromss.mapping.blending import Side, unused_edge
from cromss.mapping.feeding import open_feed
from cromss.mapping.partial import PartialMap
from cromss.mapping.scene import Scene
from cromss.sensors import S2
from cromss.settings import FinetuneSettings
from cromss.settings.mapping import MapSettings
from cromss.tables import to_csv

PARTS = ("jobs", "rate", "seams")
SCRIPT = Path(__file__).resolve().parents[1] / "train_scripts" / "predict_map.py"
BLOCK = 512
NEAR = 8
"""Pixels around the seams of one map that count as its seams, where those of another are looked at."""
Seams = list[tuple[int, int, int]]
DEFAULTS = MapSettings(model="-", out="map.tif", s2="-")


@dataclass(frozen=True)
class Mapping:
    """Memory, rate, kills and seams of maps."""

    parts: tuple[Literal["jobs", "rate", "seams"], ...] = PARTS
    """What to measure."""
    size: int = 10_980
    """Side of the scene, in pixels."""
    part: int = 1_920
    """Side of the part for rate and seams, in pixels."""
    other_tile_size: int = 448
    """Tile size against which the default one is compared."""
    rounds: int = 3
    """Times that map and network are timed."""
    model: str = ""
    """Run folder or checkpoint of a network; empty to train one."""
    encoder: str = "resnet18"
    """Encoder of the one that is trained."""
    epochs: int = 6
    """Epochs of its training, of ten steps each."""
    results: Path = Path("benchmarks/mapping.csv")
    """Table to write; rows of parts that are not measured stay."""


def main(settings: Mapping) -> None:
    """Measure, write the table and print it."""
    figures = {"encoder": settings.encoder, "tile_size": DEFAULTS.tile_size, "overlap": DEFAULTS.overlap}
    kept = {} if set(settings.parts) == set(PARTS) else rows_of(settings.results, figures)
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "date": date.today().isoformat()}
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.results.absolute().parent) as folder:
        home = Path(folder)
        model = settings.model or trained(home, settings.encoder, settings.epochs)
        predictor = open_predictor(str(model))
        part = write_scene(home / "part.tif", settings.part)
        if "jobs" in settings.parts:
            figures |= jobs(home, str(model), write_scene(home / "whole.tif", settings.size), settings.size)
        if "rate" in settings.parts:
            figures |= rate(home, predictor, part, settings.rounds)
        if "seams" in settings.parts:
            figures |= seams(home, predictor, part, settings.other_tile_size)
    rows = kept | {name: {"figure": name, "value": value, **machine} for name, value in figures.items()}
    replace_text(settings.results, to_csv(list(rows.values())))
    for name, value in figures.items():
        print(f"{name:40} {value}")


def rows_of(results: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figure -> its row in a table that is there already; refused where it was measured with other settings."""
    if not results.exists():
        return {}
    with results.open(newline="") as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    for name, value in settings.items():
        if name in rows and rows[name]["value"] != str(value):
            raise ValueError(f"--results {results}: of {name} {rows[name]['value']}, not {value}; measure all parts")
    return rows


def trained(home: Path, encoder: str, epochs: int) -> Path:
    """Run folder of a U-Net after a short transfer."""
    from cromss.training import finetune

    flags = f"""
        --dataset DFC2020 --model_framework unet --model_type {encoder} --encoder_finetune_tag etr --n_channels 13
        --synthetic_tiles 80 4 --synthetic_size 128 --crop_size 128 --batch_size 8 --epochs {epochs}
        --learning_rate 1e-3 --accelerator cpu --devices 1 --name net --save_interval 1000
    """
    finetune(read(FinetuneSettings, [*flags.split(), "--save_dir", str(home / "runs")]))
    return home / "runs" / "net"


def write_scene(path: Path, side: int) -> Path:
    """A scene of a few synthetic places side by side, block by block."""
    places = [draw_place(seed) for seed in range(4)]
    profile = {"driver": "GTiff", "count": 13, "height": side, "width": side, "dtype": "uint16", "crs": "EPSG:32632"}
    profile |= {"transform": from_origin(5e5, 5.3e6, 10, 10), "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    profile |= {
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 2,
        "num_threads": os.cpu_count(),
        "bigtiff": "IF_SAFER",
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.descriptions = S2.bands
        for row in range(0, side, BLOCK):
            for column in range(0, side, BLOCK):
                height, width = min(BLOCK, side - row), min(BLOCK, side - column)
                place = places[(row // BLOCK + 2 * (column // BLOCK)) % len(places)]
                window = ((row, row + height), (column, column + width))
                dataset.write(place[:, :height, :width], window=window)
    return path


def draw_place(seed: int) -> np.ndarray:
    """A block of a summer scene, `(13, h, w)` DN."""
    rng = np.random.default_rng(seed)
    land = synthetic.landscape(rng, BLOCK)
    ground = synthetic.draw_ground(land.labels, rng, land)
    return synthetic.optical(land.labels, 1, rng, ground)


def jobs(home: Path, model: str, scene: Path, side: int) -> dict[str, Any]:
    """Memory and rate of a job, and of one that is killed half way and goes on."""
    whole, killed = home / "whole_map.tif", home / "killed_map.tif"
    seconds, peak = job(model, scene, whole)
    _, peak_killed = job(model, scene, killed, kill_at=side // 2 * side)
    resumed, peak_resumed = job(model, scene, killed)
    if whole.read_bytes() != killed.read_bytes():
        raise ValueError("the resumed map differs from that of an undisturbed job")
    return {
        "size": side,
        "seconds": round(seconds),
        "mpx_s": round(side**2 / 1e6 / seconds, 3),
        "peak_mb": round(max(peak, peak_killed, peak_resumed)),
        "resumed_seconds": round(resumed),
        "resumed_bytes_that_differ": 0,
    }


def job(model: str, scene: Path, out: Path, kill_at: int = 0) -> tuple[float, float]:
    """Seconds and peak of resident memory in MB; it is killed once `kill_at` bytes of the map are there."""
    flags = ["--model", model, "--s2", str(scene), "--out", str(out), "--accelerator", "cpu"]
    start, peak, partial = time.perf_counter(), 0.0, PartialMap(out, 1, 1).path
    process = subprocess.Popen([sys.executable, str(SCRIPT), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, peak_mb(process.pid))
        if kill_at and partial.exists() and partial.stat().st_size >= kill_at:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    error = process.communicate()[1].decode()
    if process.returncode != (-signal.SIGKILL if kill_at else 0):
        raise ValueError(f"the job ended with status {process.returncode}: {error[-300:]}")
    return time.perf_counter() - start, peak


def peak_mb(pid: int) -> float:
    """Largest resident memory of a process so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0)


def rate(home: Path, predictor: Predictor, scene: Path, rounds: int) -> dict[str, Any]:
    """Rate of maps, reading and writing included, over that of the network on the same tiles, timed in turn."""
    batches, seconds = list(prepared(predictor, scene)), defaultdict(list)
    for _ in range(rounds):
        seconds["map"].append(
            timed(lambda: predict_map(predictor, {"s2": scene}, home / "rate.tif", accelerator="cpu"))
        )
        seconds["network"].append(timed(lambda: [predictor.probabilities({"s2": as_unit(b)}) for b in batches]))
    shares = [network / whole for network, whole in zip(seconds["network"], seconds["map"])]
    with rasterio.open(scene) as dataset:
        megapixels = dataset.height * dataset.width / 1e6
    rates = {f"part_{name}_mpx_s": round(megapixels / statistics.median(each), 3) for name, each in seconds.items()}
    return rates | {"map_of_network_rate": round(statistics.median(shares), 3)}


def prepared(predictor: Predictor, path: Path) -> Iterator[torch.Tensor]:
    """The tiles of a scene in batches `(B, 13, h, w)` uint8, with the default settings."""
    with Scene({"s2": path}, predictor.fed_with(["s2"]).bands, predictor.sensors) as scene:
        feed = open_feed(scene, predictor.fed_with(["s2"]), None)
        rows, columns = sides(predictor, scene.grid.shape, DEFAULTS.tile_size)
        for row in rows.spans:
            for start in range(0, len(columns.spans), DEFAULTS.batch_size):
                spans = columns.spans[start : start + DEFAULTS.batch_size]
                tiles = [torch.from_numpy(tile["s2"]) for tile in feed.tiles(row, spans)[0]]
                alike = len({tile.shape for tile in tiles}) == 1
                yield from [torch.stack(tiles)] if alike else [tile[None] for tile in tiles]


def sides(predictor: Predictor, shape: tuple[int, int], tile_size: int) -> list[Side]:
    """Tiles down and across."""
    return [Side(length, tile_size, DEFAULTS.overlap, predictor.stride) for length in shape]


def timed(work) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seams(home: Path, predictor: Predictor, scene: Path, other: int) -> dict[str, Any]:
    """What two tile sizes, the default and another one, make of a scene."""
    maps, percent = {}, {}
    for size in (DEFAULTS.tile_size, other):
        out = {name: home / f"{name}_{size}.tif" for name in ("map", "probabilities")}
        options = {"tile_size": size, "probabilities": out["probabilities"], "accelerator": "cpu"}
        predict_map(predictor, {"s2": scene}, out["map"], **options)
        maps[size], percent[size] = (read_bands(path) for path in out.values())
    usual, shape = maps[DEFAULTS.tile_size][0], maps[other][0].shape
    differs = usual != maps[other][0]
    rows, columns = sides(predictor, shape, DEFAULTS.tile_size)
    shared = several(rows)[:, None] | several(columns)
    lines, elsewhere = apart(seams_of(columns), seams_of(sides(predictor, shape, other)[1]), shape[1])
    return {
        "other_tile_size": other,
        "probability_difference": float(f"{np.abs(np.diff(list(percent.values()), axis=0)).mean() / 100:.2e}"),
        "class_difference_in_overlaps": float(f"{differs[shared].mean():.2e}"),
        "class_difference_elsewhere": float(f"{differs[~shared].mean():.2e}"),
        "class_borders_along_seams": round(crossings(usual, lines), 4),
        "class_borders_there_with_other_tiles": round(crossings(maps[other][0], lines), 4),
        "class_borders_elsewhere": round(crossings(usual, elsewhere), 4),
    }


def read_bands(path: Path) -> np.ndarray:
    """All bands `(C, H, W)`, signed."""
    with rasterio.open(path) as dataset:
        return dataset.read().astype(np.int16)


def several(side: Side) -> np.ndarray:
    """Pixels that several tiles see, bool."""
    count = np.zeros(side.spans[-1][1], int)
    for start, end in side.spans:
        count[start:end] += 1
    return count > 1


def seams_of(side: Side) -> Seams:
    """Pixels before which a tile begins to count, weighs the same as the one before it, and that ceases to count."""
    edge = unused_edge(DEFAULTS.overlap)
    pairs = zip(side.spans, side.spans[1:])
    return [(start + edge, (start + end) // 2, end - edge) for (_, end), (start, _) in pairs]


def apart(ours: Seams, others: Seams, length: int) -> tuple[list[int], list[int]]:
    """Lines of our seams away from those of other tiles, and the pixels of a side away from both."""
    pixels = range(1, length)
    away = [pixel for pixel in pixels if not near(pixel, others)]
    lines = {line for seam in ours for line in seam}
    return [pixel for pixel in away if pixel in lines], [pixel for pixel in away if not near(pixel, ours)]


def near(pixel: int, seams: Seams) -> bool:
    """Within one of the seams, or `NEAR` pixels of it."""
    return any(first - NEAR <= pixel <= last + NEAR for first, _, last in seams)


def crossings(classes: np.ndarray, lines: list[int]) -> float:
    """Share of neighbours in rows and columns of `(N, N)` that differ, across the lines, but for edges of places."""
    after = np.array([line for line in lines if line % BLOCK])
    return float(np.mean([way[:, after] != way[:, after - 1] for way in (classes, classes.T)]))


if __name__ == "__main__":
    run(main, Mapping)
