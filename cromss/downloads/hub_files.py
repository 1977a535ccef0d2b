"""Files of a repository as its hub states them: where they lie, whether they came whole, and which are wanted."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cromss.downloads.manifest import FileMark
from cromss.downloads.retries import Unavailable


@dataclass(frozen=True)
class HubFile:
    """A file as its hub states it.

    Attributes:
        path: Under the repository.
        num_bytes: Size in bytes.
        digest: SHA-256 in hexadecimal of a large file, the 40 digits of git's blob id of a small one.
    """

    path: str
    num_bytes: int
    digest: str

    def partial(self, folder: Path) -> Path:
        """Where it lies under `folder` until it is whole."""
        path = folder / self.path
        return path.with_name(f".{path.name}.{self.digest[:8]}.partial")

    def is_there(self, folder: Path) -> bool:
        """It lies under `folder` in its size."""
        return (folder / self.path).is_file() and num_bytes_of(folder / self.path) == self.num_bytes

    def missing(self, folder: Path) -> int:
        """Bytes of it that are not under `folder` yet."""
        return 0 if self.is_there(folder) else max(self.num_bytes - num_bytes_of(self.partial(folder)), 0)

    def check(self, path: Path) -> FileMark:
        """Mark of its content at `path`, named as in the repository.

        Raises:
            Unavailable: Another size or hash than the hub states.
        """
        mark = FileMark.of(path, path.parent)
        if mark.num_bytes != self.num_bytes:
            raise Unavailable(f"{self.path}: {mark.num_bytes} bytes came, the hub states {self.num_bytes}")
        found = mark.sha256 if len(self.digest) == 64 else _blob_id(path)
        if found != self.digest:
            raise Unavailable(f"{self.path}: its hash is {found}, the hub states {self.digest}")
        return FileMark(self.path, mark.num_bytes, mark.sha256)


def select(files: Sequence[HubFile], patterns: Sequence[str], limit: int | None = None) -> list[HubFile]:
    """Files that match any of the patterns, in the order of the listing.

    Args:
        files: What there is.
        patterns: With the wildcards of a shell; one without a slash is for file names in any folder.
        limit: Only the first files of each folder.

    Raises:
        ValueError: A pattern that matches none; names what there is.
    """
    chosen = set()
    for pattern in patterns:
        matching = {file for file in files if fnmatchcase(_compared(file.path, pattern), pattern)}
        if not matching:
            shown = ", ".join(file.path for file in files[:8]) + (", ..." if len(files) > 8 else "")
            raise ValueError(f"no file like {pattern!r}; there are: {shown or 'none'} (--list shows all)")
        chosen |= matching
    folders = defaultdict(list)
    for file in files:
        if file in chosen:
            folders[file.path.rpartition("/")[0]].append(file)
    return [file for inside in folders.values() for file in inside[:limit]]


def _compared(path: str, pattern: str) -> str:
    return path if "/" in pattern else path.rpartition("/")[2]


def num_bytes_of(path: Path) -> int:
    """Size of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _blob_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
