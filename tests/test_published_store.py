"""The published pretraining layout: read like ours, in place."""

import itertools
import mmap
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import lmdb
import numpy as np
import pytest
from published_lmdb import Evil, make_images, record, write_published, write_raw

from cromss.store import LmdbReader, LmdbWriter, PublishedReader, StoreError, StoreMeta, open_store


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reader_agrees_with_ours(tmp_path, protocol):
    images = make_images(12)
    ids = [f"{7 * i:07d}" for i in range(12)]
    published = PublishedReader(write_published(tmp_path / "p.lmdb", images, ids, protocol=protocol), "s2")
    meta = StoreMeta("s2", tuple("abcdefghijklm"), "uint8", 4, published.meta.unit)
    with LmdbWriter(tmp_path / "ours.lmdb", meta) as writer:
        for location_id, image in zip(ids, images, strict=True):
            writer.write(location_id, image)
        writer.finish()
    ours = LmdbReader(tmp_path / "ours.lmdb")
    assert len(published) == len(ours) == 12
    assert published.num_seasons == ours.num_seasons == 4
    assert published.location_ids() == ours.location_ids() == ids
    for index, season in itertools.product(range(12), range(4)):
        array = published.read(index, season)
        np.testing.assert_array_equal(array, ours.read(index, season))
        assert array.flags.owndata
        assert array.flags.writeable
    assert published.bytes_read == images.nbytes
    np.testing.assert_array_equal(published.read_seasons(11), ours.read_seasons(11))
    assert published.bytes_read == images.nbytes + images[11].nbytes


@pytest.mark.parametrize(
    ("shape", "modality"), [((4, 13, 3, 3), "s2"), ((4, 2, 3, 3), "s1"), ((4, 3, 3), "labels"), ((4, 9, 3, 3), "s2")]
)
def test_modality_follows_the_shape(tmp_path, shape, modality):
    path = write_published(tmp_path / "p", make_images(2, shape))
    assert PublishedReader(path).meta.modality == modality
    assert PublishedReader(path, modality).meta.bands == ()
    assert PublishedReader(path, "my own").meta.modality == "my own"
    for other in {"s1", "s2", "labels"} - {modality}:
        with pytest.raises(StoreError, match=f"are '{modality}', but '{other}' is wanted"):
            PublishedReader(path, other)


def test_a_new_store_may_have_the_inode_of_a_lock_file_that_is_gone(tmp_path):
    old, new = (write_published(tmp_path / name, make_images(2)) for name in ("old", "new"))
    content = (new / "data.mdb").read_bytes()
    PublishedReader(old).read(0, 0)
    (old / "lock.mdb").write_bytes(content)
    (old / "lock.mdb").rename(new / "data.mdb")
    shutil.rmtree(old)
    assert PublishedReader(new).read(1, 0).shape == make_images(2)[0][0].shape


def test_keys_with_holes_are_taken_in_numeric_order(tmp_path):
    images, keys = make_images(4), [2, 10, 9, 100]
    path = write_published(tmp_path / "p", images, ids=keys, keys=keys)
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        txn.put(b"length", b"4")
    reader = PublishedReader(path)
    assert reader.location_ids() == ["0000002", "0000009", "0000010", "0000100"]
    np.testing.assert_array_equal(reader.read_seasons(1), images[2])


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 63, 64, 65, 100, 129])
def test_numbers_of_any_count_are_found_with_and_without_holes(tmp_path, count):
    records = [(str(number), record(location_id=number)) for number in range(count)]
    write_raw(tmp_path / "whole", records)
    assert PublishedReader(tmp_path / "whole").location_ids() == [f"{number:07d}" for number in range(count)]
    for hole in range(0, count, 7):
        rest = records[:hole] + records[hole + 1 :]
        write_raw(tmp_path / f"{hole}", [*rest, ("notes", b""), (f"{count - 1:07d}", b"")])
        if rest:
            ids = PublishedReader(tmp_path / f"{hole}").location_ids()
            assert ids == [f"{number:07d}" for number in range(count) if number != hole]


def test_holes_that_later_numbers_make_up_for_are_seen(tmp_path):
    numbers = [0, 1, 2, 4, 5, 6, 7, 9]
    write_raw(tmp_path / "p", [(str(number), record(location_id=number)) for number in numbers])
    assert PublishedReader(tmp_path / "p").location_ids() == [f"{number:07d}" for number in numbers]


def test_a_hole_that_another_key_makes_up_for_is_told_when_it_is_read(tmp_path):
    records = [(str(number), record()) for number in range(16) if number != 11]
    reader = PublishedReader(write_raw(tmp_path / "p", [*records, ("1x", b"")]))
    with pytest.raises(StoreError, match="p: key 11: the record is missing"):
        reader.location_ids()


