"""Optimisers and learning-rate schedules of the papers, as Lightning takes them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


def staged_optimiser(
    stages: Sequence[Sequence[nn.Parameter]],
    name: str = "adam",
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-8,
    order: str = "same",
    ratio: float = 1.0,
    factor: Callable[[int], float] | None = None,
) -> dict[str, Any]:
    """Optimiser with a learning rate for each stage of the network; stages of one rate share a parameter group.

    Args:
        stages: Parameters from input to output.
        name: `"adam"`; `"adamw"`, whose weight decay spares every parameter that has neither 2 dimensions
            (matrices) nor 4 (convolution kernels); or `"sgd"` (momentum 0.9).
        learning_rate: Highest initial rate.
        weight_decay: Weight decay.
        order: `"same"` for all stages; `"descending"`: the first has `learning_rate`, each further
            one `ratio` times that of the one before; `"ascending"`: the last has it.
        ratio: Between the rates of neighbouring stages.
        factor: Epoch -> factor of all rates, see `schedule`; `None` leaves them to a callback (`Plateau`).

    Raises:
        ValueError: Unknown name or order.
    """
    steps = {"same": lambda i: 0, "descending": lambda i: i, "ascending": lambda i: len(stages) - 1 - i}
    if order not in steps:
        raise ValueError(f"order {order!r}: choose one of {', '.join(steps)}")
    by_rate: dict[float, list[nn.Parameter]] = {}
    for i, stage in enumerate(stages):
        by_rate.setdefault(learning_rate * ratio ** steps[order](i), []).extend(stage)
    optimizer = _optimizer(by_rate, name, weight_decay)
    if factor is None:
        return {"optimizer": optimizer}
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


def order_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Bring what an optimiser keeps of a weight into the weight's own order in memory, which fused steps rely on.

    From a checkpoint it comes in the order of the device that wrote it: channels last on GPUs.
    """
    for weight, state in optimizer.state.items():
        for name, kept in state.items():
            if isinstance(kept, torch.Tensor) and kept.shape == weight.shape and kept.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=kept.dtype).copy_(kept)


def rescale(checkpoint: Mapping[str, Any], factor: float) -> None:
    """Multiply the learning rates of a checkpoint's optimisers and schedules, in place."""
    kept = [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
    for state in (*kept, *checkpoint["lr_schedulers"]):
        for name in {"lr", "initial_lr"} & state.keys():
            state[name] *= factor
        for name in {"base_lrs", "_last_lr"} & state.keys():
            state[name] = [factor * rate for rate in state[name]]


def schedule(
    kind: str, values: Sequence[float], epochs: int, learning_rate: float, warmup: int = 0
) -> Callable[[int], float]:
    """Factor of the learning rate by epoch, a pure function.

    Args:
        kind: `"cos"`: half a cosine, then flat; `"step"`: a tenth at each given epoch; `"exp"`: a
            constant factor an epoch; `"none"`: constant.
        values: cos: epoch where the cosine ends (at four fifths), final rate (1e-5); step: epochs
            (at three and four fifths); exp: the factor (0.95). Empty for these defaults, which are
            fractions of the epochs after the warm-up.
        epochs: Number of epochs.
        learning_rate: Initial rate, to which the final rate of cos refers.
        warmup: Epochs in which the rate rises in equal steps; the schedule starts, at the full rate,
            in the epoch after them.

    Raises:
        ValueError: Unknown kind.
    """
    after = _after_warmup(kind, values, epochs, learning_rate, warmup)
    return lambda epoch: (epoch + 1) / (warmup + 1) if epoch < warmup else after(epoch)


def _after_warmup(
    kind: str, values: Sequence[float], epochs: int, learning_rate: float, start: int
) -> Callable[[int], float]:
    """Factor by epoch from epoch `start` on, where it is 1."""
    three, four = (start + round(share * (epochs - start)) for share in (0.6, 0.8))
    if kind == "cos":
        last, final_rate = (*values, *(four, 1e-5)[len(values) :])
        floor, length = min(final_rate / learning_rate, 1), max(last - start, 1)
        return lambda epoch: floor + (1 - floor) * (1 + math.cos(math.pi * min((epoch - start) / length, 1))) / 2
    if kind == "step":
        return lambda epoch: 0.1 ** sum(epoch >= drop for drop in values or (three, four))
    if kind == "exp":
        return lambda epoch: (values or (0.95,))[0] ** (epoch - start)
    if kind == "none":
        return lambda epoch: 1.0
    raise ValueError(f"--scheduler_type {kind!r}: choose one of cos, step, exp, none")


def _optimizer(
    by_rate: Mapping[float, Sequence[nn.Parameter]], name: str, weight_decay: float
) -> torch.optim.Optimizer:
    groups = [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    if name == "adam":
        return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, weight_decay=weight_decay, momentum=0.9, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(
            [part for group in groups for part in _decayed_and_not(group, weight_decay)], fused=True
        )
    raise ValueError(f"--optimizer {name!r}: choose one of adam, adamw, sgd")


def _decayed_and_not(group: Mapping[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """A group in two: matrices and convolution kernels, and the rest, without decay (MAE, arXiv 2111.06377, A)."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(weight_decay if parameter.ndim in (2, 4) else 0.0, []).append(parameter)
    return [{**group, "params": parameters, "weight_decay": decay} for decay, parameters in parts.items()]
