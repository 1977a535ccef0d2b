"""What a scene is given as: a multi-band raster, a folder of a file for each band, a `.SAFE` folder or its zip."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cromss.mapping.safe import GEOCODE, is_safe, read_safe
from cromss.offset import metadata_offset
from cromss.scenes import band_in_name
from cromss.sensors import S1, S2, Modality, canonical_band

MAX_COORDINATE = 1e9
"""Beyond it there is no place on the Earth, in metres or in degrees."""

_SUFFIXES = frozenset((".tif", ".tiff", ".jp2", ".vrt", ".img"))
_ASIDE = ".aux.xml", ".ovr"
"""Ends of files that a GIS writes beside a raster: statistics and overviews."""
_BAND_FIRST = re.compile(r"(B\d{1,2}A?|VV|VH)\b", re.IGNORECASE)


class Bands(NamedTuple):
    """Some bands of one file.

    Attributes:
        dataset: The file, warped to the grid of the scene where it has another one.
        numbers: Bands in it, counted from 1.
        extent: Its last band is 0 where the file does not reach; `None` where it covers the scene, or NaN tells.
    """

    dataset: DatasetReader | WarpedVRT
    numbers: list[int]
    extent: WarpedVRT | None = None

    @property
    def told(self) -> list[Any]:
        """What is read of the file beside its pixels: CRS, transform, nodata value, which bands are wanted."""
        dataset = self.dataset
        return [dataset.crs.to_string(), *dataset.transform[:6], dataset.nodata, *self.numbers]


class Source(NamedTuple):
    """The bands of one modality, open.

    Attributes:
        parts: Files with the bands wanted of each, in the order in which they are wanted.
        files: Files on the disk that are read.
        note: What is known or was assumed of the bands, if anything.
        offset: DN offset of Sentinel-2 that metadata declare; `None` if they are silent.
        is_product: The metadata are those of a product as it was handed out.
    """

    parts: list[Bands]
    files: list[Path]
    note: str = ""
    offset: int | None = None
    is_product: bool = False


def open_source(stack: ExitStack, where: str, path: Path, sensor: Modality, bands: Sequence[str]) -> Source:
    """Open the files of a modality until the stack is closed.

    Args:
        stack: What closes them.
        where: Their path behind its flag, to begin the line of an error.
        path: File or folder.
        sensor: The modality.
        bands: Names of the bands wanted.

    Raises:
        ValueError: A file is missing or unreadable, has no CRS, or not the bands.
    """
    if is_safe(path):
        safe = read_safe(where, path)
        parts = _single_bands(stack, where, sensor, bands, safe.files)
        files = [path] if path.is_file() else [Path(part.dataset.name) for part in parts]
        return Source(parts, files, safe.note, safe.offset, is_product=True)
    if path.is_dir():
        parts, note = _single_bands(stack, where, sensor, bands, _band_files(where, path, bands)), ""
    elif not path.exists():
        raise ValueError(f"{where}: no such file")
    else:
        dataset = _open(stack, where, path)
        numbers, note = _band_numbers(dataset, where, sensor, bands)
        parts = [Bands(dataset, numbers)]
    files = [file for part in parts for file in _files_on_disk(part.dataset)]
    declared = metadata_offset(Path(parts[0].dataset.name)) if sensor.name == S2.name else None
    return Source(parts, files, note, declared)


def _single_bands(
    stack: ExitStack, where: str, sensor: Modality, bands: Sequence[str], files: Mapping[str, Path | str]
) -> list[Bands]:
    _refuse_missing(where, sensor, bands, list(files), "no file for")
    return [Bands(_open(stack, where, files[band]), [1]) for band in bands]


def _open(stack: AbstractContextManager, where: str, path: Path | str) -> DatasetReader:
    try:
        dataset = stack.enter_context(rasterio.open(path))
    except RasterioError as error:
        raise ValueError(f"{where}: cannot be read, truncated or no raster ({reason(error)}); copy it again") from None
    if dataset.crs is None:
        file = where if where.endswith(str(path)) else f"{where}: {Path(path).name}"
        lacking = (
            GEOCODE if dataset.gcps[0] else "no CRS; assign it (gdal_edit.py -a_srs EPSG:...), or warp it (gdalwarp)"
        )
        raise ValueError(f"{file}: {lacking}")
    place = dataset.transform
    if not all(map(math.isfinite, place)) or not place.determinant or max(map(abs, place)) > MAX_COORDINATE:
        raise ValueError(f"{where}: geotransform {place.to_gdal()} is nowhere on the Earth; warp it (gdalwarp)")
    if "complex" in dataset.dtypes[0]:
        raise ValueError(f"{where}: complex values; detect and calibrate the product first")
    return dataset


def _files_on_disk(dataset: DatasetReader) -> Iterator[Path]:
    """The file, and those that it refers to, as VRTs do, which may refer to others; none that a GIS wrote aside."""
    for path in map(Path, dataset.files):
        if path.is_file() and not path.name.endswith(_ASIDE):
            yield path
        if path.suffix.lower() == ".vrt" and path != Path(dataset.name):
            with suppress(RasterioError), rasterio.open(path) as inner:  # what is damaged is told when it is read
                yield from _files_on_disk(inner)


def _band_files(where: str, folder: Path, bands: Sequence[str]) -> dict[str, Path]:
    """Band -> its file in a folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        band = band_in_name(path.stem) if path.suffix.lower() in _SUFFIXES else ""
        if band in (*S1.bands, *S2.bands) and found.setdefault(band, path) != path and band in bands:
            raise ValueError(f"{where}: {found[band].name} and {path.name} are both band {band}; keep one")
    return found


