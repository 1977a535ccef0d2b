"""Patches of places: which are taken, what lies on the disk, and services that fail."""

from datetime import UTC, date, datetime

import numpy as np
import pytest
import rasterio
from archives import FakeArchive, s1_scene, s2_scene, year_archive
from rasters import fake_db, fake_dn

from cromss.downloads import NothingThere, Unavailable, written
from cromss.downloads.manifest import Entry, FileMark
from cromss.downloads.patches import PlaceFetcher, complete_places, fault, write_ids
from cromss.downloads.places import Place
from cromss.downloads.season_scenes import Rules
from cromss.offset import metadata_offset
from cromss.scene_names import read_ids

PLACE = Place("0000007", 11.5, 48.1)
SEASONS = (date(2020, 3, 20), date(2020, 6, 21))
ALL = ("s1", "s2", "labels")


def fetcher(archive, folder, seasons=SEASONS, modalities=ALL, size=12, **rules):
    return PlaceFetcher(archive, folder, seasons, modalities, Rules(**rules), size, attempts=2, pause=0.0)


def scenes(folder, part):
    return sorted(path.name for path in (folder / part / PLACE.id).iterdir())


def test_the_layout_on_the_disk(tmp_path):
    marks = fetcher(year_archive(), tmp_path)(PLACE)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {mark.path for mark in marks}
    assert len(files) == 2 * (2 + 13 + 1)
    assert scenes(tmp_path, "s2c") == scenes(tmp_path, "labels")
    for path in tmp_path.rglob("*.tif"):
        with rasterio.open(path) as dataset:
            kind = path.relative_to(tmp_path).parts[0]
            assert dataset.crs.to_epsg() == 32632
            assert (dataset.count, dataset.shape) == (1, (12, 12))
            assert dataset.dtypes[0] == {"s1": "float32", "s2c": "uint16", "labels": "uint8"}[kind]
            assert dataset.tags()["ID"].endswith(f"/{path.parent.name}")
            assert dataset.nodata is None
            west, south, east, north = dataset.bounds
            x, y = rasterio.warp.transform("EPSG:4326", dataset.crs, [PLACE.lon], [PLACE.lat])
            assert abs((west + east) / 2 - x[0]) <= 5.001
            assert abs((south + north) / 2 - y[0]) <= 5.001


def test_the_offset_is_decided_by_the_metadata(tmp_path):
    fetcher(year_archive(), tmp_path)(PLACE)
    for scene in (tmp_path / "s2c" / PLACE.id).iterdir():
        assert metadata_offset(scene) == 0
        with rasterio.open(scene / "B2.tif") as dataset:
            assert dataset.tags()["PROCESSING_BASELINE"] == "05.00"


def test_pixels_come_through_unchanged(tmp_path):
    archive = FakeArchive([s2_scene("20200620")], [s1_scene("20200622")])
    job = fetcher(archive, tmp_path, SEASONS[1:])
    drawn = {}

    def kept(product, scene, grid):
        drawn[product.folder] = FakeArchive.pixels(archive, product, scene, grid)
        return drawn[product.folder]

    archive.pixels = kept
    for mark in job(PLACE):
        folder, _, scene, name = mark.path.split("/")
        bands = [path.name for path in sorted((tmp_path / folder / PLACE.id / scene).iterdir())]
        assert name in bands
    for folder, order in (("s1", ("VV", "VH")), ("s2c", ("B1", "B2", "B8A", "B12")), ("labels", ("label",))):
        index = {"B1": 0, "B2": 1, "B8A": 8, "B12": 12, "VV": 0, "VH": 1, "label": 0}
        (scene,) = (tmp_path / folder / PLACE.id).iterdir()
        for band in order:
            with rasterio.open(scene / f"{band}.tif") as dataset:
                np.testing.assert_array_equal(dataset.read(1), drawn[folder][index[band]])


def test_scenes_that_do_not_cover_the_patch_make_way_for_the_next(tmp_path):
    s2 = [s2_scene("20200620", 1), s2_scene("20200625", 2), s2_scene("20200610", 3)]
    s1 = [s1_scene("20200625"), s1_scene("20200626")]
    archive = FakeArchive(s2, s1, holes={s2[0].name, s1[0].name})
    fetcher(archive, tmp_path, SEASONS[1:])(PLACE)
    assert scenes(tmp_path, "s2c") == [s2[1].name]
    assert scenes(tmp_path, "s1") == [s1[1].name]


