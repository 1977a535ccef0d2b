"""Maps of suspicion: one GeoTIFF a tile, on Earth where the raw label files are told."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from cromss.downloads.manifest import written
from cromss.label_places import LabelPlaces
from cromss.legends import IGNORE_INDEX


@dataclass
class SuspicionMaps:
    """Maps of the tiles of a set, uint8 percent, 255 where undefined.

    Attributes:
        folder: Where they go.
        places: Where the tiles lie; `None` where no raw label files are told.
        nowhere: Location and season of the maps written on the pixels of the store, for want of a place.
        num_written: Maps written.
    """

    folder: Path
    places: LabelPlaces | None
    nowhere: list[tuple[str, int]] = field(default_factory=list)
    num_written: int = 0

    def write(self, score: np.ndarray, location: str, season: int) -> None:
        """Write the suspicion `(H, W)` of a tile, in [0, 1] or NaN."""
        percent = np.nan_to_num(np.rint(100 * score), nan=IGNORE_INDEX).astype(np.uint8)
        placed = self.places and self.places.put(percent, location, season)
        percent, grid = placed or (percent, None)
        name = map_name(location, season)
        if grid is None:
            self.nowhere.append((location, season))
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": IGNORE_INDEX, "compress": "deflate"}
        profile |= {"height": percent.shape[0], "width": percent.shape[1]}
        profile |= {"crs": grid.crs, "transform": grid.transform} if grid else {}
        with written(self.folder / name) as partial_path, rasterio.open(partial_path, "w", **profile) as file:
            file.write(percent, 1)
        self.num_written += 1

    @property
    def told(self) -> str:
        """Where the maps lie, in one line."""
        if self.places is None:
            return "maps: on the pixels of the stores; with --labels_path on those of the raw labels, with their CRS"
        if not self.nowhere:
            return "maps: on the pixels of the raw labels, with their CRS"
        first, paths = map_name(*self.nowhere[0]), self.places.wanted(*self.nowhere[0])
        looked = f"looked for: {', '.join(map(str, paths))}" if paths else "scenes.csv beside the stores names none"
        return (
            f"maps: {len(self.nowhere)} of {self.num_written} are on the pixels of the stores, as {first}: "
            f"no raw label file with a CRS and of their shape is known in {self.places.folder} ({looked})"
        )


def map_name(location: str, season: int) -> str:
    """File name of a map; ids may hold slashes."""
    return f"{location.replace('%', '%25').replace('/', '%2F')}_{season}.tif"
