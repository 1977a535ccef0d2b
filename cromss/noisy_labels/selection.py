"""Which noisy pixels to trust, and how much (CromSS, arXiv 2405.01217, sample selection)."""

import math

import torch
from torch import Tensor

from cromss.gpus import in_any_order
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
    limit = thresholds(values, groups, num_classes + 1, share).index_select(0, groups)
    weights = torch.where(limit > 0, (values / limit).clamp_(max=1), 1.0)
    return torch.where(groups < num_classes, weights, 0.0).view_as(confidence)


def thresholds(values: Tensor, groups: Tensor, num_groups: int, share: float) -> Tensor:
    """The smallest of the largest `share` of each group, exactly, without sorting.

    The bits of floats that are not negative order as the floats do. They are counted by group and upper half, then,
    where that of the wanted one is found, by lower half.

    Args:
        values: `(N,)` float32, none negative.
        groups: `(N,)` int64 in `0..G-1`.
        num_groups: Number of groups `G`.
        share: In [0, 1]; of `n` values `n share` are meant, in single precision, rounded down.

    Returns:
        `(G,)` float32; infinite where not one value is meant.
    """
    bits = values.view(torch.int32) & 0x7FFFFFFF  # no sign of a zero or of what is no number
    upper_half = bits >> 16
    counts = _histograms(upper_half, groups, num_groups, 2**15)
    sizes = counts.sum(1)
    kept = (sizes.float() * share).long()
    upper, rank = _bin_of_rank(counts, sizes - kept + 1)
    inside = upper_half == upper.int().index_select(0, groups)
    counts = _histograms(bits & 0xFFFF, torch.where(inside, groups, num_groups), num_groups + 1, 2**16)
    lower, _ = _bin_of_rank(counts[:num_groups], rank)
    return torch.where(kept > 0, (upper << 16 | lower).int().view(torch.float32), torch.inf)


def _histograms(bins: Tensor, groups: Tensor, num_groups: int, num_bins: int) -> Tensor:
    """How often each of the bins occurs in each group, `(G, num_bins)` int32."""
    counts = torch.zeros(num_groups * num_bins, dtype=torch.int32, device=bins.device)
    one = torch.ones(1, dtype=torch.int32, device=bins.device)
    with in_any_order():
        return counts.scatter_add_(0, groups * num_bins + bins, one.expand(len(bins))).view(num_groups, num_bins)


def _bin_of_rank(counts: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Bin that holds the value of a rank, from 1 for the smallest, of each group, and its rank in that bin."""
    up_to = counts.cumsum(1)
    place = torch.searchsorted(up_to, rank[:, None]).clamp_max(counts.shape[1] - 1)
    before = up_to.gather(1, place) - counts.gather(1, place)
    return place.squeeze(1), rank - before.squeeze(1)


@torch.no_grad()
def prediction_weights(confidence: Tensor, ramp: float) -> Tensor:
    """Weights of the consistency loss: `(1 - ramp) + ramp confidence`, so 1 at first, confidence in the end."""
    return (1 - ramp) + ramp * confidence
