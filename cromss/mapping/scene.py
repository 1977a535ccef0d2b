"""The rasters of a scene, read row by row on one grid: bands by name, other grids warped, pixels without data told."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from cromss.scenes import Grid
from cromss.sensors import S1, S2, Modality, canonical_band

_SUFFIXES = frozenset((".tif", ".tiff", ".jp2", ".vrt", ".img"))
_BAND_IN_NAME = re.compile(r"(?:.*_)?(B\d{1,2}A?|VV|VH)(?:_\d\dm)?", re.IGNORECASE)


class Bands(NamedTuple):
    """Some bands of one file.

    Attributes:
        dataset: The file, warped to the grid of the scene where it has another one.
        numbers: Bands in it, counted from 1.
    """

    dataset: DatasetReader | WarpedVRT
    numbers: list[int]


class Image:
    """The bands of one modality on the grid of a scene.

    Attributes:
        name: The file or folder behind its flag, to begin the line of an error.
        path: The file, or one of the folder's.
        bands: Names of the bands, in the order in which they are read.
        note: What was assumed of the bands, if anything.
    """

    def __init__(self, name: str, path: Path, bands: Sequence[str], parts: Sequence[Bands], note: str) -> None:
        self.name, self.path, self.bands, self.note, self._parts = name, path, tuple(bands), note, parts
        self._nodata = [part.dataset.nodata for part in parts for _ in part.numbers]

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Raw values `(C, h, w)` of a window, and where there are data, `(h, w)` bool.

        There are none where a band is not finite or has the file's nodata value, or where all bands are 0; a nodata
        value of 0 is a dark pixel where other bands are not.

        Raises:
            ValueError: The file cannot be read, in one line.
        """
        parts = [self._pixels(part, rows, columns) for part in self._parts]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        valid, seen = np.ones(values.shape[1:], bool), np.zeros(values.shape[1:], bool)
        for band, nodata in zip(values, self._nodata):
            valid &= np.isfinite(band) & (band != nodata) if nodata else np.isfinite(band)  # 0 is no hole by itself
            seen |= band != 0
        return values, valid & seen

    def _pixels(self, part: Bands, rows: slice, columns: slice) -> np.ndarray:
        try:
            return part.dataset.read(part.numbers, window=((rows.start, rows.stop), (columns.start, columns.stop)))
        except RasterioError as error:
            where = f"{self.name}: rows {rows.start} to {rows.stop}"
            raise ValueError(f"{where} cannot be read, damaged ({_reason(error)})") from None


class Scene:
    """The images of a scene, open within a `with`, on the finest grid of the first one.

    Attributes:
        images: Modality -> image.
        grid: Where the pixels of the map lie: Sentinel-2's finest bands, of radar alone those of Sentinel-1.
        files: All files that are read.
    """

    def __init__(
        self, rasters: Mapping[str, Path], bands: Mapping[str, Sequence[str]], sensors: Mapping[str, Modality]
    ):
        """Open the rasters.

        Args:
            rasters: Modality -> a multi-band file, or a folder of a file for each band.
            bands: Modality -> names of the bands that are read.
            sensors: Modality -> its sensor.

        Raises:
            ValueError: A file is missing or unreadable, has no CRS or not the bands, or lies elsewhere.
        """
        with ExitStack() as stack:
            opened = {}
            for name in sorted(rasters, key=(S2.name, S1.name).index):
                opened[name] = _opened(stack, f"--{name} {rasters[name]}", rasters[name], sensors[name], bands[name])
            first = next(iter(opened))
            finest = min((part.dataset for part in opened[first][0]), key=lambda dataset: abs(dataset.transform.a))
            self.grid = Grid(finest.crs, finest.transform, finest.shape)
            self.files = sorted({Path(part.dataset.name) for parts, _ in opened.values() for part in parts})
            self.images = {}
            for name, (parts, note) in opened.items():
                where, told = f"--{name} {rasters[name]}", f"--{first} {rasters[first]}"
                warped = [_on_grid(stack, part, self.grid, name, where, told) for part in parts]
                path = Path(parts[0].dataset.name)
                self.images[name] = Image(where, path, bands[name], warped, note)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _opened(
    stack: ExitStack, where: str, path: Path, sensor: Modality, bands: Sequence[str]
) -> tuple[list[Bands], str]:
    """Files of a modality with the bands wanted of each, and what was assumed of them."""
    if path.is_dir():
        files = _band_files(where, path, sensor, bands)
        return [Bands(_open(stack, where, file), [1]) for file in files], ""
    if not path.exists():
        raise ValueError(f"{where}: no such file")
    dataset = _open(stack, where, path)
    numbers, note = _band_numbers(dataset, where, sensor, bands)
    return [Bands(dataset, numbers)], note


