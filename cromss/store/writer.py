"""The writer of a store: resumable after a kill or a full disk, and atomic, so that a finished store is whole."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from cromss.store.contents import check_entries, id_key, record_key, scan_ids, verify
from cromss.store.environment import open_environment, transaction
from cromss.store.folder import LOCK_NAME, MANIFEST_NAME, lock_folder, partial_path, sync_folder, write_synced
from cromss.store.meta import DEFLATE, META_KEY, StoreError, StoreMeta, decode_meta, encode_meta
from cromss.store.record import MAX_ID_BYTES, pack_record

BATCH_BYTES = 16 << 20
"""Bytes held in memory between commits: larger batches of large arrays are no faster, and take more memory."""


class LmdbWriter:
    """Writes one store, location by location.

    Everything goes into `<path>.partial`, which survives a kill or a full disk and is resumed by opening the writer
    again with the same settings. `finish` verifies every record and renames the folder to `path`.

        with LmdbWriter("s1.lmdb", meta) as writer:
            for location_id in ids[len(writer.location_ids):]:
                writer.write(location_id, read_seasons(location_id))
            writer.finish()

    Args:
        path: Folder of the finished store.
        meta: What the store holds.
        batch_size: Arrays held in memory between commits, or fewer if they take `BATCH_BYTES`; a location is always
            committed whole.
        map_size: First size of the memory map in bytes; it grows as needed.

    Attributes:
        commit_seconds: Time spent in commits so far.

    Raises:
        StoreError: `path` is there already, `<path>.partial` was begun with other settings, is damaged,
            or is being written by another process.
    """

    def __init__(self, path: str | Path, meta: StoreMeta, batch_size: int = 64, map_size: int = 1 << 30):
        if batch_size < 1:
            raise StoreError(f"batch_size {batch_size}: at least one array is held between commits")
        self.path, self.partial = Path(path), partial_path(path)
        self.meta, self.batch_size = meta, batch_size
        self._pending: list[tuple[str, list[slice]]] = []
        self._held, self._pending_bytes, self.commit_seconds = bytearray(), 0, 0.0
        self._env: lmdb.Environment | None = None
        if self.path.exists():
            state = "is finished" if (self.path / MANIFEST_NAME).exists() else "is there, but is not a finished store"
            raise StoreError(f"{path}: {state}; remove it or write to another path")
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.partial)
        try:
            self._env = open_environment(self.partial, map_size=map_size)
            self._ids = self._resume()
        except BaseException:
            self._release()
            raise
        self._known = set(self._ids)

    def __enter__(self) -> "LmdbWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except StoreError:
            if error is None:
                raise

    @property
    def location_ids(self) -> list[str]:
        """Ids of the committed locations, in order."""
        return list(self._ids)

    @property
    def num_records(self) -> int:
        """Arrays committed."""
        return len(self._ids) * self.meta.num_seasons

    def write(self, location_id: str, seasons: Sequence[np.ndarray]) -> None:
        """Append the next location.

        Args:
            location_id: Its id, unique in the store, at most 96 bytes of UTF-8.
            seasons: `num_seasons` arrays of one shape, `(C, H, W)` with the store's bands, or `(H, W)` without.

        Raises:
            StoreError: An id or arrays that do not fit the store.
        """
        seasons, where = [np.asarray(array) for array in seasons], f"{self.partial}: location {location_id!r}"
        _check_id(where, location_id)
        if location_id in self._known:
            raise StoreError(f"{where}: written already; ids are unique")
        _check_seasons(where, seasons, self.meta)
        self._known.add(location_id)
        compress = self.meta.compression == DEFLATE
        self._pending.append((location_id, [self._hold(pack_record(location_id, a, compress)) for a in seasons]))
        if len(self._pending) * self.meta.num_seasons >= self.batch_size or self._pending_bytes >= BATCH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make all locations written so far durable.

        Raises:
            StoreError: The disk is full or broken; what was committed before is intact.
        """
        changes: list[tuple[bytes, bytes | memoryview | None]] = []
        held = memoryview(self._held)
        for index, (location_id, places) in enumerate(self._pending, start=len(self._ids)):
            changes += [(record_key(index, season), held[place]) for season, place in enumerate(places)]
            changes.append((id_key(index), location_id.encode()))
        if changes:
            start = time.monotonic()
            self._apply(changes)
            self.commit_seconds += time.monotonic() - start
        self._ids += [location_id for location_id, _ in self._pending]
        self._pending.clear()
        self._pending_bytes = 0

    def truncate(self, num_locations: int) -> None:
        """Keep the first `num_locations` locations and drop the rest, to align stores written side by side.

        Raises:
            StoreError: More than there are, or negative.
        """
        self.commit()
        if not 0 <= num_locations <= len(self._ids):
            raise StoreError(f"{self.partial}: cannot keep {num_locations} locations of {len(self._ids)}")
        dropped = range(num_locations, len(self._ids))
        keys = [record_key(index, season) for index in dropped for season in range(self.meta.num_seasons)]
        self._apply([(key, None) for key in keys + [id_key(index) for index in dropped]])
        self._known.difference_update(self._ids[num_locations:])
        del self._ids[num_locations:]

    def finish(self, progress: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Commit, read everything back, write the manifest, and give the store its final name.

        Args:
            progress: Called for each record read back.

        Returns:
            The manifest.

        Raises:
            StoreError: Nothing was written, or what is read back is damaged.
        """
        self.commit()
        if not self._ids:
            raise StoreError(f"{self.partial}: nothing to finish, no location was written")
        self._apply([(META_KEY, encode_meta(self.meta, self._ids))])
        self._env.close()
        self._env = None
        manifest = verify(self.partial, progress)
        write_synced(self.partial / MANIFEST_NAME, manifest)
        (self.partial / LOCK_NAME).unlink(missing_ok=True)
        sync_folder(self.partial)
        os.rename(self.partial, self.path)
        sync_folder(self.path.parent)
        self._release()
        return manifest

    def close(self) -> None:
        """Commit what is whole and leave `<path>.partial` to be resumed."""
        try:
            self.commit()
        finally:
            self._release()

    def _hold(self, record: bytes) -> slice:
        """Where a record waits for its commit: in memory used again, as new memory takes longer than a copy."""
        place = slice(self._pending_bytes, self._pending_bytes + len(record))
        if place.stop > len(self._held):
            self._held = self._held.ljust(place.stop + place.stop // 4, b"\0")
        self._held[place] = record
        self._pending_bytes = place.stop
        return place

    def _release(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None
        self._lock.close()

    def _resume(self) -> list[str]:
        """Ids of the locations that an earlier writer committed; a new store gets its description."""
        (self.partial / MANIFEST_NAME).unlink(missing_ok=True)
        if self._env.stat()["entries"] == 0:
            self._apply([(META_KEY, encode_meta(self.meta, ids=None))])
            sync_folder(self.partial)
            sync_folder(self.partial.parent)
        with transaction(self._env, self.partial) as txn:
            begun, _ = decode_meta(txn.get(META_KEY), self.partial)
            _check_same(self.partial, begun, self.meta)
            ids = scan_ids(txn)
            check_entries(txn, self.partial, len(ids), self.meta.num_seasons)
        return ids

    def _apply(self, changes: list[tuple[bytes, bytes | memoryview | None]]) -> None:
        """All changes (`None` deletes) in one transaction, redone in a map of twice the size when it is full."""
        if self._env is None:
            raise StoreError(f"{self.partial}: the writer is closed; open it again to resume")
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for key, value in changes:
                        txn.delete(key) if value is None else txn.put(key, value)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                raise StoreError(f"{self.partial}: cannot commit ({error}); free the disk and resume") from error


def _check_same(partial: Path, begun: StoreMeta, meta: StoreMeta) -> None:
    if told := begun.difference(meta):
        raise StoreError(f"{partial}: begun with {told}; remove it to restart")


def _check_id(where: str, location_id: str) -> None:
    if not isinstance(location_id, str) or not location_id.isprintable():
        raise StoreError(f"{where}: an id is printable text")
    if not 0 < len(location_id.encode()) <= MAX_ID_BYTES:
        raise StoreError(f"{where}: an id is text of 1 to {MAX_ID_BYTES} bytes")


def _check_seasons(where: str, seasons: Sequence[np.ndarray], meta: StoreMeta) -> None:
    if len(seasons) != meta.num_seasons:
        raise StoreError(f"{where}: {len(seasons)} seasons, but the store holds {meta.num_seasons} of each")
    bands = (len(meta.bands),) if meta.bands else ()
    wanted = f"({len(meta.bands)}, H, W)" if meta.bands else "(H, W)"
    for season, array in enumerate(seasons):
        if array.dtype.name != meta.dtype:
            raise StoreError(f"{where}, season {season}: {array.dtype.name}, but the store holds {meta.dtype}")
        if array.ndim != len(bands) + 2 or array.shape[:-2] != bands or array.size == 0:
            raise StoreError(f"{where}, season {season}: shape {array.shape}, but the store holds {wanted}")
        if array.shape != seasons[0].shape:
            raise StoreError(f"{where}, season {season}: shape {array.shape} after {seasons[0].shape}")
