"""Losses against the published numbers and hand cases."""

import math

import numpy as np
import pytest
import torch

from cromss.legends import IGNORE_INDEX
from cromss.losses import (
    as_two_classes,
    consistency,
    focal,
    generalised_cross_entropy,
    segmentation_loss,
    soft_dice,
    symmetric_cross_entropy,
    weighted_cross_entropy,
)

RELATIVE = 1e-5
WEIGHTS = {"": None, "_w": "weights", "_w0": "weights_zero_class2", "_wint1": None}
TARGETS = {"hard": "y", "soft2": "y_smooth_015_005", "soft1": "y_smooth_015"}


@pytest.fixture(scope="module")
def published(reference):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(reference / "e1_losses.npz").items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("suffix", WEIGHTS)
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_losses_match_published(published, target, suffix, precision):
    logits, targets = published["logits"][0], published[TARGETS[target]]
    name = WEIGHTS[suffix]
    weights = published[name][0] if name else torch.ones(logits[:, 0].shape) if suffix else None
    ce = weighted_cross_entropy(logits, targets, weights)
    key = f"ce_{'weighted' if suffix else 'mean'}_{target}{suffix}_{precision}"
    assert ce.item() == pytest.approx(published[key].item(), rel=RELATIVE)
    dice = soft_dice(logits, targets, weights)
    assert dice.item() == pytest.approx(published[f"dice_{target}{suffix}_{precision}"].item(), rel=RELATIVE)


