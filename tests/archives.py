"""An archive of scenes that needs no network, for the tests of whatever downloads from one."""

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
from rasters import fake_db, fake_dn

from cromss.downloads.season_scenes import PRODUCTS, Scene

S2_COLLECTION, S1_COLLECTION, DW_COLLECTION = (PRODUCTS[m].collection for m in ("s2", "s1", "labels"))


def s2_scene(day: str, cloud: float | None = 5.0, tile: str = "T32UPU") -> Scene:
    """A Sentinel-2 scene of a day `YYYYMMDD`, at 10:00."""
    start = datetime.strptime(day, "%Y%m%d").replace(hour=10, tzinfo=UTC)
    told = {"PROCESSING_BASELINE": "05.00"} | ({} if cloud is None else {"CLOUDY_PIXEL_PERCENTAGE": cloud})
    return Scene(f"{day}T100000_{day}T100500_{tile}", start, told)


def s1_scene(day: str, kind: str = "S1A_IW_GRDH_1SDV", hour: int = 17) -> Scene:
    """A Sentinel-1 scene of a day `YYYYMMDD`."""
    start = datetime.strptime(day, "%Y%m%d").replace(hour=hour, tzinfo=UTC)
    return Scene(f"{kind}_{day}T{hour:02d}0000_{day}T{hour:02d}0025_031534_03A1C2_9B01", start)


class FakeArchive:
    """Scenes told by collection; pixels drawn by scene and grid.

    Attributes:
        listed: Collection -> its scenes, the same everywhere.
        holes: Names of scenes that do not cover the patch.
        errors: What the next requests raise, one each.
        calls: How often each kind of request was made.
    """

    def __init__(self, s2=(), s1=(), labelled=None, holes=(), errors=()):
        labels = [scene for scene in s2 if labelled is None or scene.name in labelled]
        self.listed = {S2_COLLECTION: list(s2), S1_COLLECTION: list(s1), DW_COLLECTION: labels}
        self.holes, self.errors, self.calls, self.lock = set(holes), list(errors), Counter(), threading.Lock()

    def scenes(self, collection, lon, lat, start, end):
        self._count("scenes")
        return [scene for scene in self.listed[collection] if start <= scene.start < end]

    def pixels(self, product, scene, grid):
        self._count("pixels")
        size = grid.shape[0]
        rng = np.random.default_rng([sum(scene.encode()), int(grid.transform.c) % 1000])
        if product.folder == "labels":
            pixels = rng.integers(0, 9, (1, size, size), dtype=np.uint8)
            pixels[0, 0, 0] = 255
        else:
            pixels = fake_db(rng, size) if product.folder == "s1" else fake_dn(rng, size)
        if scene in self.holes:
            pixels[..., :2] = product.fill
            if product.folder == "labels":
                pixels[:] = product.fill
        return pixels

    def _count(self, kind):
        with self.lock:
            self.calls[kind] += 1
            if self.errors:
                raise self.errors.pop(0)


def year_archive(**options) -> FakeArchive:
    """Scenes every fifth day of 2020, of Sentinel-1 every sixth; clouds come and go."""
    first = datetime(2020, 1, 1)
    days = [(first + timedelta(days=day)).strftime("%Y%m%d") for day in range(366)]
    s2 = [s2_scene(day, (7 * number) % 61) for number, day in enumerate(days[::5])]
    return FakeArchive(s2, [s1_scene(day) for day in days[::6]], **options)
