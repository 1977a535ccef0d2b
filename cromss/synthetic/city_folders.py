"""Write orthophotos of a city with exact and noisy labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cromss.legends import NYC
from cromss.sensors import ORTHO
from cromss.synthetic.city import draw_city
from cromss.synthetic.location import LAND, MARKS, NOISE, OPTICAL, PLACE, stream
from cromss.synthetic.orthophoto import laser_labels, photograph
from cromss.synthetic.rasters import Grid, Plan, Raster, world, write_splits

UTM_18_NORTH, CITY_WEST, CITY_NORTH, CITY_SIDE = 32618, 565000, 4530000, 40000
"""Coordinate system of the city, its upper left corner and its side in m."""

BORDER_SHARE = 0.1
"""Share of the tiles that reach over the edge of what was mapped."""


def write_nyc(
    root: str | Path, num_train: int, num_test: int, size: int = 288, seed: int = 5, progress: bool = True
) -> None:
    """Write a set of orthophotos like those of New York City.

    `{train,test}/{image,label,noisy}/<id>.tif`: NIR, R, G, B as uint8 with named bands; exact raw codes 1..8,
    0 unlabelled; noisy labels 0 background, 1 trees, 2 buildings, 3 roads.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_train: Training tiles.
        num_test: Test tiles.
        size: Side of a tile in px of 1 m.
        seed: Seed of the world.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    settings = world("NYC", NYC.classes, seed, size, num_train=num_train, num_test=num_test)

    def plan(split: str, key: list[int]) -> Plan:
        paths = [f"{split}/{kind}/{key[-1]:06d}.tif" for kind in ("image", "label", "noisy")]
        return paths, _rasters(paths, key, size)

    write_splits(root, settings, {"train": num_train, "test": num_test}, plan, progress)


def _rasters(paths: list[str], key: list[int], size: int) -> Iterator[Raster]:
    azimuth = stream(key, PLACE).uniform(0, 2 * np.pi)
    sun = (float(np.cos(azimuth)), float(np.sin(azimuth)))
    city = draw_city(stream(key, LAND), size, sun)
    codes = city.classes + np.uint8(1)
    codes[_unmapped(key, size)] = 0
    image, grid = photograph(city, stream(key, OPTICAL), sun), _grid(key)
    yield Raster(paths[0], image, grid, bands=ORTHO.bands)
    yield Raster(paths[1], codes, grid, nodata=0)
    yield Raster(paths[2], laser_labels(city.classes, stream(key, NOISE)), grid)


def _unmapped(key: list[int], size: int) -> np.ndarray:
    """A corner beyond the edge of the map, in some tiles; `(size, size)` bool."""
    rng = stream(key, MARKS)
    y, x = np.mgrid[:size, :size]
    beyond = x + y * rng.uniform(0.2, 2) < size * rng.uniform(0.1, 0.6)
    return beyond & (rng.random() < BORDER_SHARE)


def _grid(key: list[int]) -> Grid:
    east, south = stream(key, PLACE, 1).integers(0, CITY_SIDE, 2)
    return Grid(UTM_18_NORTH, CITY_WEST + int(east), CITY_NORTH - int(south), 1)
