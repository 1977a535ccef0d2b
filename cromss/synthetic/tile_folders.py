"""Write the world in the folder layouts of SSL4EO-S12@DW and SSL4EO-S12@OSM: tiles of 10 m pixels, raw codes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from rasterio.warp import transform

from cromss.legends import DW, IGNORE_INDEX, OSM, Legend
from cromss.synthetic.backscatter import radar
from cromss.synthetic.experts import clouded, left_out, ragged
from cromss.synthetic.ground import NUM_SEASONS, draw_ground
from cromss.synthetic.land import landscape
from cromss.synthetic.land_use import dressed, land_use
from cromss.synthetic.location import GROUND, LAND, MARKS, NOISE, OPTICAL, RADAR, draw_location, draw_place, stream
from cromss.synthetic.noise import noisy_labels
from cromss.synthetic.optics import optical
from cromss.synthetic.rasters import Plan, Raster, world, write_splits

CLOUD_CODE = 10
"""Raw label of clouds in DW."""

CLOUDY_SHARE, TWO_BANDS_EVERY = 0.3, 5
"""Share of DW tiles with clouds; every how many tiles the labels are the second band of their file."""


@dataclass(frozen=True)
class Tile:
    """One tile: `(2, H, W)` float32 dB, `(13, H, W)` uint16 DN, `(H, W)` or `(2, H, W)` uint8 raw codes."""

    s1: np.ndarray
    s2: np.ndarray
    labels: np.ndarray


def write_dw(
    root: str | Path, num_train: int, num_test: int, size: int = 512, seed: int = 2, progress: bool = True
) -> None:
    """Write a downstream set in the layout of SSL4EO-S12@DW.

    `dw_{train,test}/{image_s1,image_s2,label_dw}/{s1,s2,dw}_<lon>_<lat>-<date>.tif` in UTM. Labels are raw codes:
    0 unmarked, 1..9 the classes, 10 cloud; of some tiles they are the second band, after what a model predicted.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_train: Training tiles, two pixels smaller than `size`, as the real ones.
        num_test: Test tiles, from other areas.
        size: Side of a test tile in px of 10 m.
        seed: Seed of the world; choose another than the pretraining set's.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    settings = world("DW", DW.classes, seed, size, num_train=num_train, num_test=num_test)
    _write(root, settings, _dw_tile, progress)


def write_osm(
    root: str | Path, num_train: int, num_test: int, size: int = 512, seed: int = 3, progress: bool = True
) -> None:
    """Write a downstream set in the layout of SSL4EO-S12@OSM.

    `osm_{train,test}/{image_s1,image_s2,label_osm}/{s1,s2,osm}_<lon>_<lat>-<date>.tif` in UTM. Labels are raw
    codes: 0 unmapped, 1..13 the classes. Arguments and errors are those of `write_dw`.
    """
    settings = world("OSM", OSM.classes, seed, size, num_train=num_train, num_test=num_test)
    _write(root, settings, _osm_tile, progress)


def _write(root: str | Path, settings: dict, draw: Callable[[list[int], int], Tile], progress: bool) -> None:
    word, size = settings["layout"].lower(), settings["size"]

    def plan(split: str, key: list[int]) -> Plan:
        kinds = {"image_s1": "s1", "image_s2": "s2", f"label_{word}": word}
        side = size - 2 if split == "train" else size
        name = _tile_name(key, side)
        paths = [f"{word}_{split}/{folder}/{kind}_{name}.tif" for folder, kind in kinds.items()]
        return paths, _rasters(paths, key, side, draw)

    write_splits(root, settings, {"train": settings["num_train"], "test": settings["num_test"]}, plan, progress)


def _rasters(paths: list[str], key: list[int], side: int, draw: Callable[[list[int], int], Tile]) -> Iterator[Raster]:
    tile, grid = draw(key, side), draw_place(key).grid()
    for path, image, nodata in zip(paths, (tile.s1, tile.s2, tile.labels), (None, None, 0)):
        yield Raster(path, image, grid, nodata)


def _dw_tile(key: list[int], side: int) -> Tile:
    labels, ground = draw_location(key, side)
    season, rng = _season(key), stream(key, MARKS)
    image = optical(labels, season, stream(key, OPTICAL), ground)
    opacity = np.zeros(labels.shape)
    if rng.random() < CLOUDY_SHARE:
        image, opacity = clouded(image, rng)
    codes = _raw_codes(labels, DW)
    codes[left_out(labels, rng, rng.uniform(0.05, 0.3)) | (opacity > 0.1)] = 0
    codes[opacity > 0.5] = CLOUD_CODE
    if key[-1] % TWO_BANDS_EVERY == TWO_BANDS_EVERY - 1:
        predicted = noisy_labels(labels, int(season), stream(key, NOISE))
        codes = np.stack([_raw_codes(predicted, DW), codes])
    return Tile(radar(labels, season, stream(key, RADAR), ground), image, codes)


def _osm_tile(key: list[int], side: int) -> Tile:
    rng, season = stream(key, MARKS), _season(key)
    land, uses = land_use(landscape(stream(key, LAND), side), rng)
    ground = dressed(draw_ground(land.labels, stream(key, GROUND), land), uses, rng)
    codes = _raw_codes(uses, OSM)
    codes[ragged(rng, uses.shape, rng.uniform(0.02, 0.2))] = 0
    image = optical(land.labels, season, stream(key, OPTICAL), ground)
    return Tile(radar(land.labels, season, stream(key, RADAR), ground), image, codes)


def _raw_codes(ids: np.ndarray, legend: Legend) -> np.ndarray:
    """Class ids -> raw codes, 0 for ignored pixels; uint8."""
    table = np.zeros(IGNORE_INDEX + 1, np.uint8)
    table[list(legend.codes.values())] = list(legend.codes)
    return table[ids]


def _season(key: list[int]) -> float:
    """Time of the scene in [0, 4): 0 is the middle of March, 1 of June."""
    return float(stream(key, MARKS, 1).uniform(0, NUM_SEASONS))


def _tile_name(key: list[int], side: int) -> str:
    """`<lon>_<lat>-<date>` of the tile's centre."""
    grid, half = draw_place(key).grid(), side / 2
    east, north = grid.west + half * grid.width, grid.north - half * grid.width
    (longitude,), (latitude,) = transform(f"EPSG:{grid.epsg}", "EPSG:4326", [east], [north])
    day = date(2019, 3, 15) + timedelta(days=round(_season(key) * 365 / NUM_SEASONS))
    return f"{longitude:.5f}_{latitude:.5f}-{day:%Y%m%d}"
