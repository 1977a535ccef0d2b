"""The published transfer layout, and the door to the parts of a transfer set."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from published_lmdb import Evil, make_images, write_published, write_raw, write_transfer

from cromss.datasets import check_alignment
from cromss.legends import DFC2020, DW, OSM
from cromss.store import (
    LmdbReader,
    LmdbWriter,
    PublishedReader,
    PublishedTransferReader,
    StoreError,
    StoreMeta,
    open_part,
)

IDS = ["-0.0520777954_32.9493499204-20190816.tif", "100.5_-6.8-20190226", "1.25_2.5-20181231.tif_3_0"]
NAMES = ["-0.0520777954_32.9493499204-20190816", "100.5_-6.8-20190226", "1.25_2.5-20181231_3_0"]


def make_part(keys=("s1", "s2", "osm", "dw"), radar="float32", sizes=((5, 4), (5, 4), (7, 6))):
    """Arrays of a part by key, of three locations."""
    rng = np.random.default_rng(0)
    draw = {
        "s1": lambda size: rng.normal(-12, 6, (2, *size)).astype(radar),
        "s2": lambda size: rng.integers(0, 10_000, (13, *size), dtype=np.uint16),
        "lbl": lambda size: rng.choice(np.array([0, 7, 255], np.uint8), size),
        "dw": lambda size: rng.integers(0, 11, size, dtype=np.uint8),
        "osm": lambda size: rng.integers(0, 14, size, dtype=np.uint8),
    }
    return {key: [draw[key](size) for size in sizes] for key in keys}


def lookup(raw, codes):
    """Class ids as the published loaders make them, pixel by pixel."""
    return np.array([[codes.get(int(code), 255) for code in row] for row in raw], np.uint8)


DW_CODES = {code: code - 1 for code in range(1, 10)}
OSM_CODES = {code: code - 1 for code in range(1, 14)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("ids", [IDS, None])
@pytest.mark.parametrize("radar", ["float32", "float64"])
def test_images_are_read_as_they_are(tmp_path, protocol, ids, radar):
    arrays = make_part(("s1", "s2", "lbl"), radar)
    part = write_transfer(tmp_path / "p", arrays, ids, protocol)
    for modality, dtype, unit in (("s1", radar, "dB"), ("s2", "uint16", "DN")):
        reader = open_part(part, modality)
        assert (len(reader), reader.num_seasons, reader.bytes_read) == (3, 1, 0)
        assert (reader.meta.modality, reader.meta.dtype, reader.meta.unit) == (modality, dtype, unit)
        assert (reader.meta.num_seasons, reader.meta.bands, reader.meta.legend) == (1, (), "")
        assert reader.location_ids() == (NAMES if ids else ["p0", "p1", "p2"])
        for index, expected in enumerate(arrays[modality]):
            for array in (reader.read(index, 0), reader.read_seasons(index)[0]):
                np.testing.assert_array_equal(array, expected)
                assert array.dtype == np.dtype(dtype)
                assert array.flags.aligned
            owned = reader.read(np.int64(index), 0)
            assert owned.flags.owndata
            assert owned.flags.writeable
        assert reader.bytes_read == 3 * sum(array.nbytes for array in arrays[modality])


@pytest.mark.parametrize("leading", [(), (1,)])
@pytest.mark.parametrize(
    ("key", "legend", "codes"),
    [("dw", DW, DW_CODES), ("osm", OSM, OSM_CODES), ("lbl", None, {0: 0, 7: 7})],
)
def test_labels_become_class_ids(tmp_path, key, legend, codes, leading):
    arrays = make_part(("s2", key))
    arrays[key] = [array.reshape(*leading, *array.shape) for array in arrays[key]]
    part = write_transfer(tmp_path / "p", arrays, IDS)
    reader = open_part(part, "labels", key, legend and legend.to_class_ids)
    assert (reader.meta.modality, reader.meta.dtype, reader.meta.unit) == ("labels", "uint8", "class id")
    assert reader.meta.legend == (legend or DFC2020).name
    assert reader.location_ids() == NAMES
    for index, raw in enumerate(arrays[key]):
        expected = lookup(raw.reshape(raw.shape[-2:]), codes)
        np.testing.assert_array_equal(reader.read(index, 0), expected)
        np.testing.assert_array_equal(reader.read_seasons(index), expected[np.newaxis])
        assert reader.read(index, 0).flags.writeable


def test_an_osm_part_has_two_kinds_of_labels(tmp_path):
    arrays = make_part()
    part = write_transfer(tmp_path / "osm_train_lmdb", arrays, IDS)
    stores = {
        "s1": open_part(part, "s1"),
        "s2": open_part(part, "s2", "osm", OSM.to_class_ids),  # labels alone have codes
        "osm": open_part(part, "labels", "osm", OSM.to_class_ids),
        "dw": open_part(part, "labels", "dw", DW.to_class_ids),
    }
    check_alignment(stores)
    np.testing.assert_array_equal(stores["dw"].read(2, 0), lookup(arrays["dw"][2], DW_CODES))
    np.testing.assert_array_equal(stores["s2"].read(2, 0), arrays["s2"][2])
    np.testing.assert_array_equal(stores["osm"].read(2, 0), lookup(arrays["osm"][2], OSM_CODES))


def test_more_than_ten_locations_are_in_numeric_order(tmp_path):
    images = list(make_images(23, (3, 2)))
    reader = open_part(write_transfer(tmp_path / "p", {"lbl": images, "s2": []}), "labels", "lbl")
    assert reader.location_ids() == [f"p{i}" for i in range(23)]
    for index, image in enumerate(images):
        np.testing.assert_array_equal(reader.read(index, 0), image)


def test_another_date_is_another_location(tmp_path):
    part = write_transfer(tmp_path / "p", make_part(("s1", "dw")), IDS)
    later = make_part(("s1",))["s1"][0]
    write_raw(part, [("s1_1", pickle.dumps((later.tobytes(), later.shape, "s1_100.5_-6.8-20190228.tif")))])
    with pytest.raises(ValueError, match=r"location 1 is '100\.5_-6\.8-20190228' in one, '100\.5_-6\.8-20190226'"):
        check_alignment({"s1": open_part(part, "s1"), "labels": open_part(part, "labels", "dw")})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dw_a", "a"), ("dw_a.tif", "a"), ("a", "a"), ("s1_a", "s1_a"), ("dw_", "dw_"), (12, "0000012")],
)
def test_other_ids(tmp_path, name, expected):
    part = write_raw(tmp_path / "p", [("dw_0", pickle.dumps((bytes(6), (2, 3), name)))])
    assert open_part(part, "labels", "dw").location_id(0) == expected


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_positions_outside_are_an_index_error(tmp_path, index):
    reader = open_part(write_transfer(tmp_path / "p", make_part()), "s1")
    for call in (lambda: reader.read(index, 0), lambda: reader.read_seasons(index), lambda: reader.location_id(index)):
        with pytest.raises(IndexError, match=r"p: no location -?\d+; there are 3"):
            call()
    with pytest.raises(IndexError, match="no season 1; there are 1"):
        reader.read(0, 1)


@pytest.mark.parametrize("code", [11, 14, 255, 200])
def test_codes_outside_the_legend_name_store_and_key(tmp_path, code):
    arrays = make_part(("dw",))
    arrays["dw"][1][2, 3] = code
    reader = open_part(write_transfer(tmp_path / "p", arrays, IDS), "labels", "dw", DW.to_class_ids)
    if code == 255:
        assert reader.read(1, 0)[2, 3] == 255
        return
    for call in (lambda: reader.read(1, 0), lambda: reader.read_seasons(1)):
        with pytest.raises(ValueError, match=rf"/p: key dw_1: label codes outside the DW legend: {code} "):
            call()
    np.testing.assert_array_equal(reader.read(0, 0), lookup(arrays["dw"][0], DW_CODES))


def floats(shape, dtype="float32"):
    return pickle.dumps((np.zeros(shape, dtype).tobytes(), shape))


UNLIKE_THE_FIRST = {
    "float64 after float32": ("s1", floats((2, 5, 4), "float64"), r"of float64, expected \(2, 'H', 'W'\) of float32"),
    "three bands after two": ("s1", floats((3, 5, 4)), r"shape \(3, 5, 4\) of float32, expected \(2, 'H', 'W'\)"),
    "uint8 radar": ("s1", floats((2, 5, 4), "uint8"), "takes 160 bytes of float32 or 320 bytes of float64, .* has 40"),
    "float optical": ("s2", floats((13, 5, 4)), "takes 520 bytes of uint16, the record has 1040"),
    "12 bands after 13": ("s2", floats((12, 5, 4), "uint16"), r"shape \(12, 5, 4\)"),
    "flat image": ("s2", floats((5, 4), "uint16"), "not 3 positive integers"),
    "wide labels": ("dw", floats((5, 4), "uint16"), "takes 20 bytes of uint8, the record has 40"),
    "labels of two bands": ("dw", floats((2, 5, 4), "uint8"), r"shape \(2, 5, 4\) of uint8, expected \('H', 'W'\)"),
    "no pickle": ("dw", b"x", "opcode"),
    "code": ("s1", pickle.dumps((Evil(os.system, "false"), (2, 5, 4))), "names 'posix' 'system', which is not allowed"),
}


@pytest.mark.parametrize(("key", "value", "line"), UNLIKE_THE_FIRST.values(), ids=UNLIKE_THE_FIRST)
def test_records_unlike_the_first(tmp_path, key, value, line):
    part = write_transfer(tmp_path / "p", make_part(("s1", "s2", "dw")))
    write_raw(part, [(f"{key}_1", value)])
    reader = open_part(part, "labels" if key == "dw" else key, "dw")
    assert reader.read(2, 0).shape[-2:] == (7, 6)
    with pytest.raises(StoreError, match=rf"p: key {key}_1: .*{line}") as caught:
        reader.read(1, 0)
    assert "\n" not in str(caught.value)


def test_labels_have_one_band(tmp_path):
    part = write_transfer(tmp_path / "p", {"dw": [np.zeros((2, 5, 4), np.uint8)]})
    with pytest.raises(StoreError, match=r"key dw_0: shape \(2, 5, 4\), expected \(H, W\) or \(1, H, W\)"):
        open_part(part, "labels", "dw")


@pytest.mark.parametrize(
    ("removed", "line"), [("s1_0", "no key s1_0, but 2 others up to s1_2"), ("s1_1", "no key s1_1")]
)
def test_holes_are_refused(tmp_path, removed, line):
    part = write_raw(write_transfer(tmp_path / "p", make_part()), [(removed, None)])
    with pytest.raises(StoreError, match=line):
        open_part(part, "s1")
    assert len(open_part(part, "s2")) == 3


def test_holes_of_two_keys_that_make_up_for_each_other_are_refused(tmp_path):
    holes = {"s1": {8}, "s2": {3, 5, 6, 7, 9, 10, 11}}
    images = {"s1": np.zeros((2, 3, 3), np.float32), "s2": np.zeros((13, 3, 3), np.uint16)}
    part = write_transfer(tmp_path / "p", {key: [image] * 16 for key, image in images.items()})
    write_raw(part, [(f"{key}_{number}", None) for key, numbers in holes.items() for number in numbers])
    for key, line in (("s1", "no key s1_8, but 15 others up to s1_15"), ("s2", "no key s2_3, but 9 others")):
        with pytest.raises(StoreError, match=line):
            open_part(part, key)


def test_foreign_keys_do_no_harm(tmp_path):
    part = write_transfer(tmp_path / "p", make_part())
    write_raw(part, [(key, b"x") for key in ("s1_x", "s1_01", "s1_", "s1", "s10_0", "length", "s1_-1", "s1_1 ")])
    assert len(open_part(part, "s1")) == 3


def test_a_key_that_is_not_there(tmp_path):
    part = write_transfer(tmp_path / "p", make_part(("s2", "dw")))
    for modality, key in (("s1", ""), ("labels", "osm"), ("labels", "lbl")):
        with pytest.raises(
            StoreError,
            match=rf"p: no keys {key or modality}_0, .* keys dw_0 \.\.\., s2_0 \.\.\.; give the LMDB that has them$",
        ):
            open_part(part, modality, key)
    with pytest.raises(StoreError, match=r"an LMDB, but none was published for this set; .* labels\.lmdb"):
        open_part(part, "labels")
    with pytest.raises(StoreError, match="holds s1, s2, labels, but 'ortho' is wanted"):
        open_part(part, "ortho")


def test_truncated_part(tmp_path):
    part = write_transfer(tmp_path / "p", make_part())
    os.truncate(part / "data.mdb", (part / "data.mdb").stat().st_size - 4096)
    with pytest.raises(StoreError, match=r"p/data\.mdb: truncated"):
        open_part(part, "s1")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers(tmp_path, method):
    arrays = make_part()
    part = write_transfer(tmp_path / "p", arrays, IDS)
    readers = open_part(part, "s2"), open_part(part, "labels", "dw", DW.to_class_ids)
    readers[0].read(0, 0)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        images = [pool.submit(readers[0].read, index, 0) for index in range(3)]
        masks = [pool.submit(readers[1].read, index, 0) for index in range(3)]
        for index in range(3):
            np.testing.assert_array_equal(images[index].result(), arrays["s2"][index])
            np.testing.assert_array_equal(masks[index].result(), lookup(arrays["dw"][index], DW_CODES))
    np.testing.assert_array_equal(readers[0].read(1, 0), arrays["s2"][1])


# The door


def write_ours(folder, modality, num_seasons=1):
    meta = StoreMeta(modality, (), "uint8", num_seasons, "class id")
    with LmdbWriter(folder / f"{modality}.lmdb", meta) as writer:
        writer.write("a", np.full((num_seasons, 2, 2), 10, np.uint8))
        writer.finish()


def test_a_folder_of_our_stores(tmp_path):
    write_ours(tmp_path, "labels")
    write_ours(tmp_path, "s2", num_seasons=2)
    labels = open_part(str(tmp_path), "labels", "dw", DW.to_class_ids)
    assert isinstance(labels, LmdbReader)
    assert labels.read(0, 0).tolist() == [[10, 10], [10, 10]]  # class ids already
    assert open_part(tmp_path, "s2").num_seasons == 2
    assert isinstance(open_part(write_transfer(tmp_path / "p", make_part()), "s1"), PublishedTransferReader)


def test_the_door_says_what_it_found(tmp_path):
    with pytest.raises(StoreError, match=r"train: no such folder; a part is a folder with s2\.lmdb, or a published"):
        open_part(tmp_path / "train", "s2")
    with pytest.raises(StoreError, match=r"no s2\.lmdb in it, nor data\.mdb of a published LMDB; there is nothing"):
        open_part(tmp_path, "s2")
    write_ours(tmp_path, "labels")
    with pytest.raises(StoreError, match=r"no s2\.lmdb in it, .*; there is labels\.lmdb$"):
        open_part(tmp_path, "s2")
    with pytest.raises(StoreError, match=r"labels\.lmdb: no keys s2_0, s2_1 \.\.\. in it; it is a store of ours"):
        open_part(tmp_path / "labels.lmdb", "s2")
    with LmdbWriter(tmp_path / "s1.lmdb", StoreMeta("s1", (), "uint8", 1, "dB")) as writer:
        writer.write("a", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(StoreError, match="unfinished; run its writer again"):
        open_part(tmp_path, "s1")


def test_pretraining_stores_are_no_part(tmp_path):
    pretraining = write_published(tmp_path / "s2.lmdb", make_images(2))
    with pytest.raises(
        StoreError, match=r"s2_1 \.\.\. in it; it is a published pretraining store \(keys 0, 1 \.\.\.\)"
    ):
        open_part(pretraining, "s2")
    with pytest.raises(StoreError, match=r"s2\.lmdb: a published pretraining store; a part has stores of ours"):
        open_part(tmp_path, "s2")
    transfer = write_transfer(tmp_path / "p", make_part())
    with pytest.raises(StoreError, match=r"no keys 0, 1 .* keys dw_0 \.\.\., osm_0 \.\.\., s1_0 \.\.\., s2_0"):
        PublishedReader(transfer)
