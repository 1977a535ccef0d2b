"""Write towns at two dates in the folder layout of OSCD: single bands on native grids, in degrees."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from cromss.fields import Shape, resampled
from cromss.legends import OSCD
from cromss.sensors import S2
from cromss.synthetic.change import Pair, town_pair
from cromss.synthetic.ground import NUM_SEASONS
from cromss.synthetic.location import LAND, OPTICAL, PLACE, stream
from cromss.synthetic.optics import band_factor, native_bands
from cromss.synthetic.rasters import Grid, Plan, Raster, world, write_splits, write_text

TITLE = "Onera Satellite Change Detection dataset"
IMAGES = f"{TITLE} - Images"
LABELS = {"train": f"{TITLE} - Train Labels", "test": f"{TITLE} - Test Labels"}
"""Folders of the set."""

OTHER_GRID_EVERY, OTHER_GRID = 3, 0.985
"""Every how many cities the second date has other pixels, and how many of them, relative to the first."""

FIRST_DAY, DEGREE = date(2016, 3, 15), 111320
"""Middle of March of the first year; metres in a degree of latitude."""


def write_oscd(
    root: str | Path, num_train: int, num_test: int, size: int = 256, seed: int = 4, progress: bool = True
) -> None:
    """Write a change detection set in the layout of OSCD.

    `<title> - Images/<city>/imgs_{1,2}/*_B{01..12,8A}.tif` in EPSG:4326, `dates.txt`, and
    `<title> - {Train,Test} Labels/<city>/cm/{cm.png (0, 255), <city>-cm.tif (1, 2)}` on the first date's 10 m
    grid; `train.txt` and `test.txt` name the cities. Every third city has other pixels at the second date.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_train: Training cities.
        num_test: Test cities.
        size: Typical side of a city in px of 10 m; sides vary by a fifth.
        seed: Seed of the world; choose another than the pretraining set's.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    settings = world("OSCD", OSCD.classes, seed, size, num_train=num_train, num_test=num_test)
    names = city_names(num_train, num_test)

    def plan(split: str, key: list[int]) -> Plan:
        city = names[split][key[-1]]
        units = [f"{IMAGES}/{city}", f"{LABELS[split]}/{city}"]
        return units, _rasters(*units, key, size)

    write_splits(root, settings, {"train": num_train, "test": num_test}, plan, progress)
    for area, (split, cities) in enumerate(names.items()):
        write_text(Path(root) / IMAGES / f"{split}.txt", ",".join(cities) + "\n")
        for index, city in enumerate(cities):
            days = [f"date_{number}: {day:%Y%m%d}\n" for number, day in enumerate(_dates([seed, area, index]), 1)]
            write_text(Path(root) / IMAGES / city / "dates.txt", "".join(days))


def city_names(num_train: int, num_test: int) -> dict[str, list[str]]:
    """Names of the training and the test cities of `write_oscd`, numbered on."""
    names = [f"city{number:02d}" for number in range(num_train + num_test)]
    return {"train": names[:num_train], "test": names[num_train:]}


def _rasters(images: str, labels: str, key: list[int], size: int) -> Iterator[Raster]:
    shape, city = _shape(key, size), images.rpartition("/")[2]
    pair = town_pair(shape, [*key, LAND])
    for index, day in enumerate(_dates(key)):
        scene = f"{images}/imgs_{index + 1}/{_scene(key, index, day)}"
        other = index == 1 and key[-1] % OTHER_GRID_EVERY == OTHER_GRID_EVERY - 1
        seen = tuple(round(length * OTHER_GRID) for length in shape) if other else shape
        for band, image in _bands(pair, index, key, day, seen).items():
            number = band[1:] if band == "B8A" else f"{int(band[1:]):02d}"
            yield Raster(f"{scene}_B{number}.tif", image, _grid(key, shape, image.shape))
    yield Raster(f"{labels}/cm/cm.png", np.where(pair.change, 255, 0).astype(np.uint8))
    yield Raster(f"{labels}/cm/{city}-cm.tif", np.where(pair.change, 2, 1).astype(np.uint8))


def _bands(pair: Pair, index: int, key: list[int], day: date, seen: Shape) -> dict[str, np.ndarray]:
    """Bands of one date on native grids that all cover the footprint; `seen` is the size of the 10 m bands."""
    labels, rng = pair.labels[index], stream(key, OPTICAL, index)
    season = (day - FIRST_DAY).days % 365 * NUM_SEASONS / 365
    bands = native_bands(labels, season, rng, pair.grounds[index], haze=rng.uniform(0.6, 1.6))
    for band, image in bands.items():
        factor = band_factor(band)
        shape, extent = tuple(round(side / factor) for side in seen), tuple(side / factor for side in labels.shape)
        bands[band] = (resampled(image, shape, extent) + 0.5).astype(np.uint16)
    return {band: bands[band] for band in S2.bands}


def _shape(key: list[int], size: int) -> Shape:
    """Height and width of a city in px of 10 m."""
    return tuple((size * stream(key, PLACE, 1).uniform(0.8, 1.2, 2)).round().astype(int).tolist())


def _dates(key: list[int]) -> tuple[date, date]:
    """Days of the two scenes, one to three years apart."""
    first, apart = stream(key, PLACE, 2).uniform((0, 1), (1, 3)) * 365
    return FIRST_DAY + timedelta(round(first)), FIRST_DAY + timedelta(round(first + apart))


def _scene(key: list[int], index: int, day: date) -> str:
    """Start of the file names: the old product names at the first date, the new ones at the second."""
    square = f"T{31 + key[-1] % 20}" + "".join(stream(key, PLACE, 3).choice(list("CDEFGHJKLMNPQRSTUVWX"), 3))
    if index == 0:
        return f"S2A_OPER_MSI_L1C_TL_MTI__{day:%Y%m%d}T104345_A{3000 + 17 * key[-1]:06d}_{square}"
    return f"{square}_{day:%Y%m%d}T065919"


def _grid(key: list[int], shape: Shape, pixels: Shape) -> Grid:
    """`pixels` over the footprint of `shape` px, each of 100 m2 and square in degrees."""
    west, north = stream(key, PLACE).uniform((-120, -35), (140, 55))
    degrees = 10 / DEGREE / np.sqrt(np.cos(np.radians(north)))
    return Grid(4326, west, north, degrees * shape[1] / pixels[1], degrees * shape[0] / pixels[0])
