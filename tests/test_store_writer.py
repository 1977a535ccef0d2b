"""The writer of a store: resumable, atomic, and strict about what it takes."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from stores import META, make_ids, make_images, manifest_of, raw_put, write_store

from cromss.store import LmdbReader, LmdbWriter, StoreError, StoreMeta
from cromss.store.record import pack_record


def test_the_caller_may_reuse_its_array(tmp_path):
    images = make_images(9)
    buffer = np.empty_like(images[0])
    with LmdbWriter(tmp_path / "x", META) as writer:
        for location_id, image in zip(make_ids(9), images, strict=True):
            buffer[:] = image
            writer.write(location_id, buffer)
        writer.finish()
    np.testing.assert_array_equal(LmdbReader(tmp_path / "x").read_seasons(0), images[0])


# Interrupted writers

WRITER = """
import sys, time
import numpy as np
from cromss.store import LmdbWriter, StoreMeta
images = np.load(sys.argv[2])
meta = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "uint8 of mean +- 2 std", statistics={"mean": [-12.5, -20.0]})
with LmdbWriter(sys.argv[1], meta, batch_size=8, map_size=1 << 15) as writer:
    print("begun", flush=True)
    for index in range(len(writer.location_ids), len(images)):
        writer.write(f"{3 * index:07d}", images[index])
        time.sleep(0.001)
    writer.finish()
"""


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    images, chance = make_images(60), random.Random(0)
    np.save(tmp_path / "images.npy", images)
    path = tmp_path / "killed.lmdb"
    command = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "images.npy")]
    kills = 0
    while not path.exists():
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begun\n"
            if kills < 4:
                time.sleep(chance.uniform(0, 0.02))
                process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills > 0
    assert manifest_of(path) == manifest_of(write_store(tmp_path / "whole.lmdb", images))
    reader = LmdbReader(path)
    for index in range(60):
        np.testing.assert_array_equal(reader.read_seasons(index), images[index])


@pytest.mark.parametrize("step", ["verify", "write_synced", "sync_folder", "os.rename"])
def test_killed_at_every_step_of_finish(tmp_path, monkeypatch, step):
    images = make_images(9)
    path = tmp_path / "x.lmdb"
    child = os.fork()
    if child == 0:
        try:
            with LmdbWriter(path, META) as writer:
                for location_id, image in zip(make_ids(9), images, strict=True):
                    writer.write(location_id, image)
                monkeypatch.setattr(f"cromss.store.writer.{step}", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                writer.finish()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with pytest.raises(StoreError, match="unfinished; run its writer again"):
        LmdbReader(path)
    with LmdbWriter(path, META) as writer:
        assert writer.location_ids == make_ids(9)
        writer.truncate(8)
        writer.write("last", images[8])
        writer.finish()
    reader = LmdbReader(path)
    assert reader.location_ids() == [*make_ids(8), "last"]
    np.testing.assert_array_equal(reader.read_seasons(8), images[8])


def test_leaving_without_finish_keeps_what_is_whole(tmp_path):
    images = make_images(9)

    def interrupted():
        with LmdbWriter(tmp_path / "x", META) as writer:
            writer.write("a", images[0])
            assert writer.location_ids == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "x").exists()
    with LmdbWriter(tmp_path / "x", META) as writer:
        assert writer.location_ids == ["a"]


@pytest.mark.parametrize("kept", [0, 1, 4, 6])
def test_truncate(tmp_path, kept):
    images = make_images(9)
    with LmdbWriter(tmp_path / "x", META, batch_size=8) as writer:
        for location_id, image in zip("abcdef", images[:6], strict=True):
            writer.write(location_id, image)
        writer.truncate(kept)
        assert writer.location_ids == list("abcdef")[:kept]
        for index in range(kept, 9):
            writer.write("abcdefghi"[index], images[index])
        writer.finish()
    assert LmdbReader(tmp_path / "x").location_ids() == list("abcdefghi")
    with LmdbWriter(tmp_path / "y", META) as writer:
        for location_id, image in zip("abcdefghi", images, strict=True):
            writer.write(location_id, image)
        writer.finish()
    assert manifest_of(tmp_path / "x") == manifest_of(tmp_path / "y")


@pytest.mark.parametrize("count", [-1, 2])
def test_truncate_refuses(tmp_path, count):
    images = make_images(9)
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
        with pytest.raises(StoreError, match="locations of 1"):
            writer.truncate(count)


def test_many_changes_of_mind_leave_a_readable_file(tmp_path):
    chance, images = random.Random(1), make_images(40)
    path, written = tmp_path / "x", 0
    for _ in range(25):
        with LmdbWriter(path, META, batch_size=chance.choice([1, 8, 64]), map_size=1 << 14) as writer:
            assert len(writer.location_ids) == written
            written = chance.randint(0, written)
            writer.truncate(written)
            for _ in range(chance.randint(0, 40 - written)):
                writer.write(str(written), images[written])
                written += 1
    with LmdbWriter(path, META) as writer:
        for index in range(written, 40):
            writer.write(str(index), images[index])
        writer.finish()
    np.testing.assert_array_equal([LmdbReader(path).read_seasons(index) for index in range(40)], images)


@pytest.mark.parametrize("map_size", [1, 1 << 13, 1 << 16])
def test_the_map_grows(tmp_path, map_size):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 2, 100, 100), dtype=np.uint8)
    store = write_store(tmp_path / "x", images, batch_size=8, map_size=map_size)
    assert (store / "data.mdb").stat().st_size > images.nbytes
    np.testing.assert_array_equal(LmdbReader(store).read_seasons(5), images[5])


def test_full_disk_keeps_what_was_committed(tmp_path):
    code = f"""
