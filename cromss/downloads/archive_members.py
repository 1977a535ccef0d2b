"""What a zip archive says of itself, judged before anything of it is written."""

import os
import stat
import struct
import zipfile
from pathlib import Path

HIGHEST_RATIO = 1100
"""Bytes that a byte of an archive may become; deflate reaches 1032."""

_LOCAL_HEADER = 30
_LONGEST_END = 22 + 65535 + 76  # record, comment, zip64 records
_ENCRYPTED = 1


def check_members(opened: zipfile.ZipFile, archive: Path, reserved: str) -> list[zipfile.ZipInfo]:
    """Files of an archive, all members being harmless.

    Args:
        opened: The archive.
        archive: Its path.
        reserved: Name that no member may have.

    Raises:
        ValueError: A member that would write elsewhere, not be a file, clash with others or be too large to be true.
    """
    members = opened.infolist()
    for member in members:
        if reason := _objection(member, reserved):
            raise ValueError(f"{archive}: member {member.filename!r} {reason}; the archive is not unpacked")
    if (stated := _num_stated(archive)) != len(members):
        raise ValueError(
            f"{archive}: states {stated} members and lists {len(members)}; remove it and download it again"
        )
    files = [member for member in members if not member.is_dir()]
    if reason := _clash([member.filename.rstrip("/") for member in files]) or _overlap(members, opened.start_dir):
        raise ValueError(f"{archive}: {reason}; the archive is not unpacked")
    num_bytes = sum(member.file_size for member in files)
    if num_bytes > HIGHEST_RATIO * archive.stat().st_size:
        raise ValueError(
            f"{archive}: states {num_bytes / 1e9:.1f} GB, {num_bytes / archive.stat().st_size:.0f} times its size; "
            "no honest archive does, it is not unpacked"
        )
    return files


def _num_stated(archive: Path) -> int:
    """Number of members in the record at an archive's end, or in the long one before it (zip64)."""
    with archive.open("rb") as file:
        file.seek(-min(_LONGEST_END, archive.stat().st_size), os.SEEK_END)
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    (count,) = struct.unpack_from("<H", tail, end + 10)
    if count == 0xFFFF and (long := tail.rfind(b"PK\6\6", 0, end)) >= 0:
        (count,) = struct.unpack_from("<Q", tail, long + 32)
    return count


def _objection(member: zipfile.ZipInfo, reserved: str) -> str:
    """What is wrong with a member, if anything."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or name[1:2] == ":" or "\\" in name:
        return "has an absolute name, or one of another system"
    if {"", ".", ".."} & set(parts):
        return "leads out of the folder, or has no name"
    if not name.isprintable() or max(len(os.fsencode(part)) for part in parts) > 255:
        return "has a name that no file can have"
    if name.casefold() == reserved:
        return "has the name of our own file"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    return ""


def _clash(names: list[str]) -> str:
    """Two files of one name, or a file that others have as folder."""
    there = set(names)
    if len(there) < len(names):
        return "two members have the same name"
    for name in names:
        at = name.rfind("/")
        while at > 0:
            if name[:at] in there:
                return f"{name[:at]!r} is a file and a folder"
            at = name.rfind("/", 0, at)
    return ""


def _overlap(members: list[zipfile.ZipInfo], directory: int) -> str:
    """Members that share bytes of the archive, which is how a small one becomes a large one.

    Args:
        members: Files and folders.
        directory: Where the list of them begins, in bytes.
    """
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [0, *(member.header_offset + _LOCAL_HEADER + member.compress_size for member in ordered)]
    starts = [*(member.header_offset for member in ordered), directory]
    return "members overlap" if any(end > start for end, start in zip(ends, starts)) else ""
