"""The method on one page: noisy-label pretraining with cross-modal sample selection (arXiv 2405.01217)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX
from cromss.losses import CONSISTENCY_KINDS, SoftTargets, consistency, segmentation_loss
from cromss.noisy_labels.confidence import entangle, label_agreement, label_confidence, prediction_confidence
from cromss.noisy_labels.prediction import Prediction, as_prediction
from cromss.noisy_labels.selection import label_weights, prediction_weights, ramp_up, selected_share
from cromss.noisy_labels.smoothing import smooth_targets


@dataclass(frozen=True)
class Selection:
    """How far each modality's pixels are trusted.

    Attributes:
        label: Modality -> `(B, H, W)` weights of the noisy labels.
        prediction: Modality -> `(B, H, W)` weights of the consistency loss.
        confidence: Modality -> `(B, H, W)` entangled confidence in the noisy labels.
    """

    label: dict[str, Tensor]
    prediction: dict[str, Tensor]
    confidence: dict[str, Tensor]


@dataclass(frozen=True)
class CrossModalObjective:
    """The training loss of CromSS; with one modality, of plain noisy-label pretraining.

    Every modality learns the smoothed noisy labels, weighted by how far both modalities trust
    them, and the twins learn from each other where they are confident. A `"common"` branch learns
    the labels with the mean of the two weights and has no part in consistency.

    Attributes:
        num_classes: Number of classes `K`.
        loss_type: Letters of the segmentation losses, see `segmentation_loss`.
        consistency: `"ce"`, `"kl"`, `"mse"` or `"none"`.
        consistency_weight: Factor of the consistency loss.
        smoothing_factors: Shares of prior and uniform distribution; empty for hard labels.
        selection: Whether pixels are weighted by confidence.
        agreement: Whether confidence in a label is multiplied by `label_agreement` (ours, not published).
        confidence_kind: `"entropy"` or `"gini"`.
        final_share: Share of each class trusted fully once the ramp has ended.
        ramp: `"exp"`, `"linear"` or `"none"`.
        ramp_epochs: Length of the ramp.
    """

    num_classes: int
    loss_type: str = "cd"
    consistency: str = "ce"
    consistency_weight: float = 1.0
    smoothing_factors: tuple[float, ...] = ()
    selection: bool = False
    agreement: bool = False
    confidence_kind: str = "entropy"
    final_share: float = 0.5
    ramp: str = "exp"
    ramp_epochs: int = 80

    def __post_init__(self) -> None:
        if self.consistency not in CONSISTENCY_KINDS:
            raise ValueError(f"--consist_loss_type {self.consistency!r}: choose one of {', '.join(CONSISTENCY_KINDS)}")
        if not 0 < self.final_share <= 1:
            raise ValueError(f"--sample_selection_prop {self.final_share}: must be over 0 and at most 1")

    def __call__(
        self, logits: dict[str, Tensor], labels: Tensor, prior: Tensor | None = None, epoch: float = 0
    ) -> dict[str, Tensor]:
        """Loss of a batch and the terms it sums.

        Args:
            logits: Modality -> `(B, K, H, W)`; `"common"` is the third branch.
            labels: `(B, H, W)` integer noisy labels, 255 where ignored.
            prior: `(B, K, H, W)` from `label_prior`; `None` smooths towards uniform. Agreement wants one.
            epoch: Epoch that the ramps follow.

        Returns:
            Scalars: `"loss"`, `"seg_<branch>"` for every branch, and with consistency
            `"consistency"`; with selection also `"selected_<modality>"` (share of the labelled
            pixels with weight 1) and `"confidence_<modality>"` (mean), both without gradient.
        """
        predictions = {branch: as_prediction(x) for branch, x in logits.items()}
        trust = self.select(predictions, labels, epoch, prior)
        smoothed = (
            smooth_targets(labels, self.num_classes, self.smoothing_factors, prior)
            if self.smoothing_factors
            else labels
        )
        targets = SoftTargets(smoothed, self.num_classes)
        terms = {
            f"seg_{branch}": segmentation_loss(self.loss_type, prediction, targets, trust.label.get(branch))
            for branch, prediction in predictions.items()
        }
        loss = torch.stack(list(terms.values())).sum()
        if self.consistency != "none" and len(_twins(predictions)) == 2:
            terms["consistency"] = self._mutual_consistency(_twins(predictions), labels, trust)
            loss = loss + self.consistency_weight * terms["consistency"]
        return {"loss": loss, **terms, **_report(trust, labels)}

    @torch.no_grad()
    def select(
        self, logits: Mapping[str, Tensor | Prediction], labels: Tensor, epoch: float, prior: Tensor | None = None
    ) -> Selection:
        """Weights of labels and predictions from each modality's confidence, mixed with the other's."""
        if not self.selection:
            return Selection({}, {}, {})
        twins = {modality: as_prediction(x) for modality, x in _twins(logits).items()}
        in_labels = _entangled({m: label_confidence(x, labels) for m, x in twins.items()})
        if self.agreement:
            if prior is None:
                raise ValueError("--sample_selection_agreement wants the prior of the labels")
            agreement = label_agreement(prior, labels)
            in_labels = {m: confidence * agreement for m, confidence in in_labels.items()}
        in_predictions = _entangled({m: prediction_confidence(x, self.confidence_kind) for m, x in twins.items()})
        ramp = ramp_up(epoch, self.ramp_epochs, self.ramp)
        share = selected_share(epoch, self.ramp_epochs, self.final_share, self.ramp)
        of_labels = {m: label_weights(c, labels, self.num_classes, share) for m, c in in_labels.items()}
        if "common" in logits:
            of_labels["common"] = torch.stack(list(of_labels.values())).mean(0)
        return Selection(of_labels, {m: prediction_weights(c, ramp) for m, c in in_predictions.items()}, in_labels)

    def _mutual_consistency(self, twins: Mapping[str, Prediction], labels: Tensor, trust: Selection) -> Tensor:
        (a, prediction_a), (b, prediction_b) = twins.items()
        known = (labels != IGNORE_INDEX).float()
        of_a, of_b = (trust.prediction.get(modality, 1) * known for modality in (a, b))
        return consistency(self.consistency, prediction_a, prediction_b, of_b) + consistency(
            self.consistency, prediction_b, prediction_a, of_a
        )


def _twins(logits: Mapping[str, Any]) -> dict[str, Any]:
    return {branch: x for branch, x in logits.items() if branch != "common"}


def _entangled(confidence: dict[str, Tensor]) -> dict[str, Tensor]:
    if len(confidence) < 2:
        return confidence
    (a, of_a), (b, of_b) = confidence.items()
    return dict(zip((a, b), entangle(of_a, of_b)))


def _report(trust: Selection, labels: Tensor) -> dict[str, Tensor]:
    known = labels != IGNORE_INDEX
    count = known.sum().clamp_min(1)
    selected = {f"selected_{m}": ((w >= 1) & known).sum() / count for m, w in trust.label.items() if m != "common"}
    return selected | {f"confidence_{m}": (c * known).sum() / count for m, c in trust.confidence.items()}
