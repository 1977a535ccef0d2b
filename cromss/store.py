"""Self-describing LMDB stores of one modality: a resumable, atomic writer and a reader that checks what it reads.

A finished store is a folder with `data.mdb` and `manifest.json`. Its keys are `<index:08d>/<season>` (one array),
`__id__/<index:08d>` (a location's id) and `__meta__` (JSON). An array's value is a header of 128 bytes (format,
dtype, shape, id, checksums) and the raw C-order bytes, little-endian. An unfinished store is `<name>.partial`.
"""

import errno
import fcntl
import hashlib
import json
import math
import operator
import os
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import lmdb
import numpy as np

FORMAT_VERSION = 1
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
"""The position is the code in record headers: append only."""

DATA_NAME, MANIFEST_NAME, LOCK_NAME = "data.mdb", "manifest.json", "writer.lock"
META_KEY, ID_PREFIX = b"__meta__", b"__id__/"

_MAGIC = b"CSLR"
_PREFIX = struct.Struct("<4sI")  # magic, checksum of the rest of the header
_BODY = struct.Struct("<IBBBB4I96s")  # checksum of the payload, format, dtype, ndim, length of the id, shape, id
HEADER_SIZE = _PREFIX.size + _BODY.size
MAX_ID_BYTES = 96


class StoreError(ValueError):
    """A store that cannot be read or written; one line says which, why, and what to do."""


@dataclass(frozen=True)
class StoreMeta:
    """What a store says about itself.

    Attributes:
        modality: `"s1"`, `"s2"`, `"labels"` or a name of your own.
        bands: Band names in storage order; none for labels.
        dtype: NumPy name of the values' type, one of `DTYPES`.
        num_seasons: Arrays of each location.
        unit: Unit of the values, such as `"dB"`, `"DN"`, `"uint8 of mean +- 2 std"`, `"class id"`.
        legend: Name of the legend of labels.
        statistics: Statistics that belong to the values, such as `{"mean": [...], "std": [...]}`.
        source: Where the data come from.

    Raises:
        StoreError: Unknown dtype, or no season.
    """

    modality: str
    bands: tuple[str, ...]
    dtype: str
    num_seasons: int
    unit: str
    legend: str = ""
    statistics: Mapping[str, list[float]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self):
        object.__setattr__(self, "bands", tuple(self.bands))
        statistics = {name: [float(value) for value in values] for name, values in self.statistics.items()}
        object.__setattr__(self, "statistics", statistics)
        if self.dtype not in DTYPES:
            raise StoreError(f"dtype {self.dtype!r} cannot be stored; choose one of {', '.join(DTYPES)}")
        if self.num_seasons < 1:
            raise StoreError(f"num_seasons {self.num_seasons}: a location has at least one season")


@dataclass(frozen=True)
class RecordHeader:
    """The fixed header of an array's value."""

    location_id: str
    dtype: np.dtype
    shape: tuple[int, ...]
    checksum: int


def pack_record(location_id: str, array: np.ndarray) -> bytes:
    """Array of up to 4 dimensions -> the value stored for it."""
    payload = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data
    identity, shape = location_id.encode(), array.shape + (0,) * (4 - array.ndim)
    codes = (FORMAT_VERSION, DTYPES.index(array.dtype.name), array.ndim, len(identity))
    body = _BODY.pack(zlib.crc32(payload), *codes, *shape, identity)
    return b"".join((_PREFIX.pack(_MAGIC, zlib.crc32(body)), body, payload))


def unpack_header(value: bytes | memoryview) -> RecordHeader:
    """Header of a stored value; the shape has been checked against the value's size.

    Raises:
        StoreError: Not such a value, of another format version, or damaged.
    """
    if len(value) < HEADER_SIZE or bytes(value[: len(_MAGIC)]) != _MAGIC:
        raise StoreError(f"not an array record ({len(value)} bytes)")
    if _PREFIX.unpack_from(value)[1] != zlib.crc32(value[_PREFIX.size : HEADER_SIZE]):
        raise StoreError("damaged header (checksum differs); copy or write the store again")
    checksum, version, dtype_code, ndim, id_bytes, *shape, identity = _BODY.unpack_from(value, _PREFIX.size)
    if version != FORMAT_VERSION:
        raise StoreError(f"record of format {version}, but this version reads {FORMAT_VERSION}")
    if dtype_code >= len(DTYPES) or ndim > 4:
        raise StoreError(f"impossible header (dtype code {dtype_code}, {ndim} dimensions)")
    dtype, shape = np.dtype(DTYPES[dtype_code]).newbyteorder("<"), tuple(shape[:ndim])
    size = math.prod(shape) * dtype.itemsize
    if size != len(value) - HEADER_SIZE:
        raise StoreError(f"shape {shape} of {dtype.name} takes {size} bytes, the record has {len(value) - HEADER_SIZE}")
    return RecordHeader(identity[:id_bytes].decode(errors="replace"), dtype, shape, checksum)


