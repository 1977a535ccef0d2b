"""Download jobs: retries, the manifest, and what a kill leaves."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cromss.downloads import MANIFEST_NAME, FileMark, NothingThere, Unavailable, download, written
from cromss.downloads.job import FAILURES_IN_A_ROW
from cromss.downloads.retries import LONGEST_PAUSE, LONGEST_WAIT, with_retries


def writer(folder, calls=None):
    """A service that has what it is asked for."""

    def fetch(item):
        if calls is not None:
            calls.append(item)
        path = folder / f"{item}.bin"
        with written(path) as partial:
            partial.write_bytes(str(item).encode() * 10)
        return [FileMark.of(path, folder)]

    return fetch


def named(*items):
    return {f"item {item}": item for item in items}


def rows(folder):
    return [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 4])
def test_all_items_are_fetched_once(tmp_path, workers):
    calls = []
    summary = download(named(*range(9)), writer(tmp_path, calls), tmp_path, {"kind": "numbers"}, workers)
    assert sorted(calls) == list(range(9))
    assert (summary.num_fetched, summary.num_kept, summary.num_bytes) == (9, 0, 90)
    first, *entries = rows(tmp_path)
    assert first == {"job": {"kind": "numbers"}}
    assert [entry["name"] for entry in entries] == [f"item {i}" for i in range(9)]
    for item, entry in enumerate(entries):
        content = (tmp_path / f"{item}.bin").read_bytes()
        assert entry["files"] == [
            {"path": f"{item}.bin", "num_bytes": 10, "sha256": hashlib.sha256(content).hexdigest()}
        ]


def test_a_second_run_fetches_what_is_missing_or_cut_short(tmp_path):
    download(named(*range(5)), writer(tmp_path), tmp_path, {})
    (tmp_path / "1.bin").unlink()
    (tmp_path / "3.bin").write_bytes(b"3")
    calls = []
    summary = download(named(*range(6)), writer(tmp_path, calls), tmp_path, {})
    assert sorted(calls) == [1, 3, 5]
    assert (summary.num_fetched, summary.num_kept) == (3, 3)


def test_a_job_of_other_settings_does_not_go_on(tmp_path):
    download(named(1), writer(tmp_path), tmp_path, {"seasons": ("2020-01-01",)})
    download(named(1), writer(tmp_path), tmp_path, {"seasons": ("2020-01-01",)})
    with pytest.raises(ValueError, match=r"begun with seasons \['2020-01-01'\], not \['2021-01-01'\]"):
        download(named(1), writer(tmp_path), tmp_path, {"seasons": ("2021-01-01",)})


@pytest.mark.parametrize(
    "content", [b"", b"[]\n", b"{}\n", b"not json\n", b'{"job": []}', b'{"job": null}', b"\xff\xfe", b"[" * 9999]
)
def test_a_file_that_is_no_manifest_is_left_alone(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="not the manifest of a download"):
        download(named(1), writer(tmp_path), tmp_path, {})
    assert (tmp_path / MANIFEST_NAME).read_bytes() == content


@pytest.mark.parametrize(
    "tail",
    [
        *('{"name": "item 1", "sta', "null", '{"name": "item 1"}', "[1]", '{"name":1,"state":"x","files":[]}'),
        '{"name":["item 1"],"state":"done","files":[]}',
        '{"name":"item 1","state":"done","files":[{"path":5,"num_bytes":1,"sha256":""}]}',
        '{"name":"item 1","state":["done"],"files":[]}',
    ],
)
def test_lines_that_a_kill_cut_short_are_fetched_again(tmp_path, tail):
    download(named(0), writer(tmp_path), tmp_path, {})
    with (tmp_path / MANIFEST_NAME).open("a") as file:
        file.write(tail)
    calls = []
    download(named(0, 1), writer(tmp_path, calls), tmp_path, {})
    assert calls == [1]
    assert [row.get("name") for row in rows(tmp_path)] == [None, "item 0", "item 1"]


def test_what_is_not_there_is_said_and_not_asked_for_again_unless_told(tmp_path):
    calls = []

    def fetch(item):
        calls.append(item)
        raise NothingThere("no clear scene\nin the window")

    summary = download(named(0, 1), fetch, tmp_path, {})
    assert dict(summary.skipped) == {"no clear scene in the window": 2}
    assert "skipped: 2 x no clear scene in the window" in str(summary)
    assert download(named(0, 1), fetch, tmp_path, {}).skipped == summary.skipped
    assert calls == [0, 1]
    download(named(0, 1), fetch, tmp_path, {}, retry_skipped=True)
    assert calls == [0, 1, 0, 1]


def test_a_service_that_comes_back_is_asked_again(tmp_path):
    tries, lock = {}, threading.Lock()
    good = writer(tmp_path)

    def fetch(item):
        with lock:
            tries[item] = tries.get(item, 0) + 1
        if tries[item] < 3:
            raise Unavailable("busy", wait=0)
        return good(item)

    assert download(named(*range(4)), fetch, tmp_path, {}).num_fetched == 4
    assert set(tries.values()) == {3}


def test_items_that_fail_are_named_and_tried_by_the_next_run(tmp_path):
    good = writer(tmp_path)

    def fetch(item):
        if item == 2:
            raise Unavailable("gateway timeout", wait=0)
        return good(item)

    summary = download(named(*range(4)), fetch, tmp_path, {}, attempts=2)
    assert summary.failed == {"item 2": "gateway timeout"}
    assert "1 items failed; the same command tries them again" in str(summary)
    again = download(named(*range(4)), good, tmp_path, {})
    assert (again.num_fetched, again.failed) == (1, {})


def test_a_dead_service_ends_the_job(tmp_path):
    calls = []

    def fetch(item):
        calls.append(item)
        raise Unavailable("connection refused", wait=0)

    with pytest.raises(ValueError, match=f"{FAILURES_IN_A_ROW} items failed one after the other.*connection refused"):
        download(named(*range(1000)), fetch, tmp_path, {}, workers=2, attempts=1)
    assert len(calls) < 20


def test_other_errors_stop_the_job_with_what_it_has(tmp_path):
    good = writer(tmp_path)

    def fetch(item):
        if item == 2:
            raise ValueError("--project wanted: no credentials")
        return good(item)

    with pytest.raises(ValueError, match="no credentials"):
        download(named(*range(4)), fetch, tmp_path, {}, workers=1)
    assert download(named(*range(4)), good, tmp_path, {}).num_kept == 2


def test_long_items_are_told_that_the_job_is_left(tmp_path):
    left, begun, ended = threading.Event(), threading.Event(), []

    def fetch(item):
        if item == 0:
            begun.wait(20)
            raise ValueError("disk full")
        begun.set()
        ended.append(left.wait(20))
        raise ValueError("left")

    with pytest.raises(ValueError, match="disk full"):
        download(named(0, 1), fetch, tmp_path, {}, workers=2, left=left)
    assert ended == [True]
    left.clear()
    download(named(3), writer(tmp_path), tmp_path, {}, left=left)
    assert not left.is_set()


def test_only_one_process_writes_a_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from cromss.downloads.manifest import Manifest\n"
        "with Manifest(Path(sys.argv[1]), {}): print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match="another process is writing"):
            download(named(1), writer(tmp_path), tmp_path, {})
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


KILLED = """
import sys, time
from pathlib import Path
from cromss.downloads import FileMark, download, written
folder = Path(sys.argv[1])
def fetch(item):
    path = folder / f"{item}.bin"
    with written(path) as partial:
        partial.write_bytes(str(item).encode() * 10)
        time.sleep(0.002)
    return [FileMark.of(path, folder)]
