"""The look into stores: what is reported, what is flagged, and the published layout."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import REPOSITORY, load_script

from cromss.legends import Legend
from cromss.preparation import image_meta, label_meta
from cromss.sensors import S1, S2, quantise
from cromss.store import LmdbReader, LmdbWriter, StoreMeta

inspection = load_script("inspect_lmdb")

S2_META, LABELS_META = image_meta("s2", "uint8", 2, "test"), label_meta("NoL", 2, "test")


def write(path: Path, meta: StoreMeta, size: int, ids) -> Path:
    """A store of random uint8 below the number of classes."""
    rng = np.random.default_rng(len(ids))
    shape = (len(meta.bands), size, size) if meta.bands else (size, size)
    with LmdbWriter(path, meta) as writer:
        for name in ids:
            writer.write(name, list(rng.integers(0, 9, (meta.num_seasons, *shape), np.uint8)))
        writer.finish()
    return path


def test_matching_stores(tmp_path, capsys):
    paths = tuple(write(tmp_path / meta.modality, meta, 12, "abc") for meta in (S2_META, LABELS_META))
    assert inspection.main(inspection.Inspection(paths)) == 0
    assert "the stores match" in capsys.readouterr().out


def test_mismatches_are_found(tmp_path, capsys):
    stores = (write(tmp_path / "s2", S2_META, 12, "abc"), write(tmp_path / "labels", LABELS_META, 9, "ab"))
    settings = inspection.Inspection(stores, json=tmp_path / "report.json", panel=tmp_path / "panel.png")
    assert inspection.main(settings) == 1
    assert "3 and 2 locations" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [problem.split(": ", 1)[1] for problem in report["mismatches"]] == [
        "3 and 2 locations",
        "1 ids differ, at index 2: c and None",
        "tile sizes differ, at index 0: (12, 12) and (9, 9); 1: (12, 12) and (9, 9)",
    ]
    shares = report["stores"][str(stores[1])]["classes"]
    labels = np.stack([LmdbReader(stores[1]).read_seasons(i) for i in range(2)])
    assert shares["water"] == pytest.approx((labels == 0).mean())
    assert sum(shares.values()) == pytest.approx(1)
    bands = report["stores"][str(stores[0])]["bands"]
    values = np.stack([LmdbReader(stores[0]).read_seasons(i) for i in range(3)])[:, :, 4]
    assert (bands["B5"]["mean"], bands["B5"]["std"]) == pytest.approx((values.mean(), values.std()))
    assert (tmp_path / "panel.png").stat().st_size > 1000


@pytest.mark.parametrize(("shift", "flagged"), [(0, []), (5000, [b for b in S2.bands if b not in ("B10",)])])
def test_bands_out_of_range_are_flagged(tmp_path, shift, flagged):
    rng = np.random.default_rng(6)
    mean, std = S2.statistics()
    image = rng.normal(mean, std, (13, 40, 40)).clip(0)
    image[np.arange(13) != 10] += shift
    with LmdbWriter(tmp_path / "s2", image_meta("s2", "uint16", 1, "test")) as writer:
        writer.write("a", [image.astype(np.uint16)])
        writer.finish()
    report = inspection.describe(LmdbReader(tmp_path / "s2"), 10)
    assert [band for band, found in report["bands"].items() if found["out_of_range"]] == flagged


def test_expected_statistics_of_quantised_values():
    rng = np.random.default_rng(7)
    mean, std = S1.statistics()
    values = quantise(rng.normal(mean, std, (2, 400, 400)), S1).astype(float)
    expected_mean, expected_std = inspection.expected_statistics("s1", "uint8")
    np.testing.assert_allclose(values.mean(axis=(1, 2)), expected_mean, atol=0.5)
    np.testing.assert_allclose(values.std(axis=(1, 2)), expected_std, atol=0.5)


def test_few_records_are_sampled_evenly():
    assert inspection.sample_records(3, 2, 10) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    records = inspection.sample_records(1000, 4, 8)
    assert len(records) == 8
    assert (records[0], records[-1]) == ((0, 0), (999, 3))


def test_published_stores_are_inspected_too(tmp_path):
    array = np.random.default_rng(8).integers(0, 9, (4, 16, 16), dtype=np.uint8)
    with lmdb.open(str(tmp_path / "labels"), map_size=1 << 22) as env, env.begin(write=True) as txn:
        txn.put(b"0", pickle.dumps((array.tobytes(), array.shape, "0000042")))
    settings = inspection.Inspection((tmp_path / "labels",), json=tmp_path / "report.json")
    assert inspection.main(settings) == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())["stores"].values()
    assert (report["ids"], report["num_seasons"], report["shapes"]) == (["0000042"], 4, [[16, 16]])
    assert report["classes"]["snow & ice"] == pytest.approx((array == 8).mean())


def test_change_sets_and_orthophotos_are_inspected_too(tmp_path, capsys):
    change = [image_meta("s2", "uint16", 2, "test"), label_meta("OSCD", 1, "test")]
    photos = [image_meta("ortho", "uint8", 1, "test"), label_meta("NYC", 1, "test")]
    rng = np.random.default_rng(1)
    for name, metas in (("change", change), ("photos", photos)):
        paths = tuple(tmp_path / name / f"{meta.modality}.lmdb" for meta in metas)
        for path, meta in zip(paths, metas):
            with LmdbWriter(path, meta) as writer:
                for city, side in (("a", 12), ("b", 20)):
                    shape = (len(meta.bands), side, side) if meta.bands else (side, side)
                    values = rng.integers(0, 2, (meta.num_seasons, *shape), np.uint8)
                    writer.write(city, list(values.astype(meta.dtype)))
                writer.finish()
        assert inspection.main(inspection.Inspection(paths, panel=tmp_path / name / "panel.png")) == 0
        printed = capsys.readouterr().out
        assert ("change " in printed, "NIR " in printed) == (name == "change", name == "photos")
        assert ("OUT OF RANGE" in printed) == (name == "change")
    picture = inspection.displayable(LmdbReader(paths[0]), 0)
    assert picture.shape == (12, 12, 3)
    np.testing.assert_array_equal(picture[..., 0] > 0.5, LmdbReader(paths[0]).read(0, 0)[1] == 1)
    wrong = (tmp_path / "change" / "s2.lmdb", tmp_path / "photos" / "labels.lmdb")
    assert inspection.main(inspection.Inspection(wrong)) == 1
    assert "2 and 1 seasons" in capsys.readouterr().out


def test_classes_of_a_users_own_are_named_and_coloured(tmp_path, capsys):
    legend = Legend("mine", ("other", "trees"), ("102030", "1b6b3a"), {41: 1, 0: 0})
    masks = np.random.default_rng(3).integers(0, 2, (2, 8, 8), np.uint8)
    masks[0, 0] = 255
    for modality in ("labels", "exact"):
        with LmdbWriter(tmp_path / modality, label_meta(legend, 1, "test", modality)) as writer:
            for name, mask in zip("ab", masks):
                writer.write(name, [mask])
            writer.finish()
    stores = (tmp_path / "labels", tmp_path / "exact")
    assert inspection.main(inspection.Inspection(stores, json=tmp_path / "a.json")) == 0
    assert "exact: 2 locations" in capsys.readouterr().out
    for report in json.loads((tmp_path / "a.json").read_text())["stores"].values():
        expected = {"other": (masks == 0).mean(), "trees": (masks == 1).mean(), "ignored": 8 / 128, "unknown": 0}
        assert report["classes"] == pytest.approx(expected)
    picture = inspection.displayable(LmdbReader(stores[1]), 1)
    assert {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} == {(16, 32, 48), (27, 107, 58)}
    np.testing.assert_array_equal(picture[..., 0] == 27, masks[1] == 1)


def test_exit_status_tells_match_mismatch_and_unreadable(tmp_path):
    s2, labels = write(tmp_path / "s2", S2_META, 12, "abc"), write(tmp_path / "labels", LABELS_META, 12, "abd")
    for paths, status in (((s2,), 0), ((s2, labels), 1), ((s2, tmp_path / "none"), 2), ((), 2)):
        line = [sys.executable, str(REPOSITORY / "data_prepare" / "inspect_lmdb.py"), *map(str, paths)]
        result = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert result.returncode == status, result.stderr
        assert result.stderr.count("\n") == (status == 2)
