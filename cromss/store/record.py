"""One array as the bytes of a record: a header of 128 bytes, then the values in C order, little-endian.

The header holds two CRC-32 checksums (of itself and of the values), format, dtype, shape, and the location's id.
"""

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from cromss.store.meta import DTYPES, FORMAT_VERSION, StoreError

MAX_ID_BYTES = 96

_MAGIC = b"CSLR"
_PREFIX = struct.Struct("<4sI")  # magic, checksum of the rest of the header
_BODY = struct.Struct(f"<IBBBB4I{MAX_ID_BYTES}s")  # checksum of the values, format, dtype, ndim, bytes of id, shape, id
HEADER_SIZE = _PREFIX.size + _BODY.size


@dataclass(frozen=True)
class RecordHeader:
    """The fixed header of a record; `checksum` is that of the values."""

    location_id: str
    dtype: np.dtype
    shape: tuple[int, ...]
    checksum: int


def pack_record(location_id: str, array: np.ndarray) -> bytes:
    """Record of an array of up to 4 dimensions."""
    payload = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data
    identity, shape = location_id.encode(), array.shape + (0,) * (4 - array.ndim)
    codes = (FORMAT_VERSION, DTYPES.index(array.dtype.name), array.ndim, len(identity))
    body = _BODY.pack(zlib.crc32(payload), *codes, *shape, identity)
    return b"".join((_PREFIX.pack(_MAGIC, zlib.crc32(body)), body, payload))


def unpack_header(record: bytes | memoryview) -> RecordHeader:
    """Header of a record; the shape has been checked against the record's size.

    Raises:
        StoreError: Not a record, of another format version, or damaged.
    """
    if len(record) < HEADER_SIZE or bytes(record[: len(_MAGIC)]) != _MAGIC:
        raise StoreError(f"not an array record ({len(record)} bytes)")
    if _PREFIX.unpack_from(record)[1] != zlib.crc32(record[_PREFIX.size : HEADER_SIZE]):
        raise StoreError("damaged header (checksum differs); copy or write the store again")
    checksum, version, dtype_code, ndim, id_bytes, *shape, identity = _BODY.unpack_from(record, _PREFIX.size)
    if version != FORMAT_VERSION:
        raise StoreError(f"record of format {version}, but this version reads {FORMAT_VERSION}")
    if dtype_code >= len(DTYPES) or ndim > len(shape):
        raise StoreError(f"impossible header (dtype code {dtype_code}, {ndim} dimensions)")
    dtype, shape = np.dtype(DTYPES[dtype_code]).newbyteorder("<"), tuple(shape[:ndim])
    size, there = math.prod(shape) * dtype.itemsize, len(record) - HEADER_SIZE
    if size != there:
        raise StoreError(f"shape {shape} of {dtype.name} takes {size} bytes, the record has {there}")
    return RecordHeader(identity[:id_bytes].decode(errors="replace"), dtype, shape, checksum)


def unpack_record(record: bytes | memoryview, verify_checksum: bool = True) -> tuple[RecordHeader, np.ndarray]:
    """Header and array of a record; the array is a read-only view of it.

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
    return header, np.frombuffer(payload, header.dtype).reshape(header.shape)
