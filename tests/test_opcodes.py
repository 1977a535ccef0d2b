"""The parser of pickled records: reads what pickle writes, refuses all else, and never executes anything."""

import codecs
import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from published_lmdb import STACK, Evil, make_images, record

from cromss.store import StoreError
from cromss.store.opcodes import RecordForm, parse_record

STACKS = RecordForm()
RADAR = RecordForm(("float32", "float64"), (3,), id_optional=True)
OPTICAL = RecordForm(("uint16",), (3,), id_optional=True)
MASKS = RecordForm(("uint8",), (2, 3), id_optional=True)
FORMS = (STACKS, RADAR, OPTICAL, MASKS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [STACK, (4, 2, 3, 3), (4, 7, 9), (1, 13, 264, 264)])
@pytest.mark.parametrize("integer", [int, np.int64, np.int32, np.uint8, np.uint16])
def test_what_pickle_writes_is_read(protocol, shape, integer):
    image = make_images(1, shape)[0]
    shape_entries = tuple(n if integer is np.uint8 and n > 255 else integer(n) for n in shape)
    array, location_id = parse_record(pickle.dumps((image.tobytes(), shape_entries, integer(7)), protocol), STACKS)
    np.testing.assert_array_equal(array, image)
    assert location_id == "0000007"


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_every_numpy_generation(module):
    value = pickle.dumps((bytes(24), (2, 3, 4), np.int64(251078)), 3)
    assert parse_record(value.replace(b"numpy._core.multiarray", module.encode()), STACKS)[1] == "0251078"


@pytest.mark.parametrize("location_id", ["0000001", "é" * 50, 5, 2**40, np.int64(2**40), np.dtype(">i4").type(99)])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ids(location_id, protocol):
    expected = location_id if isinstance(location_id, str) else f"{int(location_id):07d}"
    assert parse_record(record(location_id=location_id, protocol=protocol), STACKS)[1] == expected


def test_big_endian_scalar():
    value = record(location_id=np.int32(1), protocol=3)
    little = struct.pack("<i", 1)
    swapped = value.replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>").replace(little + b"q", little[::-1] + b"q")
    assert swapped != value
    assert parse_record(swapped, STACKS)[1] == "0000001"


