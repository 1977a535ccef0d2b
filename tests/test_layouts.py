"""Raw folders: what is listed, what belongs together, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import (
    S1_SCENES,
    S2_SCENES,
    fake_db,
    fake_dn,
    write_dfc2020,
    write_dwosm,
    write_nyc,
    write_ssl4eo,
    write_tiff,
)

from cromss import layouts
from cromss.layouts import Location
from cromss.legends import DW, NOL, NYC, NYC_LIDAR, NYC_MERGED, OSM, Legend

FOLDERS = {"s1": "s1", "s2": "s2c", "labels": "labels"}


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


def test_locations_without_a_scene_count_for_no_number_of_seasons(tmp_path):
    write_ssl4eo(tmp_path, ["0000001"])
    for name in ("0000000", "0000002", "0000003"):
        (tmp_path / "s2c" / name).mkdir()
    locations = layouts.list_ssl4eo(tmp_path, FOLDERS)
    assert layouts.most_seasons(locations) == 2
    with pytest.raises(ValueError, match=r"^location 0000000: no s1 scenes, wanted 1 \(s1/0000000/<scene>\)$"):
        layouts.most_seasons([locations[0], *locations[2:]])


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


def test_links_to_ids_are_followed_and_those_to_nothing_are_named(tmp_path):
    write_ssl4eo(tmp_path / "disk", ["0000001", "0000002"])
    (tmp_path / "raw" / "s1").mkdir(parents=True)
    for name in ("0000001", "0000002"):
        (tmp_path / "raw" / "s1" / name).symlink_to(tmp_path / "disk" / "s1" / name)
    assert len(layouts.list_ssl4eo(tmp_path / "raw", {"s1": "s1"})) == 2
    (tmp_path / "disk" / "s1" / "0000002").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"raw/s1/0000002: a link to nothing; is a disk not mounted\?"):
        layouts.list_ssl4eo(tmp_path / "raw", {"s1": "s1"})


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
        layouts.check_location(layouts.list_tiles(tmp_path, {"s2": "S2*.tif"})[0], 1)


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


def test_dfc2020_patches_without_a_partner_stay_listed(tmp_path):
    write_dfc2020(tmp_path)
    (tmp_path / "test" / "s1_test" / "ROIs0000_test_s1_0_p2.tif").unlink()
    (tmp_path / "test" / "dfc_test" / "ROIs0000_test_dfc_0_p10.tif").unlink()
    first, second = layouts.list_dfc2020(tmp_path, "test")
    for location, word in ((first, "s1"), (second, "labels")):
        with pytest.raises(ValueError, match=f"location {location.id}: no {word} scenes, wanted 1"):
            layouts.check_location(location, 1)


PLACES = ("-3.5_40.25-20190405", "103.99308536_-33.18-20200405", "0_1e-05-20210101")


@pytest.mark.parametrize("kind", ["dw", "osm"])
def test_expert_labels_are_found_with_their_images(tmp_path, kind):
    write_dwosm(tmp_path, kind, "test", PLACES)
    (tmp_path / f"{kind}_test" / "image_s1" / "overview.tif").touch()
    (tmp_path / f"{kind}_test" / "image_s1" / f"s2_{PLACES[0]}.tif").touch()
    locations = layouts.list_dwosm(tmp_path, kind, "test")
    assert {location.id for location in locations} == set(PLACES)
    assert locations == layouts.list_dwosm(tmp_path, kind, "test")
    for location in locations:
        layouts.check_location(location, 1)
        assert [paths[0].name for paths in location.scenes.values()] == [
            f"{word}_{location.id}.tif" for word in ("s1", "s2", kind)
        ]
    with pytest.raises(ValueError, match=f"{kind}_train.*: no such folder"):
        layouts.list_dwosm(tmp_path, kind, "train")


def test_radar_of_another_date_belongs_to_its_place(tmp_path):
    radar = ("-3.5_40.25-20190402", "103.99308536_-33.180-20200409", "0_1e-05-20210101")
    write_dwosm(tmp_path, "dw", "train", PLACES, s1_names=radar)
    found = {location.id: location.scenes["s1"] for location in layouts.list_dwosm(tmp_path, "dw", "train")}
    assert {name: paths[0].stem for name, paths in found.items()} == {n: f"s1_{r}" for n, r in zip(PLACES, radar)}


@pytest.mark.parametrize(
    ("labels", "radar", "wanted"),
    [
        (["1_2-20200101"], ["1_2-20200102", "1_2-20200103"], {"1_2-20200101": ["1_2-20200102", "1_2-20200103"]}),
        (["1_2-20200101"], ["1_2-20200101", "1_2-20200103"], {"1_2-20200101": ["1_2-20200101"], "1_2-20200103": 1}),
        (["1_2-20200101", "1_2-20200201"], ["1_2-20200101", "1_2-20200203"], {"1_2-20200201": ["1_2-20200203"]}),
        (["1_2-20200101", "1_2-20200201"], ["1_2-20200203"], {"1_2-20200101": [], "1_2-20200201": []}),
        (["1_2-20200101"], ["1_3-20200101"], {"1_2-20200101": [], "1_3-20200101": 1}),
    ],
    ids=["two for one", "its own first", "what is left over", "one for two", "another place"],
)
def test_ambiguous_partners_are_left_to_the_check(tmp_path, labels, radar, wanted):
    for folder, word, names in (("label_dw", "dw", labels), ("image_s2", "s2", labels), ("image_s1", "s1", radar)):
        (tmp_path / "dw_train" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "dw_train" / folder / f"{word}_{name}.tif").touch()
    found = {location.id: location for location in layouts.list_dwosm(tmp_path, "dw", "train")}
    for name, expected in wanted.items():
        if expected == 1:
            assert not found[name].scenes["labels"]
        else:
            assert [path.stem for path in found[name].scenes["s1"]] == [f"s1_{image}" for image in expected]
    for location in found.values():
        whole = all(len(paths) == 1 for paths in location.scenes.values())
        if not whole:
            with pytest.raises(ValueError, match="wanted 1"):
                layouts.check_location(location, 1)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_of_several_bands_the_second_is_the_expert_label(tmp_path, bands):
    made = write_dwosm(tmp_path, "dw", "train", PLACES[:1], bands=bands)
    (location,) = layouts.list_dwosm(tmp_path, "dw", "train")
    (found,) = layouts.read_location(location, 1, DW)["labels"]
    codes = made[PLACES[0]][2][min(bands, 2) - 1].astype(int)
    np.testing.assert_array_equal(found, np.where((codes == 0) | (codes == 10), 255, codes - 1))


def test_expert_tiles_keep_their_size_and_must_agree(tmp_path):
    write_dwosm(tmp_path, "osm", "train", PLACES[:1], size=17)
    (location,) = layouts.list_dwosm(tmp_path, "osm", "train")
    assert {a.shape[-2:] for arrays in layouts.read_location(location, 1, OSM).values() for a in arrays} == {(17, 17)}
    write_tiff(location.scenes["s2"][0], fake_dn(np.random.default_rng(0), 16))
    with pytest.raises(ValueError, match=r"sizes differ \(s1 17x17, s2 16x16, labels 17x17\)"):
        layouts.read_location(location, 1, OSM)


def test_orthophotos_are_listed_and_read_in_the_told_order(tmp_path):
    made = write_nyc(tmp_path, order=("R", "G", "B", "NIR"))
    (tmp_path / "train" / "noisy").mkdir()
    (tmp_path / "train" / "noisy" / "tile_2.tif").touch()
    (tmp_path / "train" / "image" / "tile_2.tfw").touch()
    locations = layouts.list_nyc(tmp_path, "train", ("R", "G", "B", "NIR"))
    assert [location.id for location in locations] == ["tile_2", "tile_10"]
    seasons = layouts.read_location(locations[1], 1, NYC)
    image, codes = made["train", "tile_10"]
    np.testing.assert_array_equal(seasons["ortho"][0], image)
    np.testing.assert_array_equal(seasons["labels"][0], np.where(codes == 0, 255, codes.astype(int) - 1))
    (tmp_path / "train" / "label" / "tile_2.tif").unlink()
    with pytest.raises(ValueError, match="location tile_2: no labels scenes"):
        layouts.check_location(layouts.list_nyc(tmp_path, "train")[0], 1)


RGBN = ("R", "G", "B", "NIR")


def write_noisy(root, names=("tile_2", "tile_10"), split="train", size=9, seed=9):
    """Noisy labels 0..3 and 255 beside `write_nyc`; returns name -> codes."""
    rng = np.random.default_rng(seed)
    made = {name: rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (size, size)) for name in names}
    for name, codes in made.items():
        write_tiff(root / split / "noisy" / f"{name}.tif", codes)
    return made


def test_triples_are_read_with_a_legend_each(tmp_path):
    made, noisy = write_nyc(tmp_path, order=RGBN), write_noisy(tmp_path)
    locations = layouts.list_nyc_triples(tmp_path, "train", RGBN)
    assert [location.id for location in locations] == ["tile_2", "tile_10"]
    for location in locations:
        seasons = layouts.read_location(location, 1, NYC_LIDAR, exact_legend=NYC_MERGED)
        assert list(seasons) == ["ortho", "labels", "exact"]
        image, codes = made["train", location.id]
        np.testing.assert_array_equal(seasons["ortho"][0], image)
        np.testing.assert_array_equal(seasons["labels"][0], noisy[location.id])
        merged = {0: 255, 1: 1, 2: 0, 3: 0, 4: 0, 5: 2, 6: 3, 7: 0, 8: 0}
        np.testing.assert_array_equal(seasons["exact"][0], np.vectorize(merged.get)(codes))


def test_single_parts_of_triples(tmp_path):
    write_nyc(tmp_path)
    write_noisy(tmp_path, split="test")
    (first, _) = layouts.list_nyc_triples(tmp_path, "test", modalities=("labels", "ortho"))
    assert {m: paths[0].parent.name for m, paths in first.scenes.items()} == {"labels": "noisy", "ortho": "image"}
    assert first.bands == {}
    layouts.list_nyc_triples(tmp_path, "train", modalities=("ortho", "exact"))
    with pytest.raises(ValueError, match="train/noisy: no such folder"):
        layouts.list_nyc_triples(tmp_path, "train")


@pytest.mark.parametrize(
    ("folder", "modality"), [("image", "ortho"), ("noisy", "labels"), ("label", "exact")], ids=lambda word: word
)
def test_triples_whose_ids_differ_stay_listed(tmp_path, folder, modality):
    write_nyc(tmp_path)
    write_noisy(tmp_path)
    (tmp_path / "train" / folder / "tile_2.tif").rename(tmp_path / "train" / folder / "tile_3.tif")
    found = {location.id: location for location in layouts.list_nyc_triples(tmp_path, "train")}
    assert list(found) == ["tile_2", "tile_3", "tile_10"]
    layouts.check_location(found["tile_10"], 1)
    with pytest.raises(ValueError, match=rf"tile_2: no {modality} scenes, wanted 1 \(train/{folder}/tile_2\.tif\)"):
        layouts.check_location(found["tile_2"], 1)
    with pytest.raises(ValueError, match="location tile_3: no "):
        layouts.check_location(found["tile_3"], 1)


@pytest.mark.parametrize(("modality", "name"), [("labels", "noisy"), ("exact", "label")])
def test_triples_must_agree_in_size_and_place(tmp_path, modality, name):
    write_nyc(tmp_path, order=RGBN, box=(0, 0, 9, 9))
    write_noisy(tmp_path)
    (location, _) = layouts.list_nyc_triples(tmp_path, "train", RGBN)
    (path,) = location.scenes[modality]
    assert path.parent.name == name
    write_tiff(path, np.ones((9, 10), np.uint8))
    with pytest.raises(ValueError, match=rf"location tile_2: sizes differ \(ortho 9x9, .*{modality} 9x10"):
        layouts.read_location(location, 1, NYC_LIDAR, exact_legend=NYC_MERGED)
    write_tiff(path, np.ones((9, 9), np.uint8), box=(3, 0, 12, 9))
    with pytest.raises(ValueError, match=rf"{name}/tile_2\.tif and .*image/tile_2\.tif lie in different places"):
        layouts.read_location(location, 1, NYC_LIDAR, exact_legend=NYC_MERGED)


def test_exact_labels_follow_the_one_legend_where_there_is_no_other(tmp_path):
    for name in ("DW.tif", "exact.tif"):
        write_tiff(tmp_path / "a" / name, np.array([[0, 1, 10]], np.uint8))
    (location,) = layouts.list_tiles(tmp_path, {"labels": "DW.tif", "exact": "exact.tif"})
    seasons = layouts.read_location(location, 1, DW)
    assert seasons["labels"][0].tolist() == seasons["exact"][0].tolist() == [[255, 0, 255]]
    with pytest.raises(ValueError, match=r"exact\.tif: label codes outside the NYC_LIDAR legend: 10"):
        layouts.read_location(location, 1, DW, exact_legend=NYC_LIDAR)


def test_what_was_looked_for_and_what_is_there_are_named(tmp_path):
    for folder in ("image", "noisy"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        (tmp_path / "train" / folder / "a.png").write_text("")
    wanted = r"no location found in this layout: wanted train/image/\*\.tif, train/noisy/\*\.tif; found 2 \.png"
    with pytest.raises(ValueError, match=wanted):
        layouts.list_nyc_triples(tmp_path, "train", modalities=("ortho", "labels"))


@pytest.mark.parametrize("beside", [False, True])
def test_missing_tiles_are_named(tmp_path, beside):
    root = tmp_path / "noisy" if beside else tmp_path / "raw"
    for folder in {root, tmp_path / "raw"}:
        (folder / "a").mkdir(parents=True)
    (location,) = layouts.list_tiles(tmp_path / "raw", {"labels": "DW*.tif"}, {"labels": root})
    file = f"{root}/a/DW*.tif" if beside else "a/DW*.tif"
    with pytest.raises(ValueError, match=re.escape(f"location a: no labels scenes, wanted 1 ({file})")):
        layouts.check_location(location, 1)


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_results_want_a_folder(tmp_path, place):
    (tmp_path / "file").write_text("")
    layouts.check_out(tmp_path)
    layouts.check_out(tmp_path / "none" / "out")
    with pytest.raises(ValueError, match=f"--out .*{place}: .*is a file; a folder is wanted"):
        layouts.check_out(tmp_path / place)


def test_tiles_may_lie_in_several_folders(tmp_path):
    for top, names, file in (
        ("raw", ("0000002", "0000010", "b"), "ortho.tif"),
        ("noisy", ("2", "10", "b"), "labels.tif"),
        ("exact", ("2", "0010", "c"), "cover.tif"),
    ):
        for name in names:
            (tmp_path / top / name).mkdir(parents=True)
            (tmp_path / top / name / file).touch()
    (tmp_path / "noisy" / "legend.yaml").touch()
    patterns = {"ortho": "ortho.tif", "labels": "labels.tif", "exact": "cover.tif"}
    roots = {"labels": tmp_path / "noisy", "exact": tmp_path / "exact"}
    found = {location.id: location for location in layouts.list_tiles(tmp_path / "raw", patterns, roots, RGBN)}
    assert list(found) == ["0000002", "0000010", "b", "c"], "named as the images are"
    for name, folders in (("0000002", ("2", "2")), ("0000010", ("10", "0010"))):
        layouts.check_location(found[name], 1)
        assert found[name].bands == {"ortho": RGBN}
        assert tuple(found[name].scenes[m][0].parent.name for m in ("labels", "exact")) == folders
    with pytest.raises(ValueError, match="location b: no exact scenes"):
        layouts.check_location(found["b"], 1)
    with pytest.raises(ValueError, match="location c: no ortho scenes"):
        layouts.check_location(found["c"], 1)
    (tmp_path / "noisy" / "2" / "labels2.tif").touch()
    with pytest.raises(ValueError, match=r"labels\.tif, labels2\.tif all match 'l\*'; narrow --label_pattern"):
        layouts.check_location(layouts.list_tiles(tmp_path / "raw", patterns | {"labels": "l*"}, roots)[0], 1)
    with pytest.raises(ValueError, match="none: no such folder"):
        layouts.list_tiles(tmp_path / "raw", patterns, {"labels": tmp_path / "none"})


def test_real_orthophotos(real):
    patterns = {"ortho": "naip_new.tif", "exact": "landcover.tif"}
    locations = layouts.list_tiles(real / "naip", patterns, bands=RGBN)
    assert len(locations) == 10
    codes = Legend("cover", ("rest", "trees"), ("000000", "ffffff"), {2: 1, 3: 0, 5: 0, 6: 0})
    for location in locations:
        seasons = layouts.read_location(location, 1, NOL, exact_legend=codes)
        with rasterio.open(location.scenes["ortho"][0]) as dataset:
            r, g, b, nir = dataset.read()
        np.testing.assert_array_equal(seasons["ortho"][0], [nir, r, g, b])
        with rasterio.open(location.scenes["exact"][0]) as dataset:
            np.testing.assert_array_equal(seasons["exact"][0] == 1, dataset.read(1) == 2)


def test_seasons_are_checked_by_modality():
    change = Location("paris", {"s2": (Path("a"), Path("b")), "labels": (Path("c"),)})
    layouts.check_location(change, {"s2": 2, "labels": 1})
    with pytest.raises(ValueError, match="location paris: 1 labels scenes, wanted 2"):
        layouts.check_location(change, 2)


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
    with pytest.raises(ValueError, match=r"location p1: .*p1/S2\.tif and .*p1/S1\.tif lie in different places"):
        layouts.read_location(location, 1, NOL)


@pytest.mark.parametrize(
    ("width", "height"),
    [(20, -20), (10, 10), (-10, -10), (0, 0)],
    ids=["pixels of another size", "rows run north", "columns run west", "no size"],
)
def test_tiles_that_cover_other_ground_from_the_same_corner_are_refused(tmp_path, width, height):
    rng = np.random.default_rng(0)
    images = {"S1": fake_db(rng), "S2": fake_dn(rng)}
    for name, image in images.items():
        with rasterio.open(write_tiff(tmp_path / "p1" / f"{name}.tif", image), "r+") as dataset:
            dataset.crs = "EPSG:32633"
            dataset.transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    layouts.read_location(*layouts.list_tiles(tmp_path, {"s1": "S1*.tif", "s2": "S2*.tif"}), 1, NOL)
    with rasterio.open(tmp_path / "p1" / "S2.tif", "r+") as dataset:
        dataset.transform = rasterio.Affine(width, 0, 500_000, 0, height, 5_000_000)
    (location,) = layouts.list_tiles(tmp_path, {"s1": "S1*.tif", "s2": "S2*.tif"})
    with pytest.raises(ValueError, match=r"p1: .*S2\.tif and .*S1\.tif do not cover the same ground$"):
        layouts.read_location(location, 1, NOL)
