"""Write the world as GeoTIFFs in the folder layouts of SSL4EO-S12@NoL and DFC2020.

Each location is a pure function of (seed, index), is written aside and moved into place, so that a killed run
goes on where it stopped and a second run with the same settings writes nothing.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from tqdm import tqdm

from cromss.legends import DFC2020, NOL
from cromss.sensors import S1
from cromss.synthetic.backscatter import radar
from cromss.synthetic.ground import NUM_SEASONS, Ground, draw_ground
from cromss.synthetic.land import SNOW, landscape
from cromss.synthetic.noise import NoiseModel, noisy_labels
from cromss.synthetic.optics import RESOLUTION, native_bands, optical

WORLD_VERSION = 1
"""Raised whenever the same settings give other pixels."""

DFC2020_SEASON, DFC2020_HAZE, DFC2020_DECIBELS = 1.5, 1.5, -0.8
DFC2020_GAIN = np.linspace(1.05, 0.95, 13)[:, None, None]
"""How the downstream world differs from the pretraining world: late summer, more haze, another calibration."""

WRITERS = 4
"""Threads that compress and write while the next scene is computed."""

LAND, GROUND, PLACE, NOISE, OPTICAL, RADAR = range(6)


@dataclass(frozen=True)
class Place:
    """Where a location lies.

    Attributes:
        zone: UTM zone, north (EPSG 32600 + zone).
        easting: Left edge in m.
        northing: Upper edge in m.
        square: Letters of its Sentinel-2 tile.
        days: Delay of each season's scene in days.
    """

    zone: int
    easting: int
    northing: int
    square: str
    days: tuple[int, ...]


@dataclass(frozen=True)
class Raster:
    """A file to write: path under the root, `(H, W)` or `(C, H, W)` image, pixel size in m."""

    path: str
    image: np.ndarray
    pixel: int = 10


def write_nol(
    root: str | Path,
    num_locations: int,
    size: int = 264,
    seed: int = 0,
    noise: NoiseModel | None = None,
    num_seasons: int = NUM_SEASONS,
    progress: bool = True,
) -> None:
    """Write a pretraining set in the layout of SSL4EO-S12, with noisy and with exact labels.

    `s1/<id>/<scene>/{VV,VH}.tif`, `s2c/<id>/<scene>/{B1..B12}.tif` on native grids, `labels` (noisy) and
    `exact` with `<id>/<scene>/label.tif`, `dw_complete_ids.csv`, and `world.json` with all settings.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_locations: Number of locations.
        size: Side of a location in px of 10 m.
        seed: Seed of the world.
        noise: How labels go wrong; the default `NoiseModel` for `None`.
        num_seasons: Scenes a location, 1 to 4.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    noise = noise or NoiseModel()
    _check_range("num_seasons", num_seasons, 1, NUM_SEASONS)
    settings = {
        **_world("NoL", seed, size, num_locations=num_locations, num_seasons=num_seasons),
        "noise": asdict(noise),
        "confusion_matrix": noise.confusion_matrix().tolist(),
    }
    root = _claim(root, settings)
    for index in tqdm(range(num_locations), desc="NoL", unit="location", disable=not progress):
        units = [f"{kind}/{index:07d}" for kind in ("s1", "s2c", "labels", "exact")]
        place = _draw_place([seed, index])
        _install(root, units, place, lambda i=index, p=place: _nol_rasters(i, p, size, seed, noise, num_seasons))
    _write_ids(root / "dw_complete_ids.csv", num_locations, num_seasons, seed)


