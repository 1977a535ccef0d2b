"""Parameters in the order in which an image meets them, for learning rates by layer."""

import re
from collections.abc import Iterable

from torch import nn

_STAGE = re.compile(r"(?:model\.)?(layer\d+|(?:_?blocks|stages|features)[._]\d+)\.")
_GRID_NODE = re.compile(r"blocks\.x_(\d+)_(\d+)\.")


def by_stage(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by the stage their names tell; one that tells none goes with the one before it."""
    stages: dict[str, list[nn.Parameter]] = {}
    stage = "stem"
    for name, parameter in module.named_parameters():
        if node := _GRID_NODE.match(name):
            stage = f"column {int(node[2]) - int(node[1])}"
        elif found := _STAGE.match(name):
            stage = found[1]
        stages.setdefault(stage, []).append(parameter)
    return stages


def encoder_stages(encoders: Iterable[nn.Module]) -> list[list[nn.Parameter]]:
    """Stem and stages of encoders of one kind, the same stage of all of them together."""
    stages: dict[str, list[nn.Parameter]] = {}
    for encoder in encoders:
        for stage, parameters in by_stage(encoder).items():
            stages.setdefault(stage, []).extend(parameters)
    return list(stages.values())


def beside(module: nn.Module, parts: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters of a module that belong to none of its parts."""
    owned = {parameter for part in parts for parameter in part.parameters()}
    return [parameter for parameter in module.parameters() if parameter not in owned]


def trainable(stages: Iterable[Iterable[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Stages without frozen parameters; those left empty are dropped."""
    kept = ([parameter for parameter in stage if parameter.requires_grad] for stage in stages)
    return [stage for stage in kept if stage]