def unpack_record(value: bytes | memoryview) -> tuple[RecordHeader, np.ndarray]:
    """Header and array of a stored value; the array is a read-only view of `value`.

    Raises:
        StoreError: As `unpack_header`, or the payload's checksum differs.
    """
    header = unpack_header(value)
    payload = memoryview(value)[HEADER_SIZE:]
    if zlib.crc32(payload) != header.checksum:
        raise StoreError("damaged values (checksum differs); copy or write the store again")
    return header, np.frombuffer(payload, header.dtype).reshape(header.shape)


def partial_path(path: str | Path) -> Path:
    """Where a store lies until it is finished."""
    return Path(path).with_name(Path(path).name + ".partial")


def record_key(index: int, season: int) -> bytes:
    """Key of one array."""
    return f"{index:08d}/{season}".encode()


def id_key(index: int) -> bytes:
    """Key of a location's id."""
    return ID_PREFIX + f"{index:08d}".encode()


def ids_checksum(ids: Sequence[str]) -> str:
    """SHA-256 of ids, one per line."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def check_position(path: Path, kind: str, position: int, count: int) -> int:
    """`position` as a plain int in 0..count-1.

    Raises:
        IndexError: Outside that range.
    """
    position = operator.index(position)
    if not 0 <= position < count:
        raise IndexError(f"{path}: no {kind} {position}; there are {count}, counted from 0")
    return position


def _encode_meta(meta: StoreMeta, ids: Sequence[str] | None) -> bytes:
    """`__meta__` of a store; `ids` is `None` until it is finished."""
    totals = {} if ids is None else {"num_locations": len(ids), "ids_sha256": ids_checksum(ids)}
    return json.dumps({"format": FORMAT_VERSION, **asdict(meta), **totals}).encode()


def _decode_meta(raw: bytes | None, path: Path) -> tuple[StoreMeta, dict[str, Any]]:
    entries = _load_json(raw or b"", f"{path}: {META_KEY.decode()}")
    try:
        return StoreMeta(**{f.name: entries[f.name] for f in fields(StoreMeta)}), entries
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{path}: {META_KEY.decode()} is not a store's ({error!r}); write it again") from error


def _load_json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        entries = json.loads(raw)
        version = int(entries["format"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StoreError(f"{where}: not the JSON of a store; copy or write the store again") from None
    if version > FORMAT_VERSION:
        raise StoreError(f"{where}: format {version}, but this version reads up to {FORMAT_VERSION}; update cromss")
    return entries


_environments: dict[str, tuple[tuple[int, ...], lmdb.Environment]] = {}
_opening = threading.Lock()


def _forget_environments() -> None:
    _environments.clear()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_forget_environments)


def open_environment(folder: str, fresh: bool = False) -> lmdb.Environment:
    """Read-only environment of a folder, one per process: LMDB allows no second, and none may cross a fork.

    Args:
        folder: Real path of the store.
        fresh: Open it again if the file has been replaced since.

    Raises:
        StoreError: Not an LMDB file, or a truncated one.
    """
    with _opening:
        if fresh and folder in _environments and _environments[folder][0] != _fingerprint(folder):
            del _environments[folder]
        if folder not in _environments:
            _environments[folder] = _fingerprint(folder), _open(folder, readonly=True)
        return _environments[folder][1]


def _fingerprint(folder: str) -> tuple[int, ...]:
    found = os.stat(os.path.join(folder, DATA_NAME))
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(folder: str | Path, **options) -> lmdb.Environment:
    """Environment without LMDB's own lock file; a file shorter than its pages is refused, reading it is a SIGBUS."""
    data = os.path.join(folder, DATA_NAME)
    try:
        env = lmdb.open(str(folder), lock=False, **options)
    except lmdb.Error as error:
        raise StoreError(f"{data}: cannot be opened ({error}); copy or write the store again") from error
    needed, size = (env.info()["last_pgno"] + 1) * env.stat()["psize"], os.path.getsize(data)
    if needed > size:
        env.close()
        raise StoreError(f"{data}: truncated, {size} bytes of {needed}; copy or write the store again")
    return env


