"""Write raster files into a world's folder: claimed once, each location written aside and moved into place."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from tqdm import tqdm

WORLD_VERSION = 1
"""Raised, with `fingerprint.WORLD_HASH`, whenever the same settings give other pixels."""

WRITERS = 4
"""Threads that compress and write while the next scene is computed."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie, north up.

    Attributes:
        epsg: Code of the coordinate reference system.
        west: Left edge, in its units.
        north: Upper edge.
        width: Width of a pixel.
        height: Height of a pixel; equal to the width for `None`.
    """

    epsg: int
    west: float
    north: float
    width: float
    height: float | None = None

    @property
    def transform(self) -> Affine:
        """Column and row -> coordinates."""
        return Affine(self.width, 0, self.west, 0, -(self.height or self.width), self.north)


@dataclass(frozen=True)
class Raster:
    """A file to write.

    Attributes:
        path: Path under the root; `.png` for a PNG, else a GeoTIFF.
        image: `(H, W)` or `(C, H, W)`.
        grid: Where it lies; `None` for a file that does not tell.
        nodata: Value of pixels without data, where the file declares one.
        bands: Description of each band; none where empty.
    """

    path: str
    image: np.ndarray
    grid: Grid | None = None
    nodata: float | None = None
    bands: tuple[str, ...] = ()


Plan = tuple[list[str], Iterable[Raster]]
"""Units of a location (folders or files) and the rasters that they hold."""


def world(layout: str, classes: tuple[str, ...], seed: int, size: int, **counts: int) -> dict:
    """Settings of a world as `claim` records them.

    Raises:
        ValueError: Seed, size or a count out of range.
    """
    for name, value, least in (("seed", seed, 0), ("size", size, 24), *((k, v, 1) for k, v in counts.items())):
        check_range(name, value, least)
    return {
        "version": WORLD_VERSION,
        "layout": layout,
        "seed": seed,
        "size": size,
        **counts,
        "classes": list(classes),
    }


def check_range(name: str, value: int, least: int, most: float = float("inf")) -> None:
    """Refuse a setting outside its range.

    Raises:
        ValueError: `value` is not in `least`..`most`.
    """
    if not least <= value <= most:
        raise ValueError(f"{name} {value}: wanted {least} or more" + (f", at most {most}" if most < np.inf else ""))


def claim(root: str | Path, settings: dict) -> Path:
    """Make `root` this world's folder.

    Raises:
        ValueError: It holds other data, or a world with other settings.
    """
    root, record = Path(root), Path(root) / "world.json"
    if not record.is_file():
        if root.exists() and (not root.is_dir() or {path.name for path in root.iterdir()} - {"world.partial"}):
            raise ValueError(f"{root}: holds data without a world.json; choose a new or empty folder")
        root.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(settings, indent=1) + "\n")
        return root
    try:
        found = json.loads(record.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{record}: not readable as JSON ({error}); delete the folder and write it anew") from None
    other = [name for name in settings if not isinstance(found, dict) or found.get(name) != settings[name]]
    if other:
        was = found.get(other[0]) if isinstance(found, dict) else found
        raise ValueError(f"{record}: has {other[0]} {was}, asked for {settings[other[0]]}; choose another folder")
    return root


def write_splits(
    root: str | Path,
    settings: dict,
    splits: Mapping[str, int],
    plan: Callable[[str, list[int]], Plan],
    progress: bool,
) -> None:
    """Write the locations of each split.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        settings: What `world` returns.
        splits: Name of each split -> number of its locations.
        plan: Split and key `[seed, number of the split, index]` -> what to install.
        progress: Show a progress bar.

    Raises:
        ValueError: As `claim`.
    """
    root = claim(root, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for area, (split, number) in enumerate(splits.items()):
            title = f"{settings['layout']} {split}"
            for index in tqdm(range(number), desc=title, unit="location", disable=None if progress else True):
                install(root, *plan(split, [settings["seed"], area, index]))


def install(root: Path, units: list[str], rasters: Iterable[Raster]) -> None:
    """Write the rasters of a location aside and move its units into place, unless all are there.

    Args:
        root: Folder of the world.
        units: Folders or files under `root` that hold all of the rasters.
        rasters: Computed as they are asked for, so not at all where the location is there.
    """
    if all((root / unit).exists() for unit in units):
        return
    aside = root / ".partial"
    shutil.rmtree(aside, ignore_errors=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda raster: _write_raster(aside / raster.path, raster), rasters):
            pass
    for unit in units:
        shutil.rmtree(root / unit, ignore_errors=True)
        (root / unit).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / unit, root / unit)
    shutil.rmtree(aside)


def write_text(path: Path, text: str) -> None:
    """Write a text file aside and move it into place, unless it is there."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _write_raster(path: Path, raster: Raster) -> None:
    bands = raster.image if raster.image.ndim == 3 else raster.image[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with rasterio.open(path, "w", **shape, **_profile(raster)) as file:
        file.write(bands)
        for number, name in enumerate(raster.bands, 1):
            file.set_band_description(number, name)


def _profile(raster: Raster) -> dict:
    if raster.path.endswith(".png"):
        return {"driver": "PNG"}
    place = {} if raster.grid is None else {"crs": _crs(raster.grid.epsg), "transform": raster.grid.transform}
    predictor = 3 if raster.image.dtype.kind == "f" else 2
    packing = {"compress": "deflate", "zlevel": 1, "predictor": predictor}
    return {"driver": "GTiff", "nodata": raster.nodata, **place, **packing}


@cache
def _crs(epsg: int) -> CRS:
    return CRS.from_epsg(epsg)