import resource, signal
import numpy as np
from cromss.store import *
meta = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "x")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with LmdbWriter({str(tmp_path / "x")!r}, meta, batch_size=4) as writer:
    writer.write("a", np.ones((4, 2, 100, 100), np.uint8))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    for name in "bcdef":
        writer.write(name, np.ones((4, 2, 100, 100), np.uint8))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StoreError" in result.stderr.splitlines()[-1]
    assert "free the disk and resume" in result.stderr.splitlines()[-1]
    with LmdbWriter(tmp_path / "x", StoreMeta("s1", ("VV", "VH"), "uint8", 4, "x")) as writer:
        assert writer.location_ids == ["a", "b"]
        writer.write("c", np.ones((4, 2, 100, 100), np.uint8))
        writer.finish()
    assert [LmdbReader(tmp_path / "x").read_seasons(index).min() for index in range(3)] == [1, 1, 1]


def test_two_writers_of_one_store(tmp_path):
    code = f"from cromss.store import *; LmdbWriter({str(tmp_path / 'x')!r}, StoreMeta('s1', ('VV',), 'uint8', 1, 'u'))"
    with LmdbWriter(tmp_path / "x", StoreMeta("s1", ("VV",), "uint8", 1, "u")):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing it" in result.stderr


# What a writer refuses


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modality", "s2"),
        ("bands", ("VH", "VV")),
        ("dtype", "float32"),
        ("num_seasons", 3),
        ("unit", "dB"),
        ("legend", "DW"),
        ("statistics", {"mean": [1.0]}),
        ("source", "elsewhere"),
    ],
)
def test_resuming_with_other_settings(tmp_path, name, value):
    with LmdbWriter(tmp_path / "x", META):
        pass
    other = StoreMeta(**{**META.__dict__, name: value})
    with pytest.raises(StoreError, match=rf"x\.partial: begun with {name} "):
        LmdbWriter(tmp_path / "x", other)
    with LmdbWriter(tmp_path / "x", META) as writer:
        assert writer.location_ids == []


def test_finished_stores_are_not_overwritten(tmp_path):
    store = write_store(tmp_path / "s1.lmdb", make_images(1))
    with pytest.raises(StoreError, match="is finished"):
        LmdbWriter(store, META)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="not a finished store"):
        LmdbWriter(tmp_path / "folder", META)
    assert not (tmp_path / "folder.partial").exists()


GOOD = np.zeros((4, 2, 5, 7), np.uint8)


@pytest.mark.parametrize(
    ("location_id", "seasons", "line"),
    [
        ("b", GOOD[:3], "3 seasons"),
        ("b", [], "0 seasons"),
        ("b", GOOD.astype(np.uint16), "season 0: uint16, but the store holds uint8"),
        ("b", [*GOOD[:3], GOOD[3].astype(float)], "season 3: float64"),
        ("b", GOOD[:, :1], r"shape \(1, 5, 7\), but the store holds \(2, H, W\)"),
        ("b", GOOD[:, 0], r"shape \(5, 7\)"),
        ("b", GOOD[:, :, :0], r"shape \(2, 0, 7\)"),
        ("b", [*GOOD[:3], GOOD[3, :, :4]], r"shape \(2, 4, 7\) after \(2, 5, 7\)"),
        ("a", GOOD, "written already"),
        ("", GOOD, "text of 1 to 96 bytes"),
        ("é" * 49, GOOD, "text of 1 to 96 bytes"),
        (7, GOOD, "printable text"),
        ("b\nc", GOOD, "printable text"),
        ("b\udc80", GOOD, "printable text"),
    ],
)
def test_locations_that_do_not_fit(tmp_path, location_id, seasons, line):
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", GOOD)
        with pytest.raises(StoreError, match=line):
            writer.write(location_id, seasons)
        writer.finish()
    assert LmdbReader(tmp_path / "x").location_ids() == ["a"]


def test_nothing_to_finish(tmp_path):
    with LmdbWriter(tmp_path / "x", META) as writer, pytest.raises(StoreError, match="nothing to finish"):
        writer.finish()
    with pytest.raises(StoreError, match="batch_size 0"):
        LmdbWriter(tmp_path / "x", META, batch_size=0)


def test_a_closed_writer_refuses(tmp_path):
    with LmdbWriter(tmp_path / "x", META, batch_size=1) as writer:
        writer.write("a", GOOD)
        writer.finish()
    with pytest.raises(StoreError, match="closed"):
        writer.write("b", GOOD)


def test_finish_finds_damage(tmp_path):
    images = make_images(9)
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
        writer.commit()
        writer.close()
    raw_put(tmp_path / "x.partial", b"00000000/2", pack_record("a", images[0, 2])[:-1] + b"!")
    with (
        LmdbWriter(tmp_path / "x", META) as writer,
        pytest.raises(StoreError, match="index 0, season 2: damaged values"),
    ):
        writer.finish()
    assert not (tmp_path / "x").exists()


def test_a_truncated_partial_is_not_resumed(tmp_path):
    images = make_images(9)
    with LmdbWriter(tmp_path / "x", META) as writer:
        writer.write("a", images[0])
    os.truncate(tmp_path / "x.partial" / "data.mdb", 8192)
    with pytest.raises(StoreError, match="truncated"):
        LmdbWriter(tmp_path / "x", META)
