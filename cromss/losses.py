"""Losses on soft targets with pixel weights, and consistency between two predictions.

Targets are either integer labels `(B, H, W)`, 255 where ignored, or soft `(B, K, H, W)`, zero over
all classes where ignored. Weights are `(B, H, W)` in [0, 1]. A loss over no weight at all is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.noisy_labels.smoothing import one_hot

CONSISTENCY_KINDS = ("ce", "kl", "mse", "none")
LOSS_LETTERS = {"c": "cross-entropy", "d": "Dice", "f": "focal"}


def segmentation_loss(loss_type: str, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the losses named by the letters of `loss_type`: c cross-entropy, d Dice, f focal."""
    if not loss_type or not set(loss_type) <= set(LOSS_LETTERS):
        raise ValueError(f"--loss_type {loss_type!r}: use the letters c (cross-entropy), d (Dice), f (focal)")
    functions = {"c": weighted_cross_entropy, "d": soft_dice, "f": focal}
    return torch.stack([functions[letter](logits, targets, weights) for letter in loss_type]).sum()


def as_two_classes(logits: Tensor) -> Tensor:
    """One logit a pixel `(B, 1, H, W)` -> logits of "no" and "yes" `(B, 2, H, W)`.

    Their softmax is the sigmoid of the one, their cross-entropy its binary cross-entropy, and their
    argmax a threshold of 0.5.
    """
    return torch.cat([torch.zeros_like(logits), logits], 1)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, `sum(w ce) / sum(w)` over the pixels that have a target."""
    targets, weights = _soft_and_weighted(logits, targets, weights)
    return _weighted_mean(-(targets * logits.float().log_softmax(1)).sum(1), weights)


def soft_dice(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """One minus Dice, `2 sum(w p t) / sum(w p + w t)` per class over the whole batch, mean over classes.

    A class without target mass in the batch adds nothing, yet counts in the mean, as published.
    """
    targets, weights = _soft_and_weighted(logits, targets, weights)
    probs, pixel = logits.float().softmax(1), weights.unsqueeze(1)
    overlap = (pixel * probs * targets).sum((0, 2, 3))
    mass = (pixel * (probs + targets)).sum((0, 2, 3))
    present = targets.sum((0, 2, 3)) > 0
    return ((1 - 2 * overlap / mass.clamp_min(1e-7)) * present).mean()


def focal(logits: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, summed over the one-against-rest problems of all classes (arXiv 1708.02002)."""
    targets, weights = _soft_and_weighted(logits, targets, weights)
    logits = logits.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = (logits.sigmoid() - targets).abs()
    return _weighted_mean((miss**gamma * cross_entropy).sum(1), weights)


def consistency(kind: str, logits: Tensor, target_logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pull one prediction towards another, which is held fixed.

    Args:
        kind: `"ce"` cross-entropy, `"kl"` Kullback-Leibler divergence, `"mse"` squared error of
            the probabilities, summed over classes.
        logits: `(B, K, H, W)` the prediction that learns.
        target_logits: `(B, K, H, W)` the prediction it is pulled to, detached here.
        weights: `(B, H, W)` pixel weights, or `None`.
    """
    if kind not in CONSISTENCY_KINDS or kind == "none":
        raise ValueError(f"consistency {kind!r}: choose one of {', '.join(CONSISTENCY_KINDS)}")
    target_log = target_logits.detach().float().log_softmax(1)
    target = target_log.exp()
    log_probs = logits.float().log_softmax(1)
    if kind == "ce":
        distance = -(target * log_probs).sum(1)
    elif kind == "kl":
        distance = (target * (target_log - log_probs)).sum(1)
    else:
        distance = (log_probs.exp() - target).square().sum(1)
    return _weighted_mean(distance, torch.ones_like(distance) if weights is None else weights)


def _soft_and_weighted(logits: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    if targets.ndim == 3:
        targets = one_hot(targets, logits.shape[1])
    known = (targets.sum(1) > 0).float()
    return targets.float(), known if weights is None else known * weights


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)
