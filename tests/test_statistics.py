"""Statistics: merging against plain NumPy, files with something wrong in them, and what writers make of them."""

import os
from functools import reduce

import lmdb
import numpy as np
import pytest
import yaml
from conftest import load_script
from rasters import fake_db, fake_dn, write_dfc2020, write_tiff

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
from cromss.store import LmdbReader
from cromss.store.environment import forget_environment

pretraining, downstream = map(load_script, ("write_pretrain_lmdb", "write_downstream_lmdb"))


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
GOOD_S2 = {"bands": list(S2.bands), "mean": [900.0] * 13, "std": [300.0] * 13, "unit": "DN"}


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
        ({"s1": GOOD | {"std": [1.0, 10**400]}}, "line 12: a whole number of 401 characters, at most 64 are read"),
        ({"s1": GOOD | {"mean": [0.06, 0.01]}}, "s1: mean: 0.01 and more, which looks linear; dB is wanted"),
        ({"s2": GOOD_S2 | {"mean": [0.16] * 12 + [0.3]}}, "s2: mean: up to 0.3, which looks like reflectance"),
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


def statistics_file(path, **shifts):
    """Built-in statistics with other means: modality -> what is added to them."""
    entries = {}
    for name in ("s1", "s2"):
        plain, unit = as_plain(MODALITIES[name]), MODALITIES[name].unit
        plain["mean"] = [mean + shifts.get(name, 0) for mean in plain["mean"]]
        entries[name] = plain | {"unit": unit, "source": "here"}
    path.write_text(yaml.safe_dump(entries))
    return path


def raw_entries(store):
    """All keys and values of a store, as bytes."""
    forget_environment(os.path.realpath(store))
    with lmdb.open(str(store), readonly=True, lock=False) as environment, environment.begin() as txn:
        return list(txn.cursor())


def without_meta(store):
    return [entry for entry in raw_entries(store) if entry[0] != b"__meta__"]


def write_tiles(root, ids=("a", "b")):
    rng = np.random.default_rng(3)
    for name in ids:
        write_tiff(root / name / "S1.tif", fake_db(rng))
        write_tiff(root / name / "S2.tif", fake_dn(rng))
        write_tiff(root / name / "DW.tif", rng.integers(0, 9, (12, 12), np.uint8))
    return root


STORES = ("0k_251k_uint8_s1.lmdb", "0k_251k_uint8_s2c.lmdb", "dw_labels.lmdb")


def write_set(root, out, statistics=None):
    pretraining.main(pretraining.PretrainSet(root, out, layout="tiles", statistics=statistics))
    return out


def test_built_in_statistics_in_a_file_change_no_byte(tmp_path):
    root = write_tiles(tmp_path / "raw")
    plain = write_set(root, tmp_path / "plain")
    told = write_set(root, tmp_path / "told", statistics_file(tmp_path / "same.yaml"))
    for name in STORES:
        entries = raw_entries(told / name)
        assert len(entries) == 5, "two records, two ids, the description"
        assert entries == raw_entries(plain / name)
    other = write_set(root, tmp_path / "other", statistics_file(tmp_path / "other.yaml", s2=300))
    assert [raw_entries(other / name) == raw_entries(plain / name) for name in STORES] == [True, False, True]


@pytest.mark.parametrize("others", [None, {"s1": -1, "s2": 300}, {"s1": 2}, {"s2": 300.001}])
@pytest.mark.parametrize("finished", [True, False])
def test_stores_of_other_statistics_are_neither_resumed_nor_taken_for_written(finished, others, tmp_path):
    root, out = write_tiles(tmp_path / "raw"), tmp_path / "out"
    told = statistics_file(tmp_path / "told.yaml", s1=2, s2=300)
    other = others and statistics_file(tmp_path / "other.yaml", **others)
    if finished:
        write_set(root, out, told)
    else:
        radar = (root / "b" / "S1.tif").read_bytes()
        write_tiff(root / "b" / "S1.tif", np.ones((2, 12, 12), np.float32))
        with pytest.raises(ValueError, match="this is nodata"):
            write_set(root, out, told)
        (root / "b" / "S1.tif").write_bytes(radar)
    before = {path: path.read_bytes() for path in out.rglob("data.mdb")}
    assert len(before) == 3
    message = r"lmdb: finished with statistics" if finished else r"lmdb\.partial: begun with statistics"
    with pytest.raises(ValueError, match=message) as refused:
        write_set(root, out, other)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in out.rglob("data.mdb")} == before
    write_set(root, out, told)
    fresh = write_set(root, tmp_path / "fresh", told)
    assert all(raw_entries(out / name) == raw_entries(fresh / name) for name in STORES)


def test_raw_stores_carry_statistics_beside_the_same_pixels(tmp_path):
    write_dfc2020(tmp_path / "raw")
    told = statistics_file(tmp_path / "told.yaml", s1=2, s2=300)
    for out, path in (("plain", None), ("told", told)):
        downstream.main(downstream.DownstreamFolders("DFC2020", tmp_path / "raw", tmp_path / out, statistics=path))
    content = yaml.safe_load(told.read_text())
    for part in ("train", "test"):
        for name in ("s1", "s2", "labels"):
            plain, carrying = (tmp_path / out / part / f"{name}.lmdb" for out in ("plain", "told"))
            assert without_meta(carrying) == without_meta(plain)
            wanted = {key: content[name][key] for key in ("mean", "std")} if name in content else {}
            assert LmdbReader(carrying).meta.statistics == wanted
            if name in content:
                assert LmdbReader(plain).meta.statistics["mean"] == list(MODALITIES[name].mean)
                assert stored_sensor(LmdbReader(carrying).meta).mean == tuple(wanted["mean"])
    with pytest.raises(ValueError, match=r"s1\.lmdb: finished with statistics"):
        downstream.main(downstream.DownstreamFolders("DFC2020", tmp_path / "raw", tmp_path / "told"))