def _open(stack: AbstractContextManager, where: str, path: Path) -> DatasetReader:
    try:
        dataset = stack.enter_context(rasterio.open(path))
    except RasterioError as error:
        raise ValueError(f"{where}: cannot be read, truncated or no raster ({_reason(error)})") from None
    if dataset.crs is None:
        file = "" if where.endswith(str(path)) else f"{path.name} has "
        raise ValueError(f"{where}: {file}no CRS; assign it (gdal_edit.py -a_srs EPSG:...), or warp it (gdalwarp)")
    if "complex" in dataset.dtypes[0]:
        raise ValueError(f"{where}: complex values; detect and calibrate the product first")
    return dataset


def _band_files(where: str, folder: Path, sensor: Modality, bands: Sequence[str]) -> list[Path]:
    """File of each band of a folder, named `<band>`, `<anything>_<band>` or `<anything>_<band>_10m`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _BAND_IN_NAME.fullmatch(path.stem) if path.suffix.lower() in _SUFFIXES else None
        if match and found.setdefault(band := canonical_band(match[1]), path) != path and band in bands:
            raise ValueError(f"{where}: {found[band].name} and {path.name} are both band {band}; keep one")
    _refuse_missing(where, sensor, bands, list(found), "no file for")
    return [found[band] for band in bands]


def _band_numbers(dataset: DatasetReader, where: str, sensor: Modality, bands: Sequence[str]) -> tuple[list[int], str]:
    """Number of each band in a file, by the names in it; without names in the sensor's order."""
    named = [canonical_band(text or "") for text in dataset.descriptions]
    if any(name in sensor.bands for name in named):
        _refuse_missing(where, sensor, bands, named, "among its named bands there is no")
        if double := [band for band in bands if named.count(band) > 1]:
            raise ValueError(f"{where}: {named.count(double[0])} of its bands are named {double[0]}; keep one")
        return [named.index(band) + 1 for band in bands], ""
    if foreign := [name for name in named if name in (*S1.bands, *S2.bands)]:
        raise ValueError(f"{where}: its bands are {' '.join(foreign)}, wanted is {sensor.title}: {' '.join(bands)}")
    for order in (sensor.bands, tuple(bands)):
        if dataset.count == len(order):
            return [order.index(band) + 1 for band in bands], f"its bands have no names, taken as {' '.join(order)}"
    raise ValueError(
        f"{where}: {dataset.count} bands without names; name them (gdal_edit.py, band descriptions), or give "
        f"{len(sensor.bands)} bands in the order {' '.join(sensor.bands)}"
    )


def _refuse_missing(where: str, sensor: Modality, bands: Sequence[str], found: Sequence[str], words: str) -> None:
    if missing := [band for band in bands if band not in found]:
        level = " (level 2A has none: level 1C is wanted, or a model of --n_channels 12)" if missing == ["B10"] else ""
        seen = " ".join(band for band in found if band) or "none"
        raise ValueError(f"{where}: {words} {' '.join(missing)} of {sensor.title}{level}; found {seen}")


def _on_grid(stack: ExitStack, part: Bands, grid: Grid, modality: str, where: str, first: str) -> Bands:
    """The file as it is where it lies on the grid, else warped: bicubic, radar bilinear."""
    source = part.dataset
    if source.crs == grid.crs and source.shape == grid.shape and source.transform.almost_equals(grid.transform, 1e-6):
        return part
    _refuse_elsewhere(source, grid, where, first)
    radar = modality == S1.name
    nodata = source.nodata if source.nodata is not None else (math.nan if radar else 0)
    warped = WarpedVRT(
        source,
        crs=grid.crs,
        transform=grid.transform,
        height=grid.shape[0],
        width=grid.shape[1],
        resampling=Resampling.bilinear if radar else Resampling.cubic,
        src_nodata=nodata,
        nodata=math.nan if radar else nodata,
        dtype="float32" if radar else None,
    )
    return part._replace(dataset=stack.enter_context(warped))


def _refuse_elsewhere(source: DatasetReader, grid: Grid, where: str, first: str) -> None:
    height, width = grid.shape
    corners = [grid.transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    across, down = zip(*corners)
    left, bottom, right, top = transform_bounds(source.crs, grid.crs, *source.bounds)
    if left >= max(across) or right <= min(across) or bottom >= max(down) or top <= min(down):
        place = Path(source.name).name
        raise ValueError(f"{where}: {place} does not overlap {first}; are they of one place?")


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())
