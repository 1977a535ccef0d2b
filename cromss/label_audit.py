"""Which noisy labels to doubt: suspicion of every pixel, how well it ranks wrong labels, and what is taken for what.

Suspicion is what CromSS trusts a label by, its confidence in both modalities (arXiv 2405.01217), turned round. In
confident learning (arXiv 1911.00068) label confidence is called self-confidence, and the confusion, here of the pixels
where both modalities are confident of one class, the confident joint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.confidence import label_confidence, prediction_confidence

NUM_BINS = 10001
"""Bins of a score in [0, 1]; pixels in one bin are ties."""

SHARES = (0.01, 0.05)
"""Shares of the most suspicious pixels whose precision is told."""

_STEPS = 101
"""Bins of a confidence, for thresholds to a percent."""


@dataclass(frozen=True, eq=False)
class Doubts:
    """Sums over pixels with a noisy label; those of two sets of tiles add up to those of both.

    Attributes:
        pixels: `(K,)` pixels of each noisy class.
        suspected: `(K,)` those of them whose suspicion reaches the threshold.
        suspicion: `(K,)` sum of their suspicion.
        confidence: `(K,)` sum of their label confidence, the lower one of the modalities.
        agreed: `(K, K, 101)` pixels by noisy class, class that all modalities predict, and percent of confidence in
            it, the lower one of the modalities.
    """

    pixels: np.ndarray
    suspected: np.ndarray
    suspicion: np.ndarray
    confidence: np.ndarray
    agreed: np.ndarray

    def __add__(self, other: "Doubts") -> "Doubts":
        return Doubts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mean(self) -> float:
        """Mean suspicion of all pixels; NaN where there are none."""
        return _ratio(self.suspicion.sum(), self.pixels.sum())

    @property
    def share(self) -> float:
        """Share of the pixels that are suspected; NaN where there are none."""
        return _ratio(self.suspected.sum(), self.pixels.sum())

    @property
    def most_suspected(self) -> int:
        """Noisy class with the most suspected pixels; -1 where none is suspected."""
        return int(self.suspected.argmax()) if self.suspected.any() else -1


def suspicion(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """How far all modalities doubt the noisy label: the geometric mean of `1 - label confidence`.

    On the synthetic world it ranks wrong labels as well as the mean, or the entangled confidences of CromSS turned
    round (AUC within 0.002), and it alone is 0 where one modality is sure of the label.

    Args:
        logits: Modality -> `(B, K, H, W)`.
        labels: `(B, H, W)` integer class ids, 255 where ignored.

    Returns:
        `(B, H, W)` in [0, 1], 1 where no modality gives the label any probability; NaN where ignored.
    """
    doubts = torch.stack([1 - label_confidence(x, labels) for x in logits.values()])
    return _defined(doubts.clamp(0, 1).prod(0) ** (1 / len(doubts)), labels)


def prediction_entropy(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Entropy of the mean prediction of all modalities over `log K`, whatever the label says.

    Takes what `suspicion` takes and returns the same.
    """
    mean = torch.stack([x.float().softmax(1) for x in logits.values()]).mean(0)
    return _defined((1 - prediction_confidence(mean.clamp_min(1e-30).log())).clamp(0, 1), labels)


def score_counts(score: Tensor, noisy: Tensor, exact: Tensor) -> np.ndarray:
    """Right and wrong pixels by score, where both masks have a class.

    Args:
        score: `(B, H, W)` in [0, 1], anything where the noisy mask is 255.
        noisy: `(B, H, W)` integer class ids, 255 where unlabelled.
        exact: `(B, H, W)` of the same place.

    Returns:
        `(2, NUM_BINS)` int64: row 0 right labels, row 1 wrong ones.
    """
    known = (noisy != IGNORE_INDEX) & (exact != IGNORE_INDEX)
    bins = (score[known] * (NUM_BINS - 1)).round().long()
    cells = bins + NUM_BINS * (noisy != exact)[known]
    return torch.bincount(cells, minlength=2 * NUM_BINS).view(2, NUM_BINS).cpu().numpy()


def area_under_curve(counts: np.ndarray) -> float:
    """Probability that a wrong label scores higher than a right one, ties half; NaN without one of each.

    Args:
        counts: `(2, bins)` of `score_counts`.
    """
    right, wrong = counts.astype(np.float64)
    lower = right.cumsum() - right
    return _ratio((wrong * (lower + right / 2)).sum(), right.sum() * wrong.sum())


