"""Which scenes stand for a season of a place: plain records in, plain records out."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Protocol

import numpy as np

from cromss.legends import IGNORE_INDEX
from cromss.scenes import Grid
from cromss.sensors import S1, S2

MAX_DW_CLOUD = 35.0
"""Percent of cloud up to which there is a Dynamic World image of a Sentinel-2 scene
(https://developers.google.com/earth-engine/datasets/catalog/GOOGLE_DYNAMICWORLD_V1)."""

FIRST_DAY = date(2015, 6, 27)
"""First day of Sentinel-2, and of Dynamic World with it."""

_DUAL_POL = re.compile(r"S1[A-D]_IW_GRDH_1SDV_")
"""Sentinel-1 in interferometric wide swath, high resolution, VV and VH."""


@dataclass(frozen=True)
class Product:
    """What is fetched of a modality.

    Attributes:
        collection: Its name in Earth Engine.
        bands: Bands in the order wanted.
        folder: Folder of its files.
        dtype: Type of the pixels.
        fill: Stands where there is no data.
        smooth: Resampled bicubically, as images are; to the nearest neighbour otherwise, as labels are.
    """

    collection: str
    bands: tuple[str, ...]
    folder: str
    dtype: str
    fill: float
    smooth: bool = True

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all bands of a pixel."""
        return len(self.bands) * np.dtype(self.dtype).itemsize


PRODUCTS = {
    "s1": Product("COPERNICUS/S1_GRD", S1.bands, "s1", "float32", -9999.0),
    "s2": Product("COPERNICUS/S2_HARMONIZED", S2.bands, "s2c", "uint16", 65535),
    "labels": Product("GOOGLE/DYNAMICWORLD/V1", ("label",), "labels", "uint8", IGNORE_INDEX, smooth=False),
}
"""Modality -> what is fetched: Sentinel-1 in dB, Sentinel-2 level 1C in DN without the offset, class ids 0..8."""


@dataclass(frozen=True)
class Scene:
    """A scene of a collection: its name there, start, and what the metadata say."""

    name: str
    start: datetime
    properties: Mapping[str, object] = field(default_factory=dict)

    @property
    def cloud(self) -> float:
        """Percent of the whole scene under cloud; infinite where the metadata do not tell."""
        told = self.properties.get("CLOUDY_PIXEL_PERCENTAGE")
        return float(told) if isinstance(told, int | float) else float("inf")


class Archive(Protocol):
    """What is asked of a service; both may raise `Unavailable`, and ValueError where asking again would not help."""

    def scenes(self, collection: str, lon: float, lat: float, start: datetime, end: datetime) -> Sequence[Scene]:
        """Scenes over a point that start in a span of time, `end` excluded."""
        ...

    def pixels(self, product: Product, scene: str, grid: Grid) -> np.ndarray:
        """Pixels of a scene on a grid, `(C, H, W)`."""
        ...


@dataclass(frozen=True)
class Rules:
    """How far from wanted a scene may be.

    Attributes:
        window_days: Days between the date of a season and its Sentinel-2 scene, either side.
        max_cloud: Percent of a Sentinel-2 scene under cloud, excluded.
        s1_days: Days between the Sentinel-2 and the Sentinel-1 scene, either side.
    """

    window_days: int = 30
    max_cloud: float = 20.0
    s1_days: int = 12

    def span(self, season: date, margin: int = 0) -> tuple[datetime, datetime]:
        """Start and end of a season's window, `margin` days wider at either side; the last day is in it."""
        noon = datetime.combine(season, time(12), UTC)
        reach = timedelta(days=self.window_days + margin, hours=12)
        return noon - reach, noon + reach

    def ranked_s2(self, scenes: Sequence[Scene], season: date, labelled: Collection[str] | None) -> list[Scene]:
        """Sentinel-2 scenes that will do, the best first: least cloud, then nearest to the season's date, then name.

        Args:
            scenes: Scenes in the window of the season.
            season: Its date.
            labelled: Names of the scenes that have labels; `None` where none are wanted.
        """
        noon = datetime.combine(season, time(12), UTC)
        clear = [scene for scene in scenes if scene.cloud < self.max_cloud]
        chosen = [scene for scene in clear if labelled is None or scene.name in labelled]
        return sorted(chosen, key=lambda scene: (scene.cloud, abs(scene.start - noon), scene.name))

    def ranked_s1(self, scenes: Sequence[Scene], near: Scene, after: datetime | None) -> list[Scene]:
        """Sentinel-1 scenes that will do, the best first: nearest in time to a Sentinel-2 scene, then name.

        Args:
            scenes: Scenes around it.
            near: The Sentinel-2 scene.
            after: Start of the Sentinel-1 scene of the season before, if any: seasons never share one, nor change
                their order.
        """
        reach = timedelta(days=self.s1_days)
        chosen = [
            scene
            for scene in scenes
            if _DUAL_POL.match(scene.name)
            and abs(scene.start - near.start) <= reach
            and (after is None or scene.start > after)
        ]
        return sorted(chosen, key=lambda scene: (abs(scene.start - near.start), scene.name))


def read_seasons(dates: Sequence[str], window_days: int) -> tuple[date, ...]:
    """Dates of the seasons, `YYYY-MM-DD` in time order, whose windows do not meet.

    Raises:
        ValueError: None, not a date, before `FIRST_DAY` or to come, out of order, or windows that overlap.
    """
    if not dates:
        raise ValueError("--seasons: at least one date YYYY-MM-DD is wanted")
    seasons = tuple(map(_date, dates))
    for first, second in pairwise(seasons):
        if second <= first:
            raise ValueError(f"--seasons {first} {second}: must be in time order, each once")
        if (second - first).days <= 2 * window_days:
            raise ValueError(
                f"--seasons {first} {second}: windows of {window_days} days either side overlap, and would take one "
                f"scene twice; --window_days {((second - first).days - 1) // 2} at most"
            )
    return seasons


def _date(word: str) -> date:
    try:
        season = datetime.strptime(word, "%Y-%m-%d").date()
    except ValueError:
        raise ValueError(f"--seasons {word}: not a date YYYY-MM-DD") from None
    if not FIRST_DAY <= season <= datetime.now(UTC).date():
        raise ValueError(f"--seasons {word}: Sentinel-2 has scenes from {FIRST_DAY} to today")
    return season
