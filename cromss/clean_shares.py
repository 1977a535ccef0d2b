"""What selection selects: the share of truly clean pixels among those that are trusted fully, by class."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.prediction import as_prediction
from cromss.objective import CrossModalObjective

RANDOM = "random"
"""Selection of as many pixels of each class by chance: its clean share is that of all labelled pixels."""


@torch.no_grad()
def rival_weights(
    objective: CrossModalObjective, logits: Mapping[str, Tensor], labels: Tensor, epoch: float
) -> dict[str, Tensor]:
    """Label weights `(B, H, W)` of each modality as `cross_<modality>`, and beside them by its own confidence alone as
    `single_<modality>`, and of chance as `"random"`.

    Args:
        objective: The objective, with selection.
        logits: Modality -> `(B, K, H, W)`; `"common"` is left out.
        labels: `(B, H, W)` integer noisy labels, 255 where ignored.
        epoch: Epoch that the ramp follows.
    """
    twins = {m: as_prediction(x.detach()) for m, x in logits.items() if m != "common"}
    together = objective.select(twins, labels, epoch).label
    alone = {m: objective.select({m: x}, labels, epoch).label[m] for m, x in twins.items()}
    weights = {f"cross_{m}": w for m, w in together.items()} | {f"single_{m}": w for m, w in alone.items()}
    return weights | {RANDOM: torch.ones_like(labels, dtype=torch.float32)}


def rival_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """Names that `rival_weights` gives."""
    return (*(f"{kind}_{m}" for kind in ("cross", "single") for m in modalities), RANDOM)


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


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
