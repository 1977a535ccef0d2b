"""One preparation: what is stored of a location, the disk estimate, and what is refused before reading."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rasterio.enums import ColorInterp
from rasters import fake_db, fake_dn, write_tiff

from cromss import preparation
from cromss.layouts import Location
from cromss.legends import NYC_MERGED, Legend
from cromss.sensors import S1, S2, quantise
from cromss.store import LmdbReader, LmdbWriter

RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
METAS = [
    preparation.image_meta("s1", "float32", 4, "test"),
    preparation.image_meta("s2", "uint8", 4, "test"),
    preparation.label_meta("NoL", 4, "test"),
]


def test_pretraining_takes_the_offset_off_and_quantises(tmp_path):
    rng = np.random.default_rng(0)
    db, dn, labels = fake_db(rng), fake_dn(rng), rng.integers(0, 9, (12, 12), np.uint8)
    path = write_tiff(tmp_path / "S2.tif", dn + np.uint16(1000))
    seasons = {"s1": [db], "s2": [dn + np.uint16(1000)], "labels": [labels]}
    location = Location("p1", {"s1": (tmp_path,), "s2": (path,), "labels": (tmp_path,)})
    made = preparation.to_pretraining(seasons, location, told=None)
    np.testing.assert_array_equal(made.seasons["s1"][0], quantise(db, S1))
    np.testing.assert_array_equal(made.seasons["s2"][0], quantise(dn, S2))
    assert made.seasons["labels"][0] is labels
    assert made.offsets == ((0, "S2.tif", 1000, "pixels"),)
    told = preparation.to_pretraining(seasons, location, told=0)
    np.testing.assert_array_equal(told.seasons["s2"][0], quantise(dn + np.uint16(1000), S2))


def test_raw_values_stay(tmp_path):
    labels = np.array([[0, 255]], np.uint8)
    seasons = {"s1": [np.array([[[-12.3]]])], "s2": [np.array([[[-3.0, 2.6, 7e4]]])], "labels": [labels]}
    made = preparation.to_raw(seasons).seasons
    assert [made[modality][0].dtype for modality in seasons] == [np.float32, np.uint16, np.uint8]
    assert made["s1"][0].item() == np.float32(-12.3)
    assert made["s2"][0].tolist() == [[[0, 3, 65535]]]
    assert made["labels"][0] is labels


def test_orthophotos_stay_8_bit():
    image = np.array([[[0.0, 127.0, 254.6]]])
    (made,) = preparation.to_raw({"ortho": [image]}).seasons["ortho"]
    assert (made.dtype, made.tolist()) == (np.uint8, [[[0, 127, 255]]])
    assert preparation.image_meta("ortho", "uint8", 1, "test").unit == "8 bit"


@pytest.mark.parametrize(
    ("name", "shift", "offset", "by"),
    [
        ("s2_-3.5_40.2-20190405", 0, 0, "pixels"),
        ("s2_-3.5_40.2-20230405", 1000, 1000, "pixels"),
        ("s2_-3.5_40.2-20190405", 9000, 0, "date"),
        ("s2_-3.5_40.2-20220124", 9000, 0, "date"),
    ],
)
def test_the_date_tells_the_offset_where_the_pixels_cannot(tmp_path, name, shift, offset, by):
    dn = fake_dn(np.random.default_rng(0))
    path = write_tiff(tmp_path / f"{name}.tif", dn + np.uint16(shift))
    location = Location("x", {"s2": (path,)})
    made = preparation.without_offset({"s2": [dn + np.uint16(shift)], "labels": []}, location, None, by_date=True)
    np.testing.assert_array_equal(made.seasons["s2"][0], dn + np.uint16(shift - offset))
    assert made.offsets == ((0, path.name, offset, by),)


@pytest.mark.parametrize(
    ("name", "shift", "message"),
    [
        ("s2_-3.5_40.2-20220125", 9000, "pixels cannot tell"),
        ("S2", 9000, "pixels cannot tell"),
        ("s2_-3.5_40.2-20190405", 1000, "pixels show a DN offset of 1000, its date is before 20220125"),
    ],
)
def test_offsets_that_nothing_or_two_things_tell_are_asked_for(tmp_path, name, shift, message):
    dn = fake_dn(np.random.default_rng(0)) + np.uint16(shift)
    location = Location("x", {"s2": (write_tiff(tmp_path / f"{name}.tif", dn),)})
    with pytest.raises(ValueError, match=f"{message}.*; say --s2_offset_ids x=0 or x=1000"):
        preparation.without_offset({"s2": [dn]}, location, None, by_date=True)


def test_pretraining_does_not_go_by_the_date(tmp_path):
    dn = fake_dn(np.random.default_rng(0)) + np.uint16(9000)
    location = Location("x", {"s2": (write_tiff(tmp_path / "20190405T101010.tif", dn),)})
    with pytest.raises(ValueError, match="pixels cannot tell"):
        preparation.to_pretraining({"s2": [dn]}, location, told=None)


def test_descriptions_name_unit_and_statistics():
    s1, s2, labels = METAS
    assert (s1.unit, s1.bands, s1.statistics["mean"]) == ("dB", S1.bands, list(S1.mean))
    assert (s2.unit, s2.statistics["std"]) == ("uint8 of mean +- 2 std", list(S2.std))
    assert (labels.legend, labels.unit, labels.num_seasons) == ("NoL", "class id", 4)


@pytest.mark.parametrize("legend", ["NYC_LIDAR", NYC_MERGED], ids=["name", "legend"])
def test_label_stores_describe_their_classes(legend):
    meta = preparation.label_meta(legend, 1, "test", "exact")
    assert (meta.modality, meta.legend, meta.dtype, meta.bands) == ("exact", "NYC_LIDAR", "uint8", ())
    assert meta.classes == ("background", "trees", "buildings", "roads")
    assert meta.colours == NYC_MERGED.colours
    assert preparation.label_meta("NoL", 1, "test").modality == "labels"


def test_legends_of_a_users_own_are_described_and_unknown_names_are_not():
    mine = Legend("mine", ("a", "b"), ("000000", "ffffff"), {7: 0, 9: 1})
    meta = preparation.label_meta(mine, 1, "test")
    assert (meta.legend, meta.classes, meta.colours) == ("mine", ("a", "b"), ("000000", "ffffff"))
    meta = preparation.label_meta("theirs", 1, "test")
    assert (meta.legend, meta.classes, meta.colours) == ("theirs", (), ())


def test_the_disk_estimate_of_the_published_set():
    metas = [preparation.image_meta(modality, "uint8", 4, "test") for modality in ("s1", "s2")]
    wanted = preparation.estimate_bytes(103_793, [*metas, METAS[2]], 264 * 264)
    pixels = 103_793 * 4 * 16 * 264 * 264
    assert pixels <= wanted <= 1.05 * pixels


@pytest.mark.parametrize("meta", METAS, ids=lambda meta: meta.modality)
def test_the_disk_estimate_covers_what_is_written(tmp_path, meta):
    shape = (max(len(meta.bands), 1), 64, 64) if meta.bands else (64, 64)
    with LmdbWriter(tmp_path / "store", meta) as writer:
        for name in "abc":
            writer.write(name, [np.zeros(shape, meta.dtype)] * 4)
        writer.finish()
    assert len(LmdbReader(tmp_path / "store")) == 3
    used = (tmp_path / "store" / "data.mdb").stat().st_size
    estimate = preparation.estimate_bytes(3, [meta], 64 * 64)
    assert used <= estimate + 20 * 4096
    assert estimate <= 2 * used


def test_the_mean_tile_is_told_by_the_headers(tmp_path):
    files = [write_tiff(tmp_path / f"{side}.tif", np.zeros((side, side), np.uint8)) for side in (4, 8)]
    (tmp_path / "torn.tif").write_bytes(b"II*")
    locations = [Location(path.stem, {"s2": (path,)}) for path in [*files, tmp_path / "torn.tif"]]
    assert preparation.mean_pixels(locations) == (16 + 64) // 2
    assert preparation.mean_pixels(locations[2:]) == 0


@pytest.fixture
def finished(tmp_path):
    """Path and description of three finished stores."""
    stores = {tmp_path / "train" / f"{meta.modality}.lmdb": meta for meta in METAS}
    for path, meta in stores.items():
        shape = (len(meta.bands), 4, 4) if meta.bands else (4, 4)
        with LmdbWriter(path, meta) as writer:
            writer.write("a", [np.zeros(shape, meta.dtype)] * 4)
            writer.finish()
    return stores


def test_finished_stores_are_left(finished, tmp_path, capsys):
    assert preparation.is_finished(finished)
    assert (
        capsys.readouterr().out
        == f"{tmp_path / 'train'}: finished already, left as it is; changed files want another --out\n"
    )
    missing = {tmp_path / "train" / "exact.lmdb": METAS[2]}
    assert not preparation.is_finished(finished | missing)
    assert not preparation.is_finished(missing)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"source": "test, first 5"},
        {"num_seasons": 2},
        {"unit": "x"},
        {"statistics": {"mean": [0.5]}},
        {"dtype": "int8"},
        {"legend": "DW"},
        {"classes": ("other", *METAS[2].classes[1:])},
        {"colours": ("000000", *METAS[2].colours[1:])},
    ],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.parametrize("whole", [True, False], ids=["all there", "one missing"])
def test_finished_stores_of_something_else_are_refused(finished, tmp_path, capsys, changed, whole):
    """A run with other settings would leave them, and its caller believe that they are as asked for."""
    path = tmp_path / "train" / "labels.lmdb"
    wanted = finished | {path: replace(METAS[2], **changed)} | ({} if whole else {tmp_path / "train" / "x": METAS[2]})
    ((name, value),) = changed.items()
    with pytest.raises(ValueError) as error:
        preparation.is_finished(wanted)
    assert str(error.value) == (
        f"{path}: finished with {name} {getattr(METAS[2], name)!r}, not {value!r}; remove it, or choose another --out"
    )
    assert capsys.readouterr().out == ""


def test_stores_from_before_classes_were_described_are_finished_all_the_same(finished, tmp_path):
    path = tmp_path / "train" / "older.lmdb"
    with LmdbWriter(path, replace(METAS[2], classes=(), colours=())) as writer:
        writer.write("a", [np.zeros((4, 4), np.uint8)] * 4)
        writer.finish()
    assert preparation.is_finished(finished | {path: METAS[2]})
    with pytest.raises(ValueError, match="finished with source 'test', not 'x'"):
        preparation.is_finished({path: replace(METAS[2], source="x")})


def test_a_folder_that_is_no_store_is_not_finished(tmp_path):
    (tmp_path / "s1.lmdb").mkdir()
    with pytest.raises(ValueError, match=r"s1\.lmdb: no data\.mdb in it"):
        preparation.is_finished({tmp_path / "s1.lmdb": METAS[0]})


@pytest.mark.parametrize(
    ("parts", "limit", "text"),
    [(("DW train",), None, "DW train"), (("a", "", "b"), None, "a, b"), (("a", ""), 3, "a, first 3")],
)
def test_sources(parts, limit, text):
    assert preparation.source_text(*parts, limit=limit) == text


def test_a_full_disk_is_seen_first(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**6, 10**6 - 5000, 5000))
    stores = {tmp_path / "out" / "s1": preparation.image_meta("s1", "uint8", 1, "test")}
    locations = [Location("a", {"s1": (tmp_path / "VV.tif",)})]
    with pytest.raises(ValueError, match=r"--out .*: 0.00 GB wanted, 0.00 GB free; choose another disk"):
        preparation.run(stores, locations, preparation.to_raw, size=264)
    assert not (tmp_path / "out").exists()


def test_incomplete_locations_are_counted_and_the_first_named():
    whole, half = {"s2": (Path("x"), Path("y"))}, {"s2": (Path("x"),)}
    locations = [Location(name, half if name in "bdefg" else whole) for name in "abcdefg"]
    with pytest.raises(ValueError, match=r"5 of 7 locations are incomplete: location b: .* location e: .*; \.\.\. \("):
        preparation.refuse_incomplete(locations, 2)
    preparation.refuse_incomplete([locations[0], locations[2]], 2)


@pytest.mark.parametrize(
    ("options", "told", "message"),
    [
        ({"descriptions": ("R", "G", "B", "NIR")}, None, "bands are R G B NIR, wanted in the order NIR R G B"),
        ({"descriptions": ("R", "G", "B", "NIR")}, ("B", "G", "R", "NIR"), "bands are R G B NIR, wanted in the order"),
        ({"colours": RGBA}, None, "say --band_order R G B NIR or --band_order NIR R G B"),
        ({"colours": RGBA}, ("B", "G", "R", "NIR"), None),
        ({"colours": (ColorInterp.gray,) * 4}, None, None),
    ],
    ids=["described", "told otherwise", "coloured", "coloured and told", "told by nothing"],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_orthophotos_of_other_bands_are_refused_before_a_store_is_begun(tmp_path, options, told, message, on_error):
    path = write_tiff(tmp_path / "a.tif", np.ones((4, 3, 3), np.uint8), **options)
    location = Location("a", {"ortho": (path,)}, {"ortho": told} if told else {})
    stores = {tmp_path / "out" / "ortho.lmdb": preparation.image_meta("ortho", "uint8", 1, "test")}
    if message and on_error == "stop":
        with pytest.raises(ValueError, match=message):
            preparation.run(stores, [location], prepare=None, on_error=on_error)
    else:
        preparation.run(stores, [location], prepare=None, on_error=on_error, dry_run=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["#1", "a\nb", " a", "a\t", ""])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_ids_that_no_file_of_splits_can_hold_are_refused(tmp_path, name, on_error):
    location, stores = Location(name, {"s2": (Path("a.tif"),) * 4}), {tmp_path / "out" / "s2.lmdb": METAS[1]}
    with pytest.raises(
        ValueError, match=r"^location '.*': an id is printable, .* begins with no #; rename it$"
    ) as error:
        preparation.run(stores, [location], prepare=None, on_error=on_error)
    assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_ids_that_no_record_can_hold_are_refused_before_anything_is_read(tmp_path, on_error):
    stores, fits = {tmp_path / "out" / "s2.lmdb": METAS[1]}, "é" * 48
    located = [Location(name, {"s2": (Path("a.tif"),) * 4}) for name in (fits, fits + "_")]
    preparation.check_listing(stores, located[:1], on_error)
    with pytest.raises(ValueError, match=r"^location 'é+_': an id is of at most 96 bytes, not 97; shorten it$"):
        preparation.run(stores, located, prepare=None, on_error=on_error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_empty_listing_is_refused(tmp_path, on_error):
    with pytest.raises(ValueError, match=r"out: no location to write into it$"):
        preparation.run({tmp_path / "out" / "s2.lmdb": METAS[1]}, [], prepare=None, on_error=on_error)
