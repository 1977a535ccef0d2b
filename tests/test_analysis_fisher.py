"""Fisher ratio against loops over pixels and closed forms."""

import math

import numpy as np
import pytest
import torch

from cromss.analysis.fisher import FisherRatio, labels_at

pytestmark = pytest.mark.usefixtures("one_thread")


def ratio(features, labels, num_classes=4, sizes=None):
    fisher = FisherRatio(num_classes)
    for x, y in zip(features.split(sizes or len(features)), labels.split(sizes or len(labels))):
        fisher.update(x, y)
    return fisher.compute()


def naive(features, labels, num_classes=4):
    """One pixel after the other, labels at the centre of each cell."""
    batch, _, height, width = features.shape
    pixels = {k: [] for k in range(num_classes)}
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                at = [int((c + 0.5) * full / side) for c, full, side in zip((i, j), labels.shape[1:], (height, width))]
                k = int(labels[b, at[0], at[1]])
                if k != 255:
                    pixels[k].append(features[b, :, i, j].double().numpy())
    groups = [np.array(group) for group in pixels.values() if group]
    everything = np.concatenate(groups)
    mean = everything.mean(0)
    between = sum(len(group) * ((group.mean(0) - mean) ** 2).sum() for group in groups) / len(everything)
    within = sum(((group - group.mean(0)) ** 2).sum() for group in groups) / len(everything)
    return between / within


def sample(seed=0, batch=5, channels=3, side=6, label_side=24, num_classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.choice([*range(num_classes), 255], (batch, label_side, label_side))
    cells = labels_at(torch.tensor(labels), torch.Size((side, side))).numpy()
    features = rng.normal(0, 1, (batch, channels, side, side)) + (cells[:, None] % 4) * 0.7
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels, dtype=torch.uint8)


@pytest.mark.parametrize(("side", "label_side"), [(6, 24), (8, 8), (5, 12), (7, 3), (1, 9)])
def test_equals_loops_over_pixels(side, label_side):
    features, labels = sample(side=side, label_side=label_side, batch=8)
    assert ratio(features, labels) == pytest.approx(naive(features, labels), rel=1e-12)


@pytest.mark.parametrize("sizes", [1, 2, 3, [4, 1], [1, 3, 1]])
def test_batches_do_not_matter(sizes):
    features, labels = sample()
    whole = ratio(features, labels)
    assert ratio(features, labels, sizes=sizes) == pytest.approx(whole, rel=1e-12)
    assert ratio(features.flip(0), labels.flip(0), sizes=sizes) == pytest.approx(whole, rel=1e-12)


def test_batches_without_labels_or_of_one_class_count_rightly():
    features, labels = sample()
    labels[1], labels[3] = 255, 2
    assert ratio(features, labels, sizes=1) == pytest.approx(naive(features, labels), rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_gaussian_classes(channels):
    """Classes N(m_k, s_k^2 I) of equal size: between is the variance of the m_k, within the mean trace."""
    rng, n = np.random.default_rng(0), 40_000
    means = rng.normal(0, 2, (4, channels))
    deviations = np.array([0.5, 1, 2, 3])
    x = means[:, :, None] + deviations[:, None, None] * rng.normal(size=(4, channels, n))
    features = torch.tensor(x).reshape(4, channels, 200, n // 200)
    labels = torch.arange(4)[:, None, None].expand(4, 200, n // 200)
    between = ((means - means.mean(0)) ** 2).sum(1).mean()
    within = channels * (deviations**2).mean()
    assert ratio(features, labels) == pytest.approx(between / within, rel=0.02)


def test_shift_rotation_and_scale_do_not_matter():
    features, labels = sample()
    whole = ratio(features, labels)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    turned = torch.einsum("cd,bdhw->bchw", rotation, features.double())
    for other in (turned, 1e-3 * features.double(), features.double() + 1e6, 7 * turned - 5):
        assert ratio(other, labels, sizes=2) == pytest.approx(whole, rel=1e-8)
    assert ratio(features * torch.tensor([1, 5, 1])[:, None, None], labels) != pytest.approx(whole, rel=1e-2)


def test_far_from_zero_nothing_is_lost():
    features, labels = sample()
    far = features + 1e4
    assert ratio(far, labels, sizes=2) == pytest.approx(naive(far, labels), rel=1e-9)


def test_what_has_no_ratio():
    features, labels = sample()
    assert math.isnan(FisherRatio(4).compute())
    assert math.isnan(ratio(features, torch.full_like(labels, 255)))
    assert math.isnan(ratio(features, torch.full_like(labels, 3)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(value):
    features, labels = sample()
    with pytest.raises(ValueError, match="NaN or infinity"):
        ratio(features * value, labels)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7e3, 1e20])
def test_constant_features_have_no_ratio(value):
    for seed in range(20):
        features, labels = sample(seed, batch=3, side=3, label_side=3)
        assert math.isnan(ratio(torch.full_like(features, value), labels, sizes=2))


def test_extremes():
    labels = torch.tensor([[[0, 0], [1, 1]]])
    points = labels[:, None].float()
    assert ratio(points, labels) == math.inf
    crossed = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    assert ratio(crossed, labels) == 0
    apart = torch.tensor([[[[1.0, 3.0], [-1.0, -3.0]]]])
    assert ratio(apart, labels) == 4


def test_labels_at_keeps_ids_beyond_halves():
    labels = torch.tensor([[[0, 255], [254, 7]]], dtype=torch.uint8)
    assert labels_at(labels, torch.Size((4, 4)))[0, :, 3].tolist() == [255, 255, 7, 7]
    assert labels_at(labels, torch.Size((2, 2))).dtype == torch.int64
