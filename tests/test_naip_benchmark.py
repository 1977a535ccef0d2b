"""The benchmark of selection on real aerial images: its settings are legal, its table has means and spread."""

import pytest
from conftest import REPOSITORY, load_script


@pytest.fixture(scope="module")
def naip():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield load_script("naip", REPOSITORY / "benchmarks")


def test_settings_differ_in_what_labels_are_selected_by(naip, tmp_path):
    runs = [naip.pretraining(naip.NaipBenchmark(tmp_path), selection, 3) for selection in naip.SELECTIONS]
    assert [run.selection.sample_selection_agreement for run in runs] == [False, True, True]
    assert [run.smoothing.label_smoothing_sigma for run in runs] == [3, 3, 10]
    assert len({run.runtime.name for run in runs}) == 3


def test_the_table_has_means_and_spread(naip):
    rows = [
        {"selection": "confidence", "seed": seed, "random": 70.0, "single_ortho": 80 + seed, "error": 5.0, "miou": 50.0}
        for seed in (0, 2)
    ]
    assert "| confidence | 70.0 ± 0.0 | 81.0 ± 1.4 | 5.0 ± 0.0 | 50.0 ± 0.0 |" in naip.report(rows)
