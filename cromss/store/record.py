"""One array as the bytes of a record: a header of 128 bytes, then the values in C order, little-endian.

The values stand as they are, or deflated (RFC 1950). The header holds two CRC-32 checksums (of itself and of what
follows it), form, dtype, shape, and the location's id.
"""

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from cromss.store.meta import DTYPES, StoreError

MAX_ID_BYTES = 96

PLAIN, DEFLATED = 1, 2
"""Forms of the values, as the header says them."""

DEFLATE_LEVEL = 1
"""Higher ones take several times as long for a few percent."""

_MOST_DEFLATED, MAX_INFLATED = 1032, 1 << 30
"""Times that deflated bytes can be shorter than what they stand for, and bytes that they may stand for at most."""

_MAGIC = b"CSLR"
_PREFIX = struct.Struct("<4sI")  # magic, checksum of the rest of the header
_BODY = struct.Struct(f"<IBBBB4I{MAX_ID_BYTES}s")  # checksum, form, dtype, ndim, bytes of id, shape, id
HEADER_SIZE = _PREFIX.size + _BODY.size


@dataclass(frozen=True)
class RecordHeader:
    """The fixed header of a record; `checksum` is that of the `num_stored` bytes after it."""

    location_id: str
    dtype: np.dtype
    shape: tuple[int, ...]
    checksum: int
    deflated: bool
    num_stored: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def stored_dtype(name: str) -> np.dtype:
    """The dtype of that name as records hold it."""
    return np.dtype(name).newbyteorder("<")


def pack_record(location_id: str, array: np.ndarray, deflate: bool = False) -> bytes:
    """Record of an array of up to 4 dimensions."""
    payload = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data
    payload = zlib.compress(payload, DEFLATE_LEVEL) if deflate else payload
    identity, shape = location_id.encode(), array.shape + (0,) * (4 - array.ndim)
    codes = (DEFLATED if deflate else PLAIN, DTYPES.index(array.dtype.name), array.ndim, len(identity))
    body = _BODY.pack(zlib.crc32(payload), *codes, *shape, identity)
    return b"".join((_PREFIX.pack(_MAGIC, zlib.crc32(body)), body, payload))


def unpack_header(record: bytes | memoryview) -> RecordHeader:
    """Header of a record; the shape has been checked against the record's size.

    Raises:
        StoreError: Not a record, of another form, or damaged.
    """
    if len(record) < HEADER_SIZE or bytes(record[: len(_MAGIC)]) != _MAGIC:
        raise StoreError(f"not an array record ({len(record)} bytes); copy or write the store again")
    if _PREFIX.unpack_from(record)[1] != zlib.crc32(record[_PREFIX.size : HEADER_SIZE]):
        raise StoreError("damaged header (checksum differs); copy or write the store again")
    checksum, form, dtype_code, ndim, id_bytes, *shape, identity = _BODY.unpack_from(record, _PREFIX.size)
    if form not in (PLAIN, DEFLATED):
        raise StoreError(f"record of form {form}, but this version reads {PLAIN} and {DEFLATED}; update cromss")
    if dtype_code >= len(DTYPES) or ndim > len(shape):
        raise StoreError(f"impossible header (dtype code {dtype_code}, {ndim} dimensions); write the store again")
    dtype, shape = _STORED_DTYPES[dtype_code], tuple(shape[:ndim])
    name, there = identity[:id_bytes].decode(errors="replace"), len(record) - HEADER_SIZE
    header = RecordHeader(name, dtype, shape, checksum, form == DEFLATED, there)
    size = header.num_bytes
    if size > _MOST_DEFLATED * there if header.deflated else size != there:
        told = f"shape {shape} of {dtype.name} takes {size} bytes, the record has {there}"
        raise StoreError(f"{told}; copy or write the store again")
    if header.deflated and size > MAX_INFLATED:
        raise StoreError(f"{size} deflated bytes, but at most {MAX_INFLATED} are read; write them without compression")
    return header


def unpack_record(record: bytes | memoryview, verify_checksum: bool = True) -> tuple[RecordHeader, np.ndarray]:
    """Header and array of a record; the array is read-only, and a view of the record unless that is deflated.

    Args:
        record: The bytes.
        verify_checksum: Check the values too; the header is always checked.

    Raises:
        StoreError: As `unpack_header`, or the values are damaged.
    """
    header = unpack_header(record)
    payload = memoryview(record)[HEADER_SIZE:]
    if verify_checksum and zlib.crc32(payload) != header.checksum:
        raise StoreError("damaged values (checksum differs); copy or write the store again")
    values = _inflated(payload, header.num_bytes) if header.deflated else payload
    return header, np.frombuffer(values, header.dtype).reshape(header.shape)


def _inflated(payload: memoryview, num_bytes: int) -> bytes:
    """The `num_bytes` that deflated bytes stand for; never more are made."""
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(payload, num_bytes + 1)
    except zlib.error as error:
        raise StoreError(f"damaged values ({error}); copy or write the store again") from None
    if len(values) != num_bytes or not stream.eof or stream.unused_data:
        raise StoreError(f"damaged values (not the {num_bytes} bytes of the shape); copy or write the store again")
    return values


_STORED_DTYPES = tuple(map(stored_dtype, DTYPES))
