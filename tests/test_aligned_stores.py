"""Stores side by side: equal indices whatever is bad, and interruptions that leave no trace."""

import csv
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cromss import aligned_stores
from cromss.aligned_stores import Prepared, refuse_changed_offsets, write_stores
from cromss.layouts import Location
from cromss.store import LmdbReader, LmdbWriter, StoreError, StoreMeta

IDS = [f"p{number}" for number in range(6)]
METAS = {
    "s1": StoreMeta("s1", ("VV", "VH"), "float32", 2, "dB"),
    "s2": StoreMeta("s2", ("B2",), "uint16", 2, "DN"),
    "labels": StoreMeta("labels", (), "uint8", 2, "class id", legend="NoL"),
}
OFFSETS_HEADER = "id,season,scene,offset,decided_by"
LEDGERS = ("skipped.csv", "scenes.csv", "s2_offsets.csv")


def prepare(location: Location) -> Prepared:
    """Arrays that only their location determines."""
    rng = np.random.default_rng(IDS.index(location.id))
    seasons = {
        "s1": list(rng.normal(-12, 3, (2, 2, 5, 5)).astype(np.float32)),
        "s2": list(rng.integers(0, 9000, (2, 1, 5, 5), np.uint16)),
        "labels": list(rng.integers(0, 9, (2, 5, 5), np.uint8)),
    }
    return Prepared(seasons, ((0, "a.tif", 0, "pixels"), (1, "b.tif", 1000, "metadata")))


def without(*bad: str):
    """`prepare` that fails at some locations."""

    def prepare_some(location: Location) -> Prepared:
        if location.id in bad:
            raise ValueError(f"{location.id}/B5.tif: cannot be read,\n{len(location.id)} bytes; get it anew")
        return prepare(location)

    return prepare_some


def interrupted_at(wanted: str, function):
    """`function` that ends like Ctrl-C at a location."""

    def prepare_some(location: Location) -> Prepared:
        if location.id == wanted:
            raise KeyboardInterrupt
        return function(location)

    return prepare_some


def scenes_of(name: str) -> dict[str, tuple[Path, ...]]:
    days = [f"2020{month}1{name[1]}" for month in ("01", "06")]
    return {
        "s1": tuple(Path(name, f"S1A_{day}T000000") for day in days),
        "s2": tuple(Path(name, day) for day in days),
        "labels": tuple(Path(name, day, "label.tif") for day in days),
    }


def write(out: Path, function=prepare, ids=IDS, metas=METAS, **options):
    stores = {out / modality: meta for modality, meta in metas.items()}
    locations = [Location(name, scenes_of(name)) for name in ids]
    return write_stores(stores, locations, function, **{"workers": 2, **options})


def contents(out: Path) -> dict:
    """All a finished set holds, as comparable values; and the ledgers."""
    readers = {modality: LmdbReader(out / modality) for modality in METAS}
    stores = {
        modality: [(store.location_id(i), store.read_seasons(i).tobytes()) for i in range(len(store))]
        for modality, store in readers.items()
    }
    return stores | {name: (out / name).read_text() for name in LEDGERS}


def test_every_store_holds_every_location_in_order(tmp_path):
    summary = write(tmp_path / "out", workers=3)
    for modality, meta in METAS.items():
        store = LmdbReader(tmp_path / "out" / modality)
        assert (store.location_ids(), store.meta.unit) == (IDS, meta.unit)
        for index, name in enumerate(IDS):
            expected = prepare(Location(name, {})).seasons[modality]
            np.testing.assert_array_equal(store.read_seasons(index), np.stack(expected))
    assert (summary.num_written, summary.skipped) == (6, {})
    assert summary.offsets == {(0, "pixels"): 6, (1000, "metadata"): 6}
    assert "s2 offset 1000: 6 scenes (metadata)" in str(summary)
    header, first, second, *_ = (tmp_path / "out" / "s2_offsets.csv").read_text().splitlines()
    assert (header, first, second) == (OFFSETS_HEADER, "p0,0,a.tif,0,pixels", "p0,1,b.tif,1000,metadata")
    with (tmp_path / "out" / "scenes.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows[:6] == [
        ("p0", "0", "s1", "S1A_20200110T000000"),
        ("p0", "1", "s1", "S1A_20200610T000000"),
        ("p0", "0", "s2", "20200110"),
        ("p0", "1", "s2", "20200610"),
        ("p0", "0", "labels", "20200110/label.tif"),
        ("p0", "1", "labels", "20200610/label.tif"),
    ]
    assert [row[0] for row in rows] == [name for name in IDS for _ in range(6)]
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_bad_location_stops(tmp_path):
    with pytest.raises(ValueError, match=r"p2/B5\.tif: cannot be read.*--on_error skip") as error:
        write(tmp_path / "out", without("p2"))
    assert isinstance(error.value.__cause__, ValueError)
    assert not any((tmp_path / "out" / modality).exists() for modality in METAS)
    with pytest.raises(StoreError, match="unfinished"):
        LmdbReader(tmp_path / "out" / "s1")


