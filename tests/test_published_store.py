"""The published pickled layout: read like ours, and never executed."""

import itertools
import mmap
import os
import pickle
import pickletools
import struct
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import lmdb
import numpy as np
import pytest

from cromss.store import LmdbReader, LmdbWriter, PublishedReader, StoreError, StoreMeta, open_store
from cromss.store.opcodes import parse_record

SHAPE = (4, 13, 6, 5)


def make_images(num_locations, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_locations, *shape), dtype=np.uint8)


def write_published(path, images, ids=None, keys=None, protocol=4):
    ids = [f"{i:07d}" for i in range(len(images))] if ids is None else ids
    values = [pickle.dumps((a.tobytes(), a.shape, i), protocol) for a, i in zip(images, ids, strict=True)]
    return write_raw(path, zip(map(str, keys or range(len(images))), values, strict=True))


def write_raw(path, pairs):
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for key, value in pairs:
            txn.put(key.encode(), value)
    return path


def record(payload=bytes(24), shape=(2, 3, 4), location_id="0000007", protocol=4):
    return pickle.dumps((payload, shape, location_id), protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [SHAPE, (4, 2, 3, 3), (4, 7, 9), (1, 13, 264, 264)])
@pytest.mark.parametrize("integer", [int, np.int64, np.int32, np.uint8, np.uint16])
def test_what_pickle_writes_is_read(protocol, shape, integer):
    image = make_images(1, shape)[0]
    shape_entries = tuple(n if integer is np.uint8 and n > 255 else integer(n) for n in shape)
    array, location_id = parse_record(pickle.dumps((image.tobytes(), shape_entries, integer(7)), protocol))
    np.testing.assert_array_equal(array, image)
    assert location_id == "0000007"


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_every_numpy_generation(module):
    value = pickle.dumps((bytes(24), (2, 3, 4), np.int64(251078)), 3)
    assert parse_record(value.replace(b"numpy._core.multiarray", module.encode()))[1] == "0251078"


@pytest.mark.parametrize("location_id", ["0000001", "é" * 50, 5, 2**40, np.int64(2**40), np.dtype(">i4").type(99)])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ids(location_id, protocol):
    expected = location_id if isinstance(location_id, str) else f"{int(location_id):07d}"
    assert parse_record(record(location_id=location_id, protocol=protocol))[1] == expected


def test_big_endian_scalar():
    value = record(location_id=np.int32(1), protocol=3)
    little = struct.pack("<i", 1)
    swapped = value.replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>").replace(little + b"q", little[::-1] + b"q")
    assert swapped != value
    assert parse_record(swapped)[1] == "0000001"


def test_pixels_are_a_view():
    value = record(bytes(range(24)))
    array, _ = parse_record(value)
    assert not array.flags.owndata
    assert not array.flags.writeable


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


def test_keys_with_holes_are_taken_in_numeric_order(tmp_path):
    images, keys = make_images(4), [2, 10, 9, 100]
    path = write_published(tmp_path / "p", images, ids=keys, keys=keys)
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        txn.put(b"length", b"4")
    reader = PublishedReader(path)
    assert reader.location_ids() == ["0000002", "0000009", "0000010", "0000100"]
    np.testing.assert_array_equal(reader.read_seasons(1), images[2])


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_positions_outside_are_an_index_error(tmp_path, index):
    reader = PublishedReader(write_published(tmp_path / "p", make_images(3)))
    for call in (lambda: reader.read(index, 0), lambda: reader.read_seasons(index), lambda: reader.location_id(index)):
        with pytest.raises(IndexError, match="no location"):
            call()
    with pytest.raises(IndexError, match="no season 4; there are 4"):
        reader.read(0, 4)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: (bytes(24), (2, 3, 4), e), lambda e: (e, (2, 3, 4), "a")])
def test_code_never_runs(tmp_path, protocol, wrap):
    trace = tmp_path / "trace"
    value = pickle.dumps(wrap(Evil(os.system, f"touch {trace}")), protocol)
    with pytest.raises(StoreError, match=r"^opcode \w+ at byte \d+: "):
        parse_record(value)
    path = write_raw(tmp_path / "p", [("0", record(bytes(24), (2, 3, 4))), ("1", value)])
    with pytest.raises(StoreError, match="p: key 1: opcode") as caught:
        PublishedReader(path).read(1, 0)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


