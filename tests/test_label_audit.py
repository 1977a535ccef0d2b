"""Suspicion, how well it ranks, and the estimated confusion, against naive counts and hand-made logits."""

import math

import numpy as np
import pytest
import torch

from cromss.label_audit import (
    NUM_BINS,
    area_under_curve,
    class_rows,
    confusion_rows,
    count_doubts,
    estimated_confusion,
    precision_at,
    prediction_entropy,
    ranking,
    score_counts,
    suspicion,
)

K = 4


def logits_of(classes, strength=4.0):
    """Logits that prefer these classes `(B, H, W)`."""
    return strength * torch.nn.functional.one_hot(torch.as_tensor(classes), K).movedim(-1, 1).float()


@pytest.fixture
def scene():
    """Random predictions of both modalities, labels that they follow more or less, some ignored."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (2, 9, 7), generator=draw)
    logits = {m: logits_of(labels, 2) + torch.randn(2, K, 9, 7, generator=draw) for m in ("s1", "s2")}
    labels[0, :3] = 255
    return logits, labels


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_a_planted_wrong_label_ranks_first():
    truth = torch.arange(16).view(1, 4, 4) % K
    labels = truth.clone()
    labels[0, 2, 1] = (truth[0, 2, 1] + 1) % K
    doubt = suspicion({"s1": logits_of(truth, 2), "s2": logits_of(truth, 5)}, labels)
    assert doubt.flatten().argmax() == 2 * 4 + 1
    assert doubt.flatten().sort().values[-1] > 2 * doubt.flatten().sort().values[-2]


def test_one_modality_alone_does_not_convict():
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    s1, s2 = logits_of([[[1, 1]]], 9), logits_of([[[1, 0]]], 9)
    both, one = suspicion({"s1": s1, "s2": s2}, labels)[0, 0]
    assert both > 0.99
    assert one < 0.1


def test_suspicion_is_the_geometric_mean_of_doubts(scene):
    logits, labels = scene
    probs = [softmax(x.double().numpy()) for x in logits.values()]
    doubt, entropy = (score(logits, labels).numpy() for score in (suspicion, prediction_entropy))
    mean = (probs[0] + probs[1]) / 2
    for (b, row, column), label in np.ndenumerate(labels.numpy()):
        if label == 255:
            assert np.isnan([doubt[b, row, column], entropy[b, row, column]]).all()
            continue
        at = b, slice(None), row, column
        wanted = math.sqrt((1 - probs[0][at][label]) * (1 - probs[1][at][label]))
        assert doubt[b, row, column] == pytest.approx(wanted, abs=1e-5)
        wanted = -sum(p * math.log(p) for p in mean[at]) / math.log(K)
        assert entropy[b, row, column] == pytest.approx(wanted, abs=1e-5)


def test_certain_predictions_stay_in_range():
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    logits = {m: logits_of([[[0, 1]]], 1e4) for m in ("s1", "s2")}
    assert suspicion(logits, labels).tolist() == [[[0, 1]]]
    assert prediction_entropy(logits, labels).abs().max() == 0


def scored(rng, num_values):
    """Scores with many ties, and masks of which some pixels are undecided."""
    score = torch.tensor(rng.integers(0, num_values, (3, 8, 9)) / (num_values - 1), dtype=torch.float32)
    noisy, exact = (torch.tensor(rng.choice([0, 1, 2, 255], (3, 8, 9), p=[0.5, 0.3, 0.1, 0.1])) for _ in range(2))
    score[noisy == 255] = torch.nan
    known = ((noisy != 255) & (exact != 255)).numpy()
    return score, noisy, exact, score.numpy()[known], (noisy != exact).numpy()[known]


@pytest.mark.parametrize("num_values", [2, 5, 101])
def test_ranking_is_that_of_all_pairs(num_values):
    score, noisy, exact, values, wrong = scored(np.random.default_rng(num_values), num_values)
    counts = score_counts(score, noisy, exact)
    assert counts.shape == (2, NUM_BINS)
    assert counts.sum(1).tolist() == [(~wrong).sum(), wrong.sum()]
    pairs = values[wrong][:, None] - values[~wrong][None]
    assert area_under_curve(counts) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    for share in (0.01, 0.05, 0.3, 1):
        assert precision_at(counts, share) == pytest.approx(naive_precision(values, wrong, share))


def naive_precision(values, wrong, share):
    """Expected share of wrong pixels at the top of a sort in which ties fall at random."""
    wanted = max(1, round(share * len(values)))
    last = np.sort(values)[-wanted]
    above, tied = values > last, values == last
    return (wrong[above].sum() + (wanted - above.sum()) * wrong[tied].mean()) / wanted


def test_ranking_of_hand_made_scores():
    noisy, exact = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 1, 0, 1]])
    perfect = score_counts(torch.tensor([[0.1, 0.9, 0.2, 0.8]]), noisy, exact)
    assert ranking(perfect) == {"auc": 1, "precision_at_1_percent": 1, "precision_at_5_percent": 1}
    assert area_under_curve(score_counts(torch.tensor([[0.9, 0.1, 0.8, 0.2]]), noisy, exact)) == 0
    tied = score_counts(torch.full((1, 4), 0.5), noisy, exact)
    assert ranking(tied) == {"auc": 0.5, "precision_at_1_percent": 0.5, "precision_at_5_percent": 0.5}


def test_nothing_to_rank_is_no_number():
    nowhere = torch.full((1, 2), 255)
    counts = score_counts(torch.zeros(1, 2), nowhere, nowhere)
    assert set(ranking(counts).values()) == {None}
    right = score_counts(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert ranking(right) == {"auc": None, "precision_at_1_percent": 0, "precision_at_5_percent": 0}


def doubts_of(logits, labels, threshold=0.6):
    return count_doubts(logits, labels, suspicion(logits, labels), threshold, K)


def test_sums_are_those_of_single_pixels(scene):
    logits, labels = scene
    doubts = doubts_of(logits, labels)
    probs = np.stack([softmax(x.double().numpy()) for x in logits.values()])
    score = suspicion(logits, labels).numpy()
    lists = {k: [] for k in range(K)}
    for (b, row, column), label in np.ndenumerate(labels.numpy()):
        if label != 255:
            lists[label].append((score[b, row, column], probs[:, b, :, row, column]))
    least = [np.mean([p[:, k].min() for _, p in lists[k]]) for k in range(K)]
    for k, pixels in lists.items():
        assert doubts.pixels[k] == len(pixels)
        assert doubts.suspected[k] == sum(s >= 0.6 for s, _ in pixels)
        assert doubts.suspicion[k] == pytest.approx(sum(s for s, _ in pixels), rel=1e-5)
        for other in range(K):
            agreeing = [p for _, p in pixels if (p.argmax(1) == other).all()]
            sure = sum(math.floor(100 * p[:, other].min()) >= math.floor(100 * least[other]) for p in agreeing)
            assert estimated_confusion(doubts)[k, other] == sure
    assert doubts.mean == pytest.approx(np.nanmean(score), rel=1e-5)
    assert doubts.share == pytest.approx((score >= 0.6).sum() / np.isfinite(score).sum())


def test_parts_add_up(scene):
    logits, labels = scene
    parts = [doubts_of({m: x[i : i + 1] for m, x in logits.items()}, labels[i : i + 1]) for i in range(2)]
    added, whole = parts[0] + parts[1], doubts_of(logits, labels)
    for name in ("pixels", "suspected", "agreed"):
        assert np.array_equal(getattr(added, name), getattr(whole, name))
    assert added.suspicion == pytest.approx(whole.suspicion)
    assert added.confidence == pytest.approx(whole.confidence)


def test_other_orders_of_classes_give_other_orders_of_results(scene):
    logits, labels = scene
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.cat([order.argsort(), torch.full((252,), 255)])[labels]
    permuted = {m: x[:, order] for m, x in logits.items()}
    assert torch.allclose(suspicion(permuted, renamed), suspicion(logits, labels), equal_nan=True)
    first, second = doubts_of(logits, labels), doubts_of(permuted, renamed)
    assert np.array_equal(second.suspected, first.suspected[order])
    assert np.array_equal(estimated_confusion(second), estimated_confusion(first)[np.ix_(order, order)])


def test_ignored_pixels_never_count(scene):
    logits, labels = scene
    other = {m: torch.where((labels == 255).unsqueeze(1), 50 * x.roll(1, 1), x) for m, x in logits.items()}
    first, second = doubts_of(logits, labels), doubts_of(other, labels)
    for name in ("pixels", "suspected", "suspicion", "confidence", "agreed"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    nothing = doubts_of(logits, torch.full_like(labels, 255))
    assert not nothing.agreed.any()
    assert math.isnan(nothing.mean)
    assert nothing.most_suspected == -1


def test_a_planted_confusion_is_estimated():
    """A third of class 1 is labelled 0: the row of 0 shows it."""
    truth = torch.tensor([[[0] * 20 + [1] * 30 + [2] * 20]])
    labels = truth.clone()
    labels[..., 20:30] = 0
    doubts = doubts_of({"s1": logits_of(truth), "s2": logits_of(truth)}, labels)
    assert estimated_confusion(doubts).tolist() == [[20, 10, 0, 0], [0, 20, 0, 0], [0, 0, 20, 0], [0, 0, 0, 0]]
    assert doubts.most_suspected == 0
    rows = {row["class"]: row for row in class_rows(doubts, "abcd")}
    assert [row["suspected_percent"] for row in rows.values()] == [33.33, 0, 0, None]
    assert next(iter(rows)) == "a"
    first, *_, last = confusion_rows(doubts, "abcd")
    assert (first["confident_pixels"], first["b"]) == (30, 33.33)
    assert (last["confident_pixels"], last["a"]) == (0, None)
