"""Scores from confusion matrices: the published numbers, hand cases, and a pixel loop as oracle."""

import math

import numpy as np
import pytest
import torch

from cromss.metrics import change_scores, confusion_matrix, likeliest, scores

REFERENCE_NAMES = {"iou": "iou", "f1": "f1", "precision": "precise", "recall": "recall"}
CASES = {
    "c9_all": "c9_all__nomask",
    "c9_absent_in_both_3_8": "c9_absent_in_both_3_8__nomask",
    "c9_mask": "c9_mask__mask255",
    "c13_mask": "c13_mask__mask255",
    "accum3": "accum3",
    "c1_binary": "c1_binary__nomask",
}


@pytest.fixture(scope="module")
def arrays(reference):
    return np.load(reference / "g_metrics.npz")


def predicted(logits: np.ndarray) -> np.ndarray:
    return (logits > 0).astype(np.int64) if logits.ndim == 3 else logits.argmax(axis=1)


def reference_confusion(arrays, case: str) -> torch.Tensor:
    logits, labels = arrays[f"{case}__logits"], arrays[f"{case}__target"]
    num_classes = 2 if logits.ndim == 3 else logits.shape[1]
    batches = np.array_split(np.arange(len(labels)), 3 if case == "accum3" else 1)
    parts = [confusion_matrix(predicted(logits[i]), labels[i], num_classes) for i in batches]
    return sum(parts)


def counted_by_hand(predictions, labels, num_classes, ignore_index=255):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for prediction, label in zip(predictions.ravel().tolist(), labels.ravel().tolist()):
        if label != ignore_index:
            counts[label, prediction] += 1
    return counts


@pytest.mark.parametrize(("case", "prefix"), CASES.items())
def test_counts_equal_the_published_ones(arrays, case, prefix):
    counts = reference_confusion(arrays, case).numpy()
    keep = slice(1, 2) if case == "c1_binary" else slice(None)
    tp = counts.diagonal()
    fp, fn = counts.sum(axis=0) - tp, counts.sum(axis=1) - tp
    tn = counts.sum() - tp - fp - fn
    for name, values in {"tp": tp, "fp": fp, "fn": fn, "tn": tn}.items():
        np.testing.assert_array_equal(values[keep], arrays[f"{prefix}__{name}"][0])


@pytest.mark.parametrize(("case", "prefix"), CASES.items())
def test_scores_equal_the_published_ones(arrays, case, prefix):
    result = scores(reference_confusion(arrays, case), absent="one")
    assert result["oa"] == pytest.approx(float(arrays[f"{prefix}__oa"]), abs=1e-6)
    for ours, theirs in REFERENCE_NAMES.items():
        wanted = arrays[f"{prefix}__{theirs}"]
        if case == "c1_binary":
            assert result[ours][1].item() == pytest.approx(float(wanted), abs=1e-6)
        else:
            np.testing.assert_allclose(result[ours], wanted[:-1], rtol=0, atol=1e-6)
    if case != "c1_binary":
        for ours, theirs in {"miou": "iou", "mf1": "f1", "aa": "recall"}.items():
            assert result[ours] == pytest.approx(float(arrays[f"{prefix}__{theirs}"][-1]), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_confusion_equals_a_loop_over_pixels(dtype):
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(0, 40, (3, 17, 11), generator=generator).to(dtype)
    labels = torch.randint(0, 40, (3, 17, 11), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels = labels.to(dtype)
    counts = confusion_matrix(predictions, labels, 40)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts, counted_by_hand(predictions.numpy(), labels.numpy(), 40))


def test_rows_are_truth_and_columns_prediction():
    counts = confusion_matrix(np.array([[[2, 2, 0]]]), np.array([[[1, 1, 255]]]), 3)
    assert counts.tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 0]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_likeliest_class_is_the_first_of_the_largest(layout):
    logits = torch.randint(0, 4, (3, 7, 33, 40), generator=torch.Generator().manual_seed(0)).float()
    found = likeliest(logits.to(memory_format=layout))
    np.testing.assert_array_equal(found, logits.numpy().argmax(1))
    assert found.dtype == torch.int64


def test_ignored_pixels_may_be_predicted_as_anything():
    counts = confusion_matrix(torch.tensor([[[255, 0]]]), torch.tensor([[[255, 0]]]), 2)
    assert counts.tolist() == [[1, 0], [0, 0]]


def test_another_ignore_index():
    counts = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, -1]), 2, ignore_index=-1)
    assert counts.tolist() == [[1, 0], [0, 0]]


def test_batches_add_up():
    generator = torch.Generator().manual_seed(1)
    predictions, labels = torch.randint(0, 5, (2, 6, 8, 8), generator=generator)
    whole = confusion_matrix(predictions, labels, 5)
    assert torch.equal(whole, sum(confusion_matrix(p, t, 5) for p, t in zip(predictions, labels)))


def test_perfect_and_wholly_wrong():
    perfect = scores(torch.eye(4) * 7)
    assert [perfect[name] for name in ("oa", "aa", "miou", "mf1")] == [1.0] * 4
    wrong = scores(np.array([[0, 3], [5, 0]]))
    assert [wrong[name] for name in ("oa", "aa", "miou", "mf1")] == [0.0] * 4


HAND_CASE = [
    [3, 1, 1, 0, 0],
    [0, 4, 0, 0, 0],
    [0, 0, 0, 0, 0],  # predicted, never true
    [1, 0, 0, 0, 0],  # true, never predicted
    [0, 0, 0, 0, 0],  # absent from both
]


