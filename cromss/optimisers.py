"""Optimisers and learning-rate schedules of the papers, as Lightning takes them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn


def pretraining_optimiser(
    parameters: Iterable[nn.Parameter],
    name: str = "adam",
    learning_rate: float = 0.005,
    weight_decay: float = 1e-8,
    decay: float | None = None,
) -> dict[str, Any]:
    """Optimiser of pretraining.

    Args:
        parameters: What learns.
        name: `"adam"` or `"sgd"` (momentum 0.9).
        learning_rate: Initial learning rate.
        weight_decay: Weight decay.
        decay: Multiplies the rate every epoch; `None` keeps it (see the `Plateau` callback).
    """
    optimizer = _optimizer(parameters, name, learning_rate, weight_decay)
    if decay is None:
        return {"optimizer": optimizer}
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)}


def transfer_optimiser(
    stages: Sequence[Sequence[nn.Parameter]],
    name: str = "adam",
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-8,
    order: str = "same",
    ratio: float = 0.8,
    factor: Callable[[int], float] = lambda epoch: 1.0,
) -> dict[str, Any]:
    """Optimiser of transfer, with a learning rate for each stage of the network.

    Args:
        stages: Parameters from input to output.
        name: `"adam"` or `"sgd"` (momentum 0.9).
        learning_rate: Highest initial rate.
        weight_decay: Weight decay.
        order: `"same"` for all stages; `"descending"`: the first has `learning_rate`, each further
            one `ratio` times that of the one before; `"ascending"`: the last has it.
        ratio: Between the rates of neighbouring stages.
        factor: Epoch -> factor of all rates, see `schedule`.

    Raises:
        ValueError: Unknown order.
    """
    steps = {"same": lambda i: 0, "descending": lambda i: i, "ascending": lambda i: len(stages) - 1 - i}
    if order not in steps:
        raise ValueError(f"order {order!r}: choose one of {', '.join(steps)}")
    groups = [{"params": list(stage), "lr": learning_rate * ratio ** steps[order](i)} for i, stage in enumerate(stages)]
    optimizer = _optimizer(groups, name, learning_rate, weight_decay)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


def schedule(kind: str, values: Sequence[float], epochs: int, learning_rate: float) -> Callable[[int], float]:
    """Factor of the learning rate by epoch, a pure function.

    Args:
        kind: `"cos"`: half a cosine, then flat; `"step"`: a tenth at each given epoch; `"exp"`: a
            constant factor an epoch; `"none"`: constant.
        values: cos: epoch where the cosine ends (four fifths of all), final rate (1e-5); step: epochs
            (three and four fifths); exp: the factor (0.95). Empty for these defaults.
        epochs: Number of epochs.
        learning_rate: Initial rate, to which the final rate of cos refers.

    Raises:
        ValueError: Unknown kind.
    """
    if kind == "cos":
        last, final_rate = (*values, *(round(0.8 * epochs), 1e-5)[len(values) :])
        floor = min(final_rate / learning_rate, 1)
        return lambda epoch: floor + (1 - floor) * (1 + math.cos(math.pi * min(epoch / max(last, 1), 1))) / 2
    if kind == "step":
        drops = values or (round(0.6 * epochs), round(0.8 * epochs))
        return lambda epoch: 0.1 ** sum(epoch >= drop for drop in drops)
    if kind == "exp":
        return lambda epoch: (values or (0.95,))[0] ** epoch
    if kind == "none":
        return lambda epoch: 1.0
    raise ValueError(f"--scheduler_type {kind!r}: choose one of cos, step, exp, none")


def _optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9)