def precision_at(counts: np.ndarray, share: float) -> float:
    """Share of wrong labels among the pixels with the highest scores; of ties, as a random draw would have it.

    Args:
        counts: `(2, bins)` of `score_counts`.
        share: Share of all pixels to look at, at least one pixel.

    Returns:
        Precision in [0, 1]; NaN where there are no pixels.
    """
    pixels, wrong = counts.sum(0)[::-1], counts[1, ::-1]
    wanted = max(1, round(share * pixels.sum()))
    taken = np.clip(wanted - (pixels.cumsum() - pixels), 0, pixels)
    return _ratio((taken * wrong / np.maximum(pixels, 1)).sum(), taken.sum())


def ranking(counts: np.ndarray) -> dict[str, float | None]:
    """`auc`, `precision_at_1_percent` and `precision_at_5_percent` of the pixels; `None` where undefined."""
    precisions = {f"precision_at_{100 * share:g}_percent": precision_at(counts, share) for share in SHARES}
    return {name: _known(value) for name, value in ({"auc": area_under_curve(counts)} | precisions).items()}


def count_doubts(
    logits: Mapping[str, Tensor], labels: Tensor, score: Tensor, threshold: float, num_classes: int
) -> Doubts:
    """Sums over the pixels of tiles.

    Args:
        logits: Modality -> `(B, K, H, W)`.
        labels: `(B, H, W)` integer class ids, 255 where ignored.
        score: `(B, H, W)` of `suspicion`.
        threshold: Suspicion from which a pixel counts as suspected.
        num_classes: Number of classes `K`.
    """
    known = labels != IGNORE_INDEX
    ids, doubt = labels[known].long(), score[known].double()
    probs = torch.stack([x.float().softmax(1) for x in logits.values()])
    certainty, predicted = (x[:, known] for x in probs.max(2))
    alike = (predicted == predicted[0]).all(0)
    percent = (certainty.amin(0) * (_STEPS - 1)).long()
    cells = ((ids * num_classes + predicted[0]) * _STEPS + percent)[alike]
    trust = torch.stack([label_confidence(x, labels) for x in logits.values()]).amin(0)[known].double()
    agreed = torch.bincount(cells, minlength=num_classes**2 * _STEPS)
    sums = (
        torch.bincount(ids, minlength=num_classes),
        torch.bincount(ids[doubt >= threshold], minlength=num_classes),
        torch.bincount(ids, doubt, minlength=num_classes),
        torch.bincount(ids, trust, minlength=num_classes),
        agreed.view(num_classes, num_classes, _STEPS),
    )
    return Doubts(*(x.cpu().numpy() for x in sums))


def estimated_confusion(doubts: Doubts) -> np.ndarray:
    """Pixels that all modalities confidently give one class, `(K, K)`: row noisy class, column that class.

    Confident is who gives a class at least the mean confidence of its own labelled pixels, to a percent. A class
    without labelled pixels has no such mean, and no column.
    """
    steps = np.arange(_STEPS)
    labelled = doubts.pixels > 0
    least = np.floor((_STEPS - 1) * doubts.confidence / np.maximum(doubts.pixels, 1))
    sure = (steps >= least[:, None]) & labelled[:, None]
    return (doubts.agreed * sure).sum(-1)


def class_rows(doubts: Doubts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a noisy class, the most suspected first: its pixels, the share suspected in percent, the mean suspicion."""
    shares = [_ratio(*pair) for pair in zip(doubts.suspected, doubts.pixels)]
    rows = [
        {
            "class": name,
            "pixels": int(doubts.pixels[k]),
            "suspected": int(doubts.suspected[k]),
            "suspected_percent": _known(round(100 * shares[k], 2)),
            "suspicion": _known(round(_ratio(doubts.suspicion[k], doubts.pixels[k]), 4)),
        }
        for k, name in enumerate(classes)
    ]
    return sorted(rows, key=lambda row: row["suspected_percent"] or 0, reverse=True)


def confusion_rows(doubts: Doubts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a noisy class: its confident pixels, and in percent of them the classes that both modalities predict.

    As `confusion.csv` it is the confident joint (arXiv 1911.00068), each row as shares of its sum.
    """
    confusion = estimated_confusion(doubts)
    totals = confusion.sum(1)
    return [
        {r"noisy \ estimated": name, "confident_pixels": int(total)}
        | {other: _known(round(100 * _ratio(count, total), 2)) for other, count in zip(classes, row)}
        for name, row, total in zip(classes, confusion, totals)
    ]


def _defined(score: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels == IGNORE_INDEX, torch.nan, score)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