@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_a_view(form):
    array, _ = parse_record(record(bytes(96), (2, 3, 16 // np.dtype(form.dtypes[0]).itemsize)), form)
    assert array.base is not None
    assert not array.flags.owndata
    assert not array.flags.writeable


TRANSFER = [
    (RADAR, (2, 5, 3), "float32"),
    (RADAR, (2, 5, 3), "float64"),
    (RADAR, (2, 256, 256), "float64"),
    (OPTICAL, (13, 4, 6), "uint16"),
    (MASKS, (4, 6), "uint8"),
    (MASKS, (1, 4, 6), "uint8"),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("form", "shape", "dtype"), TRANSFER)
@pytest.mark.parametrize("location_id", [None, "s1_-0.0520_32.9493-20190816.tif"])
def test_types_are_told_by_their_size(form, shape, dtype, location_id, protocol):
    image = (np.random.default_rng(0).standard_normal(shape) * 90).astype(dtype)
    name = () if location_id is None else (location_id,)
    array, found = parse_record(pickle.dumps((image.tobytes(), image.shape, *name), protocol), form)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, image)
    assert found == location_id


@pytest.mark.parametrize(
    ("form", "size", "shape", "line"),
    [
        (RADAR, 30, (2, 5, 3), "takes 120 bytes of float32 or 240 bytes of float64, the record has 30"),
        (RADAR, 60, (2, 5, 3), "the record has 60"),
        (RADAR, 480, (2, 5, 3), "the record has 480"),
        (RADAR, 60, (5, 3), "not 3 positive integers"),
        (RADAR, 480, (4, 2, 5, 3), "not 3 positive integers"),
        (OPTICAL, 24, (2, 3, 4), "takes 48 bytes of uint16, the record has 24"),
        (OPTICAL, 0, (0, 3, 4), "not 3 positive integers"),
        (OPTICAL, 48, (-2, -3, 4), "not 3 positive integers"),
        (OPTICAL, 48, (2.0, 3, 4), "not allowed"),
        (OPTICAL, 48, (2**31, 2**31, 2**31), "the record has 48"),
        (MASKS, 48, (4, 6), "takes 24 bytes of uint8, the record has 48"),
        (MASKS, 24, (24,), "not 2 or 3 positive integers"),
        (MASKS, 24, (1, 1, 4, 6), "not 2 or 3 positive integers"),
        (MASKS, 24, (), "not 2 or 3 positive integers"),
    ],
)
def test_sizes_that_do_not_fit(form, size, shape, line):
    for name in ((), ("s1_a",)):
        with pytest.raises(StoreError, match=line):
            parse_record(pickle.dumps((bytes(size), shape, *name)), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "wrap",
    [lambda e: e, lambda e: (bytes(24), (2, 3, 4), e), lambda e: (e, (2, 3, 4), "a"), lambda e: (bytes(24), e)],
)
def test_code_never_runs(tmp_path, protocol, wrap, form):
    trace = tmp_path / "trace"
    value = pickle.dumps(wrap(Evil(os.system, f"touch {trace}")), protocol)
    with pytest.raises(StoreError, match=r"^opcode \w+ at byte \d+: "):
        parse_record(value, form)
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
    "two lines of id": record(location_id="a\nb"),
    "id that climbs": record(location_id="../../a"),
    "id that climbs elsewhere": record(location_id="..\\\\a"),
    "trailing bytes": record() + b"x",
    "second pickle": record() + record(),
    "two items": pickle.dumps((bytes(24), (2, 3, 4))),
    "encode elsewhere": b"\x80\x03c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf16\x86R.",
    "not latin": b"\x80\x03c_codecs\nencode\n" + b"X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.",
    "codecs.decode": pickle.dumps(Evil(codecs.decode, b"a"), 2),
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
        parse_record(value, STACKS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [RADAR, OPTICAL, MASKS])
@pytest.mark.parametrize("name", [name for name in HARMFUL if name not in ("two dimensions", "two items")])
def test_no_form_is_laxer(form, name):
    with pytest.raises(StoreError):
        parse_record(HARMFUL[name], form)


@pytest.mark.parametrize("form", [RADAR, OPTICAL, MASKS])
@pytest.mark.parametrize("items", [(), (bytes(24),), ((2, 3, 4), bytes(24)), (bytes(24), (2, 3, 4), "a", "b")])
def test_other_tuples(form, items):
    with pytest.raises(StoreError, match=r"not a tuple \(bytes, shape, id\) or \(bytes, shape\)"):
        parse_record(pickle.dumps(items), form)


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


def test_records_have_a_largest_size(monkeypatch):
    monkeypatch.setattr("cromss.store.opcodes.MAX_VALUE", len(record()) - 1)
    with pytest.raises(StoreError, match=f"record size {len(record())}, but at most {len(record()) - 1} is read"):
        parse_record(record(), STACKS)


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_bombs_take_no_memory(value):
    tracemalloc.start()
    try:
        with pytest.raises(StoreError):
            parse_record(value, STACKS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(value) + 200_000


VALID = [
    (record(bytes(range(24)), shape, location_id, protocol), STACKS)
    for protocol in (2, 3, 4, 5)
    for shape in ((2, 3, 4), tuple(map(np.int64, (1, 2, 3, 4))))
    for location_id in ("0000007", np.int32(7))
] + [
    (pickle.dumps((np.zeros(shape, dtype).tobytes(), shape, *name), protocol), form)
    for protocol in (2, 3, 4, 5)
    for form, shape, dtype in TRANSFER
    for name in ((), ("dw_1.5_-2.5-20190816.tif",))
    if np.prod(shape) < 1000
]


@pytest.mark.parametrize(("value", "form"), VALID)
def test_truncated_streams(value, form):
    for end in range(len(value)):
        with pytest.raises(StoreError):
            parse_record(value[:end], form)


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
    for number in range(24_000):
        value, form = VALID[number % len(VALID)]
        value = mutate(value, rng)
        try:
            array, location_id = parse_record(value, form)
        except StoreError as error:
            lines.append(str(error))
        else:
            read += 1
            assert array.dtype.name in form.dtypes
            assert array.ndim in form.dimensions
            assert array.nbytes <= len(value)
            assert isinstance(location_id, str) or (location_id is None and form.id_optional)
    assert 0 < read < len(lines)
    assert not any("\n" in line for line in lines)
