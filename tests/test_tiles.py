"""Locations cut into tiles, and tiles for several threads."""

import threading

import numpy as np
import pytest

from cromss.aligned_stores import Prepared
from cromss.layouts import Location
from cromss.tiles import Tile, TileReader, cut, tile_starts, tiles_text


def shape(location):
    return {"gone": None}.get(location.id, (60, 66))


def places(*names):
    return [Location(name, {"s2": ()}) for name in names]


class Service:
    """Prepares locations, and remembers which."""

    def __init__(self, error=None, wait=None):
        self.read, self.error, self.wait = [], error, wait

    def __call__(self, location):
        self.read.append(location.id)
        if self.wait:
            self.wait.wait(timeout=30)
        if self.error:
            raise self.error
        return whole(location.id)


def whole(name):
    rng = np.random.default_rng(sum(map(ord, name)))
    seasons = {"s2": [rng.random((13, 60, 66)) for _ in range(2)], "labels": [rng.integers(0, 9, (60, 66))]}
    return Prepared(seasons, ((0, name, 0, "told"),))


@pytest.mark.parametrize(
    ("length", "size", "stride", "starts"),
    [
        (10, 4, 4, [0, 4, 6]),
        (8, 4, 4, [0, 4]),
        (9, 4, 2, [0, 2, 4, 5]),
        (4, 4, 4, [0]),
        (3, 4, 4, [0]),
        (5, 4, 1, [0, 1]),
        (510, 102, 102, [0, 102, 204, 306, 408]),
        (264, 128, 128, [0, 128, 136]),
    ],
)
def test_tiles_end_with_the_side(length, size, stride, starts):
    assert tile_starts(length, size, stride) == starts


@pytest.mark.parametrize(("size", "stride"), [(16, 0), (25, 10), (64, 0), (100, 0), (7, 3)])
def test_tiles_cover_a_location_and_never_leave_it(size, stride):
    (paris,) = places("paris")
    tiles, seen = cut([paris], shape, size, stride), np.zeros((60, 66), int)
    for tile in tiles:
        seen[tile.window] += 1
        assert seen[tile.window].shape == (min(size, 60), min(size, 66))
        assert tile.id == f"paris_r{tile.window[0].start}_c{tile.window[1].start}"
        assert tile.whole is paris
    assert seen.min() >= 1
    assert len({tile.id for tile in tiles}) == len(tiles)


def test_tiles_keep_what_is_known_of_their_files():
    told = {"bands": {"ortho": ("R", "G")}, "second_label_band": True, "patterns": {"s2": "*/S2.tif"}}
    (tile,) = cut([Location("a", {"s2": ()}, **told)], shape, 100)
    assert {name: getattr(tile, name) for name in told} == told


def test_a_location_of_unknown_shape_is_one_tile():
    assert [tile.id for tile in cut(places("gone"), shape, 32)] == ["gone_r0_c0"]


def test_the_text_of_a_store_tells_size_and_stride():
    assert [tiles_text(0), tiles_text(128), tiles_text(128, 64)] == [
        "",
        "tiles of 128 px every 128",
        "tiles of 128 px every 64",
    ]


def outcomes(reader: TileReader, tiles: list[Tile]) -> dict[str, object]:
    """What each tile gives or raises, all asked for at once; a tile that waits for ever is not in it."""
    found = {}

    def ask(tile):
        try:
            found[tile.id] = reader(tile)
        except BaseException as error:
            found[tile.id] = error

    threads = [threading.Thread(target=ask, args=[tile], daemon=True) for tile in tiles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return found


def check(found, tiles):
    for tile in tiles:
        expected = whole(tile.whole.id)
        np.testing.assert_array_equal(found[tile.id].seasons["labels"][0], expected.seasons["labels"][0][tile.window])
        np.testing.assert_array_equal(found[tile.id].seasons["s2"][1], expected.seasons["s2"][1][:, *tile.window])
        assert found[tile.id].offsets == expected.offsets


def test_a_location_is_read_once_by_several_threads():
    service, tiles = Service(), cut(places("paris", "rennes"), shape, 32)
    check(outcomes(TileReader(service), tiles), tiles)
    assert sorted(service.read) == ["paris", "rennes"]


def test_two_locations_are_read_at_once():
    service, tiles = Service(wait=threading.Barrier(2)), cut(places("paris", "rennes"), shape, 32)
    check(outcomes(TileReader(service), tiles), tiles)
    assert sorted(service.read) == ["paris", "rennes"]


@pytest.mark.parametrize("error", [MemoryError("full"), OSError("gone"), KeyError("x"), SystemExit(3)])
def test_whatever_happens_no_tile_waits_for_ever(error):
    service, tiles = Service(error), cut(places("paris"), shape, 48)
    reader = TileReader(service)
    for _ in range(2):
        assert outcomes(reader, tiles) == {tile.id: error for tile in tiles}


@pytest.mark.parametrize("kept", [1, 2])
def test_few_locations_are_kept(kept):
    service = Service()
    reader, firsts = TileReader(service, kept), [cut([place], shape, 32)[0] for place in places("a", "b", "c")]
    for tile in (*firsts, *firsts[::-1]):
        reader(tile)
    assert service.read == ["a", "b", "c", *["b"][: 2 - kept], "a"]


def test_a_bad_location_fails_for_each_of_its_tiles_and_is_read_once():
    service, tiles = Service(ValueError("no file for band B10")), cut(places("paris"), shape, 32)
    reader = TileReader(service)
    for tile in tiles:
        with pytest.raises(ValueError, match="no file for band B10"):
            reader(tile)
    assert len(service.read) == 1 < len(tiles)