def _fetch(txn: lmdb.Transaction, path: Path, index: int, season: int, unpack):
    try:
        value = txn.get(record_key(index, season))
        if value is None:
            raise StoreError("the record is missing; copy or write the store again")
        return unpack(value)
    except (StoreError, lmdb.Error) as error:
        raise StoreError(f"{path}: index {index}, season {season}: {error}") from None


def _scan_ids(txn: lmdb.Transaction) -> list[str]:
    ids = []
    with txn.cursor() as cursor:
        found = cursor.set_range(ID_PREFIX)
        while found and cursor.key().startswith(ID_PREFIX):
            ids.append(bytes(cursor.value()).decode(errors="replace"))
            found = cursor.next()
    return ids


def _check_entries(env: lmdb.Environment, path: Path, num_locations: int, num_seasons: int) -> None:
    entries, expected = env.stat()["entries"], num_locations * (num_seasons + 1) + 1
    if entries != expected:
        raise StoreError(f"{path}: {entries} entries, but {num_locations} locations make {expected}; write it again")


def _checked_summary(value: memoryview) -> tuple[str, bytes, int]:
    """Id, raw header and size of a sound record; no view of the page is left behind."""
    return unpack_record(value)[0].location_id, bytes(value[:HEADER_SIZE]), len(value)


