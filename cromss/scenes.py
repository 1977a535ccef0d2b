"""Scenes -> arrays: GeoTIFF of one band or many. Images are resampled bicubically, labels to the nearest neighbour."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import reproject

from cromss.input_checks import check_values
from cromss.legends import IGNORE_INDEX, Legend
from cromss.scene_sources import Scene, open_raster
from cromss.sensors import MODALITIES, ORTHO, Modality, canonical_band

MAX_VALUES = 1 << 28
"""Values in one file of a scene, beyond which it is no tile."""

MAX_OVERHANG = 2
"""Pixels of its own by which an image may fall short of the grid it is put on; its edge pixels are repeated there."""

_KNOWN_BANDS = frozenset(band for modality in MODALITIES.values() for band in modality.bands)
_LONG_NAMES = {"RED": "R", "GREEN": "G", "BLUE": "B", "INFRARED": "NIR", "NEAR INFRARED": "NIR", "NEAR-INFRARED": "NIR"}
_COLOURS = {ColorInterp.red: "R", ColorInterp.green: "G", ColorInterp.blue: "B"}


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a file lie.

    Attributes:
        crs: Coordinate reference system.
        transform: Column and row -> coordinates.
        shape: Height and width in pixels.
    """

    crs: CRS
    transform: Affine
    shape: tuple[int, int]

    def is_north_up(self) -> bool:
        """Columns run east and rows south, without rotation."""
        place = self.transform
        return place.a > 0 > place.e and place.b == place.d == 0

    def starts_at(self, other: "Grid") -> bool:
        """The upper left corners are the same to a pixel of `other`."""
        shift = max(abs(self.transform.c - other.transform.c), abs(self.transform.f - other.transform.f))
        return self.crs == other.crs and shift <= abs(other.transform.a)

    def covers(self, other: "Grid") -> bool:
        """Upper left corners are the same to a pixel of `other`, lower right ones to two, so neither is flipped."""
        (x, y), (there_x, there_y) = (grid.transform * grid.shape[::-1] for grid in (self, other))
        shift = max(abs(x - there_x), abs(y - there_y))
        return self.starts_at(other) and shift <= 2 * abs(other.transform.a)

    def overhang(self, other: "Grid") -> float:
        """How far `other` reaches beyond this grid at its worst side, in this grid's pixels; below 0 inside."""
        (left, bottom, right, top), edges = (array_bounds(*grid.shape, grid.transform) for grid in (self, other))
        across, down = (left - edges[0], edges[2] - right), (bottom - edges[1], edges[3] - top)
        return max(max(across) / abs(self.transform.a), max(down) / abs(self.transform.e))


def read_image(
    source: Scene, modality: Modality, size: int | None = None, bands: Sequence[str] | None = None
) -> np.ndarray:
    """One scene as `(C, H, W)` raw values in the sensor's unit and order, bicubic where `size` differs from the file.

    Args:
        source: A folder of single-band files `<band>.tif` on any grids, or one multi-band GeoTIFF.
        modality: The sensor.
        size: Side in pixels to resample to; the file's own size for `None`.
        bands: Order of the bands in a multi-band file as the user tells it; the sensor's for `None`.

    Raises:
        ValueError: A band is missing or out of order, the file is truncated, or the values are
            nodata, NaN or in another unit.
    """
    if source.is_dir():
        files = band_files(source, modality)
        pixels = [_read_bands(file, (band,), size) for band, file in files.items()]
        if len({band.shape for band in pixels}) > 1:
            raise ValueError(f"{source}: bands are on different grids; give the size to resample them to")
        image = np.concatenate(pixels)
    else:
        image = _read_bands(source, bands or modality.bands, size, told=bands is not None)
        image = image if bands is None else image[[bands.index(band) for band in modality.bands]]
    check_values(image, modality, str(source))
    return image


def check_bands(source: Scene, modality: Modality, bands: Sequence[str] | None = None) -> None:
    """Refuse a multi-band GeoTIFF by its header; the arguments are those of `read_image`.

    Raises:
        ValueError: Unreadable, or of other bands or in another order.
    """
    with _opened(source, bands or modality.bands, told=bands is not None):
        pass


