"""Trees of files inside uncompressed tar archives: indexed once, then read in place without unpacking."""

import sys
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import rasterio

_ZEROS = bytes(512)
"""Block that ends a tar archive."""

_CHUNK = 1 << 20


class TarTree:
    """Index of the files in the parts of one tree.

    A file takes one number here, and its place (part, offset, size) three numbers of 64 bits, so that
    millions of members fit into memory.

    Args:
        root: Name of the tree in messages.
        parts: The archives, uncompressed.

    Raises:
        ValueError: An archive is truncated, compressed or none, or holds a link, a sparse file, a name that leads
            out of it, or a file twice.
    """

    def __init__(self, root: Path, parts: Sequence[Path]):
        self.root, self._parts = root, [part.absolute() for part in parts]
        self._folders: dict[str, dict[str, int | None]] = {"": {}}
        self._places = array("Q")
        for number, part in enumerate(parts):
            for member in _files(part):
                self._add(member, number, part)

    def folder(self, path: str) -> dict[str, int | None] | None:
        """Names in a folder, with the number of a file and `None` for a folder; `None` without such a folder."""
        return self._folders.get(path)

    def place(self, number: int) -> tuple[Path, int, int]:
        """Archive, offset and size in bytes of a file."""
        part, offset, size = self._places[3 * number : 3 * number + 3]
        return self._parts[part], offset, size

    def _add(self, member: tarfile.TarInfo, part: int, archive: Path) -> None:
        path = _safe_name(member.name, archive)
        siblings = self._make(path.parent)
        if path.name in siblings:
            raise ValueError(f"{archive}: {path} is in {self.root} twice; keep one")
        siblings[sys.intern(path.name)] = len(self._places) // 3
        self._places.extend((part, member.offset_data, member.size))

    def _make(self, folder: PurePosixPath) -> dict[str, int | None]:
        key = "" if folder == PurePosixPath() else str(folder)
        if key not in self._folders:
            self._make(folder.parent)[folder.name] = None
            self._folders[key] = {}
        return self._folders[key]


@dataclass(frozen=True, slots=True)
class TarPath:
    """A file or folder in a tree; reads like a `Path`.

    Attributes:
        tree: The index.
        path: Parts joined by `/`, empty for the root.
    """

    tree: TarTree
    path: str = ""

    def __str__(self) -> str:
        return f"{self.tree.root}/{self.path}" if self.path else str(self.tree.root)

    def __truediv__(self, name: str) -> "TarPath":
        return TarPath(self.tree, f"{self.path}/{name}" if self.path else name)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """Suffix of the name with its dot."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> "TarPath":
        """The folder it lies in."""
        return TarPath(self.tree, self.path.rpartition("/")[0])

    def is_dir(self) -> bool:
        """A folder of the tree."""
        return self.tree.folder(self.path) is not None

    def is_file(self) -> bool:
        """A file of the tree."""
        return self._number() is not None

    def iterdir(self) -> Iterator["TarPath"]:
        """What the folder holds."""
        return (self / name for name in self.tree.folder(self.path) or ())

    def glob(self, pattern: str) -> Iterator["TarPath"]:
        """What the folder itself holds of a pattern."""
        return (child for child in self.iterdir() if fnmatchcase(child.name, pattern))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Contents of a file."""
        archive, offset, size = self.tree.place(self._number())
        with archive.open("rb") as file:
            file.seek(offset)
            return file.read(size).decode(encoding)

    def open_raster(self) -> rasterio.DatasetReader:
        """Open the file where it lies in its archive."""
        archive, offset, size = self.tree.place(self._number())
        return rasterio.open(f"/vsisubfile/{offset}_{size},{archive}")

    def _number(self) -> int | None:
        return (self.tree.folder(self.parent.path) or {}).get(self.name)


def find_tree(root: Path, folder: str) -> Path | TarPath:
    """The tree `<root>/<folder>`: a folder, the archive `<folder>.tar`, or a folder of archives `*.tar`.

    `folder` may name the archive itself. A folder goes before an archive beside it. Where the members of the
    archives all lie under `<folder>/`, that is left out.

    Raises:
        ValueError: There are compressed archives only, or as `TarTree`.
    """
    top = root / folder.removesuffix(".tar")
    single = root / f"{folder.removesuffix('.tar')}.tar"
    inside = sorted(top.glob("*.tar")) if top.is_dir() else []
    parts = inside or ([single] if single.is_file() and not top.exists() else [])
    if not parts:
        _refuse_compressed(top)
        return top
    tree = TarTree(top if inside else single, parts)
    return TarPath(tree, top.name if set(tree.folder("")) == {top.name} else "")


def _refuse_compressed(top: Path) -> None:
    beside = [top.with_name(f"{top.name}{suffix}") for suffix in (".tar.gz", ".tgz")] if not top.exists() else []
    inside = [path for pattern in ("*.tar.gz", "*.tgz") for path in sorted(top.glob(pattern))] if top.is_dir() else []
    if packed := [path for path in (*beside, *inside) if path.is_file()]:
        raise ValueError(f"{packed[0]}: compressed archives cannot be read in place; unpack it once with gunzip")


def _files(archive: Path) -> Iterator[tarfile.TarInfo]:
    """Regular files of an archive, which is whole."""
    length = archive.stat().st_size
    try:
        with tarfile.open(archive, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep all
                if not 0 <= member.size <= length - member.offset_data:
                    raise ValueError(f"{archive}: truncated in {member.name}; copy it again")
                if member.isfile() and not member.issparse():
                    yield member
                elif not member.isdir():
                    raise ValueError(f"{archive}: {member.name} is no plain file (a link or sparse); pack it anew")
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: not an uncompressed tar archive, or damaged ({error}); copy it again") from error
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(len(_ZEROS)) != _ZEROS:
            raise ValueError(f"{archive}: truncated or damaged at byte {end}; copy it again")
        while rest := file.read(_CHUNK):
            if rest.strip(b"\0"):
                raise ValueError(
                    f"{archive}: goes on behind its end at byte {end}: damaged, or archives were joined to it; "
                    "copy it again, or keep them apart in a folder"
                )


def _safe_name(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
        raise ValueError(f"{archive}: member {name!r} leads out of the archive or is no plain name; pack it anew")
    return path