def test_bad_locations_are_skipped_everywhere_and_counted_by_reason(tmp_path):
    summary = write(tmp_path / "out", without("p1", "p5"), on_error="skip")
    kept = ["p0", "p2", "p3", "p4"]
    assert {modality: LmdbReader(tmp_path / "out" / modality).location_ids() for modality in METAS} == dict.fromkeys(
        METAS, kept
    )
    assert (summary.num_written, summary.skipped) == (4, {"cannot be read, # bytes": 2})
    header, *lines = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert (header, [line[:3] for line in lines]) == ("id,reason", ["p1,", "p5,"])


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="all 6 locations were skipped"):
        write(tmp_path / "out", without(*IDS), on_error="skip")
    assert not any((tmp_path / "out" / modality).exists() for modality in METAS)


def test_unforeseen_errors_are_not_skipped(tmp_path):
    def broken(location: Location) -> Prepared:
        raise KeyError(location.id)

    with pytest.raises(KeyError):
        write(tmp_path / "out", broken, on_error="skip")


@pytest.mark.parametrize("kept", [(0, 0, 0), (3, 1, 2), (2, 2, 2), (4, 4, 3)])
def test_an_interrupted_run_goes_on_as_if_undisturbed(tmp_path, kept):
    some = without("p1")
    write(tmp_path / "whole", some, on_error="skip")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", interrupted_at("p5", some), on_error="skip")
    for modality, count in zip(METAS, kept):
        with LmdbWriter(tmp_path / "out" / modality, METAS[modality]) as writer:
            assert writer.location_ids == ["p0", "p2", "p3", "p4"]
            writer.truncate(count)
    for name in ("scenes.csv", "s2_offsets.csv"):
        with (tmp_path / "out" / name).open("a") as file:
            file.write("p0,tor")
    seen, ledgers = [], []

    def counted(location: Location) -> Prepared:
        seen.append(location.id)
        ledgers.append((tmp_path / "out" / "s2_offsets.csv").read_text().splitlines())
        return some(location)

    write(tmp_path / "out", counted, on_error="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    first = 0 if min(kept) == 0 else [0, 2, 3, 4][min(kept) - 1] + 1
    assert sorted(seen) == IDS[first:]
    rows = [row for row in contents(tmp_path / "whole")["s2_offsets.csv"].splitlines() if row[:2] in IDS[:first]]
    assert ledgers[0] == [OFFSETS_HEADER, *rows], "a kill here would lose rows"


@pytest.mark.parametrize("finished", [False, True])
def test_locations_that_came_after_an_interruption_are_listed_as_left_out(tmp_path, finished):
    there = [name for name in IDS if name != "p1"]
    if finished:
        write(tmp_path / "out", without("p2"), there, on_error="skip")
        store = tmp_path / "out" / "labels"
        with LmdbWriter(tmp_path / "again", METAS["labels"]) as writer:
            for index, name in enumerate(LmdbReader(store).location_ids()):
                writer.write(name, list(LmdbReader(store).read_seasons(index)))
        shutil.rmtree(store)
        (tmp_path / "again.partial").rename(tmp_path / "out" / "labels.partial")
    else:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", interrupted_at("p4", without("p2")), there, on_error="skip")
    summary = write(tmp_path / "out", without("p2"), on_error="skip")
    assert LmdbReader(tmp_path / "out" / "s1").location_ids() == ["p0", "p3", "p4", "p5"]
    rows = (tmp_path / "out" / "skipped.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["p2", "p1"]
    assert summary.skipped["neither written nor listed by the run that was interrupted"] == 1


def test_an_interruption_between_finished_stores(tmp_path, monkeypatch):
    write(tmp_path / "whole", without("p5"), on_error="skip")
    finish = LmdbWriter.finish

    def interrupted(writer, **options):
        if writer.meta.modality == "s2":
            raise KeyboardInterrupt
        return finish(writer, **options)

    monkeypatch.setattr(LmdbWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", without("p5"), on_error="skip")
    assert [(tmp_path / "out" / modality).exists() for modality in METAS] == [True, False, False]
    monkeypatch.undo()
    write(tmp_path / "out", without(*IDS), on_error="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_finished_stores_are_not_touched(tmp_path):
    write(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="finished already; remove them or choose another --out"):
        write(tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("ids", [["p4", "p5"], ["p1", "p0", "p2", "p3", "p4", "p5"], ["p0", "p2", "p3"]])
def test_unfinished_stores_of_other_locations_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="cannot be read"):
        write(tmp_path / "out", without("p3"))
    with pytest.raises(ValueError, match="unfinished stores are of other locations"):
        write(tmp_path / "out", ids=ids)


def test_unfinished_stores_that_disagree_are_refused(tmp_path):
    for modality, name in zip(METAS, ("p0", "p1", "p0")):
        with LmdbWriter(tmp_path / modality, METAS[modality]) as writer:
            writer.write(name, prepare(Location(name, {})).seasons[modality])
    with pytest.raises(ValueError, match="holds other locations than the stores beside it"):
        write(tmp_path)


def test_unfinished_stores_of_another_description_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        write(tmp_path / "out", without("p3"))
    with pytest.raises(ValueError, match="begun with"):
        write(tmp_path / "out", metas=METAS | {"s2": replace(METAS["s2"], source="another")})


def test_an_offset_told_too_late_is_refused(tmp_path):
    refuse_changed_offsets(tmp_path, {"p0": 1000})
    (tmp_path / "s2_offsets.csv").write_text(f"{OFFSETS_HEADER}\np0,0,a.tif,0,pixels\n")
    refuse_changed_offsets(tmp_path, {"p0": 0, "p1": 1000})
    with pytest.raises(ValueError, match="--s2_offset_ids p0=1000: written with 0 already"):
        refuse_changed_offsets(tmp_path, {"p0": 1000})


@pytest.mark.parametrize("content", [b"id,reason\n\xff\xfe", b"id,reason\np0," + b"x" * 200_000])
def test_a_damaged_ledger_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "skipped.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"skipped\.csv: damaged \(.*\); remove it, and the same command goes on$"):
        write(tmp_path)
    (tmp_path / "s2_offsets.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"s2_offsets\.csv: damaged"):
        refuse_changed_offsets(tmp_path, {"p0": 1000})


def test_an_offset_that_is_no_number_is_named(tmp_path):
    write(tmp_path / "out")
    for store in [path for path in (tmp_path / "out").iterdir() if path.is_dir()]:
        store.rename(store.with_name(f"{store.name}.partial"))
    (tmp_path / "out" / "s2_offsets.csv").write_text(f"{OFFSETS_HEADER}\np0,0,a.tif,many,pixels\n")
    with pytest.raises(ValueError, match=r"s2_offsets\.csv: damaged \(invalid literal.*\); remove it, and the same"):
        write(tmp_path / "out")


def test_reading_ahead_is_bounded(tmp_path, monkeypatch):
    """At most two locations a thread beyond the one being written, so that memory stays flat."""
    started, ahead, lock, write_one = [], [], threading.Lock(), aligned_stores._write

    def counted(location: Location) -> Prepared:
        with lock:
            started.append(location.id)
        return prepare(location)

    def watched(location, *arguments):
        ahead.append(len(started) - IDS.index(location.id))
        return write_one(location, *arguments)

    monkeypatch.setattr(aligned_stores, "_write", watched)
    write(tmp_path / "out", counted, workers=1)
    assert len(ahead) == 6
    assert max(ahead) <= 2
