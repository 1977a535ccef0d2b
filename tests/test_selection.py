"""Ramps and the weights of labels and predictions."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.selection import label_weights, prediction_weights, ramp_up, selected_share, thresholds


def naive_label_weights(confidence: np.ndarray, labels: np.ndarray, num_classes: int, share: float) -> np.ndarray:
    """Class by class, as the paper says it."""
    weights = np.zeros_like(confidence)
    for k in range(num_classes):
        inside = labels == k
        count = int(np.float32(inside.sum()) * np.float32(share))
        if count:
            threshold = np.sort(confidence[inside])[::-1][count - 1]
            weights[inside] = np.minimum(confidence[inside] / threshold, 1) if threshold > 0 else 1
    return weights


def published_cases(path, marker):
    """(key, case, ramp, epoch) of every array that holds weights."""
    for key in np.load(path).files:
        match = re.fullmatch(rf"(\w+)__{marker}(exp|linear)_ep(\d+)", key)
        if match:
            yield key, match[1], match[2], int(match[3])


def test_label_weights_match_published(reference):
    path = reference / "c2_label_selection.npz"
    arrays, compared = np.load(path), 0
    for key, case, ramp, epoch in published_cases(path, "cb_"):
        confidence, labels = (torch.from_numpy(arrays[f"{case}__{part}"]) for part in ("conf", "y"))
        weights = label_weights(confidence, labels, 9, selected_share(epoch, 80, 0.5, ramp))
        np.testing.assert_allclose(weights, arrays[key], atol=1e-6, err_msg=key)
        compared += 1
    assert compared + 2 * compared // 10 == len(arrays.files)


def test_prediction_weights_match_published(reference):
    path = reference / "c3_pred_selection.npz"
    arrays, compared = np.load(path), 0
    for key, case, ramp, epoch in published_cases(path, ""):
        weights = prediction_weights(torch.from_numpy(arrays[f"{case}__conf"]), ramp_up(epoch, 80, ramp))
        np.testing.assert_allclose(weights, arrays[key], atol=1e-6, err_msg=key)
        compared += 1
    assert compared == sum(not key.endswith("__conf") for key in arrays.files)


def test_ramps_match_published(reference):
    arrays = np.load(reference / "d_rampup.npz")
    for key in set(arrays.files) - {"epochs"}:
        match = re.fullmatch(r"(ssratio_)?(sigmoid|linear)_len(\d+)(?:_prop([\d.]+))?", key)
        kind, length = {"sigmoid": "exp", "linear": "linear"}[match[2]], int(match[3])
        if match[1]:
            ours = [selected_share(epoch, length, float(match[4]), kind) for epoch in arrays["epochs"]]
        else:
            ours = [ramp_up(epoch, length, kind) for epoch in arrays["epochs"]]
        np.testing.assert_allclose(ours, arrays[key], atol=1e-6, err_msg=key)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.0, 1.0),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_label_weights_equal_naive_loop(seed, share, levels, ignored):
    """Ties, absent and single-pixel classes, ignored pixels and zero confidence included."""
    rng = np.random.default_rng(seed)
    confidence = (rng.integers(0, levels + 1, (2, 7, 9)) / levels).astype(np.float32)
    labels = rng.choice([0, 1, 1, 1, 3, 4], (2, 7, 9))
    labels[rng.random(labels.shape) < ignored] = IGNORE_INDEX
    ours = label_weights(torch.from_numpy(confidence), torch.from_numpy(labels), 6, share)
    np.testing.assert_allclose(ours, naive_label_weights(confidence, labels, 6, share), atol=1e-6)


def test_planted_noise_ranks_last():
    """Wrong labels have low confidence, so that they lose weight and right ones keep it."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, (1, 64, 64)))
    wrong = torch.from_numpy(rng.random((1, 64, 64)) < 0.3)
    confidence = torch.where(wrong, 0.1, 0.9) + 0.05 * torch.from_numpy(rng.random((1, 64, 64)))
    weights = label_weights(confidence, labels, 4, share=0.65)
    assert weights[wrong].max() < weights[~wrong].min()
    assert (weights[~wrong] == 1).float().mean() > 0.9


def test_weights_carry_no_gradient():
    confidence = torch.rand(1, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert not label_weights(confidence, labels, 2, 0.5).requires_grad
    assert not prediction_weights(confidence, 0.5).requires_grad


@pytest.mark.parametrize("kind", ["exp", "linear", "none"])
def test_ramps_rise_to_one_and_stay(kind):
    values = [ramp_up(epoch, 10, kind) for epoch in range(30)]
    assert values == sorted(values)
    assert values[10:] == [1.0] * 20


def test_none_takes_the_final_share_from_the_start():
    assert selected_share(0, 80, 0.3, "none") == pytest.approx(0.3)


def test_unknown_ramp_is_refused():
    with pytest.raises(ValueError, match="exp, linear, none"):
        ramp_up(0, 10, "cosine")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    digits=st.sampled_from([1, 3, 9]),
    scale=st.sampled_from([1e-30, 1.0, 1e6]),
    share=st.floats(0.0, 1.0),
)
def test_thresholds_are_those_of_a_sort(seed, digits, scale, share):
    """One group is empty."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 4, 300)
    values = (np.round(rng.random(300), digits) * scale).astype(np.float32)
    found = thresholds(torch.from_numpy(values), torch.from_numpy(groups), 5, share)
    for group in range(5):
        descending = np.sort(values[groups == group])[::-1]
        count = int(np.float32(len(descending)) * np.float32(share))
        assert found[group] == (descending[count - 1] if count else np.inf)


def test_negative_zeros_are_zeros():
    values = torch.tensor([-0.0, 0.0, -0.0])
    assert thresholds(values, torch.zeros(3, dtype=torch.long), 1, 0.7).tolist() == [0]
