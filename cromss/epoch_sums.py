"""What is summed up over an epoch of training, kept in checkpoints so that a run can go on within one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

States = dict[str, dict[str, Tensor]]


class EpochMeans(Metric):
    """Means of named scalars, the same names in each batch, over batches and processes."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("totals", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor], weight: float | Tensor) -> None:
        """Count the scalars of a batch."""
        self.names = tuple(values)
        totals = weight * torch.stack([value.detach() for value in values.values()]).double()
        self.totals = self.totals + totals if len(self.totals) else totals
        self.weight = self.weight + weight

    def compute(self) -> dict[str, float]:
        """Name -> mean."""
        return dict(zip(self.names, (self.totals / self.weight).tolist()))


def summed_states(module: nn.Module) -> States:
    """Name of each metric of a module that has counted something -> its states, summed over all processes."""
    states: States = {}
    for name, metric in _metrics(module).items():
        if metric.update_called:
            with metric.sync_context():
                states[name] = {key: value.detach().clone() for key, value in metric.metric_state.items()}
    return states


def restore_states(module: nn.Module, states: Mapping[str, Mapping[str, Any]], is_first: bool = True) -> None:
    """Let metrics go on from `summed_states`: the first process has the sums, the others zeros of their shapes."""
    for name, metric in _metrics(module).items():
        for key in metric.metric_state.keys() & states.get(name, {}).keys():
            value = states[name][key]
            setattr(metric, key, (value if is_first else torch.zeros_like(value)).to(metric.device))
        metric._update_count += name in states  # so that they are kept again, by all processes alike


def _metrics(module: nn.Module) -> dict[str, Metric]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}
