"""Share of clean pixels among the selected, against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from cromss.clean_shares import CleanShares, Rival, rival_names, rivals
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
    found = {
        name: Rival(torch.rand(2, 2, 12, 10).round().sum(0) / 2, torch.rand(2, 12, 10).clamp(0.2, 0.97) + 0.03)
        for name in ("a", "b")
    }
    shares = CleanShares(("a", "b"), NUM_CLASSES)
    for part in (slice(0, 1), slice(1, 2)):
        shares.update({name: Rival(w[part], c[part]) for name, (w, c) in found.items()}, labels[part], exact[part])
    for name, (overall, by_class, error) in shares.compute().items():
        weights, confidence, *masks = (x.numpy() for x in (*found[name], labels, exact))
        assert overall == pytest.approx(naive(weights, *masks, range(NUM_CLASSES)))
        expected = [naive(weights, *masks, [c]) for c in range(NUM_CLASSES)]
        assert by_class == pytest.approx(expected, nan_ok=True)
        assert math.isnan(by_class[-1])
        assert error == pytest.approx(naive_error(confidence, *masks))


def test_confidence_that_tells_the_truth_has_no_error(batch):
    _, labels, exact = batch
    shares = CleanShares(("sure",), NUM_CLASSES)
    shares.update({"sure": Rival(torch.ones(labels.shape), (labels == exact).float())}, labels, exact)
    assert shares.compute()["sure"].calibration_error == 0


def test_one_modality_has_no_other_to_cross(batch):
    logits, labels, _ = batch
    objective = CrossModalObjective(NUM_CLASSES, selection=True, ramp="none")
    assert tuple(rivals(objective, {"s2": logits["s2"]}, labels, 0)) == rival_names(("s2",)) == ("single_s2", "random")


def test_rivals_select_by_both_confidences_by_their_own_and_by_chance(batch):
    logits, labels, _ = batch
    objective = CrossModalObjective(NUM_CLASSES, selection=True, ramp="none", final_share=0.25)
    found = rivals(objective, {**logits, "common": logits["s1"]}, labels, epoch=0)
    weights = {name: rival.weights for name, rival in found.items()}
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
    ones = {"all": Rival(torch.ones(labels.shape), torch.ones(labels.shape))}
    first["shares"].update(ones, labels, exact)
    restore_states(second, summed_states(first))
    second["shares"].update(ones, labels, exact)
    assert second["shares"].counts.tolist() == (2 * first["shares"].counts).tolist()
    assert second["shares"].bins.tolist() == (2 * first["shares"].bins).tolist()
