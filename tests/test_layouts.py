"""Raw folders: what is listed, what belongs together, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import S1_SCENES, S2_SCENES, fake_db, fake_dn, write_ssl4eo, write_tiff

from cromss import layouts
from cromss.layouts import Location
from cromss.legends import NOL

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

FOLDERS = {"s1": "s1", "s2": "s2c", "labels": "labels"}


@pytest.mark.parametrize(
    ("name", "time"),
    [
        (S1_SCENES[0], "20190702T165746"),
        (S2_SCENES[1], "20200301T054639"),
        ("20200301", "20200301T000000"),
        ("S2A_MSIL1C_20180710T125311_N0206_R052_T24KVE_20180710T160613", "20180710T125311"),
        ("032911_03CFF6", None),
        ("123456789012", None),
        ("spring", None),
    ],
)
def test_scene_time(name, time):
    assert layouts.scene_time(name) == time


@pytest.mark.parametrize("header", ["", "id,season1,season2\n", "\ufeffid, season1, season2\n"])
def test_ids_come_with_scenes_in_time_order(tmp_path, header):
    path = tmp_path / "ids.csv"
    path.write_text(f"{header}0000007,{S2_SCENES[1]},{S2_SCENES[0]}\n\n12,{S2_SCENES[0]},{S2_SCENES[1]}\n", "utf-8")
    assert layouts.read_ids(path) == {"0000007": S2_SCENES, "12": S2_SCENES}


def test_rows_of_an_id_alone_leave_scenes_to_the_folders(tmp_path):
    (tmp_path / "ids.csv").write_text("id\n5\n3\n")
    assert layouts.read_ids(tmp_path / "ids.csv") == {"5": (), "3": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"1,{S2_SCENES[0]}\n1,{S2_SCENES[1]}\n", "line 2: id 1 is already on line 1"),
        (f"1,{S2_SCENES[0]}\n0000001,{S2_SCENES[1]}\n", "line 2: id 0000001 is already on line 1"),
        (f"id,season1,season2\n1,{S2_SCENES[0]},\n", "line 2: 3 filled fields are wanted"),
        (f"id,season1,season2\n1,{S2_SCENES[0]}\n", "line 2: 3 filled fields are wanted"),
        ("0,-39.71,-18.2,0\n", "line 1: '-39.71' is not a scene name"),
        (f"1,{S2_SCENES[0]},{S2_SCENES[0]}\n", "line 1: id 1 names a scene twice"),
        ("", "holds no ids"),
        ("id,season1\n", "holds no ids"),
    ],
)
def test_bad_id_lists_name_the_line(tmp_path, text, message):
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        layouts.read_ids(tmp_path / "ids.csv")
    assert "\n" not in str(error.value)


def test_ssl4eo_folders_are_listed_in_time_order(tmp_path):
    write_ssl4eo(tmp_path, ["0000002", "0000001"])
    (tmp_path / "s2c" / "0000001" / ".hidden_20200101").mkdir()
    locations = layouts.list_ssl4eo(tmp_path, FOLDERS)
    assert [location.id for location in locations] == ["0000001", "0000002"]
    assert [path.name for path in locations[0].scenes["s1"]] == list(S1_SCENES)
    assert list(S1_SCENES) != sorted(S1_SCENES)
    assert [path.name for path in locations[0].scenes["s2"]] == list(S2_SCENES)
    assert locations[0].scenes["labels"][1] == tmp_path / "labels" / "0000001" / S2_SCENES[1] / "label.tif"
    assert layouts.most_seasons(locations) == 2


def test_ssl4eo_ids_from_a_csv_choose_order_and_scenes(tmp_path):
    write_ssl4eo(tmp_path, ["0000001", "0000002"])
    (tmp_path / "s1" / "0000002" / S1_SCENES[1]).rename(tmp_path / "gone")
    (tmp_path / "ids.csv").write_text(f"2,{S2_SCENES[0]}\n9,{S2_SCENES[1]}\n")
    first, second = layouts.list_ssl4eo(tmp_path, FOLDERS, tmp_path / "ids.csv")
    assert first.id == "0000002"
    assert {modality: len(paths) for modality, paths in first.scenes.items()} == {"s1": 1, "s2": 1, "labels": 1}
    assert second.id == "9"
    assert not any(second.scenes.values())


def test_ids_missing_in_one_modality_stay_listed(tmp_path):
    write_ssl4eo(tmp_path, ["0000001", "0000002"])
    (tmp_path / "s1" / "0000002").rename(tmp_path / "s1" / "0000003")
    locations = layouts.list_ssl4eo(tmp_path, FOLDERS)
    assert [location.id for location in locations] == ["0000001", "0000002", "0000003"]
    layouts.check_location(locations[0], 2)
    with pytest.raises(ValueError, match="location 0000002: no s1 scene"):
        layouts.check_location(locations[1], 2)
    with pytest.raises(ValueError, match="location 0000003: no s2 scene"):
        layouts.check_location(locations[2], 2)


def test_the_same_number_twice_is_refused(tmp_path):
    (tmp_path / "s2c" / "000001").mkdir(parents=True)
    (tmp_path / "s2c" / "0000001").mkdir()
    with pytest.raises(ValueError, match="0000001 and 000001 are the same id"):
        layouts.list_ssl4eo(tmp_path, {"s2": "s2c"})


@pytest.mark.parametrize(("made", "message"), [("other", "no such folder"), ("s2c", "no location found")])
def test_missing_or_empty_sets_are_refused(tmp_path, made, message):
    (tmp_path / made).mkdir()
    with pytest.raises(ValueError, match=message):
        layouts.list_ssl4eo(tmp_path, {"s2": "s2c"})


def test_tiles_are_found_by_pattern(tmp_path):
    for name in ("S1RTC.tif", "S2L1C.tif", "S2L1C_cloudy.tif", "DW.tif"):
        (tmp_path / "b7" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "b7" / name).touch()
    (location,) = layouts.list_tiles(tmp_path, {"s1": "S1*.tif", "s2": "S2L1C.tif", "labels": "DW.tif"})
    assert (location.id, location.scenes["s2"]) == ("b7", (tmp_path / "b7" / "S2L1C.tif",))
    with pytest.raises(ValueError, match=r"S2L1C.tif, S2L1C_cloudy.tif all match 'S2\*.tif'; narrow --s2_pattern"):
        layouts.list_tiles(tmp_path, {"s2": "S2*.tif"})


@pytest.mark.parametrize("top", ["test", "ROIs0000_test"])
def test_dfc2020_patches_are_listed_by_number(tmp_path, top):
    for word in ("s1", "s2", "dfc"):
        folder = tmp_path / top / f"{word}_test"
        folder.mkdir(parents=True)
        for number in (10, 9, 0):
            (folder / f"ROIs0000_test_{word}_0_p{number}.tif").touch()
    locations = layouts.list_dfc2020(tmp_path, "test")
    assert [location.id for location in locations] == ["p0", "p9", "p10"]
    assert locations[1].scenes["labels"][0].name == "ROIs0000_test_dfc_0_p9.tif"
    with pytest.raises(ValueError, match="no such folder"):
        layouts.list_dfc2020(tmp_path, "validation")


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ({"s1": ("a",), "s2": ("a", "b")}, "1 s1 scenes, wanted 2"),
        ({"s1": ("a", "b"), "s2": ()}, "no s2 scene"),
        (
            {"s2": (S2_SCENES[0], "x"), "labels": (f"{S2_SCENES[1]}/label.tif", "x")},
            "labels of 20200301 beside s2 of 20190704",
        ),
    ],
)
def test_locations_whose_seasons_do_not_match_are_refused(scenes, message):
    location = Location("p1", {modality: tuple(map(Path, names)) for modality, names in scenes.items()})
    with pytest.raises(ValueError, match=f"location p1: {message}"):
        layouts.check_location(location, 2)


def test_a_location_is_read_season_by_season(tmp_path):
    write_ssl4eo(tmp_path, ["0000001"], seed=4)
    (location,) = layouts.list_ssl4eo(tmp_path, FOLDERS)
    seasons = layouts.read_location(location, 2, NOL)
    for season, (s1_scene, s2_scene) in enumerate(zip(S1_SCENES, S2_SCENES)):
        for modality, folder, band, position in (("s1", "s1", "VH", 1), ("s2", "s2c", "B8A", 8)):
            scene = s1_scene if modality == "s1" else s2_scene
            with rasterio.open(tmp_path / folder / "0000001" / scene / f"{band}.tif") as dataset:
                np.testing.assert_array_equal(seasons[modality][season][position], dataset.read(1))
    assert [labels.shape for labels in seasons["labels"]] == [(12, 12)] * 2
    assert {array.shape for array in layouts.read_location(location, 2, NOL, 16)["s2"]} == {(13, 16, 16)}


def test_sizes_must_agree(tmp_path):
    write_tiff(tmp_path / "a" / "S1.tif", fake_db(np.random.default_rng(0), 8))
    write_tiff(tmp_path / "a" / "DW.tif", np.zeros((9, 8), np.uint8))
    (location,) = layouts.list_tiles(tmp_path, {"s1": "S1.tif", "labels": "DW.tif"})
    with pytest.raises(ValueError, match=r"location a: sizes differ \(s1 8x8, labels 9x8\)"):
        layouts.read_location(location, 1, NOL)


def test_real_tiles(real):
    patterns = {"s1": "S1*.tif", "s2": "S2L1C.tif", "labels": "DW.tif"}
    locations = layouts.list_tiles(real / "s12_tiles", patterns)
    shapes = {}
    for location in locations:
        seasons = layouts.read_location(location, 1, NOL)
        shapes[location.id] = seasons["s2"][0].shape
        assert seasons["labels"][0].max() < 9
    assert sorted(shapes.values()) == [(13, 224, 224)] * 3 + [(13, 256, 256)]


def test_real_ssl4eo_folders(real):
    locations = layouts.list_ssl4eo(real / "ssl4eo_layout", {"s2": "imgs"})
    assert [location.id for location in locations] == ["000000", "000001"]


@pytest.mark.parametrize(("crs", "left"), [("EPSG:32648", 500_000), ("EPSG:32633", 500_200)])
def test_tiles_of_different_places_are_refused(tmp_path, crs, left):
    rng = np.random.default_rng(0)
    for name, image, here in (("S1", fake_db(rng), True), ("S2", fake_dn(rng), False)):
        path = write_tiff(tmp_path / "p1" / f"{name}.tif", image)
        with rasterio.open(path, "r+") as dataset:
            dataset.crs = "EPSG:32633" if here else crs
            dataset.transform = rasterio.transform.from_origin(500_000 if here else left, 5_000_000, 10, 10)
    (location,) = layouts.list_tiles(tmp_path, {"s1": "S1*.tif", "s2": "S2*.tif"})
    with pytest.raises(ValueError, match=r"location p1: S2\.tif and S1\.tif lie in different places"):
        layouts.read_location(location, 1, NOL)
