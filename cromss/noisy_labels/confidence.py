"""How sure a model is of its prediction and of a noisy label (CromSS, arXiv 2405.01217, sample selection)."""

import math

import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.prediction import Prediction, as_prediction

CONFIDENCE_KINDS = ("entropy", "gini")


@torch.no_grad()
def prediction_confidence(logits: Tensor | Prediction, kind: str = "entropy") -> Tensor:
    """Confidence in the predicted distribution `p`, whatever the label says.

    Args:
        logits: `(B, K, H, W)`.
        kind: `"entropy"` for `1 - H(p) / log K`, `"gini"` for `sum p^2`.

    Returns:
        `(B, H, W)` in [0, 1], 1 where certain.
    """
    prediction = as_prediction(logits)
    probs = prediction.probs
    if kind == "entropy":
        return 1 + (probs * prediction.log_probs).sum(1) / math.log(prediction.num_classes)
    if kind == "gini":
        return probs.square().sum(1)
    raise ValueError(f"confidence {kind!r}: choose one of {', '.join(CONFIDENCE_KINDS)}")


@torch.no_grad()
def label_confidence(logits: Tensor | Prediction, labels: Tensor) -> Tensor:
    """Probability that the model gives to the noisy label.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` integer class ids, 255 where ignored.

    Returns:
        `(B, H, W)` in [0, 1]; 0 where ignored.
    """
    return _at_labels(as_prediction(logits).probs, labels)


@torch.no_grad()
def label_agreement(prior: Tensor, labels: Tensor) -> Tensor:
    """How far the labels around a noisy label, and in other seasons, agree with it.

    Args:
        prior: `(B, K, H, W)` from `label_prior`.
        labels: `(B, H, W)` integer class ids, 255 where ignored.

    Returns:
        `(B, H, W)` in [0, 1]; 0 where ignored.
    """
    return _at_labels(prior, labels)


def entangle(confidence_a: Tensor, confidence_b: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each modality's confidence with the other's: `(a + a b) / 2` and `(b + a b) / 2`."""
    both = confidence_a * confidence_b
    return (confidence_a + both) / 2, (confidence_b + both) / 2


def _at_labels(distributions: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORE_INDEX
    index = torch.where(known, labels, 0).long().unsqueeze(1)
    return distributions.gather(1, index).squeeze(1) * known
