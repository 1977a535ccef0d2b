"""The DN offset: told, declared or seen, and refused where in doubt."""

import json
from pathlib import Path

import numpy as np
import pytest
from rasters import fake_dn, write_tiff

from cromss import offset


def scene(folder: Path, offset: int, bright: int = 0, metadata=None, **tags) -> tuple[np.ndarray, Path]:
    dn = fake_dn(np.random.default_rng(0)) + np.uint16(offset + bright)
    folder.mkdir(exist_ok=True)
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return dn, write_tiff(folder / "S2.tif", dn, **tags)


@pytest.mark.parametrize(
    ("made", "told", "decision"),
    [
        ({"offset": 0}, None, (0, "pixels")),
        ({"offset": 1000}, None, (1000, "pixels")),
        ({"offset": 1000}, 0, (0, "told")),
        ({"offset": 1000}, 1000, (1000, "told")),
        ({"offset": 0, "bright": 8000}, 1000, (1000, "told")),
        ({"offset": 1000, "PROCESSING_BASELINE": "04.00"}, None, (1000, "metadata")),
        ({"offset": 1000, "metadata": {"properties": {"PROCESSING_BASELINE": "05.10"}}}, None, (1000, "metadata")),
        ({"offset": 0, "metadata": {"properties": {"PROCESSING_BASELINE": "02.06"}}}, None, (0, "metadata")),
        ({"offset": 1000, "RADIO_ADD_OFFSET_0": "-1000"}, None, (1000, "metadata")),
        ({"offset": 0, "RADIO_ADD_OFFSET_0": "0", "PROCESSING_BASELINE": "04.00"}, None, (0, "metadata")),
        ({"offset": 0, "bright": 8000, "PROCESSING_BASELINE": "03.01"}, None, (0, "metadata")),
        ({"offset": 1000, "bright": 8000, "PROCESSING_BASELINE": "04.00"}, None, (1000, "metadata")),
        (
            {"offset": 0, "metadata": {"id": "COPERNICUS/S2_HARMONIZED/x", "PROCESSING_BASELINE": "05.00"}},
            None,
            (0, "metadata"),
        ),
    ],
)
def test_the_offset_follows_the_user_the_metadata_the_pixels(tmp_path, made, told, decision):
    assert offset.decide_offset(*scene(tmp_path / "p1", **made), "p1", told) == decision


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"offset": 0, "bright": 8000}, "of p1: the pixels cannot tell .*; say --s2_offset_ids p1=0 or p1=1000"),
        ({"offset": 0, "PROCESSING_BASELINE": "04.00"}, "of p1: the metadata declare .*; say --s2_offset_ids p1=0"),
        ({"offset": 0, "PROCESSING_BASELINE": "new"}, "not a number"),
    ],
)
def test_an_offset_in_doubt_is_refused(tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        offset.decide_offset(*scene(tmp_path / "p1", **made), "p1")


@pytest.mark.parametrize("text", ["{", "[" * 5000, "\x00"])
def test_metadata_that_are_no_json_are_named(tmp_path, text):
    _, path = scene(tmp_path / "p1", 0)
    (tmp_path / "p1" / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*metadata\.json: not JSON \("):
        offset.metadata_offset(path)


def test_an_offset_that_would_clip_dark_pixels_must_be_told_of_that_location(tmp_path):
    made = scene(tmp_path / "p1", 0)
    with pytest.raises(ValueError, match=r"of p1: the pixels show no DN offset, .* or --s2_offset_ids p1=1000 if"):
        offset.decide_offset(*made, "p1", told=1000)
    assert offset.decide_offset(*made, "p1", told=0, told_by_id={"p1": 1000}) == (1000, "told")
    assert offset.decide_offset(*made, "p1", told=0, told_by_id={"p2": 1000}) == (0, "told")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_the_offset_is_clipped_at_zero(dtype):
    found = offset.remove_offset(np.array([0, 999, 1000, 1234, 9000], dtype), 1000)
    assert (found.dtype, found.tolist()) == (dtype, [0, 0, 0, 234, 8000])