def test_seasons_never_share_a_sentinel_1_scene(tmp_path):
    s2 = [s2_scene("20200401"), s2_scene("20200404")]
    s1 = [s1_scene("20200403"), s1_scene("20200410")]
    seasons = (date(2020, 4, 1), date(2020, 4, 4))
    fetcher(FakeArchive(s2, s1), tmp_path, seasons, window_days=1)(PLACE)
    assert scenes(tmp_path, "s1") == [scene.name for scene in s1]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (FakeArchive(), "2020-06-21: no Sentinel-2 scene with labels under 20 % cloud"),
        (FakeArchive([s2_scene("20200620", 20)]), "no Sentinel-2 scene with labels under 20 % cloud"),
        (FakeArchive([s2_scene("20200620")], labelled=()), "no Sentinel-2 scene with labels"),
        (FakeArchive([s2_scene("20200801")], [s1_scene("20200801")]), "no Sentinel-2 scene with labels"),
        (FakeArchive([s2_scene("20200620")]), "2020-06-21: no Sentinel-1 scene within 12 days of Sentinel-2"),
        (FakeArchive([s2_scene("20200620")], [s1_scene("20200710")]), "no Sentinel-1 scene within 12 days"),
        (
            FakeArchive([s2_scene("20200620")], [s1_scene("20200620")], holes={s1_scene("20200620").name}),
            "Sentinel-1.*: no scene covers the patch",
        ),
        (
            FakeArchive([s2_scene("20200620")], [s1_scene("20200620")], holes={s2_scene("20200620").name}),
            "Dynamic World: cloud over the whole patch",
        ),
    ],
)
def test_places_without_a_scene_say_why_and_leave_nothing(tmp_path, archive, reason):
    with pytest.raises(NothingThere, match=reason):
        fetcher(archive, tmp_path, SEASONS[1:])(PLACE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("modalities", "folders"), [(("s1",), ["s1"]), (("s2",), ["s2c"]), (ALL[1:], ["labels", "s2c"])]
)
def test_other_modalities_are_not_asked_for(tmp_path, modalities, folders):
    archive = year_archive(labelled=None if "labels" in modalities else ())
    fetcher(archive, tmp_path, modalities=modalities)(PLACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    assert archive.calls["pixels"] == 2 * len(modalities)


def test_one_request_is_tried_again_not_the_whole_place(tmp_path):
    archive = year_archive()
    archive.errors = [Unavailable("busy", wait=0)]
    fetcher(archive, tmp_path)(PLACE)
    assert archive.calls == {"scenes": 7, "pixels": 6}
    with pytest.raises(Unavailable, match="busy"):
        fetcher(year_archive(errors=[Unavailable("busy", wait=0)] * 2), tmp_path)(PLACE)


def test_other_scenes_in_the_folder_are_left_alone(tmp_path):
    other = tmp_path / "s1" / PLACE.id / "S1A_IW_GRDH_1SDV_20190101T000000" / "VV.tif"
    with written(other) as partial:
        partial.write_bytes(b"of somebody")
    with pytest.raises(ValueError, match="holds S1A_IW_GRDH_1SDV_20190101T000000, which is no scene of this place"):
        fetcher(year_archive(), tmp_path)(PLACE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


def test_what_is_taken():
    rng = np.random.default_rng(0)
    dn, db = fake_dn(rng), fake_db(rng)
    assert (fault("s2", dn), fault("s1", db), fault("labels", np.full((1, 4, 4), 8, np.uint8))) == ("", "", "")
    for spoilt in (0, 65535):
        holed = dn.copy()
        holed[:, 3, 4] = spoilt
        assert "covers the patch" in fault("s2", holed)
    dark = dn.copy()
    dark[10:, :6] = 0
    assert fault("s2", dark) == ""  # water in the short-wave infrared
    for spoilt in (np.nan, np.inf, -9999):
        holed = db.copy()
        holed[1, 0, 0] = spoilt
        assert "covers the patch" in fault("s1", holed)
    assert "no writer takes" in fault("s1", 10 ** (db / 10))
    assert "no writer takes" in fault("s2", dn + np.uint16(1000))
    with pytest.raises(ValueError, match=r"a label is 9, wanted are 0\.\.8"):
        fault("labels", np.full((1, 4, 4), 9, np.uint8))


def test_pixels_of_another_shape_are_refused(tmp_path):
    archive = year_archive()
    archive.pixels = lambda product, scene, grid: np.zeros((1, 5, 5), np.uint8)
    with pytest.raises(ValueError, match=r"came as \(1, 5, 5\), wanted \(1, 12, 12\)"):
        fetcher(archive, tmp_path)(PLACE)


def test_ids_are_read_back(tmp_path):
    marks = [FileMark(f"s2c/7/{day}T1_x/B1.tif", 1, "") for day in ("20200620", "20200320")]
    marks.append(FileMark("s1/7/S1A_20200101/VV.tif", 1, ""))
    entries = {str(PLACE): Entry(str(PLACE), "done", tuple(marks)), "x": Entry("x", "failed")}
    told = complete_places(entries, [PLACE, Place("8", 0, 0)], ALL)
    assert told == {PLACE.id: ["20200320T1_x", "20200620T1_x"]}
    write_ids(tmp_path / "ids.csv", told, 2)
    assert (tmp_path / "ids.csv").read_text().splitlines()[0] == "id,season1,season2"
    assert read_ids(tmp_path / "ids.csv") == {PLACE.id: ("20200320T1_x", "20200620T1_x")}


def test_the_fake_keeps_to_the_window():
    start, end = datetime(2020, 6, 1, tzinfo=UTC), datetime(2020, 6, 11, tzinfo=UTC)
    assert len(year_archive().scenes("COPERNICUS/S2_HARMONIZED", 0, 0, start, end)) == 2
