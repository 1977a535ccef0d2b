"""What selection selects: how clean the labels are that are trusted fully, by class, and how true confidence is."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.confidence import label_confidence
from cromss.noisy_labels.prediction import as_prediction
from cromss.objective import CrossModalObjective

RANDOM = "random"
"""Selection of as many pixels of each class by chance: its clean share is that of all labelled pixels."""

NUM_BINS = 10
"""Bins of confidence."""


@torch.no_grad()
def rival_weights(
    objective: CrossModalObjective,
    logits: Mapping[str, Tensor],
    labels: Tensor,
    epoch: float,
    prior: Tensor | None = None,
) -> dict[str, Tensor]:
    """Label weights `(B, H, W)` of each modality: by both confidences as `cross_<modality>`, where there are two, by
    its own alone as `single_<modality>`, and by chance as `"random"`.

    Args:
        objective: The objective, with selection.
        logits: Modality -> `(B, K, H, W)`; `"common"` is left out.
        labels: `(B, H, W)` integer noisy labels, 255 where ignored.
        epoch: Epoch that the ramp follows.
        prior: `(B, K, H, W)`, where the objective selects by agreement.
    """
    twins = {m: as_prediction(x.detach()) for m, x in logits.items() if m != "common"}
    together = objective.select(twins, labels, epoch, prior).label if len(twins) > 1 else {}
    alone = {m: objective.select({m: x}, labels, epoch, prior).label[m] for m, x in twins.items()}
    weights = {f"cross_{m}": together[m] for m in together} | {f"single_{m}": w for m, w in alone.items()}
    return weights | {RANDOM: torch.ones_like(labels, dtype=torch.float32)}


def rival_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """Names that `rival_weights` gives."""
    kinds = ("cross", "single") if len(modalities) > 1 else ("single",)
    return (*(f"{kind}_{m}" for kind in kinds for m in modalities), RANDOM)


class CleanShares(Metric):
    """Clean pixels among those of weight 1, summed over batches and processes.

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

    def update(self, weights: Mapping[str, Tensor], labels: Tensor, exact: Tensor) -> None:
        """Count a batch: name -> `(B, H, W)` weights, with noisy and exact labels `(B, H, W)`."""
        compared = (labels != IGNORE_INDEX) & (exact != IGNORE_INDEX)
        trusted = [compared & (weights[name] >= 1) for name in self.names]
        counts = [
            torch.stack([self._by_class(t & (exact == labels), labels), self._by_class(t, labels)]) for t in trusted
        ]
        self.counts = self.counts + torch.stack(counts)

    def compute(self) -> dict[str, tuple[float, list[float]]]:
        """Name -> clean share of all selected pixels, and by class; NaN where nothing is selected."""
        sums = self.counts.tolist()
        return {
            name: (_ratio(sum(clean), sum(every)), list(map(_ratio, clean, every)))
            for name, (clean, every) in zip(self.names, sums)
        }

    def _by_class(self, chosen: Tensor, labels: Tensor) -> Tensor:
        groups = torch.where(chosen, labels, self.num_classes).flatten()
        return torch.bincount(groups, minlength=self.num_classes + 1)[:-1]


class LabelCalibration(Metric):
    """Whether labels are right as often as a model is confident of them (arXiv 1706.04599), over batches and processes.

    Pixels that the noisy or the exact labels ignore are left out, and those of no finite confidence.

    Args:
        modalities: Whose confidence.
    """

    full_state_update = False

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        empty = torch.zeros(len(self.modalities), 3, NUM_BINS, dtype=torch.double)
        self.add_state("sums", empty, dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, logits: Mapping[str, Tensor], labels: Tensor, exact: Tensor) -> None:
        """Count a batch: modality -> `(B, K, H, W)`, with noisy and exact labels `(B, H, W)`."""
        compared = (labels != IGNORE_INDEX) & (exact != IGNORE_INDEX)
        self.sums = self.sums + torch.stack(
            [self._binned(label_confidence(logits[m], labels), compared, exact == labels) for m in self.modalities]
        )

    def compute(self) -> dict[str, float]:
        """Modality -> distance of confidence from the share of clean labels in a bin, averaged over the pixels."""
        pairs = zip(self.modalities, self.sums.unbind())
        return {m: _ratio(float((sure - clean).abs().sum()), float(every.sum())) for m, (every, sure, clean) in pairs}

    def _binned(self, confidence: Tensor, compared: Tensor, clean: Tensor) -> Tensor:
        """Pixels, their confidence and clean ones in each bin, `(3, NUM_BINS)`."""
        compared = compared & confidence.isfinite()
        sure = confidence[compared].double()
        values = torch.stack([torch.ones_like(sure), sure, clean[compared].double()])
        bins = (sure * NUM_BINS).long().clamp_max(NUM_BINS - 1)
        return values.new_zeros(3, NUM_BINS).scatter_add_(1, bins.expand(3, -1), values)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
