"""What a download job has done of each item: a line of JSON each, appended as it happens.

The first line describes the job; another job does not go on in the same folder. A line that a kill cut short is
dropped, and its item fetched again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from cromss.store.folder import lock_folder, sync_folder

MANIFEST_NAME = "downloads.jsonl"

STATES = ("done", "skipped", "failed")


@dataclass(frozen=True)
class FileMark:
    """A file that was fetched: path under the job's folder, size in bytes, SHA-256 in hexadecimal."""

    path: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, folder: Path) -> "FileMark":
        """Mark of a file, read from the disk."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.relative_to(folder).as_posix(), path.stat().st_size, digest)

    def is_there(self, folder: Path) -> bool:
        """The file is on the disk in its size."""
        path = folder / self.path
        return path.is_file() and path.stat().st_size == self.num_bytes


@dataclass(frozen=True)
class Entry:
    """What became of an item: `"done"` with its files, `"skipped"` or `"failed"` with the reason."""

    name: str
    state: str
    files: tuple[FileMark, ...] = ()
    reason: str = ""


class Manifest:
    """The account of a job, locked against other processes while it is open.

    Args:
        folder: Folder of the job.
        described: What makes this job another one, as plain values; a job that was begun with others is refused.

    Attributes:
        entries: Item -> the last that happened to it.

    Raises:
        ValueError: Begun with other settings, not a manifest, or being written by another process.
    """

    def __init__(self, folder: Path, described: Mapping[str, Any]):
        self.folder, self.path = folder, folder / MANIFEST_NAME
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(folder)
        try:
            self.entries = _read(self.path, json.loads(json.dumps(described)))
            self._file = _renewed(self.path, described, self.entries)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._lock.close()

    def is_done(self, name: str, retry_skipped: bool = False) -> bool:
        """The item was fetched and its files are still there, or there was nothing to fetch."""
        entry = self.entries.get(name)
        if entry is None or entry.state == "failed" or (retry_skipped and entry.state == "skipped"):
            return False
        return all(mark.is_there(self.folder) for mark in entry.files)

    def add(self, entry: Entry) -> None:
        """Append what became of an item, on the disk at once."""
        self.entries[entry.name] = entry
        self._file.write(json.dumps(asdict(entry)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield where to write a file that others see whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, described: Mapping[str, Any]) -> dict[str, Entry]:
    """Last entry of each item; none where there is no manifest."""
    if not path.exists():
        return {}
    first, *rows = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    begun = _json(first)
    if not isinstance(begun, dict) or not isinstance(begun.get("job"), dict):
        raise ValueError(f"{path}: not the manifest of a download; remove it, or choose another --out")
    for key, value in described.items():
        if (there := begun["job"].get(key)) != value:
            raise ValueError(
                f"{path}: begun with {key} {there!r}, not {value!r}; go on with that, or choose another --out"
            )
    return {entry.name: entry for entry in map(_entry, rows) if entry}


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _entry(line: str) -> Entry | None:
    try:
        told = dict(_json(line))
        entry = Entry(**told | {"files": tuple(FileMark(**mark) for mark in told["files"])})
    except (TypeError, KeyError, ValueError):
        return None
    texts = (entry.name, entry.reason, *(mark.path for mark in entry.files))
    return entry if entry.state in STATES and all(isinstance(text, str) for text in texts) else None


def _renewed(path: Path, described: Mapping[str, Any], entries: Mapping[str, Entry]) -> IO[str]:
    """The manifest with its whole lines alone, open to append."""
    lines: Sequence[Any] = [{"job": dict(described)}, *(asdict(entry) for entry in entries.values())]
    with written(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path.open("a", encoding="utf-8")