@pytest.mark.parametrize("target", TARGETS)
def test_cross_entropy_maps_match_published(published, target):
    """Pixel by pixel, by giving all weight to one pixel."""
    logits, targets = published["logits"][0], published[TARGETS[target]]
    for row, column in [(0, 0), (5, 17), (31, 39)]:
        weights = torch.zeros(logits[:, 0].shape)
        weights[1, row, column] = 1
        expected = published[f"ce_map_{target}"][1, row, column].item()
        assert weighted_cross_entropy(logits, targets, weights).item() == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("suffix", ["", "_w"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_dice_of_each_class_matches_published(published, target, suffix, precision):
    """The mean over classes of one minus the published score of each class that is there."""
    per_class = published[f"dice_score_perclass_{target}{suffix}_{precision}"]
    targets = published[TARGETS[target]]
    mass = targets.sum((0, 2, 3)) if targets.ndim == 4 else torch.bincount(targets.flatten(), minlength=9)
    expected = ((1 - per_class) * (mass > 0)).mean().item()
    weights = published["weights"][0] if suffix else None
    assert soft_dice(published["logits"][0], targets, weights).item() == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_focal_matches_published(published, precision):
    logits, labels = published["logits"][0], published["y"]
    assert focal(logits, labels).item() == pytest.approx(published[f"focal_mean_hard_{precision}"].item(), rel=RELATIVE)
    weighted = focal(logits, labels, published["weights"][0]).item()
    assert weighted == pytest.approx(published[f"focal_weighted_hard_w_{precision}"].item(), rel=RELATIVE)
    assert focal(logits, labels).item() == pytest.approx(published["focal_map_hard"].mean().item(), rel=RELATIVE)


def test_dice_without_any_weight_matches_published(published):
    logits, labels = published["logits"][0], published["y"]
    value = soft_dice(logits, labels, torch.zeros(logits[:, 0].shape)).item()
    assert value == pytest.approx(published["dice_hard_zero_weights"].item(), rel=RELATIVE)


@pytest.mark.parametrize("kind", ["ce", "kl", "mse"])
@pytest.mark.parametrize("masks", ["none", "rand", "zero_both"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_consistency_matches_published(reference, kind, masks, precision):
    arrays = np.load(reference / "e2_consistency.npz")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    weights = (None, None) if masks == "none" else torch.from_numpy(arrays[f"mask_{masks}"])
    first = consistency(kind, logits[0], logits[1], weights[1])
    second = consistency(kind, logits[1], logits[0], weights[0])
    for ours, name in ((first, "con1"), (second, "con2"), (first + second, "total")):
        assert ours.item() == pytest.approx(
            float(arrays[f"{kind}__{masks}__{name}_{precision}"]), rel=RELATIVE, abs=1e-7
        )
    (gradient,) = torch.autograd.grad(first + second, logits)
    for branch in (0, 1):
        key = f"{kind}__{masks}__grad{branch}"
        if key in arrays:
            np.testing.assert_allclose(gradient[branch], arrays[key], atol=2e-8)


@pytest.mark.parametrize("kind", ["ce", "kl", "mse"])
def test_consistency_does_not_move_its_target(kind):
    a, b = (torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2))
    consistency(kind, a, b).backward()
    assert a.grad.abs().sum() > 0
    assert b.grad is None


def test_ignored_pixels_add_nothing():
    logits = torch.randn(1, 3, 6, 6, generator=torch.manual_seed(0))
    labels = torch.randint(0, 3, (1, 6, 6), generator=torch.manual_seed(1))
    labels[:, 3:] = IGNORE_INDEX
    for loss in (weighted_cross_entropy, soft_dice, focal, generalised_cross_entropy, symmetric_cross_entropy):
        whole, cropped = loss(logits, labels), loss(logits[:, :, :3], labels[:, :3])
        torch.testing.assert_close(whole, cropped)


@pytest.mark.parametrize("loss_type", ["c", "d", "f", "g", "s", "cd", "cdfgs"])
def test_all_ignored_batch_is_zero_with_zero_gradient(loss_type):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(loss_type, logits, torch.full((1, 4, 4), IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_hand_cases():
    logits, labels = torch.tensor([[2.0, 0.0]]).view(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    p = math.exp(2) / (math.exp(2) + 1)
    assert weighted_cross_entropy(logits, labels).item() == pytest.approx(-math.log(p))
    assert soft_dice(logits, labels).item() == pytest.approx((1 - 2 * p / (p + 1)) / 2)


def test_robust_losses_by_hand():
    """Probabilities 0.8 and 0.2 of the label, the second with a quarter of the weight."""
    logits = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().view(1, 2, 1, 2)
    labels, weights = torch.zeros(1, 1, 2, dtype=torch.long), torch.tensor([1.0, 0.25]).view(1, 1, 2)
    generalised = [(1 - p**0.7) / 0.7 for p in (0.8, 0.2)]
    symmetric = [0.1 * -math.log(p) + 4 * (1 - p) for p in (0.8, 0.2)]
    for loss, letter, values in (
        (generalised_cross_entropy, "g", generalised),
        (symmetric_cross_entropy, "s", symmetric),
    ):
        assert loss(logits, labels).item() == pytest.approx(sum(values) / 2)
        weighted = (values[0] + 0.25 * values[1]) / 1.25
        assert segmentation_loss(letter, logits, labels, weights).item() == pytest.approx(weighted)


def test_robust_losses_on_soft_targets_by_hand():
    logits, targets = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1), torch.tensor([0.9, 0.1, 0.0])
    soft = targets.view(1, 3, 1, 1)
    generalised = sum(t * (1 - p**0.7) / 0.7 for t, p in ((0.9, 0.5), (0.1, 0.3)))
    forward = -0.9 * math.log(0.5) - 0.1 * math.log(0.3)
    reverse = -0.5 * math.log(0.9) - 0.3 * math.log(0.1) + 0.2 * 4
    assert generalised_cross_entropy(logits, soft).item() == pytest.approx(generalised)
    assert symmetric_cross_entropy(logits, soft).item() == pytest.approx(0.1 * forward + reverse)


def test_generalised_cross_entropy_lies_between_cross_entropy_and_absolute_error():
    logits = torch.randn(1, 4, 5, 5, generator=torch.manual_seed(0))
    labels = torch.randint(0, 4, (1, 5, 5), generator=torch.manual_seed(1))
    nearly = generalised_cross_entropy(logits, labels, q=1e-4)
    torch.testing.assert_close(nearly, weighted_cross_entropy(logits, labels), rtol=1e-3, atol=0)
    miss = 1 - logits.softmax(1).gather(1, labels[:, None]).mean()
    torch.testing.assert_close(generalised_cross_entropy(logits, labels, q=1.0), miss)


@pytest.mark.parametrize("loss_type", ["", "x", "cdx", "CE"])
def test_unknown_loss_letters_are_refused(loss_type):
    with pytest.raises(ValueError, match="--loss_type"):
        segmentation_loss(loss_type, torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))


@pytest.mark.parametrize("kind", ["none", "cosine"])
def test_unknown_consistency_is_refused(kind):
    with pytest.raises(ValueError, match="ce, kl, mse"):
        consistency(kind, torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))


def test_one_logit_as_two_classes_is_the_binary_loss():
    generator = torch.Generator().manual_seed(3)
    logit = torch.randn(2, 1, 5, 7, generator=generator)
    labels = torch.randint(0, 2, (2, 5, 7), generator=generator)
    two = as_two_classes(logit)
    binary = torch.nn.functional.binary_cross_entropy_with_logits(logit[:, 0], labels.float())
    torch.testing.assert_close(weighted_cross_entropy(two, labels), binary)
    torch.testing.assert_close(two.softmax(1)[:, 1], logit[:, 0].sigmoid())
    assert torch.equal(two.argmax(1), (logit[:, 0] > 0).long())
