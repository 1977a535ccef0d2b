"""Changes to the selection that were tried, for `science.py --grid ideas`: none is in the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cromss.legends import IGNORE_INDEX
from cromss.objective import CrossModalObjective, Selection
from cromss.tasks import PretrainTask

LEAST = 0.5
"""Weight of the labels that are trusted least, with a floor."""
MEMORY = 0.95
"""Share of the teacher's weights that a step keeps: it averages over about twenty steps."""


class OwnConfidence(CrossModalObjective):
    """Each modality trusts labels by its own confidence, whatever the other's."""

    def select(self, logits: Mapping[str, Any], labels: Tensor, epoch: float, prior: Tensor | None = None) -> Selection:
        """Weights of labels and predictions; arguments are those of the objective."""
        alone = [CrossModalObjective.select(self, {m: x}, labels, epoch, prior) for m, x in logits.items()]
        kinds = ({m: w for of_one in alone for m, w in getattr(of_one, f.name).items()} for f in fields(Selection))
        return Selection(*kinds)


class Floor(CrossModalObjective):
    """No label counts less than a half, those of classes neither of which not one is trusted."""

    def select(self, logits: Mapping[str, Any], labels: Tensor, epoch: float, prior: Tensor | None = None) -> Selection:
        """Weights of labels and predictions; arguments are those of the objective."""
        trust, known = super().select(logits, labels, epoch, prior), (labels != IGNORE_INDEX).float()
        return replace(trust, label={m: known * (LEAST + (1 - LEAST) * w) for m, w in trust.label.items()})


@dataclass(frozen=True)
class Taught(CrossModalObjective):
    """Confidence is that of a teacher.

    Attributes:
        teacher: Modality -> logits `(B, K, H, W)` of the teacher on the same images.
    """

    teacher: dict[str, Tensor] = field(default_factory=dict)

    def select(self, logits: Mapping[str, Any], labels: Tensor, epoch: float, prior: Tensor | None = None) -> Selection:
        """Weights of labels and predictions; arguments are those of the objective."""
        return super().select({m: self.teacher[m] for m in logits}, labels, epoch, prior)


def trust_own(task: PretrainTask) -> None:
    """Let each modality trust labels by its own confidence."""
    task.objective = _as(OwnConfidence, task.objective)


def set_floor(task: PretrainTask) -> None:
    """Let no label count less than a half."""
    task.objective = _as(Floor, task.objective)


def teach(task: PretrainTask) -> None:
    """Take confidence from a running mean of the network's weights, which no checkpoint keeps."""
    teacher: AveragedModel | None = None
    task.objective = objective = _as(Taught, task.objective)

    @torch.no_grad()
    def follow(model: nn.Module, _: tuple, images: dict[str, Tensor], logits: dict[str, Tensor]) -> None:
        nonlocal teacher
        if model is not task.model or not model.training:
            return
        if teacher is None:
            teacher = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(MEMORY), use_buffers=True)
        teacher.update_parameters(model)
        objective.teacher.update(teacher(**images))

    task.model.register_forward_hook(follow, with_kwargs=True)


CHANGES: dict[str, Callable[[PretrainTask], None]] = {"own confidence": trust_own, "floor": set_floor, "teacher": teach}
"""Name -> what makes the change to a task; methods of the grid end in these names."""


def change_of(method: str) -> Callable[[PretrainTask], None] | None:
    """The change that a method ends in, if it does."""
    return CHANGES.get(method.rpartition(", ")[2])


def _as(kind: type[CrossModalObjective], plain: CrossModalObjective) -> CrossModalObjective:
    return kind(**{f.name: getattr(plain, f.name) for f in fields(plain)})
