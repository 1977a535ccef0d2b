"""First principal components against NumPy's eigenvectors."""

import numpy as np
import pytest
import torch

from cromss.analysis.principal import first_principal_component

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape, seed=0):
    scales = np.linspace(1, 4, shape[0])[:, None, None]
    return torch.tensor(np.random.default_rng(seed).normal(3, scales, shape), dtype=torch.float32)


def naive(features):
    """Scores of every cell, and the share of variance, by NumPy's covariance and its eigenvectors."""
    pixels = features.double().flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels)))
    scores = vectors[:, -1] @ (pixels - pixels.mean(1, keepdims=True))
    return scores.reshape(features.shape[1:]), values[-1] / values.sum()


@pytest.mark.parametrize("shape", [(5, 8, 6), (40, 3, 4), (12, 3, 4), (1, 4, 4), (64, 1, 2)])
def test_equals_the_first_eigenvector_of_the_covariance(shape):
    features = noise(*shape)
    component = first_principal_component(features)
    scores, share = naive(features)
    assert component.share == pytest.approx(share, rel=1e-9)
    low, high = np.percentile(scores, [2, 98])
    stretched = np.clip((scores - low) / (high - low), 0, 1)
    assert min(abs(component.map.numpy() - s).max() for s in (stretched, 1 - stretched)) < 1e-5
    assert component.map.dtype == torch.float32
    assert (component.map.min(), component.map.max()) == (0, 1)


def test_finds_a_planted_direction():
    pattern = torch.linspace(-1, 1, 64).reshape(8, 8)
    loadings = torch.tensor([3.0, -4.0, 0.0])
    features = loadings[:, None, None] * pattern + 0.01 * noise(3, 8, 8)
    component = first_principal_component(features)
    assert component.share > 0.99
    assert np.corrcoef(component.map.flatten(), -pattern.flatten())[0, 1] > 0.99  # the largest loading is positive


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (3, 5), (1, 1)])
def test_turns_towards_another_map(sign, size):
    features = noise(3, 8, 8) + 20 * torch.linspace(-1, 1, 8)[:, None]
    towards = sign * torch.linspace(0, 1, size[0])[:, None].expand(size)
    first, second = (first_principal_component(x, towards).map for x in (features, -features))
    torch.testing.assert_close(first, second if size != (1, 1) else 1 - second)
    if size != (1, 1):
        slope = first[-1].mean() - first[0].mean()
        assert slope.sign() == sign


def test_share_of_all_channels_alike_is_one():
    pattern = noise(1, 4, 5)
    assert first_principal_component(pattern.expand(7, 4, 5)).share == pytest.approx(1)


@pytest.mark.parametrize("value", [0.1, 0.0, 1e20, float("nan"), float("inf")])
def test_nothing_to_see(value):
    component = first_principal_component(torch.full((4, 3, 2), value))
    assert np.isnan(component.share)
    assert (component.map == 0.5).all()
    assert component.map.shape == (3, 2)


def test_a_single_other_cell_is_seen():
    features = torch.zeros(2, 20, 20)
    features[:, 7, 3] = 1
    expected = torch.zeros(20, 20)
    expected[7, 3] = 1
    torch.testing.assert_close(first_principal_component(features).map, expected)
