"""The synthetic world stays what it was under one version, and its kinds of noise are what they say."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from cromss.settings import PretrainData
from cromss.synthetic import NOISE_PRESETS, WORLD_HASH, WORLD_VERSION, NoiseModel, land_cover, noisy_labels
from cromss.synthetic.fingerprint import drawn_hash


def test_a_changed_generator_has_another_version():
    drawn = drawn_hash()
    assert drawn == WORLD_HASH, (
        f"the generator draws {drawn}, not {WORLD_HASH}, under version {WORLD_VERSION}: if that is meant, raise "
        "WORLD_VERSION, set WORLD_HASH, and make the tables of benchmarks/science.py anew"
    )


@pytest.fixture(scope="module")
def tiles():
    return [land_cover(np.random.default_rng([0, index, 0, 0]), 264) for index in range(4)]


def wrong(tile, index, season, model):
    """Share of wrong pixels."""
    return (noisy_labels(tile, season, np.random.default_rng(index), model) != tile).mean()


@pytest.mark.parametrize("kind", NOISE_PRESETS)
def test_levels_of_noise_rise(tiles, kind):
    shares = [np.mean([wrong(t, i, i, model) for i, t in enumerate(tiles)]) for model in NOISE_PRESETS[kind]]
    for share, (least, most) in zip(shares, ((0.04, 0.2), (0.17, 0.33), (0.33, 0.55)), strict=True):
        assert least < share < most


@pytest.mark.parametrize("kind", ["confusion", "borders", "objects", "seasons"])
def test_only_flips_follow_the_seasons(tiles, kind):
    shares = {wrong(tiles[0], 0, season, NOISE_PRESETS[kind][1]) for season in range(4)}
    assert (len(shares) == 1) == (kind != "seasons")


def test_one_kind_of_noise_plants_nothing_else():
    plain = np.zeros((40, 40), np.uint8)
    plain[:, 20:] = 4
    for kind in ("borders", "objects"):
        noisy = noisy_labels(plain, 0, np.random.default_rng(0), NOISE_PRESETS[kind][0])
        assert set(np.unique(noisy)) <= {0, 4}
    assert NOISE_PRESETS["mixed"][1] == NoiseModel()


def test_settings_offer_every_kind_and_level():
    offered = get_type_hints(PretrainData)
    assert get_args(offered["synthetic_noise"]) == tuple(NOISE_PRESETS)
    assert {len(models) for models in NOISE_PRESETS.values()} == {len(get_args(offered["synthetic_noise_level"]))}
