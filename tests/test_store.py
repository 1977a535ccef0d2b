"""The LMDB store: exact, resumable, atomic, and honest about damage."""

import copy
import gc
import hashlib
import json
import mmap
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import lmdb
import numpy as np
import pytest
from stores import META, make_ids, make_images, manifest_of, raw_get, raw_put, write_store

from cromss.store import LmdbReader, LmdbWriter, StoreError, StoreMeta, environment, open_store, views
from cromss.store.meta import DTYPES
from cromss.store.record import pack_record


@pytest.fixture
def images():
    return make_images(9)


@pytest.fixture
def store(tmp_path, images):
    return write_store(tmp_path / "s1.lmdb", images)


# What is written is read


def test_round_trip(store, images):
    reader = LmdbReader(store, "s1")
    assert (len(reader), reader.num_seasons, reader.meta) == (9, 4, META)
    assert reader.location_ids() == [reader.location_id(i) for i in range(9)] == make_ids(9)
    for index in range(9):
        np.testing.assert_array_equal(reader.read_seasons(index), images[index])
        for season in range(4):
            np.testing.assert_array_equal(reader.read(np.int64(index), season), images[index, season])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_and_byte_order(tmp_path, dtype, order):
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.dtype(dtype).newbyteorder(order))
    with LmdbWriter(tmp_path / "x", StoreMeta("x", (), dtype, 2, "none")) as writer:
        writer.write("é" * 48, values)
        writer.finish()
    reader = LmdbReader(tmp_path / "x")
    for array in (reader.read_seasons(0), reader.read(0, 1)):
        assert array.dtype == np.dtype(dtype)
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(reader.read_seasons(0), values)
    assert reader.location_id(0) == "é" * 48


def test_arrays_need_not_be_contiguous_nor_of_one_size(tmp_path):
    first, second = make_images(1)[0], np.ones((4, 2, 3, 3), np.uint8)
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", first.swapaxes(2, 3))
        writer.write("b", second)
        writer.finish()
    np.testing.assert_array_equal(LmdbReader(tmp_path / "x").read_seasons(0), first.swapaxes(2, 3))
    np.testing.assert_array_equal(LmdbReader(tmp_path / "x").read_seasons(1), second)


def test_bytes_read(store):
    reader, record = LmdbReader(store), 128 + 2 * 5 * 7
    assert reader.bytes_read == 0
    reader.read(3, 1)
    assert reader.bytes_read == record
    reader.read_seasons(4)
    reader.location_ids()
    assert reader.bytes_read == 5 * record


def test_manifest_describes_the_store(store, images):
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["entries"] == 9 * 5 + 1
    assert manifest["bytes"] == images.nbytes + 36 * 128
    assert manifest["meta"] == json.loads(raw_get(store, b"__meta__"))
    assert manifest["meta"]["ids_sha256"] == hashlib.sha256("\n".join(make_ids(9)).encode()).hexdigest()
    digest = hashlib.sha256()
    for index in range(9):
        for season in range(4):
            key = f"{index:08d}/{season}".encode()
            digest.update(key + raw_get(store, key)[:128])
    assert manifest["checksum"] == digest.hexdigest()
    assert sorted(os.listdir(store)) == ["data.mdb", "manifest.json"]


def test_twenty_thousand_records(tmp_path):
    tiny = np.zeros((1, 1, 1), np.uint8)
    with LmdbWriter(tmp_path / "x", StoreMeta("labels", (), "uint8", 1, "class id"), batch_size=5000) as writer:
        for index in range(20_000):
            writer.write(str(index), tiny + index % 9)
        writer.finish()
    reader = LmdbReader(tmp_path / "x")
    assert len(reader) == 20_000
    assert reader.location_ids() == [str(index) for index in range(20_000)]
    assert reader.read(19_999, 0).item() == 19_999 % 9
    assert len(json.dumps(manifest_of(tmp_path / "x"))) < 1000