def read_labels(source: Scene, legend: Legend, size: int | None = None, second_band: bool = False) -> np.ndarray:
    """One label file as `(H, W)` uint8 class ids, nearest where `size` differs; 255 for ignored codes and NaN nodata.

    Args:
        source: The file.
        legend: Meaning of its codes.
        size: Side in pixels to resample to; the file's own size for `None`.
        second_band: The file may have several bands; the second is the label then.

    Raises:
        ValueError: The file is missing, unreadable, of several bands, or has codes outside the legend, NaN that
            is not its nodata value, or pixels of a nodata value that is the code of a class.
    """
    with _opened(source, () if second_band else ("label",)) as dataset:
        shape = dataset.shape if size is None else (size, size)
        raw = dataset.read(min(dataset.count, 2), out_shape=shape, resampling=Resampling.nearest)
        if dataset.nodata is not None and np.isnan(dataset.nodata):
            raw = np.nan_to_num(raw, nan=IGNORE_INDEX)
        _refuse_labelled_nodata(raw, dataset.nodata, legend, source)
    return legend.to_class_ids(raw, where=str(source))


def read_on_grid(source: Scene, grid: Grid) -> np.ndarray:
    """A single-band file on another grid of its CRS, `(H, W)` of its own type, bicubic.

    Where the grid reaches beyond the file, by up to `MAX_OVERHANG` pixels, its edge is repeated.

    Raises:
        ValueError: The file is missing or unreadable, has no CRS or another one, a rotated grid, nodata
            pixels, or covers the grid in part only.
    """
    with _opened(source, ("image",)) as dataset:
        native, pixels = _grid(dataset), dataset.read(1)
        _refuse_holes(pixels, dataset.nodata, source)
    if native and not native.is_north_up():
        raise ValueError(f"{source}: geotransform {native.transform.to_gdal()} is rotated or empty; warp it north up")
    if native == grid:
        return pixels
    if native is None or native.crs != grid.crs:
        raise ValueError(f"{source}: its CRS is {native and native.crs}, wanted is {grid.crs}")
    if (overhang := native.overhang(grid)) > MAX_OVERHANG:
        raise ValueError(f"{source}: {math.ceil(overhang)} pixels short of the first date's grid; is it another place?")
    margin, place = max(0, math.ceil(overhang)) + 2, native.transform
    resampled = np.empty(grid.shape, pixels.dtype)
    reproject(
        np.pad(pixels, margin, mode="edge"),
        resampled,
        src_transform=Affine(place.a, 0, place.c - margin * place.a, 0, place.e, place.f - margin * place.e),
        src_crs=native.crs,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        resampling=Resampling.cubic,
    )
    return resampled


def scene_grid(source: Scene) -> Grid | None:
    """Grid of a file; `None` without a CRS, or where it cannot be opened."""
    try:
        with open_raster(source) as dataset:
            return _grid(dataset)
    except RasterioError:
        return None  # reading it says why


def scene_shape(source: Scene) -> tuple[int, int] | None:
    """Height and width of a multi-band file; `None` where it cannot be opened."""
    try:
        with open_raster(source) as dataset:
            return dataset.shape
    except RasterioError:
        return None  # reading it says why


def band_files(folder: Scene, modality: Modality) -> dict[str, Scene]:
    """Band -> its file, in the sensor's order; see `band_in_name`.

    Raises:
        ValueError: A band is missing, or has two files.
    """
    files: dict[str, Scene] = {}
    for path in sorted(folder.glob("*.tif"), key=str):
        band = band_in_name(path.stem)
        if files.setdefault(band, path) != path and band in modality.bands:
            raise ValueError(f"{folder}: {files[band].name} and {path.name} are both band {band}; keep one")
    missing = [band for band in modality.bands if band not in files]
    if missing:
        level = " (level 2A has none: level 1C is wanted)" if missing == ["B10"] else ""
        raise ValueError(f"{folder}: no file for band {' '.join(missing)} of {modality.title}{level}")
    return {band: files[band] for band in modality.bands}


def band_in_name(stem: str) -> str:
    """Band that a file is named after: `<band>`, `<anything>_<band>`, or either with `_10m` behind it."""
    return canonical_band(re.sub(r"_\d\dm$", "", stem).rpartition("_")[2])


