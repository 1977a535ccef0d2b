"""The label smoothing prior and the smoothed targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.smoothing import dense_prior, gaussian_matrix, label_prior, one_hot, smooth_targets

PRIOR_TOLERANCE = 2e-6


def random_labels(seed: int, *shape: int, num_classes: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, num_classes, shape))


def naive_prior(labels: np.ndarray, season: int, num_classes: int, kind: str, sigma: float, truncate: float):
    """One sample (T, H, W), by explicit loops over window offsets and mirrored indices."""
    onehot = np.stack([labels == k for k in range(num_classes)], axis=1).astype(float)
    parts = [onehot.mean(0)] if "t" in kind else []
    parts += [onehot[season]] if "s" in kind else []
    votes = sum(parts) / len(parts)
    radius = int(truncate * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(votes, [(0, 0), (radius, radius), (radius, radius)], mode="symmetric")
    height, width = labels.shape[-2:]
    smooth = np.zeros_like(votes)
    for i, a in enumerate(kernel):
        for j, b in enumerate(kernel):
            smooth += a * b * padded[:, i : i + height, j : j + width]
    return smooth / smooth.sum(0)


@pytest.mark.parametrize("name", ["blobs_seed0", "thin_lines"])
@pytest.mark.parametrize(("kind", "key"), [("t", "prior_t"), ("s", "prior_s_season1"), ("ts", "prior_ts_season1")])
def test_prior_matches_published(reference, name, kind, key):
    arrays = np.load(reference / f"a_prior_{name}.npz")
    prior = label_prior(torch.from_numpy(arrays["labels"])[None], torch.tensor([1]), 9, kind)
    np.testing.assert_allclose(prior[0].numpy(), arrays[key], atol=PRIOR_TOLERANCE, rtol=0)


def test_targets_match_published(reference):
    arrays = {name: torch.from_numpy(value) for name, value in np.load(reference / "b_smoothed_targets.npz").items()}
    labels, prior = arrays["y"], arrays["prior"]
    torch.testing.assert_close(one_hot(labels, 9), arrays["onehot"], atol=0, rtol=0)
    for factors, used, key in [
        ((0.15, 0.05), prior, "out_prior_015_005"),
        ((0.15,), prior, "out_prior_015"),
        ((0.1,), None, "out_noprior_01"),
    ]:
        torch.testing.assert_close(smooth_targets(labels, 9, factors, used), arrays[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["t", "s", "ts"])
@pytest.mark.parametrize("size", [(40, 31), (7, 50)])
def test_prior_equals_naive_sum(kind, size):
    labels = random_labels(0, 2, 3, *size)
    prior = label_prior(labels, torch.tensor([2, 0]), 5, kind, sigma=2.0, truncate=3.0)
    for sample, season in ((0, 2), (1, 0)):
        expected = naive_prior(labels[sample].numpy(), season, 5, kind, 2.0, 3.0)
        np.testing.assert_allclose(prior[sample].numpy(), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), ignored=st.floats(0, 1), kind=st.sampled_from(["t", "s", "ts"]))
def test_prior_is_a_distribution(seed, ignored, kind):
    labels = random_labels(seed, 1, 2, 20, 24)
    labels[torch.rand(labels.shape, generator=torch.manual_seed(seed)) < ignored] = IGNORE_INDEX
    prior = label_prior(labels, torch.tensor([1]), 5, kind)
    assert prior.dtype == torch.float32
    assert (prior >= 0).all()
    torch.testing.assert_close(prior.sum(1), torch.ones(1, 20, 24), atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), ignored=st.floats(0, 1), kind=st.sampled_from(["t", "s", "ts"]))
def test_line_filters_and_matrices_give_the_same(seed, ignored, kind):
    labels = random_labels(seed, 2, 3, 30, 17)
    labels[torch.rand(labels.shape, generator=torch.manual_seed(seed)) < ignored] = IGNORE_INDEX
    labels[0][labels[0] < 3] = 4
    given_all = labels.to(torch.uint8), torch.tensor([2, 0]), 5, kind, 2.0, 3.0
    torch.testing.assert_close(label_prior(*given_all), dense_prior(*given_all), atol=2e-6, rtol=0)


@pytest.mark.parametrize("num_classes", [2, 8, 9, 10, 20])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_any_number_of_classes_is_filtered(num_classes, ignored):
    labels = random_labels(3, 1, 4, 21, 26, num_classes=num_classes)
    labels[torch.rand(labels.shape, generator=torch.manual_seed(0)) < ignored] = IGNORE_INDEX
    prior = label_prior(labels, torch.tensor([3]), num_classes, "ts", 1.0, 3.0)
    expected = naive_prior(labels[0].numpy(), 3, num_classes, "ts", 1.0, 3.0)
    np.testing.assert_allclose(prior[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3), (13, 12)])
def test_tiles_smaller_than_the_filter(size):
    labels, season = random_labels(5, 2, 3, *size), torch.tensor([2, 0])
    torch.testing.assert_close(
        label_prior(labels, season, 5), dense_prior(labels, season, 5, "ts", 3.0, 4.0), atol=2e-6, rtol=0
    )


def test_threads_fill_what_was_made_in_inference_mode():
    """Which is of a thread: others may not write to its tensors."""
    labels, season = random_labels(4, 5, 3, 40, 33), torch.tensor([2, 0, 1, 2, 2])
    expected, before = label_prior(labels, season, 5), torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        with torch.inference_mode():
            assert torch.equal(label_prior(labels.clone(), season, 5), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_seasons", [127, 128])
def test_many_seasons(num_seasons):
    labels = torch.zeros(1, num_seasons, 12, 9, dtype=torch.uint8)
    labels[..., 4:] = 1
    expected = naive_prior(labels[0, :2].numpy(), 0, 2, "ts", 1.0, 3.0)
    np.testing.assert_allclose(
        label_prior(labels, torch.tensor([5]), 2, "ts", 1.0, 3.0)[0].numpy(), expected, atol=1e-6
    )


def test_permuting_classes_permutes_the_prior():
    labels, order = random_labels(1, 2, 4, 30, 30), torch.tensor([3, 1, 4, 0, 2])
    season = torch.tensor([0, 3])
    permuted = label_prior(order[labels], season, 5)
    torch.testing.assert_close(permuted[:, order], label_prior(labels, season, 5))


def test_all_ignored_prior_is_uniform():
    labels = torch.full((1, 2, 8, 8), IGNORE_INDEX)
    torch.testing.assert_close(label_prior(labels, torch.tensor([0]), 4), torch.full((1, 4, 8, 8), 0.25))


def test_ignored_pixels_do_not_vote():
    labels = torch.zeros(1, 1, 30, 30, dtype=torch.long)
    labels[..., 15:] = IGNORE_INDEX
    prior = label_prior(labels, torch.tensor([0]), 3)
    assert torch.allclose(prior[0, 0, :, :20], torch.ones(30, 20))


def test_gaussian_matrix_rows_sum_to_one_even_where_the_radius_exceeds_the_size():
    for size in (1, 3, 12, 100):
        torch.testing.assert_close(gaussian_matrix(size, 3.0, 4.0).sum(1), torch.ones(size))


def test_targets_are_zero_where_ignored_and_sum_to_one_elsewhere():
    labels = random_labels(2, 2, 9, 9)
    labels[:, :3] = IGNORE_INDEX
    prior = label_prior(labels[:, None], torch.tensor([0, 0]), 5)
    total = smooth_targets(labels, 5, (0.15, 0.05), prior).sum(1)
    torch.testing.assert_close(total, (labels != IGNORE_INDEX).float())


@pytest.mark.parametrize(
    ("factors", "with_prior"),
    [((), True), ((0.9, 0.2), True), ((-0.1,), True), ((0.1, 0.1, 0.1), True), ((0.1, 0.1), False), ((1.1,), False)],
)
def test_bad_factors_are_refused(factors, with_prior):
    prior = torch.full((1, 3, 4, 4), 1 / 3) if with_prior else None
    with pytest.raises(ValueError, match="--label_smoothing_factor"):
        smooth_targets(torch.zeros(1, 4, 4, dtype=torch.long), 3, factors, prior)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose one of ts, t, s"):
        label_prior(torch.zeros(1, 1, 4, 4, dtype=torch.long), torch.tensor([0]), 3, kind="x")
