"""Statistics: merging against plain NumPy, and files with something wrong in them."""

from functools import reduce

import numpy as np
import pytest
import yaml

from cromss.preparation import image_meta
from cromss.sensors import MODALITIES, S1, S2
from cromss.statistics import (
    Moments,
    as_plain,
    described,
    moments,
    read_statistics,
    stored_sensor,
    with_statistics,
    write_statistics,
)


def images(count=9, level=1e4):
    rng = np.random.default_rng(0)
    return [level + rng.normal(0, 3, (2, *rng.integers(2, 30, 2))) for _ in range(count)]


@pytest.mark.parametrize("level", [0, 1e4, 1e8])
def test_merged_moments_equal_numpy(level):
    made = images(level=level)
    pixels = np.concatenate([image.reshape(2, -1) for image in made], axis=1)
    total = reduce(Moments.merged, map(moments, made))
    assert total.count == pixels.shape[1]
    np.testing.assert_allclose(total.mean, pixels.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.std, pixels.std(1), rtol=1e-9)


def test_merging_is_associative_and_commutative():
    parts = list(map(moments, images()))
    left, right = reduce(Moments.merged, parts), reduce(lambda a, b: b.merged(a), parts[::-1])
    halves = reduce(Moments.merged, parts[:4]).merged(reduce(Moments.merged, parts[4:]))
    for other in (right, halves):
        assert other.count == left.count
        np.testing.assert_allclose(other.mean, left.mean, rtol=1e-12)
        np.testing.assert_allclose(other.deviations, left.deviations, rtol=1e-12)


def test_files_come_back_as_written(tmp_path):
    measured = moments(np.random.default_rng(1).normal(-12, 4, (2, 40, 40)))
    write_statistics(tmp_path / "deep" / "s.yaml", {"s1": described(measured, "s1", "here")})
    sensors = read_statistics(tmp_path / "deep" / "s.yaml")
    assert sensors["s1"].mean == tuple(measured.mean.tolist())
    assert sensors["s1"].std == tuple(measured.std.tolist())
    assert sensors["s1"].source == "here"
    assert sensors["s2"] is S2
    assert not list(tmp_path.rglob("*.partial"))
    assert stored_sensor(image_meta("s1", "float32", 1, "", sensors=sensors)).mean == sensors["s1"].mean


def test_built_in_statistics_stay_the_very_same():
    assert read_statistics(None) == MODALITIES
    for name, sensor in MODALITIES.items():
        assert stored_sensor(image_meta(name, "uint8", 1, "")) is sensor
        assert with_statistics(sensor, as_plain(sensor), "x") is sensor
        assert with_statistics(sensor, {}, "x") is sensor


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 3, 3)), "s1: 9 pixels, at least 1000 are wanted"),
        (np.zeros((2, 40, 40)), "s1: band VV is the same in every pixel"),
    ],
)
def test_too_little_to_measure(pixels, message):
    with pytest.raises(ValueError, match=message):
        described(moments(pixels), "s1", "")


GOOD = {"bands": ["VV", "VH"], "mean": [-12.0, -19.0], "std": [4.0, 5.0], "unit": "dB", "count": 4, "source": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "wanted is modality"),
        ({}, "wanted is modality"),
        ({"s3": GOOD}, "s3: statistics are for s1 and s2"),
        ({"ortho": GOOD}, "orthophotos stay as they are"),
        ({"s1": 3}, "s1: bands, mean, std and unit are wanted"),
        ({"s1": {key: GOOD[key] for key in ("mean", "std")}}, "s1: bands, mean, std and unit are wanted"),
        ({"s1": GOOD | {"median": 1}}, "s1: unknown key 'median'"),
        ({"s1": GOOD | {"bands": ["VH", "VV"]}}, "must be VV VH, in this order"),
        ({"s1": GOOD | {"bands": "VV VH"}}, "must be VV VH, in this order"),
        ({"s1": GOOD | {"unit": "DN"}}, "s1: unit 'DN': must be dB"),
        ({"s1": GOOD | {"mean": [1.0]}}, "s1: mean: 2 finite numbers are wanted"),
        ({"s1": GOOD | {"mean": 1.0}}, "s1: mean: 2 finite numbers are wanted"),
        ({"s1": GOOD | {"std": [1.0, "5"]}}, "s1: std: 2 finite numbers are wanted"),
        ({"s1": GOOD | {"std": [1.0, float("nan")]}}, "s1: std: 2 finite numbers are wanted"),
        ({"s1": GOOD | {"std": [1.0, True]}}, "s1: std: 2 finite numbers are wanted"),
        ({"s1": GOOD | {"std": [4.0, 0.0]}}, "s1: std 0 of VH: must be over 0"),
        ({"s1": GOOD | {"std": [-4.0, 1.0]}}, "s1: std -4 of VV: must be over 0"),
    ],
)
def test_files_with_something_wrong(content, message, tmp_path):
    path = tmp_path / "statistics.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as refused:
        read_statistics(path)
    assert str(refused.value).startswith(f"--statistics {path}: ")
    assert "\n" not in str(refused.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"--statistics .*nowhere\.yaml: No such file"):
        read_statistics(tmp_path / "nowhere.yaml")
    assert S1 is MODALITIES["s1"]
