"""Raw folders: what is listed, how pixels are resampled, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss import layouts
from cromss.layouts import Location
from cromss.legends import DFC2020, NOL
from cromss.sensors import S1, S2

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

S2_SCENES = ("20190704T054639_20190704T054831_T43RCP", "20200301T054639_20200301T054831_T43RCP")
S1_SCENES = (
    "S1B_IW_GRDH_1SDV_20190702T165746_20190702T165811_016958_01FE7F_34A1",
    "S1A_IW_GRDH_1SDV_20200305T165746_20200305T165811_031534_03A1C2_9B01",
)


def write_tiff(path: Path, pixels: np.ndarray, descriptions=(), nodata=None, **tags) -> Path:
    """`(C, H, W)` or `(H, W)` -> GeoTIFF."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", nodata=nodata, **profile) as dataset:
        dataset.write(pixels)
        dataset.update_tags(**tags)
        for band, description in enumerate(descriptions, 1):
            dataset.set_band_description(band, description)
    return path


def fake_dn(rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """`(13, size, size)` uint16 of plausible reflectances, without offset (a dark cirrus band)."""
    dn = rng.integers(200, 4000, (13, size, size), dtype=np.uint16)
    dn[10] = rng.integers(2, 30, (size, size))
    return dn


def fake_db(rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """`(2, size, size)` float32 of plausible backscatter in dB."""
    return rng.normal([[[-12]], [[-20]]], 4, (2, size, size)).astype(np.float32)


def write_bands(folder: Path, image: np.ndarray, names) -> Path:
    """One single-band file a band."""
    for name, band in zip(names, image):
        write_tiff(folder / f"{name}.tif", band)
    return folder


def write_ssl4eo(root: Path, ids, seed: int = 0, size: int = 12) -> None:
    """A small SSL4EO-S12 tree with two seasons and labels 0..8."""
    rng = np.random.default_rng(seed)
    for name in ids:
        for s1_scene, s2_scene in zip(S1_SCENES, S2_SCENES):
            write_bands(root / "s1" / name / s1_scene, fake_db(rng, size), S1.bands)
            write_bands(root / "s2c" / name / s2_scene, fake_dn(rng, size), S2.bands)
            labels = rng.integers(0, 9, (size, size), dtype=np.uint8)
            write_tiff(root / "labels" / name / s2_scene / "label.tif", labels)


def bicubic_weights(num_in: int, num_out: int) -> np.ndarray:
    """`(num_out, num_in)` cubic convolution (a = -0.5) between pixel centres, for upsampling."""
    weights = np.zeros((num_out, num_in))
    for row in range(num_out):
        centre = (row + 0.5) * num_in / num_out - 0.5
        for column in range(num_in):
            x = abs(centre - column)
            if x < 1:
                weights[row, column] = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                weights[row, column] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return weights / weights.sum(axis=1, keepdims=True)


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
        ({"s1": ("a",), "s2": ("a", "b")}, "1 s1 scenes where 2 seasons are wanted"),
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


@pytest.mark.parametrize("names", [S2.bands, [f"B{int(b[1:]):02d}" if b != "B8A" else b for b in S2.bands]])
def test_native_grids_are_resampled_bicubically(tmp_path, names):
    rng = np.random.default_rng(1)
    bands = [
        rng.uniform(100, 4000, (n, n)).astype(np.float32) for n in (4, 24, 24, 24, *[12] * 3, 24, 12, 4, 4, 12, 12)
    ]
    write_bands(tmp_path / "scene", bands, names)
    image = layouts.read_image(tmp_path / "scene", S2, size=24)
    for band, found in zip(bands, image):
        weights = bicubic_weights(len(band), 24)
        np.testing.assert_allclose(found, weights @ band @ weights.T, rtol=1e-4, atol=0.1)


def test_a_multi_band_file_keeps_size_and_type(tmp_path):
    dn = fake_dn(np.random.default_rng(2), 9).astype(np.int16)
    image = layouts.read_image(write_tiff(tmp_path / "S2.tif", dn, S2.bands), S2)
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image, dn)


@pytest.mark.parametrize("size", [5, 8, 24, 30])
def test_labels_are_resampled_to_the_nearest(tmp_path, size):
    labels = np.random.default_rng(3).choice([0, 3, 8, 255], (8, 8)).astype(np.uint8)
    found = layouts.read_labels(write_tiff(tmp_path / "label.tif", labels), NOL, size)
    nearest = ((np.arange(size) + 0.5) * 8 / size).astype(int)
    np.testing.assert_array_equal(found, labels[np.ix_(nearest, nearest)])


def test_labels_become_class_ids(tmp_path):
    path = write_tiff(tmp_path / "dfc.tif", np.array([[1, 2, 3], [10, 0, 9]], np.uint16))
    np.testing.assert_array_equal(layouts.read_labels(path, DFC2020), [[1, 5, 255], [0, 255, 7]])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), 9, np.uint8), "label codes outside the NoL legend: 9"),
        (np.full((4, 4), 2.5, np.float32), "label codes must be whole numbers"),
        (np.zeros((3, 4, 4), np.uint8), "3 bands where 1 are wanted: label"),
    ],
)
def test_bad_labels_are_refused(tmp_path, pixels, message):
    path = write_tiff(tmp_path / "label.tif", pixels)
    with pytest.raises(ValueError, match=f"label.tif: {message}"):
        layouts.read_labels(path, NOL)