def write_dfc2020(
    root: str | Path, num_train: int, num_test: int, size: int = 256, seed: int = 1, progress: bool = True
) -> None:
    """Write a downstream set in the layout of DFC2020, with its raw codes and exact labels.

    `<split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_{s1,s2,dfc}_0_p<i>.tif`: split `validation` trains and `test`
    tests, as published. Seen in another season, through more haze, with another calibration than `write_nol`.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_train: Patches in `validation`.
        num_test: Patches in `test`, from other areas.
        size: Side of a patch in px of 10 m.
        seed: Seed of the world; choose another than the pretraining set's.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    root = _claim(root, _world("DFC2020", seed, size, num_train=num_train, num_test=num_test))
    for area, (split, number) in enumerate((("validation", num_train), ("test", num_test))):
        for index in tqdm(range(number), desc=f"DFC2020 {split}", unit="patch", disable=not progress):
            units = [f"{split}/{kind}_{split}/ROIs0000_{split}_{kind}_0_p{index}.tif" for kind in ("s1", "s2", "dfc")]
            key = [seed, area, index]
            _install(root, units, _draw_place(key), lambda u=units, k=key: _dfc2020_rasters(u, k, size))


def _nol_rasters(
    index: int, place: Place, size: int, seed: int, noise: NoiseModel, num_seasons: int
) -> Iterator[Raster]:
    key = [seed, index]
    labels, ground = _draw_location(key, size)
    for season in range(num_seasons):
        s1, s2 = (f"{index:07d}/{scene(place, season)}" for scene in (_s1_scene, _s2_scene))
        for band, image in native_bands(labels, season, _rng(key, OPTICAL, season), ground).items():
            yield Raster(f"s2c/{s2}/{band}.tif", image, RESOLUTION[band])
        for band, image in zip(S1.bands, radar(labels, season, _rng(key, RADAR, season), ground)):
            yield Raster(f"s1/{s1}/{band}.tif", image)
        yield Raster(f"labels/{s2}/label.tif", noisy_labels(labels, season, _rng(key, NOISE), noise))
        yield Raster(f"exact/{s2}/label.tif", labels)


def _dfc2020_rasters(paths: list[str], key: list[int], size: int) -> Iterator[Raster]:
    labels, ground = _draw_location(key, size)
    s1 = radar(labels, DFC2020_SEASON, _rng(key, RADAR), ground).astype(np.float64) + DFC2020_DECIBELS
    s2 = optical(labels, DFC2020_SEASON, _rng(key, OPTICAL), ground, DFC2020_HAZE) * DFC2020_GAIN
    codes = np.zeros(NOL.num_classes, np.uint8)
    for code, class_id in DFC2020.codes.items():
        codes[class_id] = code
    codes[SNOW] = 8
    for path, image in zip(paths, (s1, np.clip(s2, 1, 65535).astype(np.uint16), codes[labels])):
        yield Raster(path, image)


def _rng(key: list[int], stream: int, season: int = 0) -> np.random.Generator:
    return np.random.default_rng([*key, stream, season])


def _draw_location(key: list[int], size: int) -> tuple[np.ndarray, Ground]:
    land = landscape(_rng(key, LAND), size)
    return land.labels, draw_ground(land.labels, _rng(key, GROUND), land)


def _draw_place(key: list[int]) -> Place:
    rng = _rng(key, PLACE)
    return Place(
        zone=int(rng.integers(1, 61)),
        easting=int(rng.integers(30000, 70000)) * 10,
        northing=int(rng.integers(50000, 650000)) * 10,
        square="".join(rng.choice(list("CDEFGHJKLMNPQRSTUVWX"), 3)),
        days=tuple(rng.integers(0, 10, NUM_SEASONS).tolist()),
    )


def _date(place: Place, season: int, days_before: int = 0) -> str:
    return f"2020{3 * season + 3:02d}{15 + place.days[season] - days_before:02d}"


def _s2_scene(place: Place, season: int) -> str:
    date = _date(place, season)
    return f"{date}T103021_{date}T103020_T{place.zone:02d}{place.square}"


def _s1_scene(place: Place, season: int) -> str:
    date, orbit = _date(place, season, days_before=1), 31672 + 1340 * season + place.zone
    return f"S1A_IW_GRDH_1SDV_{date}T052644_{date}T052709_{orbit:06d}_{2 * orbit:06X}"


def _world(layout: str, seed: int, size: int, **counts: int) -> dict:
    for name, value, least in (("seed", seed, 0), ("size", size, 24), *((k, v, 1) for k, v in counts.items())):
        _check_range(name, value, least)
    return {
        "version": WORLD_VERSION,
        "layout": layout,
        "seed": seed,
        "size": size,
        **counts,
        "classes": list(NOL.classes),
    }


def _check_range(name: str, value: int, least: int, most: float = float("inf")) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} {value}: wanted {least} or more" + (f", at most {most}" if most < np.inf else ""))


def _claim(root: str | Path, settings: dict) -> Path:
    """Make `root` this world's folder, or refuse: it holds other data, or a world with other settings."""
    root, record = Path(root), Path(root) / "world.json"
    if not record.is_file():
        if root.exists() and (not root.is_dir() or {path.name for path in root.iterdir()} - {"world.partial"}):
            raise ValueError(f"{root}: holds data without a world.json; choose a new or empty folder")
        root.mkdir(parents=True, exist_ok=True)
        _write_text(record, json.dumps(settings, indent=1) + "\n")
        return root
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        raise ValueError(f"{record}: not readable as JSON ({error}); delete the folder and write it anew") from None
    other = [name for name in settings if not isinstance(found, dict) or found.get(name) != settings[name]]
    if other:
        was = found.get(other[0]) if isinstance(found, dict) else found
        raise ValueError(f"{record}: has {other[0]} {was}, asked for {settings[other[0]]}; choose another folder")
    return root


def _install(root: Path, units: list[str], place: Place, rasters: Callable[[], Iterator[Raster]]) -> None:
    """Write the rasters of a location aside and move its units (folders or files) into place, unless all are there."""
    if all((root / unit).exists() for unit in units):
        return
    aside = root / ".partial"
    shutil.rmtree(aside, ignore_errors=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda raster: _write_raster(aside / raster.path, raster, place), rasters()):
            pass
    for unit in units:
        shutil.rmtree(root / unit, ignore_errors=True)
        (root / unit).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / unit, root / unit)
    shutil.rmtree(aside)


def _write_raster(path: Path, raster: Raster, place: Place) -> None:
    bands = raster.image if raster.image.ndim == 3 else raster.image[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": _utm(place.zone),
        "transform": Affine(raster.pixel, 0, place.easting, 0, -raster.pixel, place.northing),
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 3 if bands.dtype.kind == "f" else 2,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)


@cache
def _utm(zone: int) -> CRS:
    return CRS.from_epsg(32600 + zone)


def _write_ids(path: Path, num_locations: int, num_seasons: int, seed: int) -> None:
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *(f"season{number + 1}" for number in range(num_seasons))])
        for index in range(num_locations):
            place = _draw_place([seed, index])
            writer.writerow([f"{index:07d}", *(_s2_scene(place, season) for season in range(num_seasons))])
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
