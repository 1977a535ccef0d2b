"""Shards of SSL4EO-S12 v1.1: a zipped Zarr of up to 64 samples and their seasons, read one season of one at a time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import BadZipFile
from zlib import error as DeflateError

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from cromss.scene_names import id_key, scene_time
from cromss.sensors import Modality, canonical_band

DIMS = ("sample", "time", "band", "y", "x")
"""Dimensions of `bands` in a shard."""

_OPENED = 16
"""Shards held open at once."""

_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, BadZipFile, DeflateError)
"""What zip, codecs, Zarr and xarray raise for damaged files."""

_opening = Lock()


@dataclass(frozen=True, slots=True)
class ZarrScene:
    """One season of one sample; a raster that is read when it is opened.

    Attributes:
        shard: The zipped Zarr.
        modality: Its sensor, in whose order the bands come.
        sample: Position of the sample.
        time: Position of the season.
        name: Name of the scene, with its date.
    """

    shard: Path
    modality: Modality
    sample: int
    time: int
    name: str

    def __str__(self) -> str:
        return f"{self.shard} sample {self.sample} {self.name}"

    @property
    def stem(self) -> str:
        """The name; it has no suffix."""
        return self.name

    @property
    def suffix(self) -> str:
        """None, as of a folder of bands."""
        return ""

    @property
    def parent(self) -> Path:
        """Folder of the shard."""
        return self.shard.parent

    def is_dir(self) -> bool:
        """It has no files."""
        return False

    def is_file(self) -> bool:
        """The shard is there."""
        return self.shard.is_file()

    def glob(self, pattern: str) -> Iterable["ZarrScene"]:
        """Nothing: it has no files."""
        return ()

    @contextmanager
    def open_raster(self) -> Iterator[rasterio.DatasetReader]:
        """Read the season, and open it as a raster in memory; ValueError where it cannot be decoded."""
        try:
            shard = open_shard(self.shard)
            pixels = shard.bands[self.sample, self.time].values
            names = [canonical_band(str(band)) for band in shard.band.values]
            crs, transform = _place(shard.isel(sample=self.sample))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self}: cannot be decoded ({reason}); download the shard again") from error
        pixels = _raster_type(pixels[[names.index(band) for band in self.modality.bands]])
        with _in_memory(pixels, self.modality.bands, crs, transform) as dataset:
            yield dataset


def shard_scenes(path: Path, modality: Modality) -> dict[str, tuple[ZarrScene, ...]]:
    """Sample id, as a number -> its scenes in time order.

    Raises:
        ValueError: Not a shard of this sensor, samples twice, or scenes without a date or of another than `time_`.
    """
    with _said(path):
        shard = open_shard(path)
        _check(shard, path, modality)
        ids = [str(name) for name in shard.sample.values]
        names = np.asarray(shard.file_id.transpose("sample", "time").values).astype(str)
        days = _days(shard)
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"{path}: sample {twice[0]} is in it twice; download it again")
    scenes = {}
    for sample, name in enumerate(ids):
        row = [ZarrScene(path, modality, sample, time, str(scene)) for time, scene in enumerate(names[sample])]
        for scene in row:
            _check_date(scene, None if days is None else days[sample, scene.time], path, name)
        scenes[id_key(name)] = tuple(sorted(row, key=lambda scene: scene_time(scene.name)))
    return scenes


def open_shard(path: Path) -> Any:
    """The shard as a lazy `xarray.Dataset`, opened once and shared by all threads.

    Raises:
        ValueError: Missing, no zip or no Zarr, or the optional packages are not installed.
    """
    with _opening:
        return _opened(path)


@lru_cache(maxsize=_OPENED)
def _opened(path: Path) -> Any:
    try:
        import xarray
        from zarr.storage import ZipStore
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: {error.name} is not installed; pip install 'cromss[zarr]'") from error
    with _said(path):
        store = ZipStore(path, mode="r", read_only=True)
        return xarray.open_zarr(store, chunks=None, mask_and_scale=False)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Whatever zip, Zarr and xarray raise, in one line."""
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read, truncated or not a zipped Zarr ({reason})") from error


def _check(shard: Any, path: Path, modality: Modality) -> None:
    wanted = ("bands", "band", "sample", "file_id", "crs", "x_", "y_")
    if missing := [name for name in wanted if name not in shard.variables]:
        raise ValueError(f"{path}: has no {' '.join(missing)}, so it is no shard of SSL4EO-S12 v1.1")
    bands = shard.bands
    if bands.dims != DIMS:
        raise ValueError(f"{path}: bands are ({', '.join(map(str, bands.dims))}), wanted ({', '.join(DIMS)})")
    if bands.dtype.kind not in "iuf":
        raise ValueError(f"{path}: bands are {bands.dtype}, wanted numbers")
    names = [canonical_band(str(band)) for band in shard.band.values]
    if sorted(names) != sorted(modality.bands):
        level = " (level 2A has no B10: level 1C is wanted)" if set(modality.bands) - set(names) == {"B10"} else ""
        raise ValueError(f"{path}: bands are {' '.join(names)}, wanted {' '.join(modality.bands)}{level}")


def _days(shard: Any) -> np.ndarray | None:
    """`(sample, time)` `YYYYMMDD` of `time_`; `None` without it."""
    if "time_" not in shard.variables:
        return None
    times = shard.time_.transpose("sample", "time").values
    if times.dtype.kind != "M":
        raise ValueError(f"time_ is {times.dtype}, wanted times")
    return np.char.replace(np.datetime_as_string(times, unit="D"), "-", "")


def _check_date(scene: ZarrScene, day: str | None, path: Path, sample: str) -> None:
    time = scene_time(scene.name)
    if time is None:
        raise ValueError(f"{path}: scene {scene.name!r} of sample {sample} holds no YYYYMMDD date")
    if day is not None and time[:8] != day:
        raise ValueError(f"{path}: scene {scene.name} of sample {sample} has the time {day}; both must agree")


def _place(sample: Any) -> tuple[CRS, Affine]:
    """Where a sample lies; `x_` and `y_` are the centres of its pixels."""
    (x, width), (y, height) = (_axis(sample[name].values, name) for name in ("x_", "y_"))
    return CRS.from_epsg(int(sample.crs)), Affine(width, 0, x - width / 2, 0, height, y - height / 2)


def _axis(centres: np.ndarray, name: str) -> tuple[float, float]:
    """First centre and step of one axis."""
    steps = np.diff(centres.astype(np.float64))
    if not steps.size or not np.isfinite(steps).all() or not np.allclose(steps, steps.mean(), rtol=0.01):
        raise ValueError(f"{name} is not evenly spaced")
    return float(centres[0]), float(steps.mean())


def _raster_type(pixels: np.ndarray) -> np.ndarray:
    """float16 as float32 and whole DN as uint16, as in GeoTIFFs, so that resampling is the same."""
    if pixels.dtype == np.float16:
        return pixels.astype(np.float32)
    return pixels.astype(np.uint16) if pixels.dtype == np.int16 and pixels.min() >= 0 else pixels


@contextmanager
def _in_memory(
    pixels: np.ndarray, names: tuple[str, ...], crs: CRS, transform: Affine
) -> Iterator[rasterio.DatasetReader]:
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with MemoryFile() as file:  # left open, it would keep its bytes for ever
        with file.open(driver="GTiff", crs=crs, transform=transform, **shape) as dataset:
            dataset.write(pixels)
            dataset.descriptions = names
        with file.open() as dataset:
            yield dataset