def _grid(dataset: rasterio.DatasetReader) -> Grid | None:
    return Grid(dataset.crs, dataset.transform, dataset.shape) if dataset.crs else None


@contextmanager
def _opened(path: Scene, bands: Sequence[str], told: bool = False) -> Iterator[rasterio.DatasetReader]:
    """Open a file of `bands`, in that order; of any bands where none are given."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with open_raster(path) as dataset:
            if bands:
                _check_bands(dataset, bands, path, told)
            _check_header(dataset, path)
            yield dataset
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{path}: cannot be read, truncated or not a GeoTIFF ({reason}); copy it again") from error


def _check_bands(dataset: rasterio.DatasetReader, bands: Sequence[str], path: Scene, told: bool) -> None:
    named, ortho = _described_bands(dataset), set(bands) == set(ORTHO.bands)
    if dataset.count != len(bands):
        missing = [band for band in bands if band not in named] if named else []
        missing = missing or (["B10 (level 2A has none)"] if (dataset.count, len(bands)) == (12, 13) else [])
        hint = f"; missing: {' '.join(missing)}" if missing else f": {' '.join(bands)}"
        raise ValueError(f"{path}: {dataset.count} bands where {len(bands)} are wanted{hint}")
    if named and named != list(bands):
        advice = f"; say --band_order {' '.join(named)}" if ortho else ""
        raise ValueError(f"{path}: bands are {' '.join(named)}, wanted in the order {' '.join(bands)}{advice}")
    coloured = _coloured_bands(dataset)
    if ortho and coloured and not (named or told or coloured == list(bands)):
        raise ValueError(
            f"{path}: bands are {' '.join(coloured)} by their colour interpretation, which many writers set unasked; "
            f"say --band_order {' '.join(coloured)} or --band_order {' '.join(bands)}"
        )


def _described_bands(dataset: rasterio.DatasetReader) -> list[str]:
    """Names in the descriptions; none unless all are names of bands."""
    named = [canonical_band(text) for text in dataset.descriptions if text]
    named = [_LONG_NAMES.get(name, name) for name in named]
    return named if len(named) == dataset.count and _KNOWN_BANDS.issuperset(named) else []


def _coloured_bands(dataset: rasterio.DatasetReader) -> list[str]:
    """Names by the colour interpretation of an orthophoto, where all of red, green and blue occur."""
    named = [_COLOURS.get(colour, "NIR") for colour in dataset.colorinterp]
    return named if sorted(named) == sorted(ORTHO.bands) else []


def _check_header(dataset: rasterio.DatasetReader, path: Scene) -> None:
    if "complex" in dataset.dtypes[0]:
        raise ValueError(f"{path}: complex values; detect and calibrate the product first")
    if dataset.count * dataset.width * dataset.height > MAX_VALUES:
        size = f"{dataset.count} x {dataset.height} x {dataset.width}"
        raise ValueError(f"{path}: {size} values in one scene; cut it into tiles first")


def _read_bands(path: Scene, bands: Sequence[str], size: int | None, told: bool = False) -> np.ndarray:
    with _opened(path, bands, told) as dataset:
        pixels = dataset.read()
        _refuse_holes(pixels, dataset.nodata, path)
        if size is not None and dataset.shape != (size, size):
            pixels = dataset.read(out_shape=(len(bands), size, size), resampling=Resampling.cubic)
    return pixels


def _refuse_labelled_nodata(raw: np.ndarray, nodata: float | None, legend: Legend, path: Scene) -> None:
    if nodata in legend.codes and (raw == nodata).any():
        raise ValueError(
            f"{path}: declares nodata {nodata:g}, which the codes map to {legend.classes[legend.codes[nodata]]}: "
            f"put {nodata:g} under ignored, or clear the tag (gdal_edit.py -unsetnodata)"
        )


def _refuse_holes(pixels: np.ndarray, nodata: float | None, path: Scene) -> None:
    if nodata is not None:
        holes = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
        if holes.any():
            raise ValueError(f"{path}: {int(holes.sum())} nodata pixels ({nodata:g}); fill them or skip it")
