"""Zip archives: unpacked whole and again after a kill; hostile ones leave nothing outside and fill no disk."""

import re
import shutil
import signal
import struct
import subprocess
import sys
import zipfile

import pytest
from zips import MEMBERS, RNG, contents, everything, make, patched

from cromss.downloads.archives import MARKER_NAME, unpack, unpacked_folder


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_arrive_as_they_are(tmp_path, method):
    told = unpack(make(tmp_path / "dw.zip", method=method))
    found = contents(tmp_path / "dw")
    assert found.pop(MARKER_NAME)
    assert found == MEMBERS
    num_bytes = sum(map(len, MEMBERS.values()))
    assert (told.num_files, told.num_bytes, told.num_written) == (4, num_bytes, 4)
    assert told.ratio == num_bytes / (tmp_path / "dw.zip").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dw", "dw.zip"]


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    archive = make(tmp_path / "dw.zip")
    unpack(archive)
    (tmp_path / "dw" / "empty").write_bytes(b"mine")
    assert unpack(archive).num_written == 0
    assert (tmp_path / "dw" / "empty").read_bytes() == b"mine"
    assert re.fullmatch(
        r".*dw: 4 files, 0\.000 GB \(2\.\d times .*\); written: 0, there already: 4", str(unpack(archive))
    )


@pytest.mark.parametrize("marker", [None, "", "[]", '{"archive": "dw.zip"}'])
def test_a_folder_of_something_else_is_refused(tmp_path, marker):
    archive = make(tmp_path / "dw.zip")
    (tmp_path / "dw").mkdir()
    if marker is not None:
        (tmp_path / "dw" / MARKER_NAME).write_text(marker)
    with pytest.raises(ValueError, match=r"dw: there already, and not from dw\.zip as it is; remove or rename it$"):
        unpack(archive)


def test_another_archive_of_the_same_name_is_noticed(tmp_path):
    unpack(make(tmp_path / "dw.zip"))
    make(tmp_path / "dw.zip", MEMBERS | {"empty": b"1"})
    with pytest.raises(ValueError, match="there already, and not from"):
        unpack(tmp_path / "dw.zip")


def test_members_cut_short_or_altered_are_written_again(tmp_path):
    archive, partial = make(tmp_path / "dw.zip"), tmp_path / "dw.partial"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(partial)
    (partial / "dw/0000001/a.tif").write_bytes(MEMBERS["dw/0000001/a.tif"][:100])
    (partial / "dw/ids é.csv").write_bytes(b"id\n0000002\n")
    assert unpack(archive).num_written == 2
    found = contents(tmp_path / "dw")
    assert {name: found[name] for name in MEMBERS} == MEMBERS


KILLED = """
import os, signal, sys
from pathlib import Path
from cromss.downloads import archives
write, count = archives._write, 0
def killed(opened, member, target):
    global count
    if count == 3:
        target.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    write(opened, member, target)
archives._write = killed
archives.unpack(Path(sys.argv[1]))
"""


def test_a_kill_loses_only_the_member_at_hand(tmp_path):
    archive = make(tmp_path / "dw.zip", {f"{i}.bin": bytes([i]) * 50_000 for i in range(8)})
    assert subprocess.run([sys.executable, "-c", KILLED, archive]).returncode == -signal.SIGKILL
    assert not (tmp_path / "dw").exists()
    assert unpack(archive).num_written == 5
    assert all(contents(tmp_path / "dw")[f"{i}.bin"] == bytes([i]) * 50_000 for i in range(8))


def test_a_bomb_that_states_less_than_comes_out(tmp_path):
    archive = make(tmp_path / "dw.zip", {"x": b"\0" * 5_000_000})
    patched(archive, struct.pack("<L", 5_000_000), struct.pack("<L", 5_000))
    with pytest.raises(ValueError, match=r"member 'x' is damaged .*; remove the archive and download it again"):
        unpack(archive)
    assert (tmp_path / "dw.partial" / "x").stat().st_size <= 5_000
    assert not (tmp_path / "dw").exists()


def test_a_member_that_is_shorter_than_it_states(tmp_path):
    archive = make(tmp_path / "dw.zip", {"x": b"abc" * 100})
    patched(archive, struct.pack("<L", 300), struct.pack("<L", 301))
    with pytest.raises(ValueError, match="member 'x' is damaged"):
        unpack(archive)


def test_more_than_the_disk_has_is_refused_first(tmp_path, monkeypatch):
    archive = make(tmp_path / "dw.zip")
    usage = shutil.disk_usage(tmp_path)._replace(free=150_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"dw\.partial: 0\.00 GB wanted, 0\.00 GB free; choose another disk or remove"):
        unpack(archive)
    assert everything(tmp_path) == ["dw.zip"]


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_archives_are_one_line_and_nothing_finished(tmp_path, damage, at):
    archive = make(tmp_path / "dw.zip", {f"{i}": RNG.bytes(2000) for i in range(5)})
    raw = bytearray(archive.read_bytes())
    where = int(at * len(raw))
    if damage == "cut":
        del raw[where:]
    else:
        raw[where : where + 40] = bytes(255 - value for value in raw[where : where + 40])
    archive.write_bytes(raw)
    with pytest.raises(ValueError, match=r"^\S*dw\.zip: "):
        unpack(archive)
    assert not (tmp_path / "dw").exists()


def test_random_damage_never_passes_as_whole(tmp_path):
    members = {f"{i}": RNG.bytes(50) * 3 for i in range(4)}
    whole = make(tmp_path / "whole.zip", members).read_bytes()
    num_passed = 0
    for trial in range(300):
        raw = bytearray(whole)
        for at in RNG.integers(0, len(raw), 3):
            raw[at] = RNG.integers(256)
        archive = tmp_path / f"{trial}.zip"
        archive.write_bytes(raw)
        try:
            unpack(archive)
        except ValueError:
            assert not unpacked_folder(archive).exists()
        else:
            num_passed += 1
            assert set(members.values()) <= set(contents(unpacked_folder(archive)).values())
    assert 0 < num_passed < 100  # dates and versions tell nothing of the content


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", b"\x1f\x8b" + b"0" * 100])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "dw.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"dw\.zip: not a sound zip archive"):
        unpack(tmp_path / "dw.zip")


def test_links_that_lie_in_wait_are_not_followed(tmp_path):
    archive, outside, partial = make(tmp_path / "dw.zip"), tmp_path / "outside", tmp_path / "dw.partial"
    outside.mkdir()
    partial.symlink_to(outside)
    with pytest.raises(ValueError, match=r"dw\.partial: a link; remove it"):
        unpack(archive)
    partial.unlink()
    partial.mkdir()
    (partial / "dw").symlink_to(outside)
    with pytest.raises(ValueError, match=r"leads out of .* by a link"):
        unpack(archive)
    (partial / "dw").unlink()
    (partial / "empty").symlink_to(outside / "empty")
    with pytest.raises(ValueError, match=r"leads out of .* by a link"):
        unpack(archive)
    assert everything(outside) == []
