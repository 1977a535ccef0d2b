"""Co-teaching of two networks of one modality, pixel by pixel (arXiv 1804.06872): a baseline of `science.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cromss.default_sets import pretraining_set
from cromss.legends import IGNORE_INDEX
from cromss.losses import segmentation_loss
from cromss.models.fusion import LateFusion
from cromss.models.weights import open_checkpoint
from cromss.noisy_labels.confidence import label_confidence
from cromss.noisy_labels.selection import label_weights, ramp_up
from cromss.objective import CrossModalObjective
from cromss.settings.pretraining import PretrainSettings
from cromss.store import open_store
from cromss.tasks import PretrainTask
from cromss.training import pretrain
from cromss.training.common import synthetic_home
from cromss.training.pretraining import blank_network

PEER = "peer"
"""Branch of the second network."""

RAMP = 0.2
"""Share of the epochs after which the full forget rate is reached."""


class Peers(LateFusion):
    """Two networks that see the same images in training; outside it, the first."""

    def __init__(self, first: nn.Module, second: nn.Module, bands: Mapping[str, int]) -> None:
        (modality,) = bands
        super().__init__({modality: first, PEER: second}, bands)

    def forward(self, **images: Tensor) -> dict[str, Tensor]:
        """Branch -> logits `(B, K, H, W)`."""
        self._check(images)
        (image,) = images.values()
        branches = self.networks if self.training else self.bands
        return {branch: self.segment_any_size(branch, image) for branch in branches}


@dataclass(frozen=True)
class CoTeaching(CrossModalObjective):
    """Each network learns the pixels whose loss is small in the other.

    Attributes:
        forget: Share of the pixels that are left out in the end.
    """

    forget: float = 0.2

    def __call__(
        self, logits: dict[str, Tensor], labels: Tensor, prior: Tensor | None = None, epoch: float = 0
    ) -> dict[str, Tensor]:
        """Loss of a batch; arguments are those of the objective."""
        share = 1 - self.forget * ramp_up(epoch, self.ramp_epochs, "linear")
        (a, of_a), (b, of_b) = logits.items()
        terms = {
            f"seg_{name}": segmentation_loss(self.loss_type, own, labels, small_loss(other, labels, share))
            for name, own, other in ((a, of_a, of_b), (b, of_b, of_a))
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def small_loss(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """Weights `(B, H, W)`: 1 for the `share` of the labelled pixels with the smallest cross-entropy, 0 for others."""
    together = torch.where(labels == IGNORE_INDEX, IGNORE_INDEX, 0)
    return (label_weights(label_confidence(logits, labels), together, 1, share) >= 1).float()


def co_teach(settings: PretrainSettings) -> dict[str, Any]:
    """Pretrain two networks and return the metrics of the first, whose weights alone are in its checkpoint.

    The forget rate is the noise rate, as published.
    """
    metrics = pretrain(settings, partial(_with_peer, settings))
    last = Path(metrics["checkpoint"])
    content, alone = open_checkpoint(last), last.with_name("first_network.ckpt")
    weights = {name: value for name, value in content["state_dict"].items() if f".{PEER}." not in name}
    torch.save(content | {"state_dict": weights}, alone)
    return metrics | {"checkpoint": str(alone)}


def _with_peer(settings: PretrainSettings, task: PretrainTask) -> None:
    (modality,) = task.model.bands
    pair = (network.networks[modality] for network in (task.model, blank_network(settings)))
    task.model = Peers(*pair, task.model.bands)
    plain, ramp = task.objective, max(1, round(RAMP * settings.optimisation.epochs))
    task.objective = CoTeaching(
        plain.num_classes, plain.loss_type, "none", ramp_epochs=ramp, forget=noise_rate(settings)
    )


def noise_rate(settings: PretrainSettings) -> float:
    """Share of wrong pixels in the labels of a synthetic set."""
    names = settings.data
    home = pretraining_set(synthetic_home(settings.runtime, "pretraining"), names, settings.modalities)
    noisy, exact = (open_store(home / name) for name in (names.noisy_name, names.data_name_gt))
    return float(np.mean([(noisy.read_seasons(i) != exact.read_seasons(i)).mean() for i in range(len(exact))]))
