"""Segmentation scores from one confusion matrix.

Confusion matrices add up over batches and processes; scores do not. Count first, score once.
"""

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cromss.legends import IGNORE_INDEX

ABSENT = ("skip", "one")


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Class of the largest logit, the first of equals: `(B, K, H, W)` -> `(B, H, W)` int64.

    On a CPU several times as fast as `argmax` over that axis.
    """
    return logits.max(1).indices


def confusion_matrix(
    predictions: torch.Tensor | np.ndarray,
    labels: torch.Tensor | np.ndarray,
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
) -> torch.Tensor:
    """Count pixels by true and predicted class.

    Args:
        predictions: `(B, H, W)` integer class ids (any shape, if the labels share it).
        labels: `(B, H, W)` integer class ids, `ignore_index` for pixels that do not count.
        num_classes: Number of classes `K`.
        ignore_index: Label of the pixels left out.

    Returns:
        `(K, K)` int64 on the labels' device: row = truth, column = prediction.

    Raises:
        ValueError: Shapes differ, values are not integers, or class ids lie outside 0..K-1.
    """
    predictions, labels = (torch.as_tensor(values) for values in (predictions, labels))
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} differ in shape")
    predictions, labels = _as_ids("predictions", predictions), _as_ids("labels", labels)
    valid = labels != ignore_index
    predictions, labels = predictions[valid], labels[valid]
    _check_range("labels", labels, num_classes, f", or {ignore_index} to ignore")
    _check_range("predictions", predictions, num_classes)
    return multiclass_confusion_matrix(predictions, labels, num_classes, validate_args=False).to(torch.int64)


def scores(confusion: torch.Tensor | np.ndarray, absent: str = "skip") -> dict[str, float | torch.Tensor]:
    """Score a confusion matrix; every score is a fraction in [0, 1].

    With `tp`, `fp`, `fn` of a class: IoU = tp / (tp + fp + fn), F1 = 2 tp / (2 tp + fp + fn),
    precision = tp / (tp + fp), recall = tp / (tp + fn). A score is undefined where its denominator
    is 0: recall for a class without a true pixel, precision for one never predicted, IoU and F1
    only for a class absent from both. A class that is predicted but never true has IoU 0.

    Args:
        confusion: `(K, K)` counts, row = truth, column = prediction.
        absent: What an undefined score becomes: `"skip"`, NaN and no part in the means; `"one"`,
            1.0, as in the published tables.

    Returns:
        `oa` (share of pixels that are right), `aa` (mean recall), `miou`, `mf1` as floats (NaN where
        no class has a score); `iou`, `f1`, `precision`, `recall` as `(K,)` float64 tensors on the CPU.

    Raises:
        ValueError: Not a square matrix of counts, or an unknown `absent`.
    """
    if absent not in ABSENT:
        raise ValueError(f"absent {absent!r}: choose one of {', '.join(ABSENT)}")
    counts = torch.as_tensor(confusion).cpu().to(torch.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not (counts >= 0).all():
        raise ValueError(f"confusion {tuple(counts.shape)}: a square (K, K) matrix of counts, none negative, is wanted")
    undefined = 1.0 if absent == "one" else float("nan")
    right, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    iou = _ratio(right, true + predicted - right, undefined)
    f1 = _ratio(2 * right, true + predicted, undefined)
    precision = _ratio(right, predicted, undefined)
    recall = _ratio(right, true, undefined)
    oa = _ratio(right.sum(), counts.sum(), undefined)
    means = {"oa": oa, "aa": recall, "miou": iou, "mf1": f1}
    return {name: values.nanmean().item() for name, values in means.items()} | {
        "iou": iou,
        "f1": f1,
        "precision": precision,
        "recall": recall,
    }


def change_scores(confusion: torch.Tensor | np.ndarray, absent: str = "skip") -> dict[str, float]:
    """Scores of change detection from `(2, 2)` counts, class 1 being change.

    Args:
        confusion: As in `scores`.
        absent: As in `scores`: what `iou` and the like become where change is nowhere.

    Returns:
        `oa` of both classes; `iou`, `precision`, `recall`, `f1` of change.

    Raises:
        ValueError: As in `scores`, or other than two classes.
    """
    result = scores(confusion, absent)
    if len(result["iou"]) != 2:
        raise ValueError(f"confusion of {len(result['iou'])} classes: change detection has 2, no change and change")
    return {"oa": result["oa"]} | {name: float(result[name][1]) for name in ("iou", "precision", "recall", "f1")}


def _ratio(part: torch.Tensor, whole: torch.Tensor, undefined: float) -> torch.Tensor:
    return torch.where(whole > 0, part / whole, undefined)


def _as_ids(name: str, values: torch.Tensor) -> torch.Tensor:
    if values.is_floating_point() or values.is_complex():
        raise ValueError(f"{name}: integer class ids are wanted, got {values.dtype}; take the argmax of logits first")
    return values.to(torch.int64)


def _check_range(name: str, ids: torch.Tensor, num_classes: int, otherwise: str = "") -> None:
    outside = ids[(ids < 0) | (ids >= num_classes)]
    if len(outside):
        found = ", ".join(map(str, outside.unique().tolist()[:8]))
        raise ValueError(f"{name}: class ids must lie in 0..{num_classes - 1}{otherwise}; found {found}")