@pytest.mark.parametrize("index", [-1, 9, 10**9])
def test_positions_outside_are_an_index_error(store, index):
    reader = LmdbReader(store)
    for call in (lambda: reader.read(index, 0), lambda: reader.read_seasons(index), lambda: reader.location_id(index)):
        with pytest.raises(IndexError, match=r"s1\.lmdb: no location -?\d+; there are 9"):
            call()
    for season in (-1, 4):
        with pytest.raises(IndexError, match=f"no season {season}; there are 4"):
            reader.read(0, season)


# Many processes, many threads


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers(store, images, method):
    readers = LmdbReader(store), LmdbReader(store)
    readers[0].read(0, 0)
    for _epoch in range(2 if method == "fork" else 1):
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            futures = [pool.submit(reader.read_seasons, index) for reader in readers for index in range(9)]
            for future, image in zip(futures, [*images, *images], strict=True):
                np.testing.assert_array_equal(future.result(), image)
        np.testing.assert_array_equal(readers[1].read_seasons(2), images[2])


def test_a_pickled_reader_is_small_and_absolute(store, images, monkeypatch, tmp_path):
    monkeypatch.chdir(store.parent)
    reader = LmdbReader(store.name)
    reader.read(0, 0)
    assert len(pickle.dumps(reader)) < 2000
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(copy.deepcopy(reader).read(1, 1), images[1, 1])


def test_threads(store, images):
    environment._environments.clear()
    reader = LmdbReader(store)
    environment._environments.clear()
    with ThreadPoolExecutor(8) as pool:
        for index, array in enumerate(pool.map(reader.read_seasons, [i % 9 for i in range(200)])):
            np.testing.assert_array_equal(array, images[index % 9])


def test_views_are_of_the_pages_in_their_block_and_thread_alone(store, images, tmp_path):
    others = make_images(3, seed=1)
    reader, other = LmdbReader(store), LmdbReader(write_store(tmp_path / "other.lmdb", others))
    with views():
        with views():
            given = reader.read(2, 1), other.read(0, 3)
        again = reader.read(2, 1)
        assert np.shares_memory(given[0], again)
        assert not any(view.flags.writeable or view.flags.owndata for view in (*given, again))
        np.testing.assert_array_equal(given[0], images[2, 1])
        np.testing.assert_array_equal(given[1], others[0, 3])
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(reader.read, 2, 1).result().flags.owndata
        assert reader.read_seasons(2).flags.owndata
    assert reader.read(2, 1).flags.writeable


def test_what_goes_wrong_in_a_block_of_views_ends_with_it(store, images):
    raw_put(store, b"00000003/1", None)
    raw_put(store, b"00000003/9", b"")
    reader = LmdbReader(store)
    for _ in range(2):
        with pytest.raises(StoreError, match="index 3, season 1: the record is missing"), views():
            reader.read(3, 1)
        np.testing.assert_array_equal(reader.read(0, 0), images[0, 0])
    environment._environments[os.path.realpath(store)][1].close()
    with pytest.raises(StoreError, match=r"s1\.lmdb: index 3: cannot be read"), views():
        reader.read(3, 0)


def test_a_record_that_spoils_its_transaction_spoils_no_other_read_in_the_block(store, images, monkeypatch):
    reader = LmdbReader(store)
    with views():
        given = reader.read(0, 0)
        spoilt = environment._views.transactions.popitem()[1]
        monkeypatch.setattr(spoilt, "get", lambda key: (_ for _ in ()).throw(lmdb.BadTxnError("MDB_BAD_TXN")))
        environment._views.transactions[environment._environments[os.path.realpath(store)][1]] = spoilt
        with pytest.raises(StoreError, match=r"index 3, season 0: MDB_BAD_TXN"):
            reader.read(3, 0)
        np.testing.assert_array_equal(reader.read(4, 0), images[4, 0])
        np.testing.assert_array_equal(given, images[0, 0])


def test_a_process_that_is_forked_in_a_block_of_views_reads_anew(store, images):
    reader = LmdbReader(store)
    with views():
        given = reader.read(0, 0)
        child = os.fork()
        if not child:
            fine = np.array_equal(reader.read(1, 0), images[1, 0])
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(given, images[0, 0])
        np.testing.assert_array_equal(reader.read(2, 0), images[2, 0])


