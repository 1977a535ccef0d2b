"""The benchmarks on real images: their settings are legal, their tables have means, spread and gains."""

import pytest
from conftest import REPOSITORY, load_script

from cromss.tables import to_csv

HOME = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def beside():
    """The scripts import what lies beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOME)
        yield


@pytest.fixture(scope="module")
def oscd(beside):
    return load_script("oscd", HOME)


@pytest.fixture(scope="module")
def naip(beside):
    return load_script("naip", HOME)


# OSCD


def test_table_of_the_oscd_benchmark(oscd):
    scores = {"oa": 0.5, "iou": 0.25, "precision": float("nan"), "recall": None, "f1": 0.4}
    told = oscd.percent(scores)
    assert told == {"oa": 50.0, "iou": 25.0, "precision": None, "recall": None, "f1": 40.0}
    rows = [{"weights": "no change", "encoder": "", "fraction": "", "seed": ""} | told]
    rows += [
        {"weights": "random", "encoder": state, "fraction": 10, "seed": seed}
        | told
        | {"iou": 20.0 + seed, "seconds": 7}
        for seed in (0, 2)
        for state in ("frozen", "tuned")
    ]
    text = to_csv([oscd.named_scores(row) for row in rows])
    head, first, second, *_ = text.splitlines()
    assert head == "weights,encoder,fraction,seed,OA,IoU,precision,recall,F1,seconds"
    assert (first, second) == ("no change,,,,50.0,25.0,,,40.0,", "random,frozen,10,0,50.0,20.0,,,40.0,7")
    lines = [line.strip("| ").split(" | ") for line in oscd.report(rows).splitlines() if line.startswith("| ")]
    assert lines[0][:3] == ["weights", "frozen OA", "frozen IoU"]
    assert lines[2] == ["no change", *["**50.00** (1)", "**25.00** (1)", "-", "-", "**40.00** (1)"] * 2]
    assert lines[3][2] == lines[3][7] == "21.00 ± 1.41 (2)"


def test_stores_of_the_oscd_benchmark_are_left_to_their_scripts(oscd, tmp_path, monkeypatch):
    """They know their settings; a mark of being done would not."""
    commands = []
    monkeypatch.setattr(oscd.subprocess, "run", lambda command, check: commands.append(command))
    settings = oscd.OscdBenchmark(tmp_path / "raw", tmp_path / "labels", save_dir=tmp_path / "out")
    oscd.write_stores(settings)
    oscd.write_stores(settings)
    assert [command[1].rpartition("/")[2] for command in commands] == [
        *("write_oscd_lmdb.py", "write_oscd_pretrain_lmdb.py") * 2
    ]
    assert not (tmp_path / "out").exists()


def test_gains_are_those_over_the_start_before_of_the_same_seed(oscd):
    rows = [{"weights": "all change", "encoder": "", "fraction": "", "seed": "", "IoU": 2.0}]
    rows += [
        {"weights": weights, "encoder": "frozen", "fraction": fraction, "seed": seed, "IoU": 10.0 + seed + gain}
        for weights, gain in zip(oscd.STARTS, (0, 2, 1))
        for fraction in (10, 100)
        for seed in (0, 1)
    ]
    head, _, *lines = [line.strip("| ").split(" | ") for line in oscd.gains(rows).splitlines()]
    assert head[1:] == ["frozen, 10 %", "frozen, 100 %"]
    assert [line[1] for line in lines] == ["+2.0 ± 0.0 (2/2)", "-1.0 ± 0.0 (0/2)", "-"]


def test_transfers_take_about_as_many_steps_whatever_the_fraction(oscd, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(oscd, "open_part", lambda *_: range(369))
    monkeypatch.setattr("cromss.training.finetune", lambda settings: runs.append(settings) or {"seconds": 1} | SCORES)
    settings = oscd.OscdBenchmark(tmp_path, tmp_path, steps=150)
    for weights, state, fraction in (("random", "frozen", 10), ("noisy labels", "tuned", 100)):
        oscd.transferred(settings, weights, "random", state, fraction, seed=2)
    assert [run.optimisation.epochs for run in runs] == [38, 4]
    assert [(run.model.encoder_finetune_tag, run.model.moving_batchnorm) for run in runs] == [
        ("efix", True),
        ("etr", False),
    ]
    assert len({run.runtime.name for run in runs}) == 2


SCORES = dict.fromkeys(("oa", "iou", "precision", "recall", "f1"), 0.5)


# NAIP


def test_settings_differ_in_what_labels_are_selected_by(naip, tmp_path):
    runs = [naip.pretraining(naip.NaipBenchmark(tmp_path), selection, 3) for selection in naip.SELECTIONS]
    assert [run.selection.sample_selection_agreement for run in runs] == [False, True, True]
    assert [run.smoothing.label_smoothing_sigma for run in runs] == [3, 3, 10]
    assert len({run.runtime.name for run in runs}) == 3


def test_the_table_has_means_spread_and_gains_of_the_same_seed(naip):
    (first, second, _), (every, chosen, miou) = naip.SELECTIONS, naip.COLUMNS.values()
    rows = [
        {"selected by": way, "seed": seed, every: 70.0, chosen: 80 + gain + seed, miou: 50 + gain / 3}
        for way, gain in ((first, 0.0), (second, 3.0))
        for seed in (0, 2)
    ]
    told = naip.report(rows)
    assert f"| {first} | 70.0 ± 0.0 | 81.0 ± 1.4 | 50.0 ± 0.0 |  |  |" in told
    assert f"| {second} | 70.0 ± 0.0 | 84.0 ± 1.4 | 51.0 ± 0.0 | +3.0 ± 0.0 (2/2) | +1.0 ± 0.0 (2/2) |" in told
