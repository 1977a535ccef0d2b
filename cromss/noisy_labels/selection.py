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
    counts = _histogram(groups, num_classes + 1)
    kept = (counts.float() * torch.tensor(share, dtype=torch.float32, device=groups.device)).long()
    threshold = torch.where(kept > 0, kth_largest(values, groups, kept), torch.inf)
    limit = threshold[groups]
    weights = torch.where(limit > 0, (values / limit).clamp(max=1), 1.0)
    return torch.where(groups < num_classes, weights, 0.0).view_as(confidence)


def kth_largest(values: Tensor, groups: Tensor, k: Tensor) -> Tensor:
    """The `k`-th largest value of each group, exactly, without sorting.

    The bits of floats that are not negative order as the floats do. They are counted by group and upper half, then,
    where that of the wanted one is found, by lower half.

    Args:
        values: `(N,)` float32, none negative.
        groups: `(N,)` int64 in `0..G-1`.
        k: `(G,)` int64, counted from 1; where 0, the answer means nothing.

    Returns:
        `(G,)` float32.
    """
    bits = values.view(torch.int32) & 0x7FFFFFFF  # no sign of a zero or of what is no number
    upper, rank = _bin_of_rank(bits >> 16, groups, k, 2**15)
    inside = (bits >> 16) == upper[groups]
    lower, _ = _bin_of_rank(bits & 0xFFFF, torch.where(inside, groups, len(k)), rank, 2**16)
    return (upper << 16 | lower).int().view(torch.float32)


def _bin_of_rank(bins: Tensor, groups: Tensor, k: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Bin that holds the `k`-th from above of each group, and which of those in it that is; further groups are left."""
    counts = _histogram(groups * num_bins + bins, (len(k) + 1) * num_bins).view(-1, num_bins)[: len(k)]
    above = counts.flip(1).cumsum(1)
    place = torch.searchsorted(above, k.to(above.dtype)[:, None]).clamp_max(num_bins - 1)
    before = above.gather(1, place) - counts.flip(1).gather(1, place)
    return num_bins - 1 - place.squeeze(1), k - before.squeeze(1)


def _histogram(bins: Tensor, num_bins: int) -> Tensor:
    """How often each of `0..num_bins-1` occurs."""
    return torch.zeros(num_bins, dtype=torch.long, device=bins.device).scatter_add_(0, bins, torch.ones_like(bins))


@torch.no_grad()
def prediction_weights(confidence: Tensor, ramp: float) -> Tensor:
    """Weights of the consistency loss: `(1 - ramp) + ramp confidence`, so 1 at first, confidence in the end."""
    return (1 - ramp) + ramp * confidence
