"""KL divergences against closed forms, NumPy's histograms and chance."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cromss.analysis.weight_divergence import NUM_BINS, divergence, gaussian_kl, histogram_kl, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussian(mean, std, count=200_000, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(mean, std, count))


def standardised(mean, std):
    """A sample with exactly this mean and standard deviation."""
    x = gaussian(0, 1, 1000)
    return mean + std * (x - x.mean()) / x.std(correction=0)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ((0, 1), (0, 1), 0.0),
        ((1, 1), (0, 1), 0.5),
        ((0, 1), (0, 2), math.log(2) + 1 / 8 - 1 / 2),
        ((0, 2), (0, 1), -math.log(2) + 4 / 2 - 1 / 2),
        ((-3, 0.1), (1, 4), math.log(40) + (0.01 + 16) / 32 - 1 / 2),
    ],
)
def test_gaussians_have_the_closed_form(p, q, expected):
    assert gaussian_kl(standardised(*p), standardised(*q)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("p", "q"), [((0, 1), (0.5, 1)), ((0, 1), (0, 1.5)), ((0.3, 0.8), (0, 1))])
def test_histograms_of_gaussians_come_near_their_divergence(p, q):
    a, b = gaussian(*p), gaussian(*q, seed=1)
    told = divergence(a, b)
    assert told.gaussian == pytest.approx(told.histogram, rel=0.06)
    assert told.gaussian == pytest.approx(gaussian_kl(standardised(*p), standardised(*q)), rel=0.03)


def test_histogram_equals_numpy():
    a, b = gaussian(0, 1, 500), gaussian(1, 2, 400, seed=1)
    edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 17)
    p, q = (np.histogram(x.numpy(), edges)[0] + 0.5 for x in (a, b))
    p, q = p / p.sum(), q / q.sum()
    assert histogram_kl(a, b, 16) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-9)


def test_equal_weights_do_not_diverge():
    weights = gaussian(0.1, 3, 999)
    told = divergence(weights.float(), weights.flip(0).reshape(9, 111).float())
    assert (told.gaussian, told.histogram) == pytest.approx((0, 0), abs=1e-12)


def test_order_matters_scale_does_not():
    a, b = gaussian(0, 1, 3000), gaussian(0.2, 2, 3000, seed=1)
    told = divergence(a, b)
    assert told.gaussian != pytest.approx(divergence(b, a).gaussian, rel=0.1)
    assert told.histogram != pytest.approx(divergence(b, a).histogram, rel=0.1)
    assert divergence(0.25 * a, 0.25 * b) == pytest.approx(told, rel=1e-9)
    assert divergence(1e-6 * a, 1e-6 * b)[:1] == pytest.approx(told[:1], rel=1e-9)
    assert min(told) >= 0


@pytest.mark.parametrize("counts", [(4000, 4000), (2000, 9000)])
def test_chance_is_what_two_samples_of_a_uniform_distribution_show(counts):
    rng, drawn = np.random.default_rng(0), []
    for _ in range(40):
        a, b = (torch.tensor(rng.random(count)) for count in counts)
        drawn.append(divergence(a, b))
    assert np.mean([d.histogram for d in drawn]) == pytest.approx(drawn[0].chance, rel=0.1)
    assert drawn[0].chance == pytest.approx((NUM_BINS - 1) / 2 * sum(1 / count for count in counts))


@pytest.mark.parametrize(("p", "q", "expected"), [(0.1, 0.1, 0.0), (0.1, 0.2, math.inf), (0.0, 0.0, 0.0)])
def test_constants(p, q, expected):
    a, b = torch.full((10,), p), torch.full((7,), q)
    told = divergence(a, b)
    assert told.gaussian == expected
    assert (told.histogram > 0.5) == (p != q)
    assert divergence(a, torch.linspace(-1, 1, 9)).gaussian == math.inf
    assert divergence(torch.linspace(-1, 1, 9), b).gaussian == math.inf


@pytest.mark.parametrize("wrong", [torch.zeros(0), torch.tensor([1.0, math.nan]), torch.tensor([math.inf])])
@pytest.mark.parametrize("order", [1, -1])
def test_no_weights_or_not_finite_ones_are_refused(wrong, order):
    with pytest.raises(ValueError, match=rf"^weights: {len(wrong)} of them"):
        divergence(*(wrong, torch.ones(3))[::order])


def test_weights_are_kernels_and_matrices():
    convolution = nn.Conv2d(2, 3, 5)
    assert torch.equal(weights_of(convolution), convolution.weight.detach().flatten())
    block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    assert len(weights_of(block)) == 4 * 6 + 6 * 2
    assert not weights_of(block).requires_grad
