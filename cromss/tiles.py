"""Locations cut into tiles: each location is prepared once, by the first thread that asks for a tile of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from threading import Lock

from cromss.aligned_stores import Prepared
from cromss.layouts import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile(Location):
    """A part of a location, named `<id>_r<row>_c<column>` after its upper left pixel.

    Attributes:
        whole: The location.
        window: Its rows and columns.
    """

    whole: Location
    window: tuple[slice, slice]

    @property
    def place(self) -> str:
        return self.whole.id


def cut(
    locations: Sequence[Location], shape: Callable[[Location], tuple[int, int] | None], size: int, stride: int = 0
) -> list[Tile]:
    """Tiles that cover the locations, row by row.

    The last row and column are shifted inwards, over their neighbours; a location smaller than a tile makes smaller
    tiles. One whose shape is unknown makes one tile, for reading it to say why.

    Args:
        locations: What to cut.
        shape: Height and width of a location in pixels.
        size: Side of a tile in pixels.
        stride: Distance of neighbouring tiles in pixels, at most `size`; `size` for 0.
    """
    tiles = []
    for location in locations:
        described = {field.name: getattr(location, field.name) for field in fields(location)}
        height, width = shape(location) or (size, size)
        for row in tile_starts(height, size, stride or size):
            for column in tile_starts(width, size, stride or size):
                name, window = f"{location.id}_r{row}_c{column}", (slice(row, row + size), slice(column, column + size))
                tiles.append(Tile(**described | {"id": name}, whole=location, window=window))
    return tiles


def tiles_text(size: int, stride: int = 0) -> str:
    """How `cut` cuts, for the description of a store; nothing for a size of 0."""
    return f"tiles of {size} px every {stride or size}" if size else ""


def tile_starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the tiles along a side, so that the last one ends with the side."""
    return [*range(0, max(length - size, 0), stride), max(length - size, 0)]


class TileReader:
    """Prepares tiles for several threads, several locations at once; each by the first that asks for a tile of it.

    Args:
        prepare: Reads and converts a whole location.
        kept: Locations held in memory, beside those that a thread still works on.
    """

    def __init__(self, prepare: Callable[[Location], Prepared], kept: int = 2) -> None:
        self._prepare, self._kept = prepare, kept
        self._locations: dict[str, Future[Prepared]] = {}
        self._lock = Lock()

    def __call__(self, tile: Tile) -> Prepared:
        """The location of the tile, cut to it.

        Raises:
            ValueError: As `prepare`, for every tile of the location.
        """
        mine: Future[Prepared] = Future()
        with self._lock:
            outcome = self._locations.setdefault(tile.whole.id, mine)
            while len(self._locations) > self._kept:
                del self._locations[next(iter(self._locations))]
        if outcome is mine:
            self._fulfil(outcome, tile.whole)
        whole = outcome.result()
        seasons = {name: [array[(..., *tile.window)] for array in arrays] for name, arrays in whole.seasons.items()}
        return Prepared(seasons, whole.offsets)

    def _fulfil(self, outcome: Future[Prepared], location: Location) -> None:
        try:
            outcome.set_result(self._prepare(location))
        except BaseException as error:  # other threads wait; `result` raises it in all of them
            outcome.set_exception(error)


def tiled(
    locations: Sequence[Location],
    prepare: Callable[[Location], Prepared],
    shape: Callable[[Location], tuple[int, int] | None],
    size: int,
    stride: int = 0,
) -> tuple[Sequence[Location], Callable[[Location], Prepared]]:
    """Tiles of the locations and what prepares them; both as they are for a size of 0. The arguments are those of `cut`
    and `TileReader`."""
    return (cut(locations, shape, size, stride), TileReader(prepare)) if size else (locations, prepare)
