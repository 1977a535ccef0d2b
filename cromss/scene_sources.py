"""What a scene may come from: a path, a member of a tar archive, a sample of a Zarr shard. All open as rasters."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import rasterio


class Scene(Protocol):
    """A folder of single-band files, or a raster; a `Path` is one, and so is what only looks like a path."""

    @property
    def name(self) -> str:
        """Last part of the path."""

    @property
    def stem(self) -> str:
        """The name without its suffix."""

    @property
    def suffix(self) -> str:
        """`.tif`, or nothing for a folder or a sample."""

    @property
    def parent(self) -> "Scene":
        """The folder it lies in."""

    def is_dir(self) -> bool:
        """A folder of single-band files."""

    def is_file(self) -> bool:
        """A raster, that is there."""

    def glob(self, pattern: str) -> Iterable["Scene"]:
        """What a folder holds."""


def open_raster(source: Scene) -> AbstractContextManager[rasterio.DatasetReader]:
    """One raster, open within a `with`; the errors are those of `rasterio.open`."""
    return rasterio.open(source) if isinstance(source, Path) else source.open_raster()