def test_a_store_replaced_under_its_name_is_read_anew(store):
    LmdbReader(store).read(0, 0)
    shutil.rmtree(store)
    images = make_images(5, seed=1)
    reader = LmdbReader(write_store(store, images))
    np.testing.assert_array_equal(reader.read_seasons(0), images[0])
    assert len(reader) == 5


def test_files_of_stores_that_are_gone_are_closed(tmp_path, images):
    for i in range(3):
        gone = write_store(tmp_path / f"{i}.lmdb", images)
        LmdbReader(gone).read(0, 0)
        shutil.rmtree(gone)
    LmdbReader(write_store(tmp_path / "s1.lmdb", images)).read(0, 0)
    gc.collect()
    opened = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert {path for path in opened if path.startswith(str(tmp_path))} == {str(tmp_path / "s1.lmdb" / "data.mdb")}


def test_read_only_folder(store):
    store.chmod(0o555)
    try:
        LmdbReader(store).read(0, 0)
        assert sorted(os.listdir(store)) == ["data.mdb", "manifest.json"]
    finally:
        store.chmod(0o755)


# What a reader refuses


@pytest.mark.parametrize("position", [0, 4, 8, 12, 13, 14, 15, 16, 33, 127, 128, 197])
def test_a_flipped_byte_is_found(store, images, position):
    value = bytearray(raw_get(store, b"00000003/1"))
    assert len(value) == 198
    value[position] ^= 0x10
    raw_put(store, b"00000003/1", bytes(value))
    reader = LmdbReader(store)
    with pytest.raises(StoreError, match=r"s1\.lmdb: index 3, season 1: (damaged|not an array)"):
        reader.read(3, 1)
    with pytest.raises(StoreError, match="index 3, season 1"):
        reader.read_seasons(3)
    np.testing.assert_array_equal(reader.read(3, 0), images[3, 0])


def flip_last_byte(store, index, season):
    key = b"%08d/%d" % (index, season)
    raw_put(store, key, (value := raw_get(store, key))[:-1] + bytes([value[-1] ^ 0x10]))


def test_every_record_is_checked_until_it_was_found_sound(store, images):
    reader = LmdbReader(store)
    for index in (3, 4):
        np.testing.assert_array_equal(reader.read_seasons(index), images[index])
    environment.forget_environment(os.path.realpath(store))
    for index, season in product(range(9), range(4)):
        flip_last_byte(store, index, season)
    for _, index, season in product(range(2), (0, 1, 2, 5, 6, 7, 8), range(4)):
        with pytest.raises(StoreError, match=f"index {index}, season {season}: damaged values"):
            reader.read(index, season)
    for index in (3, 4):
        reader.read_seasons(index)
        with pytest.raises(StoreError, match=f"index {index}, season 0: damaged values"):
            LmdbReader(store).read_seasons(index)


@pytest.mark.parametrize("opener", [LmdbReader, open_store])
def test_checksums_can_be_switched_off(store, images, opener):
    for position, index in ((197, 3), (40, 4)):
        value = bytearray(raw_get(store, b"%08d/1" % index))
        value[position] ^= 0x10
        raw_put(store, b"%08d/1" % index, bytes(value))
    reader = opener(store, verify_checksums=False)
    damaged = images[3].copy()
    damaged[1, -1, -1, -1] ^= 0x10
    np.testing.assert_array_equal(copy.deepcopy(reader).read(3, 1), damaged[1])
    np.testing.assert_array_equal(reader.read_seasons(3), damaged)
    with pytest.raises(StoreError, match="index 4, season 1: damaged header"):
        reader.read(4, 1)


def wipe_pages(store):
    """Zero all but the two meta pages: the file opens, and LMDB finds no tree in it."""
    data = store / "data.mdb"
    with open(data, "r+b") as file:
        file.seek(2 * mmap.PAGESIZE)
        file.write(bytes(data.stat().st_size - 2 * mmap.PAGESIZE))


