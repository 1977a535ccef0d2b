"""Where the labels of a store lie on Earth: on the pixels of the raw files that the ledger beside it names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine

from cromss.aligned_stores import scene_names
from cromss.scenes import Grid, scene_grid
from cromss.store import StoreMeta

_TILE = re.compile(r"(.+)_r(\d+)_c(\d+)")
_RESAMPLED = re.compile(r"resampled to (\d+) px")


@dataclass(frozen=True)
class LabelPlaces:
    """Raw label files of a set.

    Attributes:
        folder: Where they lie: `<file>`, `<id>/<file>` or `<id>/<scene>/<file>`.
        scenes: Place and season -> what the ledger says of the file, see `scene_names`.
        side: Side in pixels that whole locations were resampled to; 0 where they were not.
    """

    folder: Path
    scenes: Mapping[tuple[str, int], str]
    side: int = 0

    def put(self, pixels: np.ndarray, location: str, season: int) -> tuple[np.ndarray, Grid] | None:
        """Pixels of a store on those of the raw label file: a tile on its part, a resampled location nearest.

        Args:
            pixels: `(H, W)`.
            location: Id in the store.
            season: Season, counted from 0.

        Returns:
            Pixels and where they lie; `None` where there is no such file, none with a CRS, or one of another shape.
        """
        paths = self.wanted(location, season)
        grid = next((grid for path in paths if path.is_file() and (grid := scene_grid(path))), None)
        if grid is None:
            return None
        tile = None if (location, season) in self.scenes else _TILE.fullmatch(location)
        if tile is None:
            is_whole = pixels.shape in (grid.shape, (self.side, self.side))
            return (_nearest(pixels, grid.shape), grid) if is_whole else None
        row, column = int(tile[2]), int(tile[3])
        fits = row + pixels.shape[0] <= grid.shape[0] and column + pixels.shape[1] <= grid.shape[1]
        if not fits or (self.side and grid.shape != (self.side, self.side)):
            return None
        return pixels, Grid(grid.crs, grid.transform * Affine.translation(column, row), pixels.shape)

    def wanted(self, location: str, season: int) -> list[Path]:
        """Where the raw label file of a location or tile is looked for; nowhere if the ledger does not name it."""
        tile = None if (location, season) in self.scenes else _TILE.fullmatch(location)
        place = tile[1] if tile else location
        name = self.scenes.get((place, season))
        if name is None:
            return []
        beside = [self.folder.parent / name] if name.startswith(f"{self.folder.name}/") else []
        return [self.folder / place / name, self.folder / name, *beside]


def label_places(store: Path, meta: StoreMeta, folder: Path) -> LabelPlaces:
    """Places of the labels of a store, as far as the ledger of scenes beside it knows.

    Args:
        store: The store.
        meta: What it says of itself.
        folder: Folder of the raw label files.

    Raises:
        ValueError: No such folder, or a damaged ledger.
    """
    if not folder.is_dir():
        raise ValueError(f"--labels_path {folder}: no such folder; that of the raw label files is wanted")
    resampled = _RESAMPLED.search(meta.source)
    return LabelPlaces(folder, scene_names(store.parent, "labels"), int(resampled[1]) if resampled else 0)


def _nearest(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Nearest pixels by their centres, as rasters are resampled."""
    rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in zip(shape, pixels.shape))
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]
