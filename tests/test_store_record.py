"""Records: exact, checked, and never larger than they say."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from stores import META, make_ids, make_images, raw_get, write_store

from cromss.store import LmdbReader, LmdbWriter, StoreError
from cromss.store.meta import DTYPES
from cromss.store.record import pack_record, unpack_header, unpack_record

IMAGE = np.arange(70, dtype=np.uint16).reshape(2, 5, 7) // 3


def test_the_record_is_as_described(tmp_path):
    images = make_images(9)
    value = raw_get(write_store(tmp_path / "s1.lmdb", images), b"00000002/3")
    assert value[128:] == images[2, 3].tobytes()
    assert value[:4] == b"CSLR"
    assert int.from_bytes(value[4:8], "little") == zlib.crc32(value[8:128])
    assert int.from_bytes(value[8:12], "little") == zlib.crc32(images[2, 3].tobytes())
    assert np.frombuffer(value, "<u4", 4, offset=16).tolist() == [2, 5, 7, 0]
    assert value[32:128].rstrip(b"\0").decode() == make_ids(9)[2]


def test_a_claimed_shape_allocates_nothing():
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


def forged(record, payload=None, **body):
    """A record with another payload, or other bytes at offsets of its header, and both checksums right."""
    payload, header = record[128:] if payload is None else payload, bytearray(record[8:128])
    header[:4] = zlib.crc32(payload).to_bytes(4, "little")
    for offset, value in body.items():
        header[int(offset[1:]) : int(offset[1:]) + 4] = value.to_bytes(4, "little")
    return record[:4] + zlib.crc32(header).to_bytes(4, "little") + bytes(header) + payload


@pytest.mark.parametrize("dtype", DTYPES)
def test_deflated_values_are_the_same(dtype):
    values = (IMAGE * 3).astype(dtype)
    record = pack_record("place", values, deflate=True)
    header, array = unpack_record(record)
    np.testing.assert_array_equal(array, values)
    assert (array.dtype, array.shape) == (values.dtype.newbyteorder("<"), values.shape)
    assert (header.location_id, header.num_bytes, header.num_stored) == ("place", values.nbytes, len(record) - 128)
    assert zlib.decompress(record[128:]) == values.astype(values.dtype.newbyteorder("<")).tobytes()


def test_a_deflated_mask_is_small():
    mask = np.zeros((264, 264), np.uint8)
    mask[:, 100:] = 4
    assert len(pack_record("a", mask, deflate=True)) < 1000


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (b"", "takes 140 bytes, the record has 0"),
        (b"no stream at all", "damaged values .*incorrect header"),
        (zlib.compress(IMAGE.tobytes())[:-5], "not the 140 bytes"),
        (zlib.compress(IMAGE.tobytes()[:-2]), "not the 140 bytes"),
        (zlib.compress(IMAGE.tobytes() + b"!"), "not the 140 bytes"),
        (zlib.compress(bytes(10**8)), "not the 140 bytes"),
        (zlib.compress(IMAGE.tobytes()) + b"!", "not the 140 bytes"),
    ],
)
def test_deflated_values_of_another_length_are_refused(payload, line):
    record = pack_record("a", IMAGE, deflate=True)
    np.testing.assert_array_equal(unpack_record(forged(record))[1], IMAGE)
    with pytest.raises(StoreError, match=line):
        unpack_record(forged(record, payload))


def test_a_deflated_record_cannot_claim_more_than_deflate_can_hold():
    record = pack_record("a", IMAGE, deflate=True)
    with pytest.raises(StoreError, match=r"shape \(2, 4000000000, 7\) of uint16 takes"):
        unpack_header(forged(record, _12=4_000_000_000))


@pytest.mark.parametrize("position", [0, 4, 8, 12, 128, 140, -1])
def test_a_flipped_byte_of_a_deflated_record_is_found(position):
    record = bytearray(pack_record("a", IMAGE, deflate=True))
    record[position] ^= 0x10
    with pytest.raises(StoreError):
        unpack_record(bytes(record))


def test_a_compressed_store_reads_the_same_in_fewer_bytes(tmp_path):
    images = np.repeat(make_images(3)[..., :1], 50, axis=-1)
    plain, small = tmp_path / "plain", tmp_path / "small"
    write_store(plain, images)
    write_store(small, images, replace(META, compression="deflate"), batch_size=1)
    readers = LmdbReader(plain), LmdbReader(small)
    for index in range(3):
        for array in (readers[0].read_seasons(index), readers[1].read_seasons(index)):
            np.testing.assert_array_equal(array, images[index])
            assert array.flags.writeable
        assert readers[1].location_id(index) == make_ids(3)[index]
    assert readers[0].bytes_read == images.nbytes + 12 * 128
    assert readers[1].bytes_read < readers[0].bytes_read / 2
    assert readers[1].meta.compression == "deflate"


def test_a_plain_store_is_not_resumed_compressed(tmp_path):
    with LmdbWriter(tmp_path / "x", META):
        pass
    with pytest.raises(StoreError, match="begun with compression '', not 'deflate'"):
        LmdbWriter(tmp_path / "x", replace(META, compression="deflate"))
