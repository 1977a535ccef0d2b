"""Share of clean pixels among the selected, against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from cromss.clean_shares import CleanShares, LabelCalibration, rival_names, rival_weights
from cromss.epoch_sums import restore_states, summed_states
from cromss.objective import CrossModalObjective

NUM_CLASSES = 4


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = {m: 2 * torch.randn(2, NUM_CLASSES, 12, 10, generator=generator) for m in ("s1", "s2")}
    labels, exact = (torch.randint(0, NUM_CLASSES - 1, (2, 12, 10), generator=generator) for _ in range(2))
    labels[0, :2], exact[1, -3:] = 255, 255
    return logits, labels, exact


def naive(weights, labels, exact, classes):
    """Clean share of pixels of weight 1 whose noisy label is in `classes`."""
    clean = selected = 0
    for index in np.ndindex(*labels.shape):
        if labels[index] in classes and exact[index] != 255 and weights[index] == 1:
            selected += 1
            clean += int(labels[index] == exact[index])
    return clean / selected if selected else math.nan


def naive_error(confidence, labels, exact):
    """Error of calibration over ten bins."""
    known = [i for i in np.ndindex(*labels.shape) if labels[i] != 255 and exact[i] != 255]
    error = 0.0
    for k in range(10):
        inside = [i for i in known if k / 10 <= confidence[i] < (k + 1) / 10 or (k == 9 and confidence[i] == 1)]
        error += abs(sum(confidence[i] - (labels[i] == exact[i]) for i in inside))
    return error / len(known)


def test_shares_are_those_of_a_loop(batch):
    _, labels, exact = batch
    weights = {name: torch.rand(2, 2, 12, 10).round().sum(0) / 2 for name in ("a", "b")}
    shares = CleanShares(("a", "b"), NUM_CLASSES)
    for part in (slice(0, 1), slice(1, 2)):
        shares.update({name: w[part] for name, w in weights.items()}, labels[part], exact[part])
    for name, (overall, by_class) in shares.compute().items():
        arrays = [x.numpy() for x in (weights[name], labels, exact)]
        assert overall == pytest.approx(naive(*arrays, range(NUM_CLASSES)))
        expected = [naive(*arrays, [c]) for c in range(NUM_CLASSES)]
        assert by_class == pytest.approx(expected, nan_ok=True)
        assert math.isnan(by_class[-1])


def test_the_error_of_confidence_is_that_of_a_loop(batch):
    logits, labels, exact = batch
    calibration = LabelCalibration(tuple(logits))
    for part in (slice(0, 1), slice(1, 2)):
        calibration.update({m: x[part] for m, x in logits.items()}, labels[part], exact[part])
    for m, error in calibration.compute().items():
        given = logits[m].softmax(1).gather(1, labels.where(labels != 255, torch.tensor(0))[:, None])[:, 0]
        assert error == pytest.approx(naive_error(given.numpy(), labels.numpy(), exact.numpy()))


def test_confidence_that_tells_the_truth_has_no_error(batch):
    _, labels, exact = batch
    certain = torch.nn.functional.one_hot(labels.clamp_max(3), NUM_CLASSES).movedim(-1, 1) * 200.0 - 100
    certain = torch.where((labels == exact)[:, None], certain, -certain)
    calibration = LabelCalibration(("sure",))
    calibration.update({"sure": certain}, labels, exact)
    assert calibration.compute()["sure"] < 1e-6


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_lost_predictions_are_left_out(batch, lost):
    """The run then says so itself, or leaves the step out."""
    logits, labels, exact = batch
    logits["s2"][1, 2, 4:] = lost
    weights = rival_weights(CrossModalObjective(NUM_CLASSES, selection=True), logits, labels, epoch=40)
    shares, calibration = CleanShares(tuple(weights), NUM_CLASSES), LabelCalibration(("s2",))
    shares.update(weights, labels, exact)
    calibration.update(logits, labels, exact)
    known = (labels != 255) & (exact != 255) & logits["s2"].softmax(1).isfinite().all(1)
    assert calibration.sums[0, 0].sum() == known.sum()
    assert 0 < calibration.compute()["s2"] < 1


def test_one_modality_has_no_other_to_cross(batch):
    logits, labels, _ = batch
    objective = CrossModalObjective(NUM_CLASSES, selection=True, ramp="none")
    weights = rival_weights(objective, {"s2": logits["s2"]}, labels, 0)
    assert tuple(weights) == rival_names(("s2",)) == ("single_s2", "random")


def test_rivals_select_by_both_confidences_by_their_own_and_by_chance(batch):
    logits, labels, _ = batch
    objective = CrossModalObjective(NUM_CLASSES, selection=True, ramp="none", final_share=0.25)
    weights = rival_weights(objective, {**logits, "common": logits["s1"]}, labels, epoch=0)
    assert tuple(weights) == rival_names(("s1", "s2"))
    assert (weights["random"] == 1).all()
    known = labels != 255
    given = {m: x.softmax(1).gather(1, labels.where(known, torch.tensor(0))[:, None])[:, 0] for m, x in logits.items()}
    both = given["s1"] * given["s2"]
    for m, own in given.items():
        for name, confidence in ((f"single_{m}", own), (f"cross_{m}", own + both)):
            for c in range(NUM_CLASSES - 1):
                of_class = confidence[labels == c]
                best = of_class.sort(descending=True).values[: int(0.25 * len(of_class))]
                chosen = (weights[name] >= 1) & (labels == c)
                assert confidence[chosen].sort(descending=True).values.tolist() == best.tolist()


def test_a_run_that_goes_on_counts_on(batch):
    _, labels, exact = batch
    first, second = (torch.nn.ModuleDict({"shares": CleanShares(("all",), NUM_CLASSES)}) for _ in range(2))
    ones = {"all": torch.ones(labels.shape)}
    first["shares"].update(ones, labels, exact)
    restore_states(second, summed_states(first))
    second["shares"].update(ones, labels, exact)
    assert second["shares"].counts.tolist() == (2 * first["shares"].counts).tolist()