def _band_numbers(dataset: DatasetReader, where: str, sensor: Modality, bands: Sequence[str]) -> tuple[list[int], str]:
    """Number of each band in a file, by the names in it; without names in the sensor's order."""
    named = [_told_band(text or "") for text in dataset.descriptions]
    if any(name in sensor.bands for name in named):
        _refuse_missing(where, sensor, bands, named, "among its named bands there is no")
        if double := [band for band in bands if named.count(band) > 1]:
            raise ValueError(f"{where}: {named.count(double[0])} of its bands are named {double[0]}; keep one")
        return [named.index(band) + 1 for band in bands], ""
    if foreign := [name for name in named if name in (*S1.bands, *S2.bands)]:
        raise ValueError(f"{where}: its bands are {' '.join(foreign)}, wanted is {sensor.title}: {' '.join(bands)}")
    if told := [text for text in dataset.descriptions if text]:
        raise ValueError(
            f"{where}: its bands are named {', '.join(told)}, which are no bands of {sensor.title}; rename them "
            f"{' '.join(bands)} (rasterio's set_band_description), or give a folder of <band>.tif"
        )
    for order in (sensor.bands, tuple(bands)):
        if dataset.count == len(order):
            return [order.index(band) + 1 for band in bands], f"its bands have no names, taken as {' '.join(order)}"
    raise ValueError(
        f"{where}: {dataset.count} bands without names; name them (rasterio's set_band_description), or give "
        f"{len(sensor.bands)} bands in the order {' '.join(sensor.bands)}"
    )


def _told_band(description: str) -> str:
    """The band that a description begins with, as `B4, central wavelength 665 nm`; empty where there is none."""
    match = _BAND_FIRST.match(description.strip())
    return canonical_band(match[0]) if match else ""


def _refuse_missing(where: str, sensor: Modality, bands: Sequence[str], found: Sequence[str], words: str) -> None:
    if missing := [band for band in bands if band not in found]:
        level = " (level 2A has none: level 1C is wanted, or a model of --n_channels 12)" if missing == ["B10"] else ""
        seen = " ".join(band for band in found if band) or "none"
        raise ValueError(f"{where}: {words} {' '.join(missing)} of {sensor.title}{level}; found {seen}")


def reason(error: Exception) -> str:
    """The innermost words of an error of the raster library, in one line."""
    return " ".join(str(error.__cause__ or error).split())
