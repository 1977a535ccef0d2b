"""The legends: class names, colours, and raw label codes -> class ids. Ignored pixels are 255."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Legend:
    """Classes of one label set.

    Attributes:
        name: Key of the label set.
        classes: Class names, by class id.
        colours: Hex colours, by class id.
        codes: Raw code in the files -> class id.
        ignored: Raw codes that mean "no label" (become 255).
        source: Where names, colours and codes come from.
        title: What errors call it, where that is not `name`.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[str, ...]
    codes: Mapping[int, int]
    ignored: frozenset[int] = field(default_factory=frozenset)
    source: str = ""
    title: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def to_class_ids(self, raw: np.ndarray, where: str | None = None) -> np.ndarray:
        """Raw codes -> class ids in 0..K-1, 255 for ignored pixels.

        Args:
            raw: Integer codes of any shape.
            where: With a file or record to name, codes outside the legend are refused;
                without, they become 255.

        Returns:
            uint8 class ids, the shape of `raw`.

        Raises:
            ValueError: `raw` is not integral, holds NaN, or codes outside the legend.
        """
        raw = np.asarray(raw)
        if not np.issubdtype(raw.dtype, np.integer):
            if np.isnan(raw).any():
                raise ValueError(f"{where or 'labels'}: NaN where codes are wanted")
            if not np.array_equal(raw, np.round(raw)) or np.abs(raw).max(initial=0) > 1e15:
                found = f"{raw.dtype} of {raw.min():g} to {raw.max():g}"
                raise ValueError(f"{where or 'labels'}: label codes must be whole numbers, got {found}")
            raw = raw.astype(np.int64)
        ids = np.full(raw.shape, IGNORE_INDEX, np.uint8)
        for code, class_id in self.codes.items():
            ids[raw == code] = class_id
        if where is not None:
            self._refuse_unknown(raw[ids == IGNORE_INDEX], where)
        return ids

    def palette(self) -> np.ndarray:
        """`(256, 3)` uint8 RGB by class id; white, which no legend uses, for whatever is not a class."""
        table = np.full((256, 3), 255, np.uint8)
        table[: self.num_classes] = [[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in self.colours]
        return table

    def _refuse_unknown(self, codes: np.ndarray, where: str) -> None:
        unknown = sorted(set(np.unique(codes).tolist()) - set(self.ignored))
        if unknown:
            shown = ", ".join(map(str, unknown[:8]))
            raise ValueError(
                f"{where}: label codes outside the {self.title or self.name} legend: {shown} "
                f"(known: {', '.join(map(str, sorted(self.codes)))}); map or ignore them in a legend file"
            )


_DW_CLASSES = (
    *("water", "trees", "grass", "flooded vegetation", "crops"),
    *("shrub & scrub", "built area", "bare land", "snow & ice"),
)
_DW_COLOURS = ("419bdf", "397d49", "88b053", "7a87c6", "e49635", "dfc35a", "c4281b", "a59b8f", "b39fe1")

NOL = Legend(
    name="NoL",
    classes=_DW_CLASSES,
    colours=_DW_COLOURS,
    codes={i: i for i in range(9)},
    ignored=frozenset({IGNORE_INDEX}),
    source="Dynamic World label band, as in the noisy masks of SSL4EO-S12@NoL",
)

DW = Legend(
    name="DW",
    classes=_DW_CLASSES,
    colours=_DW_COLOURS,
    codes={i + 1: i for i in range(9)},
    ignored=frozenset({0, 10, IGNORE_INDEX}),
    source="Dynamic World expert masks (SSL4EO-S12@DW): 0 unmarked, 1..9 classes, 10 cloud",
)

DFC2020 = Legend(
    name="DFC2020",
    classes=("water", "forest", "grassland", "wetland", "cropland", "shrubland", "urban/built-up", "barren"),
    colours=_DW_COLOURS[:8],
    codes={1: 1, 2: 5, 4: 2, 5: 3, 6: 4, 7: 6, 9: 7, 10: 0},
    ignored=frozenset({0, 3, 8, IGNORE_INDEX}),
    source="IEEE GRSS data fusion contest 2020 (simplified IGBP), in Dynamic World order",
)

OSM = Legend(
    name="OSM",
    classes=(
        *("urban", "arable land", "forest", "industrial", "artificial vegetation", "dump site", "pasture"),
        *("permanent crops", "water", "open space", "shrub", "wetland", "coastal"),
    ),
    colours=(
        *("c4281b", "f0d264", "1b6b3a", "8c5aa0", "8fce6e", "5a3c28", "c8e696"),
        *("e08232", "2f7ed8", "b4aaa0", "b4a046", "64b4b4", "96dcff"),
    ),
    codes={i + 1: i for i in range(13)},
    ignored=frozenset({0, IGNORE_INDEX}),
    source="osmlanduse.org classes as in SSL4EO-S12@OSM; our palette",
)

NYC = Legend(
    name="NYC",
    classes=(
        *("trees", "grass/shrubs", "bare land", "water"),
        *("buildings", "roads", "other impervious", "railroads"),
    ),
    colours=("1b6b3a", "8fce6e", "c8a878", "2f7ed8", "c4281b", "505050", "b4aaa0", "8c5aa0"),
    codes={i + 1: i for i in range(8)},
    ignored=frozenset({0, IGNORE_INDEX}),
    source="New York City land cover, 8 classes; our palette",
)

OSCD = Legend(
    name="OSCD",
    classes=("no change", "change"),
    colours=("2b2b2b", "f0d264"),
    codes={1: 0, 2: 1},
    ignored=frozenset({IGNORE_INDEX}),
    source="Onera satellite change detection, GeoTIFF masks (1 no change, 2 change)",
)

_LIDAR_CLASSES, _LIDAR_COLOURS = ("background", "trees", "buildings", "roads"), ("b4aaa0", "1b6b3a", "c4281b", "505050")

NYC_LIDAR = Legend(
    name="NYC_LIDAR",
    classes=_LIDAR_CLASSES,
    colours=_LIDAR_COLOURS,
    codes={i: i for i in range(4)},
    ignored=frozenset({IGNORE_INDEX}),
    source="New York City, noisy labels from LiDAR, 3 classes and background (arXiv 2402.16164); our palette",
)

NYC_MERGED = Legend(
    name=NYC_LIDAR.name,
    classes=_LIDAR_CLASSES,
    colours=_LIDAR_COLOURS,
    codes={1: 1, 2: 0, 3: 0, 4: 0, 5: 2, 6: 3, 7: 0, 8: 0},
    ignored=NYC.ignored,
    source="exact codes of New York City, merged into the classes of its noisy labels",
    title="NYC_MERGED",
)

LEGENDS = {legend.name: legend for legend in (NOL, DW, DFC2020, OSM, NYC, NYC_LIDAR, OSCD)}
