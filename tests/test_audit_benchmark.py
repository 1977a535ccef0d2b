"""The benchmark of the label audit: its settings are legal, its table is that of the README, what is done is read."""

import itertools
import json
from unittest.mock import Mock

import pytest
from conftest import REPOSITORY, load_script

benchmark = load_script("label_audit", REPOSITORY / "benchmarks")
SETTINGS = benchmark.AuditBenchmark()
FOUND = {
    "compared_pixels": 200,
    "wrong_pixels": 50,
    "scores": {name: dict.fromkeys(benchmark.SCORES, 0.5 + 0.1 * i) for i, name in enumerate(benchmark.RANKED_BY)},
}


def test_every_run_has_a_folder_of_its_own():
    longer = benchmark.AuditBenchmark(epochs=SETTINGS.epochs + 1)
    told = itertools.product((SETTINGS, longer), benchmark.FUSIONS, (0, 1))
    settings = [benchmark.pretraining(*one) for one in told]
    assert len({one.runtime.name for one in settings}) == 8
    assert {one.cross.fusion_type for one in settings} == {"mid", "late"}
    assert {one.selection.sample_selection and one.smoothing.label_smoothing for one in settings} == {True}


def test_a_finished_audit_of_the_same_checkpoint_is_read(tmp_path, monkeypatch):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "audit.json").write_text(json.dumps({"checkpoint": "nowhere.ckpt", "exact": FOUND}))
    assert benchmark.exact_scores(tmp_path, "nowhere.ckpt") == FOUND
    monkeypatch.setattr("cromss.training.audit.audit", audit := Mock(return_value=Mock(summary={"exact": "anew"})))
    assert benchmark.exact_scores(tmp_path, "other.ckpt") == "anew"
    assert audit.call_args[0][0].checkpoint == "other.ckpt"


def test_the_table_has_means_and_spread():
    rows = [
        {"fusion": fusion, "seed": seed} | row | {"auc": row["auc"] + 2 * seed}
        for fusion in ("mid", "late")
        for seed in range(3)
        for row in benchmark.percent(FOUND)
    ]
    assert rows[0]["wrong"] == 25
    lines = benchmark.report(rows).splitlines()
    assert lines[0] == "| ranked by | middle fusion | late fusion |"
    assert (
        lines[2] == "| both modalities | 52.0 ± 2.0, 50.0 ± 0.0, 50.0 ± 0.0 |" + " 52.0 ± 2.0, 50.0 ± 0.0, 50.0 ± 0.0 |"
    )
    assert lines[-1].startswith("| entropy alone | 82.0 ± 2.0, 80.0 ± 0.0")
    single = [row for row in rows if row["seed"] == 0 and row["fusion"] == "mid"]
    assert benchmark.report(single).splitlines()[2] == "| both modalities | 50.0, 50.0, 50.0 | -, -, - |"


@pytest.mark.parametrize("flag", ["seed", "epochs"])
def test_nothing_to_do_is_refused(flag):
    with pytest.raises(ValueError, match=f"--{flag}"):
        benchmark.AuditBenchmark(**{flag: () if flag == "seed" else 0})
