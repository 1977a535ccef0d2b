"""Which noisy pixels to trust, and how much (CromSS, arXiv 2405.01217, sample selection)."""

import math

import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX

RAMPS = ("exp", "linear", "none")


def ramp_up(epoch: float, num_epochs: int, kind: str = "exp") -> float:
    """Ramp from near 0 at the first epoch to 1 at `num_epochs` and after.

    `exp` is `exp(-5 (1 - t)^2)` (0.0067 at `t = 0`), `linear` is `t`, `none` is 1 throughout.
    """
    if kind not in RAMPS:
        raise ValueError(f"ramp {kind!r}: choose one of {', '.join(RAMPS)}")
    if kind == "none" or num_epochs <= 0:
        return 1.0
    t = min(max(epoch / num_epochs, 0.0), 1.0)
    return t if kind == "linear" else math.exp(-5 * (1 - t) ** 2)


def selected_share(epoch: float, num_epochs: int, final_share: float, kind: str = "exp") -> float:
    """Share of each class that is fully trusted: ramps down from 1 to `final_share`."""
    return 1 - ramp_up(epoch, num_epochs, kind) * (1 - final_share)


@torch.no_grad()
def label_weights(
    confidence: Tensor, labels: Tensor, num_classes: int, share: float, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Class-balanced weights of the noisy labels.

    Of each class, over the whole batch, the most confident `share` gets weight 1 and the rest
    confidence / threshold. A class of which not one pixel is kept gets weight 0, a threshold of
    0 gives weight 1 to the class, ignored pixels get 0.

    Args:
        confidence: `(B, H, W)` confidence in the label, >= 0.
        labels: `(B, H, W)` integer class ids.
        num_classes: Number of classes `K`.
        share: Share of each class to trust fully, in [0, 1].
        ignore_index: Label of ignored pixels.

    Returns:
        `(B, H, W)` weights in [0, 1], without gradient.
    """
    values = confidence.float().flatten()
    groups = torch.where(labels == ignore_index, num_classes, labels).flatten().long()
    counts = torch.zeros(num_classes + 1, dtype=torch.long, device=groups.device)
    counts.scatter_add_(0, groups, torch.ones_like(groups))
    kept = (counts.float() * torch.tensor(share, dtype=torch.float32, device=groups.device)).long()
    descending = values.argsort(descending=True)
    by_class = values[descending[groups[descending].argsort(stable=True)]]
    last_kept = counts.cumsum(0) - counts + kept - 1
    threshold = by_class[last_kept.clamp(0, max(values.numel() - 1, 0))]
    threshold = torch.where(kept > 0, threshold, torch.inf)
    limit = threshold[groups]
    weights = torch.where(limit > 0, (values / limit).clamp(max=1), 1.0)
    return torch.where(groups < num_classes, weights, 0.0).view_as(confidence)


@torch.no_grad()
def prediction_weights(confidence: Tensor, ramp: float) -> Tensor:
    """Weights of the consistency loss: `(1 - ramp) + ramp confidence`, so 1 at first, confidence in the end."""
    return (1 - ramp) + ramp * confidence
