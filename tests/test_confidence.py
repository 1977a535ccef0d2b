"""Confidence in predictions and labels."""

import numpy as np
import pytest
import torch

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.confidence import entangle, label_confidence, prediction_confidence

CASES = ["mild", "confident", "mixed"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize(("kind", "published"), [("entropy", "ce"), ("gini", "gini")])
def test_prediction_confidence_matches_published(reference, case, precision, kind, published):
    arrays = np.load(reference / "c1_confidence.npz")
    logits = torch.from_numpy(arrays[f"{case}__logits"])
    alone = [prediction_confidence(x, kind) for x in logits]
    np.testing.assert_allclose(torch.stack(alone), arrays[f"{case}__predconf_{published}_{precision}"], atol=1e-6)
    both = torch.stack(entangle(*alone))
    np.testing.assert_allclose(both, arrays[f"{case}__predconf_{published}_enh_{precision}"], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_label_confidence_matches_published(reference, case, precision):
    arrays = np.load(reference / "c1_confidence.npz")
    logits, labels = torch.from_numpy(arrays[f"{case}__logits"]), torch.from_numpy(arrays["y"])
    alone = [label_confidence(x, labels) for x in logits]
    np.testing.assert_allclose(torch.stack(alone), arrays[f"{case}__lblconf_{precision}"], atol=1e-6)
    np.testing.assert_allclose(torch.stack(entangle(*alone)), arrays[f"{case}__lblconf_enh_{precision}"], atol=1e-6)


def test_every_published_confidence_array_is_compared(reference):
    names = set(np.load(reference / "c1_confidence.npz").files) - {"y"}
    compared = {f"{c}__logits" for c in CASES}
    for c in CASES:
        for p in ("f32", "f64"):
            compared |= {f"{c}__{k}{e}_{p}" for k in ("predconf_ce", "predconf_gini", "lblconf") for e in ("", "_enh")}
    assert names == compared


@pytest.mark.parametrize("kind", ["entropy", "gini"])
def test_confidence_stays_finite_and_in_range_at_certainty(kind):
    logits = torch.zeros(1, 4, 2, 2)
    logits[:, 1] = torch.tensor([[0.0, 50.0], [200.0, 1e5]])
    confidence = prediction_confidence(logits, kind)
    assert torch.isfinite(confidence).all()
    assert (confidence >= -1e-6).all()
    assert (confidence <= 1 + 1e-6).all()
    assert confidence[0, 1, 1] == 1


def test_entropy_confidence_of_uniform_is_zero_and_gini_is_one_over_k():
    logits = torch.zeros(1, 5, 1, 1)
    assert prediction_confidence(logits, "entropy").item() == pytest.approx(0, abs=1e-6)
    assert prediction_confidence(logits, "gini").item() == pytest.approx(0.2)


def test_label_confidence_is_zero_where_ignored():
    labels = torch.tensor([[[0, IGNORE_INDEX]]])
    confidence = label_confidence(torch.zeros(1, 4, 1, 2), labels)
    torch.testing.assert_close(confidence, torch.tensor([[[0.25, 0.0]]]))


def test_entangled_confidence_is_never_above_its_own():
    a, b = torch.rand(2, 3, 5, 5, generator=torch.manual_seed(0))
    mixed_a, mixed_b = entangle(a, b)
    assert (mixed_a <= a).all()
    assert (mixed_b <= b).all()
    torch.testing.assert_close(mixed_a, (a + a * b) / 2)


def test_confidence_carries_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    assert not prediction_confidence(logits).requires_grad
    assert not label_confidence(logits, torch.zeros(1, 4, 4, dtype=torch.long)).requires_grad


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="entropy, gini"):
        prediction_confidence(torch.zeros(1, 2, 1, 1), "margin")
