"""What selection selects: how clean the labels are that are trusted fully, by class, and how true confidence is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.prediction import as_prediction
from cromss.objective import CrossModalObjective

RANDOM = "random"
"""Selection of as many pixels of each class by chance: its clean share is that of all labelled pixels."""

NUM_BINS = 10
"""Bins of confidence."""


class Rival(NamedTuple):
    """A way to select labels.

    Attributes:
        weights: `(B, H, W)` in [0, 1].
        confidence: `(B, H, W)` in [0, 1], what it selects by.
    """

    weights: Tensor
    confidence: Tensor


@torch.no_grad()
def rivals(
    objective: CrossModalObjective,
    logits: Mapping[str, Tensor],
    labels: Tensor,
    epoch: float,
    prior: Tensor | None = None,
) -> dict[str, Rival]:
    """What each modality selects: by both confidences as `cross_<modality>`, where there are two, by its own alone as
    `single_<modality>`, and by chance as `"random"`.

    Args:
        objective: The objective, with selection.
        logits: Modality -> `(B, K, H, W)`; `"common"` is left out.
        labels: `(B, H, W)` integer noisy labels, 255 where ignored.
        epoch: Epoch that the ramp follows.
        prior: `(B, K, H, W)`, where the objective selects by agreement.
    """
    twins = {m: as_prediction(x.detach()) for m, x in logits.items() if m != "common"}
    found = {}
    if len(twins) > 1:
        together = objective.select(twins, labels, epoch, prior)
        found = {f"cross_{m}": Rival(together.label[m], together.confidence[m]) for m in twins}
    for m, prediction in twins.items():
        alone = objective.select({m: prediction}, labels, epoch, prior)
        found[f"single_{m}"] = Rival(alone.label[m], alone.confidence[m])
    ones = torch.ones_like(labels, dtype=torch.float32)
    return found | {RANDOM: Rival(ones, ones)}


def rival_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """Names that `rivals` gives."""
    kinds = ("cross", "single") if len(modalities) > 1 else ("single",)
    return (*(f"{kind}_{m}" for kind in kinds for m in modalities), RANDOM)


class CleanShare(NamedTuple):
    """What was found of a selection; NaN where it selects nothing.

    Attributes:
        overall: Clean share of all selected pixels, in [0, 1].
        by_class: The same by class of the noisy label.
        calibration_error: Distance of mean confidence from the share of clean labels in ten equal bins of confidence,
            averaged by how many pixels are in them (arXiv 1706.04599).
    """

    overall: float
    by_class: list[float]
    calibration_error: float


class CleanShares(Metric):
    """Clean pixels among those of weight 1, and among those of like confidence, summed over batches and processes.

    Pixels that the noisy or the exact labels ignore are left out; classes are those of the noisy labels.

    Args:
        names: Names of the selections.
        num_classes: Number of classes `K`.
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], num_classes: int) -> None:
        super().__init__()
        self.names, self.num_classes = tuple(names), num_classes
        empty = torch.zeros(len(self.names), 2, num_classes, dtype=torch.long)
        self.add_state("counts", empty, dist_reduce_fx="sum")
        bins = torch.zeros(len(self.names), 3, NUM_BINS, dtype=torch.double)
        self.add_state("bins", bins, dist_reduce_fx="sum")

    def update(self, found: Mapping[str, Rival], labels: Tensor, exact: Tensor) -> None:
        """Count a batch of selections, with noisy and exact labels `(B, H, W)`."""
        compared = (labels != IGNORE_INDEX) & (exact != IGNORE_INDEX)
        clean, classes = (exact == labels)[compared], labels[compared].long()
        counts, bins = [], []
        for weights, confidence in (found[name] for name in self.names):
            trusted, sure = weights[compared] >= 1, confidence[compared].double()
            counts.append(torch.stack([self._by_class(classes[trusted & clean]), self._by_class(classes[trusted])]))
            places = (sure * NUM_BINS).long().clamp_max(NUM_BINS - 1)
            sums = (torch.ones_like(sure), sure, clean.double())
            bins.append(torch.stack([torch.bincount(places, weights, NUM_BINS) for weights in sums]))
        self.counts = self.counts + torch.stack(counts)
        self.bins = self.bins + torch.stack(bins)

    def compute(self) -> dict[str, CleanShare]:
        """Name -> what was found."""
        return {
            name: CleanShare(_ratio(sum(clean), sum(every)), list(map(_ratio, clean, every)), _calibration_error(bins))
            for name, (clean, every), bins in zip(self.names, self.counts.tolist(), self.bins)
        }

    def _by_class(self, classes: Tensor) -> Tensor:
        return torch.bincount(classes, minlength=self.num_classes)


def _calibration_error(bins: Tensor) -> float:
    counts, confidence, clean = bins
    return _ratio(float((confidence - clean).abs().sum()), float(counts.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
