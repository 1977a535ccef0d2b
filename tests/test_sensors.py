"""Bands and normalisations."""

import numpy as np
import pytest

from cromss.sensors import S1, S2, S2_SUBSETS, percentile_zscore, quantise, reflectance, s2_bands, zscore

DOWNSTREAM = ("dfc", "dw", "osm")


def digital_numbers(seed=0, shape=(13, 16, 16), low=100, high=4000):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_s1_normalisations_match_published(reference, precision):
    arrays = np.load(reference / "f1_normalise.npz")
    image = arrays[f"s1_{precision}"]
    assert (quantise(image, S1) != arrays[f"data_clip_s1_{precision}"]).mean() <= 1e-3
    np.testing.assert_allclose(percentile_zscore(image, S1), arrays[f"data_normalize_s1_{precision}"], atol=2e-6)


@pytest.mark.parametrize("n_channels", [3, 9, 92, 13])
def test_s2_normalisations_match_published(reference, n_channels):
    arrays = np.load(reference / "f1_normalise.npz")
    bands = s2_bands(n_channels)
    image = arrays["s2_u16"][S2.indices(bands)]
    np.testing.assert_array_equal(quantise(image, S2, bands), arrays[f"data_clip_s2_{n_channels}"])
    np.testing.assert_allclose(zscore(image, S2, bands), arrays[f"data_normalize_s2_{n_channels}"], atol=1e-9)
    np.testing.assert_allclose(reflectance(image), arrays[f"normalize_s2_{n_channels}"], atol=1e-7)


@pytest.mark.parametrize("dataset", DOWNSTREAM)
def test_downstream_inputs_match_published(reference, dataset):
    arrays = np.load(reference / "f3_downstream_items.npz")
    s1 = arrays["s1_f64"] if dataset == "dfc" else arrays["s1_f32"]
    unit = quantise(s1, S1) / np.float32(255)
    published = arrays[f"{dataset}__s1_13b_s1norm0_s2norm0__img"]
    assert (np.abs(unit - published) > 1e-6).mean() <= 1e-3
    assert np.abs(unit - published).max() < 1.5 / 255
    s2 = arrays["s2_u16"]
    published = arrays[f"{dataset}__s2_13b_s1norm0_s2norm0__img"]
    np.testing.assert_allclose(quantise(s2, S2) / np.float32(255), published, atol=1e-7)
    np.testing.assert_allclose(zscore(s2, S2), arrays[f"{dataset}__s2_13b_s1norm0_s2norm1__img"], atol=1e-5)


def test_subsets_by_position():
    positions = {n: S2.indices(bands) for n, bands in S2_SUBSETS.items()}
    assert positions[3] == [3, 2, 1]
    assert positions[9] == [1, 2, 3, 4, 5, 6, 7, 11, 12]
    assert positions[92] == [3, 2, 1, 4, 5, 6, 7, 11, 12]
    assert positions[10] == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]
    assert positions[12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]


def test_every_band_has_a_mean_a_deviation_and_a_wavelength():
    for sensor in (S1, S2):
        assert len(sensor.bands) == len(sensor.mean) == len(sensor.std)
    assert len(S2.wavelengths) == 13


@pytest.mark.parametrize(("name", "position"), [("B2", 1), ("B02", 1), ("b8a", 8), ("B10", 10), ("B12", 12)])
def test_bands_are_found_by_any_spelling(name, position):
    assert S2.index(name) == position


@pytest.mark.parametrize("name", ["B13", "B8B", "", "VV"])
def test_unknown_bands_are_refused(name):
    with pytest.raises(ValueError, match="Sentinel-2 has no band"):
        S2.index(name)


def test_unknown_subset_is_refused():
    with pytest.raises(ValueError, match="--n_channels 11"):
        s2_bands(11)


def test_quantise_ends_and_order():
    mean, std = S1.statistics()
    steps = np.concatenate([mean + n * std for n in (-3, -2, 0.01, 2.001, 3)], axis=2)
    np.testing.assert_array_equal(quantise(steps, S1), np.array([[[0, 0, 128, 255, 255]]] * 2))
