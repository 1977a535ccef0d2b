"""Hostile zip archives are refused before anything is written."""

import re
import stat
import struct
import zipfile

import pytest
from zips import everything, make, patched

from cromss.downloads import archive_members
from cromss.downloads.archives import MARKER_NAME, unpack

LEADS_OUT = ["../x", "a/../../x", "a/..", "..", "./x", "a//x", "a/./x"]
ABSOLUTE = ["/etc/x", "//host/x", "C:/x", "c:x", "\\x", "..\\x", "a\\..\\x"]


@pytest.mark.parametrize("name", LEADS_OUT + ABSOLUTE)
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    archive = make(home / "dw.zip", {"good": b"1", name: b"evil"})
    wanted = "has an absolute name, or one of another system" if name in ABSOLUTE else "leads out of the folder"
    with pytest.raises(ValueError, match=rf"dw\.zip: member {re.escape(repr(name))} {wanted}.*; the archive is not"):
        unpack(archive)
    assert everything(tmp_path) == ["home", "home/dw.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices(tmp_path, kind):
    archive = make(tmp_path / "dw.zip", {"x": b"/etc"}, change=lambda i: setattr(i, "external_attr", kind << 16))
    with pytest.raises(ValueError, match="member 'x' is a link or a device"):
        unpack(archive)


@pytest.mark.parametrize("name", ["a\nb", "tab\t", "x" * 300, "é" * 130, "\x1b[31m"])
def test_names_that_no_file_should_have(tmp_path, name):
    with pytest.raises(ValueError, match="has a name that no file can have"):
        unpack(make(tmp_path / "dw.zip", {name: b""}))


@pytest.mark.parametrize("name", [MARKER_NAME, MARKER_NAME.upper()])
def test_our_own_name_is_taken(tmp_path, name):
    with pytest.raises(ValueError, match="has the name of our own file"):
        unpack(make(tmp_path / "dw.zip", {name: b"{}"}))


def test_names_that_clash(tmp_path):
    with pytest.raises(ValueError, match="'a/b' is a file and a folder"):
        unpack(make(tmp_path / "dw.zip", {"a/b/c/d": b"1", "a/b": b"2"}))
    patched(make(tmp_path / "two.zip", {"a": b"1", "b": b"2"}), b"b", b"a")
    with pytest.raises(ValueError, match="two members have the same name"):
        unpack(tmp_path / "two.zip")


def test_encrypted_members(tmp_path):
    archive = make(tmp_path / "dw.zip", {"x": b"1"})
    entry = archive.read_bytes().index(b"PK\x01\x02")
    raw = bytearray(archive.read_bytes())
    raw[entry + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(ValueError, match="member 'x' is encrypted"):
        unpack(archive)


def test_a_bomb_by_the_sizes_that_it_states(tmp_path):
    archive = make(tmp_path / "dw.zip", {"x": b"1" * 1000})
    patched(archive, struct.pack("<L", 1000), struct.pack("<L", 4_000_000_000))
    with pytest.raises(ValueError, match=r"states 4\.0 GB, \d+ times its size; no honest archive does"):
        unpack(archive)
    assert everything(tmp_path) == ["dw.zip"]


def test_a_bomb_of_members_that_share_their_bytes(tmp_path):
    archive = make(tmp_path / "dw.zip", {f"{i}": b"\0" * 1000 for i in range(9)})
    raw = bytearray(archive.read_bytes())
    for match in re.finditer(rb"PK\x01\x02", bytes(raw)):
        raw[match.start() + 42 : match.start() + 46] = b"\0\0\0\0"  # offset of the local header
    archive.write_bytes(raw)
    with pytest.raises(ValueError, match="members overlap"):
        unpack(archive)


def test_a_list_of_members_that_ends_early(tmp_path):
    archive = make(tmp_path / "dw.zip", {"a": b"1", "b": b"2"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 32] = 47  # its comment swallows the other member
    archive.write_bytes(raw)
    with pytest.raises(ValueError, match="states 2 members and lists 1; remove it"):
        unpack(archive)


def test_more_members_than_the_short_record_can_count(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as many:
        for name in range(0x10001):
            many.writestr(f"{name}/", b"")
    assert archive_members._num_stated(tmp_path / "many.zip") == 0x10001
