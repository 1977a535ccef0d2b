"""The reader of the published layout of SSL4EO-S12@NoL, in place.

The layout is an LMDB folder with keys `str(index)`; a value is the pickle of `(bytes, shape, id)`, all seasons of a
location in one uint8 array, `(4, C, 264, 264)` or, for labels, `(4, 264, 264)`.
"""

import os
from pathlib import Path

import lmdb
import numpy as np

from cromss.store.contents import check_position
from cromss.store.environment import reading
from cromss.store.folder import DATA_NAME
from cromss.store.meta import StoreError, StoreMeta
from cromss.store.opcodes import parse_record


class PublishedReader:
    """Reads a published LMDB; the interface of `LmdbReader`, and as safe in workers.

    Locations are the numeric keys in increasing order, so an index is the key wherever the keys have no holes.

    Args:
        path: Folder of the LMDB.
        modality: `"s1"`, `"s2"` or `"labels"`; for `None` told from the first record's shape.

    Attributes:
        meta: What is known about the values; the layout does not name its bands, so `bands` is empty.
        num_seasons: Seasons of each location.
        bytes_read: Bytes of pixels read so far by this reader.

    Raises:
        StoreError: No such LMDB, truncated, of another layout, or of another modality.
    """

    def __init__(self, path: str | Path, modality: str | None = None):
        self.path = Path(path)
        self.bytes_read = 0
        self._folder = os.path.realpath(path)
        if not (self.path / DATA_NAME).is_file():
            raise StoreError(f"{path}: no {DATA_NAME} in it; a published store is a folder that holds one")
        with reading(self._folder, self.path, fresh=True) as txn:
            self._keys = _numeric_keys(txn, self.path)
            shape = self._parse(txn, 0)[0].shape
        found = _modality_of(shape)
        if modality in ("s1", "s2", "labels") and modality != found:
            raise StoreError(f"{path}: records of shape {shape} are {found!r}, but {modality!r} is wanted")
        self._leading, self.num_seasons = shape[:-2], shape[0]
        self.meta = _published_meta(modality or found, shape)

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, index: int, season: int) -> np.ndarray:
        """One season of a location, `(C, H, W)` or `(H, W)` uint8: a writable copy of its own.

        Raises:
            IndexError: No such location or season.
            StoreError: The record is not a published one, or damaged.
        """
        index = check_position(self.path, "location", index, len(self))
        season = check_position(self.path, "season", season, self.num_seasons)
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._owned(self._view(txn, index)[season])

    def read_seasons(self, index: int) -> np.ndarray:
        """All seasons of a location, `(T, C, H, W)` or `(T, H, W)` uint8; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._owned(self._view(txn, index))

    def location_id(self, index: int) -> str:
        """Id of a location; a number becomes the seven digits of SSL4EO-S12. Errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            return self._parse(txn, index)[1]

    def location_ids(self) -> list[str]:
        """Ids of all locations, in order; touches the first and last page of every record."""
        return [self.location_id(index) for index in range(len(self))]

    def _view(self, txn: lmdb.Transaction, index: int) -> np.ndarray:
        array, _ = self._parse(txn, index)
        if array.shape[:-2] != self._leading:
            where = f"{self.path}: key {self._keys[index]}"
            raise StoreError(f"{where}: shape {array.shape}, expected {(*self._leading, 'H', 'W')}")
        return array

    def _parse(self, txn: lmdb.Transaction, index: int) -> tuple[np.ndarray, str]:
        key = str(self._keys[index])
        try:
            value = txn.get(key.encode())
            if value is None:
                raise StoreError("the record is missing")
            return parse_record(value)
        except (StoreError, lmdb.Error) as error:
            raise StoreError(f"{self.path}: key {key}: {error}") from None

    def _owned(self, view: np.ndarray) -> np.ndarray:
        self.bytes_read += view.nbytes
        return view.copy()


def _numeric_keys(txn: lmdb.Transaction, path: Path) -> range | list[int]:
    with txn.cursor() as cursor:
        keys = [bytes(key) for key in cursor.iternext(keys=True, values=False)]
    numbers = sorted(int(key) for key in keys if key.isdigit() and len(key) < 19 and (key == b"0" or key[:1] != b"0"))
    if not numbers:
        shown = ", ".join(repr(key[:32].decode(errors="replace")) for key in keys[:3]) or "none at all"
        raise StoreError(f"{path}: neither a store of ours nor a published one; its keys are {shown}")
    return range(len(numbers)) if numbers[-1] == len(numbers) - 1 else numbers


def _modality_of(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "labels"
    return "s1" if shape[1] == 2 else "s2"


def _published_meta(modality: str, shape: tuple[int, ...]) -> StoreMeta:
    labels = len(shape) == 3
    return StoreMeta(
        modality=modality,
        bands=(),
        dtype="uint8",
        num_seasons=shape[0],
        unit="class id" if labels else "uint8 of mean +- 2 std",
        legend="NoL" if labels else "",
        source="SSL4EO-S12@NoL, published layout",
    )
