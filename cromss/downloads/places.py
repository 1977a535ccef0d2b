"""Places to download: their list, and the grid of pixels around each."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from cromss.scene_names import csv_rows, id_key
from cromss.scenes import Grid
from cromss.store.record import MAX_ID_BYTES

PIXEL = 10
"""Side of a pixel in metres: that of the finest bands of Sentinel-2."""

LATITUDES = (-80.0, 84.0)
"""Where UTM is defined, in degrees."""

_HEADER = ["id", "lon", "lat"]
_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{,{MAX_ID_BYTES - 1}}}")

_SVALBARD = ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37))
"""West, east and zone from 72 degrees north on."""


@dataclass(frozen=True)
class Place:
    """A place on the ground: id, and longitude and latitude of its centre in degrees (WGS 84)."""

    id: str
    lon: float
    lat: float

    def __str__(self) -> str:
        return f"{self.id} at {self.lon} {self.lat}"


def read_places(path: Path) -> list[Place]:
    """Places of a CSV with the header `id,lon,lat`, in its order.

    Raises:
        ValueError: No such file, another header, a row that is no place, or an id or a position twice; the line is
            named.
    """
    if not path.is_file():
        raise ValueError(f"--places {path}: no such file")
    rows = csv_rows(path, f"--places {path}")
    if not rows or [cell.lower() for cell in rows[0][1]] != _HEADER:
        first = ",".join(rows[0][1]) if rows else "nothing"
        raise ValueError(f"--places {path}: begins with {first[:80]}, wanted is the header id,lon,lat")
    places: list[Place] = []
    seen: dict[object, int] = {}
    for number, row in rows[1:]:
        place = _place(row, f"--places {path} line {number}")
        for what, key in (("id", id_key(place.id)), ("position", (place.lon, place.lat))):
            if seen.setdefault(key, number) != number:
                raise ValueError(f"--places {path} line {number}: the {what} of {place} is already on line {seen[key]}")
        places.append(place)
    if not places:
        raise ValueError(f"--places {path}: holds no place under its header")
    return places


def _place(row: list[str], where: str) -> Place:
    if len(row) != 3 or not all(row):
        raise ValueError(f"{where}: three filled fields are wanted (id,lon,lat), got {row}")
    name, *numbers = row
    if not _ID.fullmatch(name):
        raise ValueError(
            f"{where}: id {name!r} names a folder; up to {MAX_ID_BYTES} letters, digits, _ . - are wanted, "
            "first none of . -"
        )
    try:
        lon, lat = map(float, numbers)
    except ValueError:
        raise ValueError(f"{where}: lon and lat are wanted as numbers of degrees, got {', '.join(numbers)}") from None
    if not -180 <= lon <= 180:
        raise ValueError(f"{where}: lon {lon:g} is not in -180..180")
    if not LATITUDES[0] <= lat <= LATITUDES[1]:
        swapped = "; are lon and lat swapped?" if abs(lon) <= 84 and abs(lat) > 90 else ""
        raise ValueError(f"{where}: lat {lat:g} is not in {LATITUDES[0]:g}..{LATITUDES[1]:g}, where UTM is{swapped}")
    return Place(name, lon, lat)


def utm_crs(lon: float, lat: float) -> CRS:
    """UTM zone (WGS 84) of a point in degrees, with the wider zones of south-west Norway and of Svalbard.

    180 degrees is zone 1, as -180 is; the equator is north.
    """
    zone = math.floor((lon + 180) / 6) % 60 + 1
    if 56 <= lat < 64 and 3 <= lon < 12:
        zone = 32
    if lat >= 72:
        zone = next((wide for west, east, wide in _SVALBARD if west <= lon < east), zone)
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


def patch_grid(place: Place, size: int) -> Grid:
    """Grid of `size` x `size` pixels of 10 m in the UTM zone of a place, which lies within a pixel of its middle.

    The corners are multiples of 10 m, as those of Sentinel-2 are. A patch that reaches over the edge of its zone, the
    equator or the antimeridian stays on the grid of its centre.
    """
    crs = utm_crs(place.lon, place.lat)
    (x,), (y,) = transform(CRS.from_epsg(4326), crs, [place.lon], [place.lat])
    left, top = (PIXEL * round(edge / PIXEL) for edge in (x - PIXEL * size / 2, y + PIXEL * size / 2))
    return Grid(crs, Affine(PIXEL, 0, left, 0, -PIXEL, top), (size, size))