def verify(folder: Path, meta: StoreMeta, ids: Sequence[str]) -> dict[str, Any]:
    """Read a store back whole and return its manifest.

    The checksum is the SHA-256 of all keys and headers in order, and so of the payloads' CRC-32 too.

    Raises:
        StoreError: A record is missing, damaged, or another location's.
    """
    digest, num_bytes = hashlib.sha256(), 0
    env = _open(folder, readonly=True)
    try:
        _check_entries(env, folder, len(ids), meta.num_seasons)
        with env.begin(buffers=True) as txn:
            for index, season in ((i, s) for i in range(len(ids)) for s in range(meta.num_seasons)):
                location_id, header, size = _fetch(txn, folder, index, season, _checked_summary)
                if location_id != ids[index]:
                    raise StoreError(f"{folder}: index {index} is {location_id!r}, expected {ids[index]!r}")
                digest.update(record_key(index, season) + header)
                num_bytes += size
        described = json.loads(_encode_meta(meta, ids))
        totals = {"entries": env.stat()["entries"], "bytes": num_bytes, "checksum": digest.hexdigest()}
        return {"format": FORMAT_VERSION, **totals, "meta": described}
    finally:
        env.close()


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
        batch_size: Arrays held in memory between commits; a location is always committed whole.
        map_size: First size of the memory map in bytes; it grows as needed.

    Raises:
        StoreError: `path` is there already, `<path>.partial` was begun with other settings, is damaged,
            or is being written by another process.
    """

    def __init__(self, path: str | Path, meta: StoreMeta, batch_size: int = 64, map_size: int = 1 << 30):
        if batch_size < 1:
            raise StoreError(f"batch_size {batch_size}: at least one array is held between commits")
        self.path, self.partial = Path(path), partial_path(path)
        self.meta, self.batch_size = meta, batch_size
        self._pending: list[tuple[str, list[bytes]]] = []
        self._env: lmdb.Environment | None = None
        if self.path.exists():
            state = "is finished" if (self.path / MANIFEST_NAME).exists() else "is there, but is not a finished store"
            raise StoreError(f"{path}: {state}; remove it or write to another path")
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.partial)
        try:
            self._env = _open(self.partial, map_size=map_size)
            self._ids = self._resume()
        except BaseException:
            self._close()
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

    def write(self, location_id: str, seasons: Sequence[np.ndarray]) -> None:
        """Append the next location.

        Args:
            location_id: Its id, unique in the store, at most 96 bytes of UTF-8.
            seasons: `num_seasons` arrays of one shape, `(C, H, W)` with the store's bands, or `(H, W)` without.

        Raises:
            StoreError: An id or arrays that do not fit the store.
        """
        seasons = [np.asarray(array) for array in seasons]
        self._check_location(location_id, seasons)
        self._known.add(location_id)
        self._pending.append((location_id, [pack_record(location_id, array) for array in seasons]))
        if len(self._pending) * self.meta.num_seasons >= self.batch_size:
            self.commit()

    def commit(self) -> None:
        """Make all locations written so far durable.

        Raises:
            StoreError: The disk is full or broken; what was committed before is intact.
        """
        changes: list[tuple[bytes, bytes | None]] = []
        for index, (location_id, values) in enumerate(self._pending, start=len(self._ids)):
            changes += [(record_key(index, season), value) for season, value in enumerate(values)]
            changes.append((id_key(index), location_id.encode()))
        if changes:
            self._apply(changes)
        self._ids += [location_id for location_id, _ in self._pending]
        self._pending.clear()

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

    def finish(self) -> None:
        """Commit, read everything back, write the manifest, and give the store its final name.

        Raises:
            StoreError: Nothing was written, or what is read back is damaged.
        """
        self.commit()
        if not self._ids:
            raise StoreError(f"{self.partial}: nothing to finish, no location was written")
        self._apply([(META_KEY, _encode_meta(self.meta, self._ids))])
        self._env.close()
        self._env = None
        _write_synced(self.partial / MANIFEST_NAME, verify(self.partial, self.meta, self._ids))
        (self.partial / LOCK_NAME).unlink(missing_ok=True)
        _sync_folder(self.partial)
        os.rename(self.partial, self.path)
        _sync_folder(self.path.parent)
        self._close()

    def close(self) -> None:
        """Commit what is whole and leave `<path>.partial` to be resumed."""
        try:
            self.commit()
        finally:
            self._close()

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None
        self._lock.close()

    def _resume(self) -> list[str]:
        (self.partial / MANIFEST_NAME).unlink(missing_ok=True)
        if self._env.stat()["entries"] == 0:
            self._apply([(META_KEY, _encode_meta(self.meta, ids=None))])
            _sync_folder(self.partial)
            _sync_folder(self.partial.parent)
        with self._env.begin() as txn:
            begun, _ = _decode_meta(txn.get(META_KEY), self.partial)
            ids = _scan_ids(txn)
        for name in (f.name for f in fields(StoreMeta)):
            there, wanted = getattr(begun, name), getattr(self.meta, name)
            if there != wanted:
                raise StoreError(f"{self.partial}: begun with {name} {there!r}, not {wanted!r}; remove it to restart")
        _check_entries(self._env, self.partial, len(ids), self.meta.num_seasons)
        return ids

    def _apply(self, changes: list[tuple[bytes, bytes | None]]) -> None:
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

    def _check_location(self, location_id: str, seasons: list[np.ndarray]) -> None:
        where, meta = f"{self.partial}: location {location_id!r}", self.meta
        if not isinstance(location_id, str) or not location_id.isprintable():
            raise StoreError(f"{where}: an id is printable text")
        if not 0 < len(location_id.encode()) <= MAX_ID_BYTES:
            raise StoreError(f"{where}: an id is text of 1 to {MAX_ID_BYTES} bytes")
        if location_id in self._known:
            raise StoreError(f"{where}: written already; ids are unique")
        if len(seasons) != meta.num_seasons:
            raise StoreError(f"{where}: {len(seasons)} seasons, but the store holds {meta.num_seasons} of each")
        for season, array in enumerate(seasons):
            if array.dtype.name != meta.dtype:
                raise StoreError(f"{where}, season {season}: {array.dtype.name}, but the store holds {meta.dtype}")
            bands = (len(meta.bands),) if meta.bands else ()
            if array.ndim != len(bands) + 2 or array.shape[:-2] != bands or array.size == 0:
                wanted = f"({bands[0]}, H, W)" if bands else "(H, W)"
                raise StoreError(f"{where}, season {season}: shape {array.shape}, but the store holds {wanted}")
            if array.shape != seasons[0].shape:
                raise StoreError(f"{where}, season {season}: shape {array.shape} after {seasons[0].shape}")


def _lock_folder(folder: Path) -> IO:
    lock = open(folder / LOCK_NAME, "w")  # noqa: SIM115
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # a file system without locks is no reason to stop
            lock.close()
            raise StoreError(f"{folder}: another process is writing it; wait for it or stop it") from None
    return lock


def _write_synced(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LmdbReader:
    """Reads a finished store; can be pickled, and opens its environment once per process, when first used.

    Args:
        path: Folder of the store.
        modality: Refuse a store of another modality.

    Attributes:
        meta: What the store says about itself.
        num_seasons: Arrays of each location.
        bytes_read: Bytes of array records read so far by this reader, headers included.

    Raises:
        StoreError: No such folder, unfinished, truncated or damaged, of another modality, or of a newer format.
    """

    def __init__(self, path: str | Path, modality: str | None = None):
        self.path = Path(path)
        self.bytes_read = 0
        manifest = _read_manifest(self.path)
        self._folder = os.path.realpath(path)
        with open_environment(self._folder, fresh=True).begin() as txn:
            self.meta, described = _decode_meta(txn.get(META_KEY), self.path)
            entries = txn.stat()["entries"]
        if (entries, described) != (manifest.get("entries"), manifest.get("meta")):
            raise StoreError(f"{path}: {MANIFEST_NAME} belongs to another {DATA_NAME}; copy both from the same store")
        if modality not in (None, self.meta.modality):
            raise StoreError(f"{path}: holds {self.meta.modality!r}, but {modality!r} is wanted")
        self.num_seasons: int = self.meta.num_seasons
        self._num_locations, self._ids_sha256 = described["num_locations"], described["ids_sha256"]

    def __len__(self) -> int:
        return self._num_locations

    def read(self, index: int, season: int) -> np.ndarray:
        """One array of a location, `(C, H, W)` or `(H, W)`: a writable copy of its own.

        Raises:
            IndexError: No such location or season.
            StoreError: The record is missing or damaged.
        """
        index = check_position(self.path, "location", index, len(self))
        season = check_position(self.path, "season", season, self.num_seasons)
        with open_environment(self._folder).begin(buffers=True) as txn:
            return np.array(self._view(txn, index, season), dtype=self.meta.dtype)

    def read_seasons(self, index: int) -> np.ndarray:
        """All arrays of a location, `(T, C, H, W)` or `(T, H, W)`; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with open_environment(self._folder).begin(buffers=True) as txn:
            views = [self._view(txn, index, season) for season in range(self.num_seasons)]
            return np.stack(views, dtype=self.meta.dtype)

    def location_id(self, index: int) -> str:
        """Id of a location, from its first record's header; errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with open_environment(self._folder).begin(buffers=True) as txn:
            return _fetch(txn, self.path, index, 0, unpack_header).location_id

    def location_ids(self) -> list[str]:
        """Ids of all locations, in order.

        Raises:
            StoreError: They are not the ids that were written.
        """
        with open_environment(self._folder).begin() as txn:
            ids = _scan_ids(txn)
        if ids_checksum(ids) != self._ids_sha256:
            raise StoreError(f"{self.path}: damaged location ids (checksum differs); copy or write the store again")
        return ids

    def _view(self, txn: lmdb.Transaction, index: int, season: int) -> np.ndarray:
        header, view = _fetch(txn, self.path, index, season, unpack_record)
        if header.dtype.name != self.meta.dtype:
            where = f"{self.path}: index {index}, season {season}"
            raise StoreError(f"{where}: {header.dtype.name}, but the store holds {self.meta.dtype}")
        self.bytes_read += HEADER_SIZE + view.nbytes
        return view


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.suffix == ".partial" or (not path.exists() and partial_path(path).is_dir()):
        raise StoreError(f"{path}: the store is unfinished; run its writer again with the same settings to resume")
    if not path.is_dir():
        raise StoreError(f"{path}: no such folder; a store is a folder with {DATA_NAME} and {MANIFEST_NAME}")
    for name in (DATA_NAME, MANIFEST_NAME):
        if not (path / name).is_file():
            raise StoreError(f"{path}: no {name} in it, so this is no finished store; copy it whole or write it again")
    return _load_json((path / MANIFEST_NAME).read_bytes(), str(path / MANIFEST_NAME))
