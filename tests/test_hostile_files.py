"""Hostile files of every kind, through the doors of the commands: one line that names the file and what to do."""

import os
import time

import hostile_rasters
import hostile_stores
import hostile_texts
import hostile_weights
import pytest
from hostile import Outcome, Reader, faults, outcome_of

TABLES = {
    "store": hostile_stores.CASES,
    "weights": hostile_weights.CASES,
    "text": hostile_texts.CASES,
    "raster": hostile_rasters.CASES,
}
CASES = {f"{kind}: {name}": case for kind, cases in TABLES.items() for name, case in cases.items()}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_there_are_hundreds_of_every_kind():
    assert min(map(len, TABLES.values())) >= 100
    assert len(CASES) >= 300


@pytest.fixture(scope="module")
def reader():
    """A process in which files are read that might end it."""
    process = Reader()
    yield process
    process.close()


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_are_refused_in_a_line(name, tmp_path, reader):
    case = CASES[name]
    path = case.make(tmp_path)
    outcome = reader.read(case.read, path) if case.apart else outcome_of(case.read, path)
    assert not faults(outcome, path), outcome


def leave_quietly(path):
    """Stands for a crash."""
    os._exit(7)


def sleep(path):
    """Stands for a hang."""
    time.sleep(60)


def tell_half(path):
    """Stands for a reader that tells neither file nor remedy."""
    raise ValueError("bad\nfile")


def test_what_is_no_refusal_is_seen(tmp_path, reader):
    path = tmp_path / "a.tif"
    assert "crash instead of a ValueError" in faults(reader.read(leave_quietly, path), path)
    assert "hang instead of a ValueError" in faults(reader.read(sleep, path, seconds=0.2), path)
    told = faults(reader.read(tell_half, path), path)
    assert told == ["the file is not named", "more than one line", "no remedy"]
    assert "nothing instead of a ValueError" in faults(outcome_of(str, path), path)
    assert faults(Outcome("ValueError", "a.tif: wanted", 9, 999), path) == ["9.0 s", "999 MB"]
