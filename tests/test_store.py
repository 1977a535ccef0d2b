"""The LMDB store: exact, resumable, atomic, and honest about damage."""

import copy
import gc
import hashlib
import json
import mmap
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import lmdb
import numpy as np
import pytest

from cromss.store import LmdbReader, LmdbWriter, StoreError, StoreMeta, environment, open_store
from cromss.store.meta import DTYPES
from cromss.store.record import pack_record, unpack_header, unpack_record

META = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "uint8 of mean +- 2 std", statistics={"mean": [-12.5, -20.0]})


def make_images(num_locations, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_locations, 4, 2, 5, 7), dtype=np.uint8)


def make_ids(num_locations):
    return [f"{3 * i:07d}" for i in range(num_locations)]


def write_store(path, images, meta=META, **options):
    with LmdbWriter(path, meta, **options) as writer:
        for location_id, image in zip(make_ids(len(images)), images, strict=True):
            writer.write(location_id, list(image))
        writer.finish()
    return path


def raw_put(path, key, value):
    with lmdb.open(str(path), lock=False) as env, env.begin(write=True) as txn:
        txn.delete(key) if value is None else txn.put(key, value)


def raw_get(path, key):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return txn.get(key)


def manifest_of(path):
    return json.loads((path / "manifest.json").read_text())


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


def test_the_record_is_as_described(store, images):
    value = raw_get(store, b"00000002/3")
    assert value[128:] == images[2, 3].tobytes()
    assert value[:4] == b"CSLR"
    assert int.from_bytes(value[4:8], "little") == zlib.crc32(value[8:128])
    assert int.from_bytes(value[8:12], "little") == zlib.crc32(images[2, 3].tobytes())
    assert np.frombuffer(value, "<u4", 4, offset=16).tolist() == [2, 5, 7, 0]
    assert value[32:128].rstrip(b"\0").decode() == make_ids(9)[2]


def test_the_caller_may_reuse_its_array(tmp_path, images):
    buffer = np.empty_like(images[0])
    with LmdbWriter(tmp_path / "x", META) as writer:
        for location_id, image in zip(make_ids(9), images, strict=True):
            buffer[:] = image
            writer.write(location_id, buffer)
        writer.finish()
    np.testing.assert_array_equal(LmdbReader(tmp_path / "x").read_seasons(0), images[0])


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


def test_a_store_replaced_under_its_name_is_read_anew(store):
    LmdbReader(store).read(0, 0)
    shutil.rmtree(store)
    images = make_images(5, seed=1)
    reader = LmdbReader(write_store(store, images))
    np.testing.assert_array_equal(reader.read_seasons(0), images[0])
    assert len(reader) == 5


def test_read_only_folder(store):
    store.chmod(0o555)
    try:
        LmdbReader(store).read(0, 0)
        assert sorted(os.listdir(store)) == ["data.mdb", "manifest.json"]
    finally:
        store.chmod(0o755)


# Interrupted writers

WRITER = """
import sys, time
import numpy as np
from cromss.store import LmdbWriter, StoreMeta
images = np.load(sys.argv[2])
meta = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "uint8 of mean +- 2 std", statistics={"mean": [-12.5, -20.0]})
with LmdbWriter(sys.argv[1], meta, batch_size=8, map_size=1 << 15) as writer:
    print("begun", flush=True)
    for index in range(len(writer.location_ids), len(images)):
        writer.write(f"{3 * index:07d}", images[index])
        time.sleep(0.001)
    writer.finish()
"""


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    images, chance = make_images(60), random.Random(0)
    np.save(tmp_path / "images.npy", images)
    path = tmp_path / "killed.lmdb"
    command = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "images.npy")]
    kills = 0
    while not path.exists():
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begun\n"
            if kills < 4:
                time.sleep(chance.uniform(0, 0.06))
                process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills > 0
    assert manifest_of(path) == manifest_of(write_store(tmp_path / "whole.lmdb", images))
    reader = LmdbReader(path)
    for index in range(60):
        np.testing.assert_array_equal(reader.read_seasons(index), images[index])


