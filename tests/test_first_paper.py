"""The benchmark of the first paper: its settings are legal, and no two of its runs share a folder."""

import itertools
from functools import cache

import pytest
from conftest import REPOSITORY, load_script

benchmark = load_script("first_paper", REPOSITORY / "benchmarks")
SETTINGS = benchmark.FirstPaper()


@cache
def names_of(settings):
    """Names of all trainings of a benchmark."""
    return [run.runtime.name for run in runs(settings)]


def runs(settings):
    """Settings of all trainings of a benchmark."""
    recipes = dict.fromkeys(benchmark.PRETRAINING.values())
    for seed, recipe, labels in itertools.product(settings.seed, recipes, filter(None, benchmark.LABELS.values())):
        yield benchmark.pretraining(settings, recipe, labels, seed)
    for seed, name, state in itertools.product(settings.seed, settings.sets, benchmark.STATES):
        yield from (benchmark.transfer(settings, name, state, start, "random", seed) for start in benchmark.LABELS)


def test_every_run_has_a_folder_of_its_own():
    names = names_of(SETTINGS)
    assert len(set(names)) == len(names) == 3 * (2 * 2 + 3 * 2 * 3)


def test_a_longer_pretraining_takes_no_transfer_of_a_shorter_one():
    longer = benchmark.FirstPaper(pretrain_epochs=SETTINGS.pretrain_epochs + 1, seed=SETTINGS.seed[:1])
    assert not set(names_of(SETTINGS)) & set(names_of(longer))


def test_heads_are_those_of_the_paper():
    heads = {
        (name, state): benchmark.transfer(SETTINGS, name, state, "random", "random", 0).model.model_framework
        for name in SETTINGS.sets
        for state in benchmark.STATES
    }
    assert heads == {
        **{("NYC", "frozen"): "unet", ("NYC", "tuned"): "deeplabv3plus"},
        **{("DFC2020", state): "pspnet" for state in benchmark.STATES},
        **{("OSCD", state): "unet" for state in benchmark.STATES},
    }


def test_tables_have_means_and_spread_of_each_set():
    scores = {"oa": 50.0, "aa": 40.0, "miou": 30.0, "mf1": None}
    rows = [
        {"set": "NYC", "weights": "random", "encoder_state": "frozen", "seed": seed}
        | scores
        | {"miou": 30.0 + 2 * seed}
        for seed in range(3)
    ]
    said = benchmark.report([*rows, {**rows[0], "set": "DFC2020"}])
    assert "synthetic NYC" in said
    assert "synthetic DFC2020" in said
    assert "32.00 ± 2.00" in said


@pytest.mark.parametrize("flag", ["sets", "seed", "pretrain_epochs", "epochs"])
def test_nothing_to_do_is_refused(flag):
    with pytest.raises(ValueError, match=f"--{flag}"):
        benchmark.FirstPaper(**{flag: () if flag in ("sets", "seed") else 0})
