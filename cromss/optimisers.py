"""Optimisers and learning-rate schedules of the papers, as Lightning takes them."""

import math
from collections.abc import Iterable
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


def cosine_optimiser(
    parameters: Iterable[nn.Parameter],
    name: str = "adam",
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-8,
    cosine_epochs: int = 40,
    final_rate: float = 1e-5,
) -> dict[str, Any]:
    """Optimiser of transfer: cosine from `learning_rate` to `final_rate` in `cosine_epochs`, then flat."""
    optimizer = _optimizer(parameters, name, learning_rate, weight_decay)

    def factor(epoch: int) -> float:
        progress = min(epoch / cosine_epochs, 1) if cosine_epochs else 0
        floor = final_rate / learning_rate
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


def _optimizer(
    parameters: Iterable[nn.Parameter], name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9)