def without(band: str) -> list[str]:
    return [name for name in S2.bands if name != band]


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (without("B10"), r"no file for band B10 of Sentinel-2 \(level 2A has none"),
        (without("B8A"), "no file for band B8A of Sentinel-2$"),
        (["B2"], "no file for band B1 B3 B4"),
    ],
)
def test_a_missing_band_file_is_named(tmp_path, bands, message):
    write_bands(tmp_path / "scene", fake_dn(np.random.default_rng(0)), bands)
    with pytest.raises(ValueError, match=message):
        layouts.read_image(tmp_path / "scene", S2)


@pytest.mark.parametrize(
    ("count", "descriptions", "message"),
    [
        (12, (), r"12 bands where 13 are wanted; missing: B10 \(level 2A has none\)"),
        (12, without("B9"), "12 bands where 13 are wanted; missing: B9"),
        (4, (), "4 bands where 13 are wanted: B1 B2"),
        (13, S2.bands[::-1], "bands are B12 B11 .* wanted in the order B1 B2"),
        (13, ("B02", "B01", *S2.bands[2:]), "bands are B2 B1 B3"),
    ],
)
def test_wrong_bands_of_a_multi_band_file_are_named(tmp_path, count, descriptions, message):
    path = write_tiff(tmp_path / "S2.tif", fake_dn(np.random.default_rng(0))[:count], descriptions)
    with pytest.raises(ValueError, match=f"S2.tif: {message}"):
        layouts.read_image(path, S2)


def test_swapped_polarisations_are_seen(tmp_path):
    path = write_tiff(tmp_path / "S1.tif", fake_db(np.random.default_rng(0)), ("VH", "VV"))
    with pytest.raises(ValueError, match="bands are VH VV, wanted in the order VV VH"):
        layouts.read_image(path, S1)


def test_free_descriptions_are_not_band_names(tmp_path):
    db = fake_db(np.random.default_rng(0))
    path = write_tiff(tmp_path / "S1.tif", db, ("copolarised", "crosspolarised"))
    np.testing.assert_array_equal(layouts.read_image(path, S1), db)


def spoilt(value: float) -> np.ndarray:
    db = fake_db(np.random.default_rng(0))
    db[1, 3, 4] = value
    return db


@pytest.mark.parametrize(
    ("db", "nodata", "message"),
    [
        (10 ** (fake_db(np.random.default_rng(0)) / 10), None, "looks linear"),
        (spoilt(np.nan), None, "1 NaN or infinite"),
        (spoilt(np.nan), np.nan, r"1 nodata pixels \(nan\)"),
        (spoilt(-9999), -9999, r"1 nodata pixels \(-9999\)"),
        (np.zeros((2, 4, 4), np.float32), None, "nodata"),
        (np.full((2, 12, 12), 900, np.float32) + spoilt(0), None, "looks like digital numbers"),
    ],
)
def test_bad_values_are_refused(tmp_path, db, nodata, message):
    path = write_tiff(tmp_path / "S1.tif", db, nodata=nodata)
    with pytest.raises(ValueError, match=f"S1.tif: .*{message}"):
        layouts.read_image(path, S1)


@pytest.mark.parametrize("kept", [0, 4, 200, -100])
def test_a_truncated_file_is_one_line(tmp_path, kept):
    path = write_tiff(tmp_path / "S1.tif", fake_db(np.random.default_rng(0), 40))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"S1\.tif: cannot be read") as error:
        layouts.read_image(path, S1)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="20190704: no such scene"):
        layouts.read_image(tmp_path / "20190704", S2)
    with pytest.raises(ValueError, match=r"label\.tif: no such file"):
        layouts.read_labels(tmp_path / "label.tif", NOL)


def test_bands_on_several_grids_need_a_size(tmp_path):
    write_bands(tmp_path / "scene", [np.full((n, n), -9.0 - n, np.float32) for n in (4, 8)], S1.bands)
    with pytest.raises(ValueError, match="different grids"):
        layouts.read_image(tmp_path / "scene", S1)


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


def test_real_ssl4eo_scenes(real):
    locations = layouts.list_ssl4eo(real / "ssl4eo_layout", {"s2": "imgs"})
    assert [location.id for location in locations] == ["000000", "000001"]
    image = layouts.read_image(locations[0].scenes["s2"][0], S2, 264)
    with rasterio.open(locations[0].scenes["s2"][0] / "B9.tif") as dataset:
        native = dataset.read(1)
    weights = bicubic_weights(len(native), 264)
    assert np.abs(image[9] - np.rint(weights @ native @ weights.T)).max() <= 1
