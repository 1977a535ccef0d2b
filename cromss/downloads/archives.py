"""Zip archives unpacked into a folder of their own: member by member, nothing outside it, never more than declared.

An interrupted run goes on: members that lie there with the size and checksum that the archive states are left.
"""

import json
import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cromss.disk_space import check_space
from cromss.downloads.archive_members import check_members
from cromss.store.folder import partial_path, sync_folder, write_synced

MARKER_NAME = "unpacked.json"
"""File in a finished folder that says which archive it is from."""

_CHUNK = 1 << 20
_BLOCK = 4096
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Unpacked:
    """What became of an archive.

    Attributes:
        folder: Where it is.
        num_files: Files in it.
        num_bytes: Their size together.
        ratio: How many times that of the archive.
        num_written: Files written by this run.
    """

    folder: Path
    num_files: int
    num_bytes: int
    ratio: float
    num_written: int

    def __str__(self) -> str:
        there = self.num_files - self.num_written
        return (
            f"{self.folder}: {self.num_files} files, {self.num_bytes / 1e9:.3f} GB ({self.ratio:.1f} times the "
            f"archive); written: {self.num_written}, there already: {there}"
        )


def unpacked_folder(archive: Path) -> Path:
    """Folder that an archive is unpacked into: beside it, named as it is without its ending."""
    return archive.with_suffix("")


def unpack(archive: Path) -> Unpacked:
    """Unpack a zip archive beside it, with a progress bar; a finished folder is left as it is.

    Raises:
        ValueError: Not a sound archive, hostile names or sizes, too little space, or a folder that is not from it.
    """
    folder = unpacked_folder(archive)
    with _opened(archive) as opened:
        members = check_members(opened, archive, MARKER_NAME)
        described = _described(archive, members)
        if folder.exists():
            _refuse_other(folder, described)
            return _outcome(described, folder, archive, num_written=0)
        num_written = _write_all(opened, archive, members)
    partial = partial_path(folder)
    os.sync()
    write_synced(partial / MARKER_NAME, described)
    sync_folder(partial)
    partial.replace(folder)
    sync_folder(folder.parent)
    return _outcome(described, folder, archive, num_written)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (*_DAMAGED, struct.error) as error:
        raise ValueError(f"{archive}: not a sound zip archive ({error}); remove it and download it again") from None


def _outcome(described: dict, folder: Path, archive: Path, num_written: int) -> Unpacked:
    num_bytes = described["num_bytes"]
    return Unpacked(folder, described["num_files"], num_bytes, num_bytes / archive.stat().st_size, num_written)


def _described(archive: Path, members: list[zipfile.ZipInfo]) -> dict:
    """What tells an archive from others, without reading it whole."""
    names = "\n".join(f"{member.filename} {member.file_size} {member.CRC}" for member in members)
    return {
        "archive": archive.name,
        "archive_bytes": archive.stat().st_size,
        "num_files": len(members),
        "num_bytes": sum(member.file_size for member in members),
        "crc32": zlib.crc32(names.encode()),
    }


def _refuse_other(folder: Path, described: dict) -> None:
    try:
        there = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        there = None
    if there != described:
        raise ValueError(f"{folder}: there already, and not from {described['archive']} as it is; remove or rename it")


def _write_all(opened: zipfile.ZipFile, archive: Path, members: list[zipfile.ZipInfo]) -> int:
    """Number of members written; the others were there."""
    root = partial_path(unpacked_folder(archive))
    if root.is_symlink():
        raise ValueError(f"{root}: a link; remove it")
    wanted = [member for member in members if not _is_there(member, root / member.filename)]
    check_space(root, sum(-(-member.file_size // _BLOCK) * _BLOCK for member in wanted), "remove what is not needed")
    root.mkdir(exist_ok=True)
    inside = root.resolve()
    total = sum(member.file_size for member in wanted)
    with tqdm(total=total, unit="B", unit_scale=True, desc=archive.name, disable=None) as bar:
        for member in wanted:
            target = root / member.filename
            if not target.resolve().is_relative_to(inside):
                raise ValueError(f"{target}: leads out of {root} by a link; remove it")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(opened, member, target)
            except (*_DAMAGED, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # of the disk; a decoder has no number
                    raise
                said = f"member {member.filename!r} is damaged ({error}); remove the archive and download it again"
                raise ValueError(f"{archive}: {said}") from None
            bar.update(member.file_size)
    return len(wanted)


def _is_there(member: zipfile.ZipInfo, path: Path) -> bool:
    """The file is there with size and checksum; links are not looked behind."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != member.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write a member, whose checksum zipfile compares at its end."""
    with opened.open(member) as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
        if sink.tell() != member.file_size:
            raise ValueError(f"{sink.tell()} bytes, {member.file_size} stated")