def test_code_never_runs(tmp_path):
    trace = tmp_path / "trace"
    value = pickle.dumps((record(), (2, 3, 4), Evil(os.system, f"touch {trace}")))
    path = write_raw(tmp_path / "p", [("0", record()), ("1", value)])
    with pytest.raises(StoreError, match="p: key 1: opcode") as caught:
        PublishedReader(path).read(1, 0)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_records_need_an_id(tmp_path):
    path = write_raw(tmp_path / "p", [("0", pickle.dumps((bytes(24), (2, 3, 4))))])
    with pytest.raises(StoreError, match=r"p: key 0: not a tuple \(bytes, shape, id\); copy or write the LMDB again$"):
        PublishedReader(path)


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_positions_outside_are_an_index_error(tmp_path, index):
    reader = PublishedReader(write_published(tmp_path / "p", make_images(3)))
    for call in (lambda: reader.read(index, 0), lambda: reader.read_seasons(index), lambda: reader.location_id(index)):
        with pytest.raises(IndexError, match="no location"):
            call()
    with pytest.raises(IndexError, match="no season 4; there are 4"):
        reader.read(0, 4)


def test_open_store_picks_the_layout(tmp_path):
    published = write_published(tmp_path / "published", make_images(2))
    assert isinstance(open_store(published), PublishedReader)
    assert isinstance(open_store(str(published), "s2"), PublishedReader)
    with LmdbWriter(tmp_path / "ours", StoreMeta("labels", (), "uint8", 1, "class id")) as writer:
        writer.write("a", [np.zeros((2, 2), np.uint8)])
        writer.finish()
    assert isinstance(open_store(tmp_path / "ours", "labels"), LmdbReader)
    with pytest.raises(StoreError, match="is wanted"):
        open_store(tmp_path / "ours", "s1")
    with pytest.raises(StoreError, match="is wanted"):
        open_store(published, "s1")


def test_open_store_says_what_is_wrong(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no data\.mdb"):
        open_store(tmp_path / "empty")
    with pytest.raises(StoreError, match=r"no data\.mdb"):
        PublishedReader(tmp_path / "empty")
    with pytest.raises(StoreError, match=r"no keys 0, 1 \.\.\. in it; it is a published transfer set with keys s1_0 "):
        open_store(write_raw(tmp_path / "other", [("s1_0", b"x")]))
    with pytest.raises(StoreError, match="its keys are 'length', 's1_x'"):
        open_store(write_raw(tmp_path / "neither", [("length", b"4"), ("s1_x", b"x")]))
    with LmdbWriter(tmp_path / "begun", StoreMeta("labels", (), "uint8", 1, "class id")) as writer:
        writer.write("a", [np.zeros((2, 2), np.uint8)])
    for path in (tmp_path / "begun", tmp_path / "begun.partial"):
        with pytest.raises(StoreError, match="unfinished"):
            open_store(path)


def test_truncated_published_file(tmp_path):
    path = write_published(tmp_path / "p", make_images(40))
    os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size - 4096)
    with pytest.raises(StoreError, match="truncated"):
        open_store(path)


def test_errors_of_lmdb_name_store_and_key(tmp_path):
    path = write_published(tmp_path / "p", make_images(3))
    reader, data = PublishedReader(path), path / "data.mdb"
    with open(data, "r+b") as file:
        file.seek(2 * mmap.PAGESIZE)
        file.write(bytes(data.stat().st_size - 2 * mmap.PAGESIZE))
    later = data.stat().st_mtime_ns + 10**9  # some systems count it in ticks of 10 ms
    os.utime(data, ns=(later, later))
    for call in (lambda: reader.read(1, 0), lambda: reader.read_seasons(1), lambda: reader.location_id(1)):
        with pytest.raises(StoreError, match=r"p: key 1: .*MDB_CORRUPTED"):
            call()
    for call in (lambda: PublishedReader(path), lambda: open_store(path)):
        with pytest.raises(StoreError, match=r"p/data\.mdb: page \d+ is damaged"):
            call()


def test_record_of_another_shape(tmp_path):
    images = [*make_images(2), *make_images(1, (4, 12, 6, 5)), *make_images(1, (4, 13, 8, 8))]
    reader = PublishedReader(write_published(tmp_path / "p", images))
    assert reader.read(3, 0).shape == (13, 8, 8)
    with pytest.raises(StoreError, match="key 2: shape"):
        reader.read(2, 0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(tmp_path, method):
    images = make_images(3)
    reader = PublishedReader(write_published(tmp_path / "p", images))
    reader.read(0, 0)
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        np.testing.assert_array_equal(pool.submit(reader.read, 2, 1).result(), images[2, 1])
    np.testing.assert_array_equal(reader.read(1, 1), images[1, 1])


def test_read_only_copy_without_lock_file(tmp_path):
    path = write_published(tmp_path / "p", make_images(2))
    (path / "lock.mdb").unlink()
    path.chmod(0o555)
    try:
        assert len(open_store(path).read_seasons(1)) == 4
        assert os.listdir(path) == ["data.mdb"]
    finally:
        path.chmod(0o755)
