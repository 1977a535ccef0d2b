"""What the readers of both published layouts share: numbered keys of one environment, and pickled arrays in place."""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path

import lmdb
import numpy as np

from cromss.store.contents import check_position
from cromss.store.environment import GuardedTransaction, reading
from cromss.store.folder import DATA_NAME
from cromss.store.meta import META_KEY, StoreError, StoreMeta
from cromss.store.opcodes import RecordForm, parse_record

_NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")
_FIRST = re.compile(rb"(|\w{1,16}_)0")

_PROBED = 1000
"""Numbers looked for after the first one that is missing: behind a hole there are more."""


class PickledReader:
    """Reads the records of the keys `<prefix><number>`; the interface of `LmdbReader`, and as safe in workers.

    Locations are the numbers in increasing order. A layout derives from this, sets `meta` and `num_seasons`, and says
    how ids and seasons lie in a record.

    Args:
        path: Folder of the LMDB.
        form: What the records hold.
        prefix: What stands before the number in a key.

    Attributes:
        meta: What is known about the values; published layouts do not name bands, so `bands` is empty.
        num_seasons: Seasons of each location.
        bytes_read: Bytes of pixels read so far by this reader.
        excluded: Nothing; published stores are never repaired.

    Raises:
        StoreError: No such LMDB, truncated, or of another layout.
    """

    meta: StoreMeta
    num_seasons: int

    def __init__(self, path: str | Path, form: RecordForm, prefix: str = ""):
        self.path = Path(path)
        self.bytes_read, self.excluded = 0, {}
        self._form, self._prefix = form, prefix
        self._folder = os.path.realpath(path)
        if not (self.path / DATA_NAME).is_file():
            raise StoreError(f"{path}: no {DATA_NAME} in it; a published store is a folder that holds one")
        with reading(self._folder, self.path, fresh=True) as txn:
            self._numbers = _numbers(txn, prefix)
            if not self._numbers:
                raise StoreError(
                    f"{path}: no keys {prefix}0, {prefix}1 ... in it; {_layout(txn)}; give the LMDB that has them"
                )
            first, _ = self._parse(txn, 0)
            self._shape, self._dtype = first.shape, first.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int, season: int) -> np.ndarray:
        """One season of a location, `(C, H, W)` or `(H, W)`: a writable copy of its own.

        Raises:
            IndexError: No such location or season.
            StoreError: The record is not a published one, damaged, or unlike the first.
        """
        index = check_position(self.path, "location", index, len(self))
        season = check_position(self.path, "season", season, self.num_seasons)
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._owned(self._view(txn, index)[season], index)

    def read_seasons(self, index: int) -> np.ndarray:
        """All seasons of a location, `(T, C, H, W)` or `(T, H, W)`; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._owned(self._view(txn, index), index)

    def location_id(self, index: int) -> str:
        """Id of a location; a number becomes the seven digits of SSL4EO-S12. Errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._name(self._parse(txn, index)[1], index)

    def location_ids(self) -> list[str]:
        """Ids of all locations, in order; touches the first and last page of every record. Errors as `read`."""
        with reading(self._folder, self.path) as txn:
            return [self._name(self._parse(txn, index)[1], index) for index in range(len(self))]

    # What the layouts differ in

    def _seasons(self, array: np.ndarray) -> np.ndarray:
        """View of a record with the seasons first."""
        return array

    def _name(self, location_id: str | None, index: int) -> str:
        """Id of a location from that of its record."""
        return location_id

    def _owned(self, view: np.ndarray, index: int) -> np.ndarray:
        """Copy of a view that may leave the transaction."""
        self.bytes_read += view.nbytes
        return np.array(view, dtype=self.meta.dtype)

    # What they share

    def _key(self, index: int) -> str:
        return f"{self._prefix}{self._numbers[index]}"

    def _view(self, txn: GuardedTransaction, index: int) -> np.ndarray:
        array, _ = self._parse(txn, index)
        if array.shape[:-2] != self._shape[:-2] or array.dtype != self._dtype:
            there, wanted = f"{array.shape} of {array.dtype}", f"{(*self._shape[:-2], 'H', 'W')} of {self._dtype}"
            raise StoreError(
                f"{self.path}: key {self._key(index)}: shape {there}, expected {wanted} as in key {self._key(0)}; "
                "copy or write the LMDB again"
            )
        return self._seasons(array)

    def _parse(self, txn: GuardedTransaction, index: int) -> tuple[np.ndarray, str | None]:
        key = self._key(index)
        try:
            value = txn.get(key.encode())
            if value is None:
                raise StoreError("the record is missing")
            return parse_record(value, self._form)
        except (StoreError, lmdb.Error) as error:
            raise StoreError(f"{self.path}: key {key}: {error}; copy or write the LMDB again") from None


def _numbers(txn: GuardedTransaction, prefix: str) -> range | list[int]:
    """Numbers of the keys `<prefix><number>` in increasing order; a range where there are no holes.

    All keys are looked at only where their number alone does not tell that none is missing.
    """
    if count := _counts(txn).get(prefix.encode()):
        return range(count)
    suffixes = (key[len(prefix) :] for key in _keys(txn, prefix.encode()))
    numbers = sorted(int(suffix) for suffix in suffixes if _NUMBER.fullmatch(suffix))
    return range(len(numbers)) if numbers and numbers[-1] == len(numbers) - 1 else numbers


def _counts(txn: GuardedTransaction) -> dict[bytes, int]:
    """Prefix -> number of keys <prefix>0, <prefix>1 ..., found by bisection; empty where there are other keys too."""
    counts: dict[bytes, int] = {}
    with txn.cursor() as cursor:
        more = cursor.first()
        while more:
            if not (first := _FIRST.fullmatch(bytes(cursor.key()))):
                return {}
            if not (count := _count(txn, first[1])):
                return {}
            counts[first[1]] = count
            more = cursor.set_range(first[1] + b":")  # what follows "9"
    return counts if sum(counts.values()) == txn.stat()["entries"] else {}


def _count(txn: GuardedTransaction, prefix: bytes) -> int:
    """Number of keys <prefix>0, <prefix>1 ..., of which the first is there; 0 where a hole is seen among them."""

    def is_missing(number: int) -> bool:
        return txn.get(b"%s%d" % (prefix, number)) is None

    bound = 1
    while not is_missing(bound):
        bound *= 2
    count = bisect_left(range(bound), True, key=is_missing)
    return count if all(map(is_missing, range(count, count + _PROBED))) else 0


def _layout(txn: GuardedTransaction) -> str:
    """What an environment holds, by its keys, for an error."""
    if txn.get(META_KEY) is not None:
        return "it is a store of ours"
    if _numbers(txn, ""):
        return "it is a published pretraining store (keys 0, 1 ...)"
    numbered = (re.fullmatch(rb"(\w{1,16}_)[0-9]+", key) for key in _keys(txn, b""))
    prefixes = sorted({match[1].decode() for match in numbered if match})
    if prefixes:
        return f"it is a published transfer set with keys {', '.join(f'{prefix}0 ...' for prefix in prefixes[:8])}"
    keys = [repr(key[:32].decode(errors="replace")) for key in islice(_keys(txn, b""), 3)]
    return f"its keys are {', '.join(keys) or 'none at all'}"


def _keys(txn: GuardedTransaction, prefix: bytes) -> Iterator[bytes]:
    """Keys that begin with a prefix, in order."""
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            keys = (bytes(key) for key, _ in cursor.iternext())
            yield from takewhile(lambda key: key.startswith(prefix), keys)
