"""Losses on soft targets with pixel weights, and consistency between two predictions.

Targets are either integer labels `(B, H, W)`, 255 where ignored, or soft `(B, K, H, W)`, zero over
all classes where ignored. Weights are `(B, H, W)` in [0, 1]. A loss over no weight at all is 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.noisy_labels.prediction import Prediction, as_prediction
from cromss.noisy_labels.smoothing import one_hot

CONSISTENCY_KINDS = ("ce", "kl", "mse", "none")
LOSS_LETTERS = {
    "c": "cross-entropy",
    "d": "Dice",
    "f": "focal",
    "g": "generalised cross-entropy",
    "s": "symmetric cross-entropy",
}

_LOG_OF_ZERO = -4.0


class SoftTargets:
    """Targets as distributions, with what every loss asks of them.

    Attributes:
        soft: `(B, K, H, W)`.
        known: `(B, H, W)`, 1 where there is a target and 0 elsewhere.
        present: `(K,)` bool, classes with target mass in the batch.
    """

    def __init__(self, targets: Tensor, num_classes: int) -> None:
        self.soft = one_hot(targets, num_classes) if targets.ndim == 3 else targets.float()
        self.known = (self.soft.sum(1) > 0).float()
        self.present = self.soft.sum((0, 2, 3)) > 0


def segmentation_loss(
    loss_type: str, logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None = None
) -> Tensor:
    """Sum of the losses named by the letters of `loss_type`, see `LOSS_LETTERS`."""
    if not loss_type or not set(loss_type) <= set(LOSS_LETTERS):
        letters = ", ".join(f"{letter} ({name})" for letter, name in LOSS_LETTERS.items())
        raise ValueError(f"--loss_type {loss_type!r}: use the letters {letters}")
    functions = {"c": _cross_entropy, "d": _dice, "f": _focal, "g": _generalised, "s": _symmetric}
    prepared = _prepared(logits, targets, weights)
    return torch.stack([functions[letter](*prepared) for letter in loss_type]).sum()


def as_two_classes(logits: Tensor) -> Tensor:
    """One logit a pixel `(B, 1, H, W)` -> logits of "no" and "yes" `(B, 2, H, W)`.

    Their softmax is the sigmoid of the one, their cross-entropy its binary cross-entropy, and their
    argmax a threshold of 0.5.
    """
    return torch.cat([torch.zeros_like(logits), logits], 1)


def weighted_cross_entropy(
    logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, `sum(w ce) / sum(w)` over the pixels that have a target."""
    return _cross_entropy(*_prepared(logits, targets, weights))


def soft_dice(logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None = None) -> Tensor:
    """One minus Dice, `2 sum(w p t) / sum(w p + w t)` per class over the whole batch, mean over classes.

    A class without target mass in the batch adds nothing, yet counts in the mean, as published.
    """
    return _dice(*_prepared(logits, targets, weights))


def focal(
    logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss, summed over the one-against-rest problems of all classes (arXiv 1708.02002)."""
    return _focal(*_prepared(logits, targets, weights), gamma)


def generalised_cross_entropy(
    logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None = None, q: float = 0.7
) -> Tensor:
    """`sum_k t_k (1 - p_k^q) / q`, from cross-entropy (q to 0) to absolute error (q = 1) (arXiv 1805.07836)."""
    return _generalised(*_prepared(logits, targets, weights), q)


def symmetric_cross_entropy(
    logits: Tensor | Prediction,
    targets: Tensor | SoftTargets,
    weights: Tensor | None = None,
    alpha: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """`alpha` times cross-entropy and `beta` times the reverse one, `-sum_k p_k log t_k` (arXiv 1908.06112).

    The logarithm of a target of 0 is -4, and the factors are those of 10 classes, both as published.
    """
    return _symmetric(*_prepared(logits, targets, weights), alpha, beta)


def consistency(
    kind: str, logits: Tensor | Prediction, target_logits: Tensor | Prediction, weights: Tensor | None = None
) -> Tensor:
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
    prediction, target = as_prediction(logits), as_prediction(target_logits)
    log_probs, target_log, target_probs = prediction.log_probs, target.log_probs.detach(), target.probs.detach()
    if kind == "ce":
        distance = -(target_probs * log_probs).sum(1)
    elif kind == "kl":
        distance = (target_probs * (target_log - log_probs)).sum(1)
    else:
        distance = (prediction.probs - target_probs).square().sum(1)
    return _weighted_mean(distance, torch.ones_like(distance) if weights is None else weights)


def _cross_entropy(prediction: Prediction, targets: SoftTargets, weights: Tensor) -> Tensor:
    return _weighted_mean(-(targets.soft * prediction.log_probs).sum(1), weights)


def _dice(prediction: Prediction, targets: SoftTargets, weights: Tensor) -> Tensor:
    weighted = prediction.probs * weights.unsqueeze(1)
    overlap = (weighted * targets.soft).sum((0, 2, 3))
    mass = weighted.sum((0, 2, 3)) + (targets.soft * weights.unsqueeze(1)).sum((0, 2, 3))
    return ((1 - 2 * overlap / mass.clamp_min(1e-7)) * targets.present).mean()


def _focal(prediction: Prediction, targets: SoftTargets, weights: Tensor, gamma: float = 2.0) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(prediction.logits, targets.soft, reduction="none")
    miss = (prediction.logits.sigmoid() - targets.soft).abs()
    return _weighted_mean((miss**gamma * cross_entropy).sum(1), weights)


def _generalised(prediction: Prediction, targets: SoftTargets, weights: Tensor, q: float = 0.7) -> Tensor:
    powers = (q * prediction.log_probs).exp()
    return _weighted_mean((targets.soft * (1 - powers)).sum(1) / q, weights)


def _symmetric(
    prediction: Prediction, targets: SoftTargets, weights: Tensor, alpha: float = 0.1, beta: float = 1.0
) -> Tensor:
    log_targets = targets.soft.log().clamp_min(_LOG_OF_ZERO)
    reverse = _weighted_mean(-(prediction.probs * log_targets).sum(1), weights)
    return alpha * _cross_entropy(prediction, targets, weights) + beta * reverse


def _prepared(
    logits: Tensor | Prediction, targets: Tensor | SoftTargets, weights: Tensor | None
) -> tuple[Prediction, SoftTargets, Tensor]:
    """Prediction, soft targets, and weights that are 0 where there is no target."""
    prediction = as_prediction(logits)
    soft = targets if isinstance(targets, SoftTargets) else SoftTargets(targets, prediction.num_classes)
    return prediction, soft, soft.known if weights is None else soft.known * weights


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)
