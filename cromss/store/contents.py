"""What a store holds: `<index:08d>/<season>` (a record each), `__id__/<index:08d>` (ids) and `__meta__` (JSON)."""

import hashlib
import operator
from collections.abc import Callable
from itertools import product, takewhile
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from cromss.store.environment import GuardedTransaction, open_environment, transaction
from cromss.store.exclusions import EXCLUDED_KEY, decode_exclusions
from cromss.store.meta import FORMAT_VERSION, META_KEY, StoreError, decode_meta, ids_checksum, totals_of
from cromss.store.record import HEADER_SIZE, unpack_record

ID_PREFIX = b"__id__/"

Unpacked = TypeVar("Unpacked")
Reading = lmdb.Transaction | GuardedTransaction


def record_key(index: int, season: int) -> bytes:
    """Key of one array."""
    return f"{index:08d}/{season}".encode()


def id_key(index: int) -> bytes:
    """Key of a location's id."""
    return ID_PREFIX + f"{index:08d}".encode()


def check_position(path: Path, kind: str, position: int, count: int) -> int:
    """`position` as a plain int in 0..count-1.

    Raises:
        IndexError: Outside that range.
    """
    position = operator.index(position)
    if not 0 <= position < count:
        raise IndexError(f"{path}: no {kind} {position}; there are {count}, counted from 0")
    return position


def fetch(
    txn: Reading,
    path: Path,
    index: int,
    season: int,
    unpack: Callable[[memoryview], Unpacked],
) -> Unpacked:
    """What `unpack` makes of a record, valid until the transaction ends.

    Raises:
        StoreError: The record is missing or damaged; the line names store, index and season.
    """
    try:
        record = txn.get(record_key(index, season))
        if record is None:
            raise StoreError("the record is missing; copy or write the store again")
        return unpack(record)
    except (StoreError, lmdb.Error) as error:
        raise StoreError(f"{path}: index {index}, season {season}: {error}") from None


def fetch_id(txn: Reading, path: Path, index: int) -> str:
    """Id of a location as it was written, whether or not its records are there.

    Raises:
        StoreError: There is none.
    """
    value = txn.get(id_key(index))
    if value is None:
        raise StoreError(f"{path}: index {index}: the id is missing; copy or write the store again")
    return bytes(value).decode(errors="replace")


def scan_ids(txn: Reading) -> list[str]:
    """Ids of all locations, in order, as they stand."""
    with txn.cursor() as cursor:
        entries = cursor.iternext() if cursor.set_range(ID_PREFIX) else ()
        ids = takewhile(lambda entry: bytes(entry[0]).startswith(ID_PREFIX), entries)
        return [bytes(value).decode(errors="replace") for _, value in ids]


def read_ids(txn: Reading, path: Path, checksum: str) -> list[str]:
    """Ids of all locations, in order.

    Raises:
        StoreError: They are not those of the checksum.
    """
    ids = scan_ids(txn)
    if ids_checksum(ids) != checksum:
        raise StoreError(f"{path}: damaged location ids (checksum differs); copy or write the store again")
    return ids


def check_entries(txn: Reading, path: Path, num_locations: int, num_seasons: int, extra: int = 0) -> int:
    """Number of entries but `extra`, those that exclusions make.

    Raises:
        StoreError: It is not what the locations make.
    """
    entries, expected = txn.stat()["entries"] - extra, num_locations * (num_seasons + 1) + 1
    if entries != expected:
        raise StoreError(f"{path}: {entries} entries, but {num_locations} locations make {expected}; write it again")
    return entries


def verify(folder: Path, progress: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Read a store back whole, but for what is left out of use, and return its manifest.

    The checksum is the SHA-256 of all keys and headers in order, and so of the values' CRC-32 too.

    Args:
        folder: Folder of the store.
        progress: Called after each record.

    Raises:
        StoreError: A record is missing, damaged, or another location's.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with open_environment(folder, readonly=True) as env, transaction(env, folder) as txn:
        meta, described = decode_meta(txn.get(META_KEY), folder)
        ids = read_ids(txn, folder, totals_of(described, folder)[1])
        excluded = decode_exclusions(txn.get(EXCLUDED_KEY), folder, len(ids))
        entries = check_entries(txn, folder, len(ids), meta.num_seasons, excluded.extra_entries)
        in_use = (index for index in range(len(ids)) if index not in excluded.reasons)
        for index, season in product(in_use, range(meta.num_seasons)):
            location_id, header, size = fetch(txn, folder, index, season, _checked_summary)
            if location_id != ids[index]:
                raise StoreError(f"{folder}: index {index} is {location_id!r}, expected {ids[index]!r}")
            digest.update(record_key(index, season) + header)
            num_bytes += size
            progress()
    totals = {"entries": entries, "bytes": num_bytes, "checksum": digest.hexdigest()}
    return {"format": FORMAT_VERSION, **totals, "meta": described}


def _checked_summary(record: memoryview) -> tuple[str, bytes, int]:
    """Id, raw header and size of a sound record; no view of the page is left behind."""
    return unpack_record(record)[0].location_id, bytes(record[:HEADER_SIZE]), len(record)
