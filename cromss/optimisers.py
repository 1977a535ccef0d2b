"""Optimisers and learning-rate schedules of the papers, as Lightning takes them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def plateau_optimiser(
    parameters: Iterable[nn.Parameter],
    name: str = "adam",
    learning_rate: float = 0.005,
    weight_decay: float = 1e-8,
    schedule: str = "rop",
    value: float = 30,
) -> dict[str, Any]:
    """Optimiser of pretraining.

    Args:
        parameters: What learns.
        name: `"adam"` or `"sgd"` (momentum 0.9).
        learning_rate: Initial learning rate.
        weight_decay: Weight decay.
        schedule: `"rop"` halves the rate when the validation loss has not improved for `value`
            epochs, `"exp"` multiplies it by `value` every epoch, `"none"` keeps it.
        value: See `schedule`.
    """
    optimizer = _optimizer(parameters, name, learning_rate, weight_decay)
    if schedule == "rop":
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=int(value))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
    if schedule == "exp":
        if not 0 < value < 1:
            raise ValueError(f"--lr_adjust {value:g}: must be over 0 and under 1 with --lr_adjust_type exp")
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, value)}
    return {"optimizer": optimizer}


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
