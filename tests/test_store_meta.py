"""What a store says of itself: kept in JSON, compared, and read from older stores that say less."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cromss.store import LmdbReader, LmdbWriter, StoreError, StoreMeta
from cromss.store.meta import decode_meta, encode_meta

LABELS = StoreMeta(
    "exact", (), "uint8", 2, "class id", "mine", source="test", classes=("a", "b"), colours=("000000", "1b6b3a")
)
WHERE = Path("labels.lmdb")


def entries(**changed):
    return json.loads(encode_meta(LABELS, ["x", "y"])) | changed


def decoded(content):
    return decode_meta(json.dumps(content).encode(), WHERE)[0]


def test_classes_and_colours_survive():
    assert decoded(entries()) == LABELS
    assert isinstance(decoded(entries()).classes, tuple)


def test_older_json_has_no_classes():
    content = entries()
    del content["classes"], content["colours"]
    meta, told = decode_meta(json.dumps(content).encode(), WHERE)
    assert meta == replace(LABELS, classes=(), colours=())
    assert told == content, "what is compared with the manifest stays as it is"


@pytest.mark.parametrize("missing", ["modality", "bands", "dtype", "num_seasons", "unit", "legend", "source"])
def test_other_entries_must_be_there(missing):
    content = entries()
    del content[missing]
    with pytest.raises(StoreError, match=f"__meta__ is not a store's .*{missing}"):
        decoded(content)


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": ["a"]},
        {"classes": 7},
        {"classes": None},
        {"colours": []},
        {"colours": ["000000", "green"]},
        {"colours": ["000000", "1B6B3A"]},
        {"colours": [0, 1]},
        {"colours": ["000000", "1b6b3a\n"]},
    ],
    ids=str,
)
def test_impossible_classes_and_colours(changed):
    with pytest.raises(StoreError, match="__meta__ is not a store's") as error:
        decoded(entries(**changed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ""),
        ({"legend": "DW"}, "legend 'mine', not 'DW'"),
        ({"modality": "labels"}, "modality 'exact', not 'labels'"),
        ({"classes": ("b", "a")}, "classes ('a', 'b'), not ('b', 'a')"),
        ({"colours": ("000000", "ffffff")}, "colours ('000000', '1b6b3a'), not ('000000', 'ffffff')"),
        ({"source": ""}, "source 'test', not ''"),
    ],
)
def test_the_first_difference_is_told(changed, told):
    assert LABELS.difference(replace(LABELS, **changed)) == told


def test_what_older_stores_do_not_say_is_no_difference():
    older = replace(LABELS, classes=(), colours=())
    assert older.difference(LABELS) == ""
    assert LABELS.difference(older) == "classes ('a', 'b'), not ()"
    assert replace(older, source="").difference(LABELS) == "source '', not 'test'"


def test_a_store_written_before_classes_were_described_is_read(tmp_path, monkeypatch):
    older = replace(LABELS, modality="labels", classes=(), colours=())

    def encode(meta, ids):
        told = json.loads(encode_meta(meta, ids))
        assert not told.pop("classes")
        assert not told.pop("colours")
        return json.dumps(told).encode()

    monkeypatch.setattr("cromss.store.writer.encode_meta", encode)
    with LmdbWriter(tmp_path / "labels.lmdb", older) as writer:
        writer.write("x", list(np.array([[[0, 1]], [[1, 1]]], np.uint8)))
        writer.finish()
    assert "classes" not in json.loads((tmp_path / "labels.lmdb" / "manifest.json").read_text())["meta"]
    reader = LmdbReader(tmp_path / "labels.lmdb")
    assert asdict(reader.meta) == asdict(older)
    assert reader.read(0, 1).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "complex64"), ("dtype", "U3"), ("num_seasons", 0), ("compression", "zip")]
)
def test_impossible_meta(name, value):
    with pytest.raises(StoreError, match=name):
        StoreMeta(**{**LABELS.__dict__, name: value})


def test_older_json_has_no_compression():
    content = entries()
    del content["compression"]
    assert decoded(content).compression == ""
    assert "compression ''" in decoded(content).difference(replace(LABELS, compression="deflate"))
