"""The reader of a finished store."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from cromss.store.contents import check_position, fetch, fetch_id, read_ids
from cromss.store.environment import GuardedTransaction, are_views_given, reading
from cromss.store.exclusions import EXCLUDED_KEY, decode_exclusions
from cromss.store.folder import DATA_NAME, MANIFEST_NAME, read_manifest
from cromss.store.meta import META_KEY, StoreError, decode_meta, totals_of
from cromss.store.record import HEADER_SIZE, stored_dtype, unpack_header, unpack_record


class LmdbReader:
    """Reads a finished store; can be pickled, and opens its environment once per process, when first used.

    Args:
        path: Folder of the store.
        modality: Refuse a store of another modality.
        verify_checksums: Find damaged values when a record is first read in a process (about 0.4 ms per MB), which
            does not look at them again; damaged headers are always found.

    Attributes:
        meta: What the store says about itself.
        num_seasons: Arrays of each location.
        excluded: Index of each location to leave out of use -> why; see `exclusions`.
        ids_sha256: Checksum of all ids in their order, as `meta.ids_checksum`.
        bytes_read: Bytes of records read so far by this reader, headers included.

    Raises:
        StoreError: No such folder, unfinished, truncated or damaged, of another modality, or of a newer format.
    """

    def __init__(self, path: str | Path, modality: str | None = None, verify_checksums: bool = True):
        self.path = Path(path)
        self.bytes_read = 0
        manifest = read_manifest(self.path)
        self._folder = os.path.realpath(path)
        with reading(self._folder, self.path, fresh=True) as txn:
            self.meta, described = decode_meta(txn.get(META_KEY), self.path)
            self._num_locations, self.ids_sha256 = totals_of(described, self.path)
            there = decode_exclusions(txn.get(EXCLUDED_KEY), self.path, self._num_locations)
            entries = txn.stat()["entries"] - there.extra_entries
        if (entries, described) != (manifest.get("entries"), manifest.get("meta")):
            raise StoreError(f"{path}: {MANIFEST_NAME} belongs to another {DATA_NAME}; copy both from the same store")
        if entries != (expected := self._num_locations * (self.meta.num_seasons + 1) + 1):
            told = f"{self._num_locations} locations of {self.meta.num_seasons} seasons"
            raise StoreError(f"{path}: {entries} entries, but {told} make {expected}; copy or write the store again")
        if modality not in (None, self.meta.modality):
            raise StoreError(f"{path}: holds {self.meta.modality!r}, but {modality!r} is wanted")
        self.num_seasons: int = self.meta.num_seasons
        self._dtype = stored_dtype(self.meta.dtype)
        self.excluded, self._dropped = there.reasons, there.dropped
        self._latest = -1, ""
        self._unchecked = bytearray([0xFF * verify_checksums]) * (len(self) * self.num_seasons // 8 + 1)

    def __len__(self) -> int:
        return self._num_locations

    def read(self, index: int, season: int) -> np.ndarray:
        """One array of a location, `(C, H, W)` or `(H, W)`: a copy of its own, or in a block of `views` a view.

        Raises:
            IndexError: No such location or season.
            StoreError: The record is missing, dropped or damaged.
        """
        index = check_position(self.path, "location", index, len(self))
        season = check_position(self.path, "season", season, self.num_seasons)
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            view = self._view(txn, index, season)
            return (np.asarray if are_views_given() else np.array)(view, dtype=self.meta.dtype)

    def read_seasons(self, index: int) -> np.ndarray:
        """All arrays of a location, `(T, C, H, W)` or `(T, H, W)`; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            views = [self._view(txn, index, season) for season in range(self.num_seasons)]
            if len({view.shape for view in views}) > 1:
                told = ", ".join(str(view.shape) for view in views)
                raise StoreError(f"{self.path}: index {index}: seasons of shapes {told}; write the store again")
            return np.stack(views, dtype=self.meta.dtype)

    def location_id(self, index: int) -> str:
        """Id of a location, if it is in use from the header of the record just read, or its first; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        latest, name = self._latest
        if index == latest:
            return name
        with reading(self._folder, f"{self.path}: index {index}") as txn:
            if index in self.excluded:
                return fetch_id(txn, self.path, index)
            return fetch(txn, self.path, index, 0, unpack_header).location_id

    def location_ids(self) -> list[str]:
        """Ids of all locations, in order.

        Raises:
            StoreError: They are not the ids that were written.
        """
        with reading(self._folder, self.path) as txn:
            return read_ids(txn, self.path, self.ids_sha256)

    def _view(self, txn: GuardedTransaction, index: int, season: int) -> np.ndarray:
        if index in self._dropped:
            raise StoreError(f"{self.path}: index {index} was dropped ({self.excluded[index]}); leave it out")
        byte, bit = divmod(index * self.num_seasons + season, 8)
        unpack = partial(unpack_record, verify_checksum=bool(self._unchecked[byte] & 1 << bit))
        header, view = fetch(txn, self.path, index, season, unpack)
        self._unchecked[byte] &= ~(1 << bit)
        bands = (len(self.meta.bands),) if self.meta.bands else ()
        fits = view.shape[:-2] == bands and view.ndim == len(bands) + 2 and view.size
        if header.dtype != self._dtype or not fits:
            there, wanted = f"{header.dtype.name} of shape {view.shape}", f"{self.meta.dtype} of {(*bands, 'H', 'W')}"
            where = f"{self.path}: index {index}, season {season}"
            raise StoreError(f"{where}: {there}, but the store holds {wanted}; copy or write the store again")
        self.bytes_read += HEADER_SIZE + header.num_stored
        self._latest = index, header.location_id
        return view
