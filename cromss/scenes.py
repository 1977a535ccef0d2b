"""Scenes -> arrays: GeoTIFF of one band or many. Images are resampled bicubically, labels to the nearest neighbour."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from cromss.legends import Legend
from cromss.sensors import MODALITIES, Modality, canonical_band, check_values

MAX_VALUES = 1 << 28
"""Values in one file of a scene, beyond which it is no tile."""

_KNOWN_BANDS = frozenset(band for modality in MODALITIES.values() for band in modality.bands)


def read_image(source: Path, modality: Modality, size: int | None = None) -> np.ndarray:
    """One scene as `(C, H, W)` raw values (dB or DN), bicubic where `size` differs from the file.

    Args:
        source: A folder of single-band files `<band>.tif` on any grids, or one multi-band GeoTIFF.
        modality: The sensor.
        size: Side in pixels to resample to; the file's own size for `None`.

    Raises:
        ValueError: A band is missing or out of order, the file is truncated, or the values are
            nodata, NaN or in another unit.
    """
    if source.is_dir():
        files = _band_files(source, modality)
        bands = [_read_bands(file, (band,), size) for band, file in files.items()]
        if len({band.shape for band in bands}) > 1:
            raise ValueError(f"{source}: bands are on different grids; give the size to resample them to")
        image = np.concatenate(bands)
    else:
        image = _read_bands(source, modality.bands, size)
    check_values(image, modality, str(source))
    return image


def read_labels(source: Path, legend: Legend, size: int | None = None) -> np.ndarray:
    """One label file as `(H, W)` uint8 class ids (255 ignored), nearest where `size` differs.

    Raises:
        ValueError: The file is missing, unreadable, of several bands, or has codes outside the legend.
    """
    with _opened(source, ("label",)) as dataset:
        shape = dataset.shape if size is None else (size, size)
        raw = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    return legend.to_class_ids(raw, where=str(source))


def scene_place(source: Path) -> tuple[str, tuple[float, float], float] | None:
    """CRS, upper left corner and pixel size of a file, in the CRS's units; `None` without a CRS."""
    try:
        with rasterio.open(source) as dataset:
            corner = (dataset.transform.c, dataset.transform.f)
            return (dataset.crs.to_string(), corner, abs(dataset.transform.a)) if dataset.crs else None
    except RasterioError:
        return None  # reading it says why


def _band_files(folder: Path, modality: Modality) -> dict[str, Path]:
    files = {canonical_band(path.stem): path for path in sorted(folder.glob("*.tif")) if path.suffix == ".tif"}
    missing = [band for band in modality.bands if band not in files]
    if missing:
        level = " (level 2A has none: level 1C is wanted)" if missing == ["B10"] else ""
        raise ValueError(f"{folder}: no file for band {' '.join(missing)} of {modality.title}{level}")
    return {band: files[band] for band in modality.bands}


@contextmanager
def _opened(path: Path, bands: Sequence[str]) -> Iterator[rasterio.DatasetReader]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with rasterio.open(path) as dataset:
            _check_bands(dataset, bands, path)
            _check_header(dataset, path)
            yield dataset
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{path}: cannot be read, truncated or not a GeoTIFF ({reason})") from error


def _check_bands(dataset: rasterio.DatasetReader, bands: Sequence[str], path: Path) -> None:
    named = [canonical_band(text) for text in dataset.descriptions if text]
    named = named if len(named) == dataset.count and _KNOWN_BANDS.issuperset(named) else []
    if dataset.count != len(bands):
        missing = [band for band in bands if band not in named] if named else []
        missing = missing or (["B10 (level 2A has none)"] if (dataset.count, len(bands)) == (12, 13) else [])
        hint = f"; missing: {' '.join(missing)}" if missing else f": {' '.join(bands)}"
        raise ValueError(f"{path}: {dataset.count} bands where {len(bands)} are wanted{hint}")
    if named and named != list(bands):
        raise ValueError(f"{path}: bands are {' '.join(named)}, wanted in the order {' '.join(bands)}")


def _check_header(dataset: rasterio.DatasetReader, path: Path) -> None:
    if "complex" in dataset.dtypes[0]:
        raise ValueError(f"{path}: complex values; detect and calibrate the product first")
    if dataset.count * dataset.width * dataset.height > MAX_VALUES:
        size = f"{dataset.count} x {dataset.height} x {dataset.width}"
        raise ValueError(f"{path}: {size} values in one scene; cut it into tiles first")


def _read_bands(path: Path, bands: Sequence[str], size: int | None) -> np.ndarray:
    with _opened(path, bands) as dataset:
        pixels = dataset.read()
        if dataset.nodata is not None:
            holes = np.isnan(pixels) if np.isnan(dataset.nodata) else pixels == dataset.nodata
            if holes.any():
                raise ValueError(f"{path}: {int(holes.sum())} nodata pixels ({dataset.nodata:g}); fill them or skip it")
        if size is not None and dataset.shape != (size, size):
            pixels = dataset.read(out_shape=(len(bands), size, size), resampling=Resampling.cubic)
    return pixels