@pytest.mark.parametrize("step", ["verify", "write_synced", "sync_folder", "os.rename"])
def test_killed_at_every_step_of_finish(tmp_path, images, monkeypatch, step):
    path = tmp_path / "x.lmdb"
    child = os.fork()
    if child == 0:
        try:
            with LmdbWriter(path, META) as writer:
                for location_id, image in zip(make_ids(9), images, strict=True):
                    writer.write(location_id, image)
                monkeypatch.setattr(f"cromss.store.writer.{step}", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                writer.finish()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with pytest.raises(StoreError, match="unfinished; run its writer again"):
        LmdbReader(path)
    with LmdbWriter(path, META) as writer:
        assert writer.location_ids == make_ids(9)
        writer.truncate(8)
        writer.write("last", images[8])
        writer.finish()
    reader = LmdbReader(path)
    assert reader.location_ids() == [*make_ids(8), "last"]
    np.testing.assert_array_equal(reader.read_seasons(8), images[8])


def test_leaving_without_finish_keeps_what_is_whole(tmp_path, images):
    def interrupted():
        with LmdbWriter(tmp_path / "x", META) as writer:
            writer.write("a", images[0])
            assert writer.location_ids == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "x").exists()
    with LmdbWriter(tmp_path / "x", META) as writer:
        assert writer.location_ids == ["a"]


@pytest.mark.parametrize("kept", [0, 1, 4, 6])
def test_truncate(tmp_path, images, kept):
    with LmdbWriter(tmp_path / "x", META, batch_size=8) as writer:
        for location_id, image in zip("abcdef", images[:6], strict=True):
            writer.write(location_id, image)
        writer.truncate(kept)
        assert writer.location_ids == list("abcdef")[:kept]
        for index in range(kept, 9):
            writer.write("abcdefghi"[index], images[index])
        writer.finish()
    assert LmdbReader(tmp_path / "x").location_ids() == list("abcdefghi")
    with LmdbWriter(tmp_path / "y", META) as writer:
        for location_id, image in zip("abcdefghi", images, strict=True):
            writer.write(location_id, image)
        writer.finish()
    assert manifest_of(tmp_path / "x") == manifest_of(tmp_path / "y")


@pytest.mark.parametrize("count", [-1, 2])
def test_truncate_refuses(tmp_path, images, count):
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
        with pytest.raises(StoreError, match="locations of 1"):
            writer.truncate(count)


def test_many_changes_of_mind_leave_a_readable_file(tmp_path):
    chance, images = random.Random(1), make_images(40)
    path, written = tmp_path / "x", 0
    for _ in range(25):
        with LmdbWriter(path, META, batch_size=chance.choice([1, 8, 64]), map_size=1 << 14) as writer:
            assert len(writer.location_ids) == written
            written = chance.randint(0, written)
            writer.truncate(written)
            for _ in range(chance.randint(0, 40 - written)):
                writer.write(str(written), images[written])
                written += 1
    with LmdbWriter(path, META) as writer:
        for index in range(written, 40):
            writer.write(str(index), images[index])
        writer.finish()
    np.testing.assert_array_equal([LmdbReader(path).read_seasons(index) for index in range(40)], images)


@pytest.mark.parametrize("map_size", [1, 1 << 13, 1 << 16])
def test_the_map_grows(tmp_path, map_size):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 2, 100, 100), dtype=np.uint8)
    store = write_store(tmp_path / "x", images, batch_size=8, map_size=map_size)
    assert (store / "data.mdb").stat().st_size > images.nbytes
    np.testing.assert_array_equal(LmdbReader(store).read_seasons(5), images[5])


