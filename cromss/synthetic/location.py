"""One location of the world: its sources of randomness, land, place on Earth, and the names of its scenes."""

from dataclasses import dataclass

import numpy as np

from cromss.synthetic.ground import NUM_SEASONS, Ground, draw_ground
from cromss.synthetic.land import landscape
from cromss.synthetic.rasters import Grid

LAND, GROUND, PLACE, NOISE, OPTICAL, RADAR, MARKS = range(7)
"""Streams of random numbers of a location."""


@dataclass(frozen=True)
class Place:
    """Where a location lies.

    Attributes:
        zone: UTM zone, north (EPSG 32600 + zone).
        easting: Left edge in m.
        northing: Upper edge in m.
        square: Letters of its Sentinel-2 tile.
        days: Delay of each season's scene in days.
    """

    zone: int
    easting: int
    northing: int
    square: str
    days: tuple[int, ...]

    def grid(self, pixel: int = 10) -> Grid:
        """Grid of pixels of `pixel` m from the location's corner."""
        return Grid(32600 + self.zone, self.easting, self.northing, pixel)


def stream(key: list[int], number: int, season: int = 0) -> np.random.Generator:
    """A location's source of randomness of one kind and season."""
    return np.random.default_rng([*key, number, season])


def draw_location(key: list[int], size: int) -> tuple[np.ndarray, Ground]:
    """Class ids `(size, size)` of a location, and the ground."""
    land = landscape(stream(key, LAND), size)
    return land.labels, draw_ground(land.labels, stream(key, GROUND), land)


def draw_place(key: list[int]) -> Place:
    """Where a location lies."""
    rng = stream(key, PLACE)
    return Place(
        zone=int(rng.integers(1, 61)),
        easting=int(rng.integers(30000, 70000)) * 10,
        northing=int(rng.integers(50000, 650000)) * 10,
        square="".join(rng.choice(list("CDEFGHJKLMNPQRSTUVWX"), 3)),
        days=tuple(rng.integers(0, 10, NUM_SEASONS).tolist()),
    )


def s2_scene(place: Place, season: int) -> str:
    """Name of a season's Sentinel-2 product."""
    date = _date(place, season)
    return f"{date}T103021_{date}T103020_T{place.zone:02d}{place.square}"


def s1_scene(place: Place, season: int) -> str:
    """Name of a season's Sentinel-1 product, of the day before."""
    date, orbit = _date(place, season, days_before=1), 31672 + 1340 * season + place.zone
    return f"S1A_IW_GRDH_1SDV_{date}T052644_{date}T052709_{orbit:06d}_{2 * orbit:06X}"


def _date(place: Place, season: int, days_before: int = 0) -> str:
    return f"2020{3 * season + 3:02d}{15 + place.days[season] - days_before:02d}"