def test_hand_case_skip():
    result = scores(torch.tensor(HAND_CASE))
    nan = math.nan
    np.testing.assert_allclose(result["iou"], [3 / 6, 4 / 5, 0, 0, nan])
    np.testing.assert_allclose(result["f1"], [6 / 9, 8 / 9, 0, 0, nan])
    np.testing.assert_allclose(result["precision"], [3 / 4, 4 / 5, 0, nan, nan])
    np.testing.assert_allclose(result["recall"], [3 / 5, 1, nan, 0, nan])
    assert result["oa"] == pytest.approx(7 / 10)
    assert result["aa"] == pytest.approx((3 / 5 + 1 + 0) / 3)
    assert result["miou"] == pytest.approx((3 / 6 + 4 / 5) / 4)
    assert result["mf1"] == pytest.approx((6 / 9 + 8 / 9) / 4)


def test_hand_case_one():
    result = scores(torch.tensor(HAND_CASE), absent="one")
    np.testing.assert_allclose(result["iou"], [3 / 6, 4 / 5, 0, 0, 1])
    np.testing.assert_allclose(result["precision"], [3 / 4, 4 / 5, 0, 1, 1])
    np.testing.assert_allclose(result["recall"], [3 / 5, 1, 1, 0, 1])
    assert result["miou"] == pytest.approx((3 / 6 + 4 / 5 + 1) / 5)


def test_no_pixels_is_undefined_not_zero():
    empty = scores(confusion_matrix(torch.empty(0, 4, 4, dtype=torch.long), torch.empty(0, 4, 4, dtype=torch.long), 3))
    assert all(math.isnan(empty[name]) for name in ("oa", "aa", "miou", "mf1"))


def test_counts_beyond_float32_stay_exact():
    assert scores(torch.tensor([[2**40, 1], [0, 2**40]]))["oa"] < 1.0


def test_per_class_entries_are_float64():
    result = scores(torch.eye(3, dtype=torch.int64))
    assert {result[name].dtype for name in REFERENCE_NAMES} == {torch.float64}
    assert {result[name].shape for name in REFERENCE_NAMES} == {(3,)}


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 3), r"labels: class ids must lie in 0..2, or 255.*found 3"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), "labels: .*found -1"),
        (torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2).long(), "predictions: .*found 3"),
        (torch.full((1, 2, 2), -1), torch.zeros(1, 2, 2).long(), "predictions: .*found -1"),
        (torch.zeros(1, 2, 3).long(), torch.zeros(1, 2, 2).long(), "differ in shape"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), "predictions: integer class ids.*argmax"),
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2), "labels: integer class ids"),
    ],
)
def test_bad_pixels_are_refused(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(predictions, labels, 3)


@pytest.mark.parametrize(
    ("confusion", "absent", "message"),
    [
        (torch.zeros(2, 3), "skip", r"confusion \(2, 3\): a square"),
        (torch.zeros(4), "skip", "a square"),
        (torch.tensor([[1, -1], [0, 2]]), "skip", "none negative"),
        (torch.tensor([[1, math.nan], [0, 2]]), "skip", "none negative"),
        (torch.eye(2), "zero", "absent 'zero': choose one of skip, one"),
    ],
)
def test_bad_matrices_are_refused(confusion, absent, message):
    with pytest.raises(ValueError, match=message):
        scores(confusion, absent=absent)


def test_change_scores_of_a_hand_case():
    result = change_scores(np.array([[90, 4], [2, 4]]))
    assert result == pytest.approx({"oa": 0.94, "iou": 0.4, "precision": 0.5, "recall": 2 / 3, "f1": 4 / 7})


@pytest.mark.parametrize("seed", range(5))
def test_change_scores_equal_a_naive_count(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((3, 7, 9)) < 0.3, rng.random((3, 7, 9)) < 0.4
    ignored = rng.random((3, 7, 9)) < 0.2
    labels = np.where(ignored, 255, truth)
    result = change_scores(confusion_matrix(predicted.astype(int), labels.astype(int), 2))
    hit, seen = (truth & predicted & ~ignored).sum(), ~ignored
    assert result["oa"] == pytest.approx(((truth == predicted) & seen).sum() / seen.sum())
    assert result["iou"] == pytest.approx(hit / ((truth | predicted) & seen).sum())
    assert result["precision"] == pytest.approx(hit / (predicted & seen).sum())
    assert result["recall"] == pytest.approx(hit / (truth & seen).sum())
    assert result["f1"] == pytest.approx(2 * hit / ((predicted & seen).sum() + (truth & seen).sum()))


@pytest.mark.parametrize(("absent", "expected"), [("one", 1.0), ("skip", float("nan"))])
def test_change_that_is_nowhere(absent, expected):
    result = change_scores(np.array([[50, 0], [0, 0]]), absent)
    assert result["oa"] == 1
    np.testing.assert_equal([result[name] for name in ("iou", "precision", "recall", "f1")], [expected] * 4)


def test_all_change_and_no_change_baselines():
    truth = np.array([[0, 0, 0, 1]])
    everything, nothing = np.ones_like(truth), np.zeros_like(truth)
    assert change_scores(confusion_matrix(everything, truth, 2))["iou"] == 0.25
    assert change_scores(confusion_matrix(nothing, truth, 2))["iou"] == 0


def test_change_scores_refuse_other_classes():
    with pytest.raises(ValueError, match="3 classes: change detection has 2"):
        change_scores(np.eye(3))
