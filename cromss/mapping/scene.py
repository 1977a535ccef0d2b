"""The rasters of a scene, read row by row on one grid: bands by name, other grids warped, pixels without data told."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from cromss.mapping.sources import Bands, Source, open_source, reason
from cromss.scenes import Grid
from cromss.sensors import S1, S2, Modality

_EQUATOR, _ECCENTRICITY = 6378137.0, 0.00669438
"""Radius in m, and squared eccentricity of the Earth (WGS 84)."""


class Image:
    """The bands of one modality on the grid of a scene.

    Attributes:
        name: The file or folder behind its flag, to begin the line of an error.
        bands: Names of the bands, in the order in which they are read.
        source: Where they come from, on their own grids.
    """

    def __init__(self, name: str, bands: Sequence[str], source: Source, parts: Sequence[Bands]) -> None:
        self.name, self.bands, self.source, self._parts = name, tuple(bands), source, parts
        self._extents = [part.extent for part in parts if part.extent]
        self._lock = Lock()
        self._nodata = [part.dataset.nodata for part in parts for _ in part.numbers]

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Raw values `(C, h, w)` of a window, and where there are data, `(h, w)` bool.

        There are none where a band is not finite, has the file's nodata value or lies beyond its file, or where all
        bands are 0; a nodata value of 0 is a dark pixel where other bands are not. Threads that call this wait for
        each other.

        Raises:
            ValueError: The file cannot be read, in one line.
        """
        with self._lock:
            parts = [self._pixels(part.dataset, part.numbers, rows, columns) for part in self._parts]
            extents = [self._pixels(extent, extent.count, rows, columns) for extent in self._extents]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        valid, seen = np.ones(values.shape[1:], bool), np.zeros(values.shape[1:], bool)
        for band, nodata in zip(values, self._nodata):
            valid &= np.isfinite(band) & (band != nodata) if nodata else np.isfinite(band)  # 0 is no hole by itself
            seen |= band != 0
        for extent in extents:
            valid &= extent != 0
        return values, valid & seen

    def _pixels(
        self, dataset: DatasetReader | WarpedVRT, bands: int | list[int], rows: slice, columns: slice
    ) -> np.ndarray:
        try:
            return dataset.read(bands, window=((rows.start, rows.stop), (columns.start, columns.stop)))
        except RasterioError as error:
            where = f"{self.name}: rows {rows.start} to {rows.stop}"
            raise ValueError(f"{where} cannot be read, damaged ({reason(error)}); copy it again") from None


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
            rasters: Modality -> a multi-band file, a folder of a file for each band, or a `.SAFE` folder or zip.
            bands: Modality -> names of the bands that are read.
            sensors: Modality -> its sensor.

        Raises:
            ValueError: A file is missing or unreadable, has no CRS or not the bands, or lies elsewhere.
        """
        with ExitStack() as stack:
            told = {name: f"--{name} {rasters[name]}" for name in sorted(rasters, key=(S2.name, S1.name).index)}
            sources = {
                name: open_source(stack, where, rasters[name], sensors[name], bands[name])
                for name, where in told.items()
            }
            first = next(iter(told))
            opened = [part.dataset for part in sources[first].parts]
            grids = [Grid(dataset.crs, dataset.transform, dataset.shape) for dataset in opened]
            with _on_earth(told[first]):
                self.grid = min(grids, key=lambda grid: round(pixel_metres(grid), 1))
            self.files = sorted({file for source in sources.values() for file in source.files})
            self.images = {}
            for name, source in sources.items():
                parts = [_on_grid(stack, part, self.grid, name, told[name], told[first]) for part in source.parts]
                self.images[name] = Image(told[name], bands[name], source, parts)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def pixel_metres(grid: Grid) -> float:
    """Side of the pixels in the middle of a grid in m; the mean of both where they are not square.

    It is measured on the Earth, in any CRS; where that has no place there, it is in its own unit.
    """
    if not (grid.crs.is_projected or grid.crs.is_geographic):
        return abs(grid.transform.determinant) ** 0.5
    row, column = (side / 2 for side in grid.shape)
    corners = [grid.transform * corner for corner in ((column, row), (column + 1, row), (column, row + 1))]
    lon, lat = (np.radians(angle) for angle in transform(grid.crs, "EPSG:4326", *zip(*corners)))
    flat = 1 - _ECCENTRICITY * np.sin(lat[0]) ** 2
    north = _EQUATOR * (1 - _ECCENTRICITY) / flat**1.5 * (lat[1:] - lat[0])
    east = _EQUATOR / flat**0.5 * np.cos(lat[0]) * (lon[1:] - lon[0])
    return float(np.hypot(north, east).mean())


@contextmanager
def _on_earth(where: str) -> Iterator[None]:
    """Whatever says that a place cannot be projected, in one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # those of GDAL have no public class in common
        raise ValueError(f"{where}: has no place on the Earth ({reason(error)}); warp it (gdalwarp)") from None


def _on_grid(stack: ExitStack, part: Bands, grid: Grid, modality: str, where: str, first: str) -> Bands:
    """The file as it is where it lies on the grid, else warped: bicubic, radar bilinear."""
    source = part.dataset
    if source.crs == grid.crs and source.shape == grid.shape and source.transform.almost_equals(grid.transform, 1e-6):
        return part
    with _on_earth(where):
        _refuse_elsewhere(source, grid, where, first)
    radar = modality == S1.name
    nodata = source.nodata if source.nodata is not None else (math.nan if radar else 0)
    place = {"crs": grid.crs, "transform": grid.transform, "height": grid.shape[0], "width": grid.shape[1]}
    warped = WarpedVRT(
        source,
        **place,
        resampling=Resampling.bilinear if radar else Resampling.cubic,
        src_nodata=nodata,
        nodata=math.nan if radar else nodata,
        dtype="float32" if radar else None,
    )
    extent = None
    if not (radar or _covers(source, grid)):
        extent = stack.enter_context(WarpedVRT(source, **place, src_nodata=None, add_alpha=True))
    return part._replace(dataset=stack.enter_context(warped), extent=extent)


def _covers(source: DatasetReader, grid: Grid) -> bool:
    """Whether a file reaches to all sides of a grid, or lacks less than a hundredth of its pixels."""
    left, bottom, right, top = transform_bounds(grid.crs, source.crs, *array_bounds(*grid.shape, grid.transform))
    there, (across, down) = source.bounds, source.res
    short = max((there.left - left) / across, (right - there.right) / across)
    return max(short, (there.bottom - bottom) / down, (top - there.top) / down) < 0.01


def _refuse_elsewhere(source: DatasetReader, grid: Grid, where: str, first: str) -> None:
    height, width = grid.shape
    corners = [grid.transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    across, down = zip(*corners)
    left, bottom, right, top = transform_bounds(source.crs, grid.crs, *source.bounds)
    if left >= max(across) or right <= min(across) or bottom >= max(down) or top <= min(down):
        place = Path(source.name).name
        raise ValueError(f"{where}: {place} does not overlap {first}; are they of one place?")
