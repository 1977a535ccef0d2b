"""Pixels of stores on the raw label files that the ledger names, against naive loops and files of known places."""

import csv

import numpy as np
import pytest
from affine import Affine
from rasters import write_tiff

from cromss.aligned_stores import SCENES_NAME, scene_names
from cromss.label_places import LabelPlaces, label_places
from cromss.store import StoreMeta

BOX = (10, 50, 10.6, 50.4)


def raw_file(path, height=40, width=60, box=BOX):
    return write_tiff(path, np.zeros((height, width), np.uint8), box=box)


def placed(folder, scenes, location="a", shape=(40, 60), season=0, side=0):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    return pixels, LabelPlaces(folder, scenes, side).put(pixels, location, season)


@pytest.mark.parametrize(
    ("folder", "file", "scene"),
    [
        ("labels", "labels/a_1.tif", "labels/a_1.tif"),
        (".", "labels/a_1.tif", "labels/a_1.tif"),
        ("labels", "labels/a/20200101.tif", "20200101.tif"),
        ("labels", "labels/a/20200101T000000/label.tif", "20200101T000000/label.tif"),
        ("labels", "labels/a/mask.tif", "a/mask.tif"),
    ],
)
def test_files_are_found_where_sets_keep_them(tmp_path, folder, file, scene):
    raw_file(tmp_path / file)
    pixels, (found, grid) = placed(tmp_path / folder, {("a", 0): scene})
    assert np.array_equal(found, pixels)
    assert grid.crs.to_epsg() == 4326
    assert grid.transform.almost_equals(Affine(0.01, 0, 10, 0, -0.01, 50.4))


def test_a_resampled_location_goes_back_to_its_pixels(tmp_path):
    """The pixel whose area holds the centre of the raw pixel."""
    raw_file(tmp_path / "a.tif")
    pixels, (found, grid) = placed(tmp_path, {("a", 0): "a.tif"}, shape=(24, 24), side=24)
    assert found.shape == grid.shape == (40, 60)
    for (row, column), value in np.ndenumerate(found):
        there = [i for i in range(24) if i / 24 <= (row + 0.5) / 40 < (i + 1) / 24]
        across = [i for i in range(24) if i / 24 <= (column + 0.5) / 60 < (i + 1) / 24]
        assert value == pixels[there[0], across[0]]


def test_a_tile_lies_on_its_part_of_the_file(tmp_path):
    raw_file(tmp_path / "a_2.tif")
    pixels, (found, grid) = placed(tmp_path, {("a", 1): "a_2.tif"}, "a_r8_c40", (32, 20), season=1)
    assert np.array_equal(found, pixels)
    assert grid.transform.almost_equals(Affine(0.01, 0, 10.4, 0, -0.01, 50.32))
    assert grid.shape == (32, 20)


def test_a_location_named_like_a_tile_is_none(tmp_path):
    raw_file(tmp_path / "x.tif")
    _, (_, grid) = placed(tmp_path, {("a_r8_c40", 0): "x.tif"}, "a_r8_c40")
    assert (grid.transform.c, grid.transform.f) == pytest.approx((10, 50.4))


@pytest.mark.parametrize(
    ("location", "shape", "side"),
    [
        *(("b", (40, 60), 0), ("a_r20_c0", (32, 20), 0), ("a_r0_c50", (32, 20), 0), ("a_r0_c0", (20, 20), 50)),
        *(("a", (20, 30), 0), ("a", (40, 40), 24), ("a", (60, 40), 0)),
    ],
    ids=[
        *("not in the ledger", "below the file", "beside the file", "cut after resampling to another size"),
        *("part of the file", "another side than resampled to", "turned"),
    ],
)
def test_what_has_no_place(tmp_path, location, shape, side):
    raw_file(tmp_path / "a.tif")
    assert placed(tmp_path, {("a", 0): "a.tif"}, location, shape, side=side)[1] is None


def test_files_without_a_place_give_none(tmp_path):
    raw_file(tmp_path / "a.tif", box=None)
    assert placed(tmp_path, {("a", 0): "a.tif"})[1] is None
    assert placed(tmp_path, {("a", 0): "b.tif"})[1] is None
    assert placed(tmp_path, {("a", 0): "a.tif"}, season=1)[1] is None


def write_ledger(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SCENES_NAME).open("w", newline="") as file:
        csv.writer(file).writerows([("id", "season", "modality", "scene"), *rows])


def test_the_ledger_is_read(tmp_path):
    write_ledger(tmp_path, [("a", 0, "s2", "x"), ("a", 0, "labels", "n/a.tif"), ("b", 1, "labels", "b.tif"), ("c",)])
    assert scene_names(tmp_path, "labels") == {("a", 0): "n/a.tif", ("b", 1): "b.tif"}
    assert scene_names(tmp_path / "none", "labels") == {}


@pytest.mark.parametrize(("source", "side"), [("ssl4eo layout, resampled to 264 px", 264), ("own layout", 0), ("", 0)])
def test_the_store_tells_whether_it_is_resampled(tmp_path, source, side):
    write_ledger(tmp_path, [("a", 0, "labels", "a.tif")])
    meta = StoreMeta("labels", (), "uint8", 1, "class id", source=source)
    assert label_places(tmp_path / "x.lmdb", meta, tmp_path) == LabelPlaces(tmp_path, {("a", 0): "a.tif"}, side)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    meta = StoreMeta("labels", (), "uint8", 1, "class id")
    with pytest.raises(ValueError, match=r"^--labels_path .*none: no such folder"):
        label_places(tmp_path / "x.lmdb", meta, tmp_path / "none")