HARMFUL = {
    "list": pickle.dumps([1]),
    "dict": pickle.dumps({}),
    "set": pickle.dumps({1}),
    "float": record(location_id=1.0),
    "none": record(location_id=None),
    "bool id": record(location_id=True),
    "bool in shape": record(shape=(True, 6, 4)),
    "bytearray": record(payload=bytearray(24)),
    "array": pickle.dumps(np.zeros(3)),
    "float scalar": record(location_id=np.float64(1)),
    "text scalar": record(location_id=np.str_("a")),
    "list shape": record(shape=[2, 3, 4]),
    "nested": record(location_id=(((1,),),)),
    "negative shape": record(shape=(-2, -3, 4)),
    "zero shape": record(payload=b"", shape=(0, 3, 4)),
    "two dimensions": record(shape=(6, 4)),
    "five dimensions": record(shape=(1, 1, 2, 3, 4)),
    "too small": record(payload=bytes(23)),
    "too large": record(payload=bytes(25)),
    "huge shape": record(shape=(2**31, 2**31, 4)),
    "huge integer": record(location_id=1 << 100),
    "empty id": record(location_id=""),
    "long id": record(location_id="a" * 1000),
    "trailing bytes": record() + b"x",
    "second pickle": record() + record(),
    "two items": pickle.dumps((bytes(24), (2, 3, 4))),
    "encode elsewhere": b"\x80\x03c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf16\x86R.",
    "not latin": b"\x80\x03c_codecs\nencode\n" + b"X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.",
    "codecs.decode": pickle.dumps(Evil(__import__("codecs").decode, b"a"), 2),
    "persistent id": b"\x80\x04Pabc\n.",
    "extension": b"\x80\x04\x82\x01.",
    "empty": b"",
    "stop": b".",
    "mark only": b"(t.",
    "pop": b"\x86.",
    "memo": b"h\x07.",
    "protocol 6": b"\x80\x06.",
    "frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    "name by bytes": b"\x80\x04C\x01aC\x01b\x93.",
    "name by tuple": b"\x80\x04))\x93.",
    "reduce nothing": b"R.",
    "build text": b"\x80\x04\x8c\x01a)b.",
}


@pytest.mark.parametrize("value", HARMFUL.values(), ids=HARMFUL)
def test_everything_else_is_refused(value):
    with pytest.raises(StoreError) as caught:
        parse_record(value)
    assert "\n" not in str(caught.value)


def doubling(text_opcode):
    """Each round makes a tuple of two references to the last."""
    return b"\x80\x04" + text_opcode + b"\x94" + b"".join(b"h%c\x85\x94h%c\x86\x94" % (i, i) for i in range(100)) + b"."


encode_again = b"\x80\x04c_codecs\nencode\n\x94X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"\x8c\x06latin1\x86\x94"
BOMBS = {
    "2 GB of bytes in 12": b"\x80\x04B\xff\xff\xff\x7fabcdef",
    "8 EB of bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "2 GB of text": b"\x80\x04X\xff\xff\xff\x7fabc.",
    "2 GB integer": b"\x80\x04\x8b\xff\xff\xff\x7fabc.",
    "memo at 4 G": b"\x80\x04Nr\xff\xff\xff\xff" * 100 + b".",
    "opcodes": b"\x80\x04" + b"N" * 3_000_000 + b".",
    "marks": b"(" * 1_000_000,
    "depth": b")" + b"\x85" * 1_000_000 + b".",
    "doubling": doubling(b"\x8c\x01a"),
    "encoding again and again": encode_again + b"h\x00h\x01R" * 160 + b".",
}


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_bombs_take_no_memory(value):
    tracemalloc.start()
    try:
        with pytest.raises(StoreError):
            parse_record(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(value) + 200_000


VALID = [
    record(bytes(range(24)), shape, location_id, protocol)
    for protocol in (2, 3, 4, 5)
    for shape in ((2, 3, 4), tuple(map(np.int64, (1, 2, 3, 4))))
    for location_id in ("0000007", np.int32(7))
]


@pytest.mark.parametrize("value", VALID)
def test_truncated_streams(value):
    for end in range(len(value)):
        with pytest.raises(StoreError):
            parse_record(value[:end])


def mutate(value, rng):
    value = bytearray(value)
    opcodes = [ord(code) for code in pickletools.code2op]
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(value)))
        kind = rng.integers(4)
        if kind == 0:
            value[at] = rng.integers(256)
        elif kind == 1:
            value[at] = rng.choice(opcodes)
        elif kind == 2:
            value[at:at] = bytes(rng.choice(opcodes, rng.integers(1, 6)).tolist())
        else:
            del value[at : at + int(rng.integers(1, 9))]
    return bytes(value)


def test_mutated_records_raise_nothing_else():
    rng = np.random.default_rng(0)
    read, lines = 0, []
    for number in range(12_000):
        value = mutate(VALID[number % len(VALID)], rng)
        try:
            array, location_id = parse_record(value)
        except StoreError as error:
            lines.append(str(error))
        else:
            read += 1
            assert array.dtype == np.uint8
            assert array.nbytes <= len(value)
            assert isinstance(location_id, str)
    assert 0 < read < len(lines)
    assert not any("\n" in line for line in lines)


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
    with pytest.raises(StoreError, match="its keys are 's1_0'"):
        open_store(write_raw(tmp_path / "other", [("s1_0", b"x")]))
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
    for call in (lambda: reader.read(1, 0), lambda: reader.read_seasons(1), lambda: reader.location_id(1)):
        with pytest.raises(StoreError, match=r"p: key 1: .*MDB_CORRUPTED"):
            call()
    for call in (lambda: PublishedReader(path), lambda: open_store(path)):
        with pytest.raises(StoreError, match=r"p: cannot be read \(.*MDB_CORRUPTED"):
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