def test_full_disk_keeps_what_was_committed(tmp_path):
    code = f"""
import resource, signal
import numpy as np
from cromss.store import *
meta = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "x")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with LmdbWriter({str(tmp_path / "x")!r}, meta, batch_size=4) as writer:
    writer.write("a", np.ones((4, 2, 100, 100), np.uint8))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    for name in "bcdef":
        writer.write(name, np.ones((4, 2, 100, 100), np.uint8))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StoreError" in result.stderr.splitlines()[-1]
    assert "free the disk and resume" in result.stderr.splitlines()[-1]
    with LmdbWriter(tmp_path / "x", StoreMeta("s1", ("VV", "VH"), "uint8", 4, "x")) as writer:
        assert writer.location_ids == ["a", "b"]
        writer.write("c", np.ones((4, 2, 100, 100), np.uint8))
        writer.finish()
    assert [LmdbReader(tmp_path / "x").read_seasons(index).min() for index in range(3)] == [1, 1, 1]


def test_two_writers_of_one_store(tmp_path):
    code = f"from cromss.store import *; LmdbWriter({str(tmp_path / 'x')!r}, StoreMeta('s1', ('VV',), 'uint8', 1, 'u'))"
    with LmdbWriter(tmp_path / "x", StoreMeta("s1", ("VV",), "uint8", 1, "u")):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing it" in result.stderr


# What a writer refuses


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modality", "s2"),
        ("bands", ("VH", "VV")),
        ("dtype", "float32"),
        ("num_seasons", 3),
        ("unit", "dB"),
        ("legend", "DW"),
        ("statistics", {"mean": [1.0]}),
        ("source", "elsewhere"),
    ],
)
def test_resuming_with_other_settings(tmp_path, name, value):
    with LmdbWriter(tmp_path / "x", META):
        pass
    other = StoreMeta(**{**META.__dict__, name: value})
    with pytest.raises(StoreError, match=rf"x\.partial: begun with {name} "):
        LmdbWriter(tmp_path / "x", other)
    with LmdbWriter(tmp_path / "x", META) as writer:
        assert writer.location_ids == []


def test_finished_stores_are_not_overwritten(store, tmp_path):
    with pytest.raises(StoreError, match="is finished"):
        LmdbWriter(store, META)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="not a finished store"):
        LmdbWriter(tmp_path / "folder", META)
    assert not (tmp_path / "folder.partial").exists()


GOOD = np.zeros((4, 2, 5, 7), np.uint8)


@pytest.mark.parametrize(
    ("location_id", "seasons", "line"),
    [
        ("b", GOOD[:3], "3 seasons"),
        ("b", [], "0 seasons"),
        ("b", GOOD.astype(np.uint16), "season 0: uint16, but the store holds uint8"),
        ("b", [*GOOD[:3], GOOD[3].astype(float)], "season 3: float64"),
        ("b", GOOD[:, :1], r"shape \(1, 5, 7\), but the store holds \(2, H, W\)"),
        ("b", GOOD[:, 0], r"shape \(5, 7\)"),
        ("b", GOOD[:, :, :0], r"shape \(2, 0, 7\)"),
        ("b", [*GOOD[:3], GOOD[3, :, :4]], r"shape \(2, 4, 7\) after \(2, 5, 7\)"),
        ("a", GOOD, "written already"),
        ("", GOOD, "text of 1 to 96 bytes"),
        ("é" * 49, GOOD, "text of 1 to 96 bytes"),
        (7, GOOD, "printable text"),
        ("b\nc", GOOD, "printable text"),
        ("b\udc80", GOOD, "printable text"),
    ],
)
def test_locations_that_do_not_fit(tmp_path, location_id, seasons, line):
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", GOOD)
        with pytest.raises(StoreError, match=line):
            writer.write(location_id, seasons)
        writer.finish()
    assert LmdbReader(tmp_path / "x").location_ids() == ["a"]


@pytest.mark.parametrize(("name", "value"), [("dtype", "complex64"), ("dtype", "U3"), ("num_seasons", 0)])
def test_impossible_meta(name, value):
    with pytest.raises(StoreError, match=name):
        StoreMeta(**{**META.__dict__, name: value})


def test_nothing_to_finish(tmp_path):
    with LmdbWriter(tmp_path / "x", META) as writer, pytest.raises(StoreError, match="nothing to finish"):
        writer.finish()
    with pytest.raises(StoreError, match="batch_size 0"):
        LmdbWriter(tmp_path / "x", META, batch_size=0)


def test_a_closed_writer_refuses(tmp_path):
    with LmdbWriter(tmp_path / "x", META, batch_size=1) as writer:
        writer.write("a", GOOD)
        writer.finish()
    with pytest.raises(StoreError, match="closed"):
        writer.write("b", GOOD)


def test_finish_finds_damage(tmp_path, images):
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
        writer.commit()
        writer.close()
    raw_put(tmp_path / "x.partial", b"00000000/2", pack_record("a", images[0, 2])[:-1] + b"!")
    with (
        LmdbWriter(tmp_path / "x", META) as writer,
        pytest.raises(StoreError, match="index 0, season 2: damaged values"),
    ):
        writer.finish()
    assert not (tmp_path / "x").exists()


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
    wipe_pages(store)
    for call in (lambda: reader.read(3, 0), lambda: reader.read_seasons(3), lambda: reader.location_id(3)):
        with pytest.raises(StoreError, match=r"s1\.lmdb: index 3, season 0: .*MDB_CORRUPTED"):
            call()
    for call in (reader.location_ids, lambda: LmdbReader(store)):
        gc.collect()  # tracebacks of the errors above may still hold the environment
        with pytest.raises(StoreError, match=r"s1\.lmdb: cannot be read \(.*MDB_CORRUPTED"):
            call()
    environment.shared_environment(os.path.realpath(store)).close()
    with pytest.raises(StoreError, match=r"s1\.lmdb: index 3: cannot be read"):
        reader.read(3, 0)
    environment._environments.clear()


def test_a_claimed_shape_allocates_nothing(images):
    value = pack_record("a", np.zeros((2, 3), np.uint8))
    body = bytearray(value[8:128])
    body[8:16] = (2**31).to_bytes(4, "little") * 2
    forged = value[:4] + zlib.crc32(body).to_bytes(4, "little") + bytes(body) + value[128:]
    with pytest.raises(StoreError, match=r"shape \(2147483648, 2147483648\) of uint8 takes"):
        unpack_record(forged)


@pytest.mark.parametrize(("offset", "value"), [(4, 9), (5, 200), (6, 5)])
def test_impossible_headers(offset, value):
    record = pack_record("a", np.zeros((2, 3), np.uint8))
    body = bytearray(record[8:128])
    body[offset] = value
    with pytest.raises(StoreError):
        unpack_header(record[:4] + zlib.crc32(body).to_bytes(4, "little") + bytes(body) + record[128:])


def test_any_bytes_are_refused_as_a_record():
    rng = np.random.default_rng(0)
    for size in (0, 1, 3, 4, 127, 128, 129, 500):
        for prefix in (b"", b"CSLR"):
            with pytest.raises(StoreError):
                unpack_record((prefix + rng.bytes(size))[:size])


def test_missing_record_and_wrong_dtype(store):
    raw_put(store, b"00000003/1", None)
    raw_put(store, b"00000003/9", b"")
    raw_put(store, b"00000004/1", pack_record("x", np.zeros((2, 5, 7), np.int8)))
    reader = LmdbReader(store)
    with pytest.raises(StoreError, match="index 3, season 1: the record is missing"):
        reader.read_seasons(3)
    with pytest.raises(StoreError, match="index 4, season 1: int8, but the store holds uint8"):
        reader.read(4, 1)


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


def test_a_truncated_partial_is_not_resumed(tmp_path, images):
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
    os.truncate(tmp_path / "x.partial" / "data.mdb", 8192)
    with pytest.raises(StoreError, match="truncated"):
        LmdbWriter(tmp_path / "x", META)


def test_wrong_modality(store):
    with pytest.raises(StoreError, match=r"s1\.lmdb: holds 's1', but 's2' is wanted"):
        LmdbReader(store, "s2")


def test_missing_empty_and_foreign_folders(store, tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        LmdbReader(tmp_path / "missing")
    with pytest.raises(StoreError, match="no such folder"):
        LmdbReader(store / "data.mdb")
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