def test_errors_of_lmdb_name_store_and_index(store):
    reader = LmdbReader(store)
    environment._environments[os.path.realpath(store)][1].close()
    with pytest.raises(StoreError, match=r"s1\.lmdb: index 3: cannot be read"):
        reader.read(3, 0)
    environment._environments.clear()
    reader = LmdbReader(store)
    wipe_pages(store)
    for call in (lambda: reader.read(3, 0), lambda: reader.read_seasons(3), lambda: reader.location_id(3)):
        with pytest.raises(StoreError, match=r"s1\.lmdb: index 3, season 0: .*page \d+ is damaged"):
            call()
    for call in (reader.location_ids, lambda: LmdbReader(store)):
        gc.collect()  # tracebacks of the errors above may still hold the environment
        with pytest.raises(StoreError, match=r"s1\.lmdb.*(page \d+ is damaged|MDB_CORRUPTED)"):
            call()


def test_missing_record_and_wrong_dtype(store):
    raw_put(store, b"00000003/1", None)
    raw_put(store, b"00000003/9", b"")
    raw_put(store, b"00000004/1", pack_record("x", np.zeros((2, 5, 7), np.int8)))
    reader = LmdbReader(store)
    with pytest.raises(StoreError, match="index 3, season 1: the record is missing"):
        reader.read_seasons(3)
    with pytest.raises(StoreError, match=r"index 4, season 1: int8 of shape \(2, 5, 7\), but the store holds uint8 of"):
        reader.read(4, 1)


def test_the_id_comes_from_the_record_just_read(store):
    raw_put(store, b"00000003/0", None)
    raw_put(store, b"00000003/9", b"")
    reader = LmdbReader(store)
    reader.read(3, 1)
    assert [reader.location_id(index) for index in (3, 4)] == make_ids(9)[3:5]
    with pytest.raises(StoreError, match="index 3, season 0: the record is missing"):
        LmdbReader(store).location_id(3)


def test_damaged_ids(store):
    raw_put(store, b"__id__/00000003", b"other\xff")
    with pytest.raises(StoreError, match="damaged location ids"):
        LmdbReader(store).location_ids()


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 4200, 8191, 8192, 20_000, -4096, -1])
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_truncated_file_is_an_error_and_no_bus_error(store, size, opened_before):
    if opened_before:
        LmdbReader(store).read(0, 0)
    data = store / "data.mdb"
    os.truncate(data, size if size >= 0 else data.stat().st_size + size)
    with pytest.raises(StoreError, match=r"s1\.lmdb/data\.mdb: (truncated|cannot be opened)") as caught:
        LmdbReader(store)
    assert "\n" not in str(caught.value)


def test_wrong_modality(store):
    with pytest.raises(StoreError, match=r"s1\.lmdb: holds 's1', but 's2' is wanted"):
        LmdbReader(store, "s2")


def test_missing_empty_and_foreign_folders(store, tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        LmdbReader(tmp_path / "missing")
    with pytest.raises(StoreError, match="no such folder"):
        LmdbReader(store / "data.mdb")
    with pytest.raises(StoreError, match=r"a folder of stores, where one of them is wanted: .*s1\.lmdb"):
        LmdbReader(store.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no data\.mdb"):
        LmdbReader(tmp_path / "empty")
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        LmdbReader(store)


def test_garbage_instead_of_a_file(store):
    (store / "data.mdb").write_bytes(b"garbage" * 10_000)
    with pytest.raises(StoreError, match="cannot be opened"):
        LmdbReader(store)


def test_newer_format(store):
    manifest = manifest_of(store)
    (store / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(StoreError, match="format 2, but this version reads up to 1; update cromss"):
        LmdbReader(store)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", '{"format": null}', '{"format": 1e999}', "[" * 100_000])
def test_broken_manifest(store, content):
    (store / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json: not the JSON of a store"):
        LmdbReader(store)


HUGE_MEAN = json.dumps({"format": 1, **META.__dict__, "statistics": {"mean": [10**400]}}).encode()


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b'{"format": 1}', b'{"format": 1, "bands": 3}', b"\xff", HUGE_MEAN]
)
def test_broken_meta(store, content):
    raw_put(store, b"__meta__", content)
    with pytest.raises(StoreError, match="__meta__"):
        LmdbReader(store)


def test_manifest_of_another_store(store, tmp_path):
    other = write_store(tmp_path / "other", make_images(8))
    shutil.copy(other / "manifest.json", store)
    with pytest.raises(StoreError, match="belongs to another"):
        LmdbReader(store)
