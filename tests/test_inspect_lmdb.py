"""The look into stores: what is reported, what is drawn, and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, load_script

from cromss.doctor import examine
from cromss.doctor.panel import displayable, shown
from cromss.doctor.subject import open_subject
from cromss.doctor.tally import Tally, expected_statistics
from cromss.legends import Legend
from cromss.preparation import image_meta, label_meta
from cromss.sensors import S1, S2, quantise
from cromss.store import LmdbReader, LmdbWriter

inspection = load_script("inspect_lmdb")


def write(path: Path, meta, arrays) -> Path:
    """A store of arrays `(N, T, ...)`."""
    with LmdbWriter(path, meta) as writer:
        for name, seasons in zip("abcdefgh", arrays):
            writer.write(name, list(seasons))
        writer.finish()
    return path


@pytest.fixture
def stores(tmp_path):
    """Quantised images and masks of three locations and two seasons."""
    rng = np.random.default_rng(3)
    images = rng.integers(40, 200, (3, 2, 13, 12, 12), np.uint8)
    return (
        write(tmp_path / "s2", image_meta("s2", "uint8", 2, "test"), images),
        write(tmp_path / "labels", label_meta("NoL", 2, "test"), rng.integers(0, 9, (3, 2, 12, 12), np.uint8)),
    )


def test_the_report_tells_shares_statistics_and_health(stores, tmp_path, capsys):
    settings = inspection.Inspection(stores, json=tmp_path / "report.json", panel=tmp_path / "panel.png")
    assert inspection.main(settings) == 0
    assert capsys.readouterr().out.startswith("HEALTHY (every record was read)\n")
    report = json.loads((tmp_path / "report.json").read_text())
    shares = report["stores"][str(stores[1])]["classes"]
    labels = np.stack([LmdbReader(stores[1]).read_seasons(i) for i in range(3)])
    assert shares["water"] == pytest.approx((labels == 0).mean())
    assert sum(shares.values()) == pytest.approx(1)
    by_season = report["stores"][str(stores[1])]["classes_by_season"]
    assert [one["trees"] for one in by_season] == pytest.approx([(labels[:, s] == 1).mean() for s in range(2)])
    band = report["stores"][str(stores[0])]["bands"]["B5"]
    values = np.stack([LmdbReader(stores[0]).read_seasons(i) for i in range(3)])[:, :, 4]
    assert (band["mean"], band["std"]) == pytest.approx((values.mean(), values.std()))
    assert (tmp_path / "panel.png").stat().st_size > 1000


@pytest.mark.parametrize(("shift", "flagged"), [(0, []), (5000, [b for b in S2.bands if b != "B10"])])
def test_bands_out_of_range_are_flagged(tmp_path, shift, flagged):
    rng = np.random.default_rng(6)
    mean, std = S2.statistics()
    image = rng.normal(mean, std, (13, 40, 40)).clip(0)
    image[np.arange(13) != 10] += shift
    write(tmp_path / "s2", image_meta("s2", "uint16", 1, "test"), [[image.astype(np.uint16)]])
    (report,) = examine([tmp_path / "s2"]).reports
    assert [name for name, band in report["bands"].items() if abs(band["sigmas"]) > 1] == flagged


def test_expected_statistics_of_quantised_values(tmp_path):
    rng = np.random.default_rng(7)
    mean, std = S1.statistics()
    values = quantise(rng.normal(mean, std, (2, 400, 400)), S1)
    subject = open_subject(write(tmp_path / "s1", image_meta("s1", "uint8", 1, "test"), [[values]]))
    expected_mean, expected_std = expected_statistics(subject)
    np.testing.assert_allclose(values.mean(axis=(1, 2)), expected_mean, atol=0.5)
    np.testing.assert_allclose(values.std(axis=(1, 2)), expected_std, atol=0.5)
    assert Tally(subject).report() == {"bands": {}}


def test_classes_of_a_users_own_are_named_and_coloured(tmp_path):
    legend = Legend("mine", ("other", "trees"), ("102030", "1b6b3a"), {41: 1, 0: 0})
    masks = np.random.default_rng(3).integers(0, 2, (2, 1, 8, 8), np.uint8)
    masks[0, 0, 0] = 255
    path = write(tmp_path / "exact", label_meta(legend, 1, "test", "exact"), masks)
    (report,) = examine([path]).reports
    expected = {"other": (masks == 0).mean(), "trees": (masks == 1).mean(), "ignored": 8 / 128, "unknown": 0}
    assert report["classes"] == pytest.approx(expected)
    picture = displayable(masks[1, 0], open_subject(path))
    assert {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} == {(16, 32, 48), (27, 107, 58)}


def test_the_panel_shows_the_worst_first(tmp_path):
    masks = np.zeros((8, 1, 8, 8), np.uint8)
    masks[6, 0, 0, 0] = 77
    path = write(tmp_path / "labels", label_meta("NoL", 1, "test"), masks)
    assert shown(examine([path]), 3)[0] == 6
    assert shown(examine([path]), 3)[1:] == [0, 3]


def test_exit_status_tells_healthy_damaged_and_unreadable(stores, tmp_path):
    other = write(tmp_path / "other", label_meta("NoL", 2, "test"), np.zeros((2, 2, 12, 12), np.uint8))
    torn = write(tmp_path / "torn", label_meta("NoL", 2, "test"), np.zeros((2, 2, 12, 12), np.uint8))
    pages = np.frombuffer((torn / "data.mdb").read_bytes(), np.uint8).reshape(-1, 4096).copy()
    pages[pages[:, 10] == 2, 16:] = 0xF0  # what the leaves hold
    pages.tofile(torn / "data.mdb")
    for paths, status in ((stores[:1], 0), ((stores[0], other), 1), ((stores[0], torn), 2), ((tmp_path / "none",), 2)):
        line = [sys.executable, str(REPOSITORY / "data_prepare" / "inspect_lmdb.py"), *map(str, paths)]
        result = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert result.returncode == status, result.stderr
        assert result.stderr.count("\n") == (status == 2)
        assert not result.stderr or result.stderr.startswith("error: ")


def test_without_stores_nothing_is_said():
    with pytest.raises(ValueError, match="wanted: at least one store"):
        inspection.main(inspection.Inspection(()))