print("begun", flush=True)
download({f"item {i}": i for i in range(60)}, fetch, folder, {}, 2)
"""


def test_kills_lose_and_double_nothing(tmp_path):
    for attempt in range(6):
        job = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        job.stdout.readline()
        time.sleep(0.01 + 0.02 * attempt)
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, capture_output=True)
    names = [row["name"] for row in rows(tmp_path)[1:]]
    assert sorted(names) == sorted(f"item {i}" for i in range(60))
    contents = {path.name: path.read_bytes() for path in tmp_path.glob("*.bin")}
    assert contents == {f"{i}.bin": f"{i}".encode() * 10 for i in range(60)}


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file"
    with written(path) as partial:
        partial.write_text("old")
    with pytest.raises(FileNotFoundError), written(path) as partial:
        partial.with_name("elsewhere").write_text("new")
    (path.parent / "elsewhere").unlink()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(("flag", "options"), [("workers", {"workers": 0}), ("attempts", {"attempts": 0})])
def test_bad_numbers_name_their_flag(tmp_path, flag, options):
    with pytest.raises(ValueError, match=f"--{flag} 0: at least 1"):
        download(named(1), writer(tmp_path), tmp_path, {}, **options)


def test_pauses_double_up_to_the_longest_and_are_spread():
    pauses = []

    def call():
        raise Unavailable("busy")

    with pytest.raises(Unavailable, match="busy"):
        with_retries(call, attempts=12, pause=1.0, sleep=pauses.append)
    assert len(pauses) == 11
    for attempt, pause in enumerate(pauses):
        middle = min(2.0**attempt, LONGEST_PAUSE)
        assert 0.5 * middle <= pause <= 1.5 * middle
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (7.5, 7.5), (86400, LONGEST_WAIT)])
def test_a_wait_that_the_service_asks_for_is_kept_within_reason(asked, kept):
    pauses = []

    def call():
        if len(pauses) < 2:
            raise Unavailable("quota", wait=asked)
        return "there"

    assert with_retries(call, attempts=3, sleep=pauses.append) == "there"
    assert pauses == [kept, kept]
