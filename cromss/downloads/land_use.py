"""Land use on the grids of given rasters: maps of a service, their colours as codes, cleaned and reprojected."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import Resampling, reproject, transform_bounds

from cromss.downloads.job import NothingThere
from cromss.downloads.manifest import FileMark, written
from cromss.downloads.map_service import MapLayer
from cromss.downloads.pictures import codes_of
from cromss.legends import OSM, Legend
from cromss.noise_rules import minimum_mapping_unit
from cromss.scenes import MAX_VALUES, Grid

MOST_STRETCHED = 16
"""By how much a footprint in the service's system may have more pixels than the raster has."""


@dataclass(frozen=True)
class Extraction:
    """How maps become codes.

    Attributes:
        layer: Where the maps are from.
        colours: `(K, 3)` uint8 colours of the codes 1..K.
        oversample: Pixels of a map along a pixel of the raster.
        margin: Pixels of the raster that a map reaches beyond it.
        min_patch: Patches (4 neighbours) of less area than so many pixels of the raster, unlabelled ones too, are given
            to their largest neighbour; 0 keeps all.
        min_labelled: Least share of labelled pixels of a tile.
    """

    layer: MapLayer
    colours: np.ndarray
    oversample: int = 2
    margin: int = 8
    min_patch: int = 4
    min_labelled: float = 0.1

    def window(self, grid: Grid) -> Grid:
        """What is asked for; ValueError as `covering`."""
        return covering(grid, self.layer.crs, self.oversample, self.margin)

    def fetch(self, grid: Grid) -> np.ndarray:
        """Codes on a grid, `(H, W)` uint8, 0 unlabelled.

        Raises:
            NothingThere: Less than `min_labelled` of the pixels are labelled.
            ValueError, Unavailable: As `MapLayer.map`.
        """
        window = self.window(grid)
        codes = np.zeros(window.shape, np.uint8)
        for rows, columns in blocks(window.shape, self.layer.max_shape):
            west, north = window.transform * (columns.start, rows.start)
            east, south = window.transform * (columns.stop, rows.stop)
            picture = self.layer.map((west, south, east, north), codes[rows, columns].shape)
            codes[rows, columns] = codes_of(picture, self.colours)
        codes = minimum_mapping_unit(codes, max(self.min_patch * self.oversample**2, 1))
        codes = on_grid(codes, window, grid)
        share = np.count_nonzero(codes) / codes.size
        if share < self.min_labelled:
            raise NothingThere(f"less than {self.min_labelled:g} of the pixels are labelled")
        return codes


def reference_grid(path: Path) -> Grid:
    """Grid of a raster.

    Raises:
        ValueError: Unreadable, without a CRS of the earth, not north up, or too large for labels of one piece.
    """
    try:
        with rasterio.open(path) as raster:
            grid = Grid(raster.crs, raster.transform, raster.shape)
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read as a raster ({' '.join(str(error).split())})") from error
    if not grid.crs:
        raise ValueError(f"{path}: has no CRS, so its place is unknown; assign one (gdal_edit -a_srs)")
    if not (grid.crs.is_projected or grid.crs.is_geographic):
        raise ValueError(f"{path}: its CRS is a local one, so its place is unknown; warp it (gdalwarp)")
    if math.prod(grid.shape) > MAX_VALUES:
        raise ValueError(f"{path}: {grid.shape[0]} x {grid.shape[1]} pixels in one file; cut it into tiles first")
    if not grid.is_north_up():
        raise ValueError(f"{path}: is rotated or not north up; warp it first (gdalwarp)")
    return grid


def covering(grid: Grid, crs: str, oversample: int, margin: int) -> Grid:
    """Square pixels in another system that cover a grid with a margin, finer by `oversample` along its finer axis.

    Raises:
        ValueError: The footprint has no such place: it crosses the date line, or reaches to a pole.
    """
    edges = transform_bounds(grid.crs, crs, *array_bounds(*grid.shape, grid.transform))
    west, south, east, north = edges
    height, width = grid.shape
    if not (all(map(math.isfinite, edges)) and west < east and south < north):
        raise ValueError(f"a raster of {grid.crs} has no place in {crs}: it crosses the date line, or is at a pole")
    step = min((east - west) / width, (north - south) / height) / oversample
    columns, rows = math.ceil((east - west) / step), math.ceil((north - south) / step)
    if columns * rows > MOST_STRETCHED * width * height * oversample**2:
        raise ValueError(f"a raster of {grid.crs} is torn apart in {crs}: does it cross the date line?")
    beyond = margin * oversample
    place = Affine(step, 0, west - beyond * step, 0, -step, north + beyond * step)
    return Grid(CRS.from_string(crs), place, (rows + 2 * beyond, columns + 2 * beyond))


def blocks(shape: tuple[int, int], most: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of blocks of about equal size, none larger than `most`, that make up `shape`."""
    rows, columns = (_cuts(side, limit) for side, limit in zip(shape, most))
    return ((row, column) for row in rows for column in columns)


def on_grid(codes: np.ndarray, window: Grid, grid: Grid) -> np.ndarray:
    """Codes of one grid on another, by the nearest pixel; 0 outside."""
    target = np.zeros(grid.shape, np.uint8)
    reproject(
        codes,
        target,
        src_transform=window.transform,
        src_crs=window.crs,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    return target


def write_codes(path: Path, folder: Path, codes: np.ndarray, grid: Grid, source: str, legend: Legend = OSM) -> FileMark:
    """Write codes `(H, W)` as a GeoTIFF with colours and names of the classes; its mark under `folder`."""
    palette = {code: (*map(int, legend.palette()[class_id]), 255) for code, class_id in legend.codes.items()}
    names = {f"CLASS_{code}": legend.classes[class_id] for code, class_id in legend.codes.items()}
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1, "dtype": "uint8", "nodata": 0}
    place = {"crs": grid.crs, "transform": grid.transform}
    with (
        written(path) as partial,
        rasterio.open(partial, "w", driver="GTiff", compress="deflate", **shape, **place) as raster,
    ):
        raster.write_colormap(1, {0: (0, 0, 0, 0)} | palette)
        raster.write(codes, 1)
        raster.update_tags(LEGEND=legend.name, SOURCE=source)
        raster.update_tags(1, **names)
    return FileMark.of(path, folder)


def _cuts(side: int, limit: int) -> list[slice]:
    edges = np.linspace(0, side, math.ceil(side / limit) + 1).round().astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(edges)]
