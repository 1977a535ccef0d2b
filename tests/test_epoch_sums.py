"""Sums over an epoch that a checkpoint holds."""

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassConfusionMatrix

from cromss.epoch_sums import EpochMeans, restore_states, summed_states


def test_means_by_weight():
    means = EpochMeans()
    means.update({"a": torch.tensor(1.0), "b": torch.tensor(4.0)}, 3)
    means.update({"a": torch.tensor(5.0), "b": torch.tensor(8.0)}, 1)
    assert means.compute() == pytest.approx({"a": 2.0, "b": 5.0})
    means.reset()
    means.update({"a": torch.tensor(7.0)}, 2)
    assert means.compute() == {"a": 7.0}


def test_gradients_are_not_kept():
    means = EpochMeans()
    means.update({"a": torch.ones((), requires_grad=True)}, 1)
    assert not means.totals.requires_grad


def module():
    return nn.ModuleDict({"means": EpochMeans(), "counts": MulticlassConfusionMatrix(2), "other": nn.Linear(1, 1)})


def test_sums_go_on_in_another_process():
    first, second = module(), module()
    first["means"].update({"a": torch.tensor(1.0)}, 1)
    first["counts"].update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    states = summed_states(first)
    assert states.keys() == {"means", "counts"}
    first["means"].update({"a": torch.tensor(9.0)}, 1)
    assert float(states["means"]["weight"]) == 1
    restore_states(second, states)
    second["means"].update({"a": torch.tensor(3.0)}, 1)
    assert second["means"].compute() == {"a": 2.0}
    second["counts"].update(torch.tensor([1]), torch.tensor([1]))
    assert second["counts"].compute().tolist() == [[1, 1], [0, 2]]


def test_sums_that_nothing_was_added_to_are_kept_again():
    """And other processes, which must agree on what is kept, hold zeros of the same shape."""
    first, second, third = module(), module(), module()
    first["means"].update({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 3)
    states = summed_states(first)
    restore_states(second, states)
    assert {name: value.tolist() for name, value in summed_states(second)["means"].items()} == {
        "totals": [3.0, 6.0],
        "weight": 3.0,
    }
    restore_states(third, states, is_first=False)
    assert summed_states(third)["means"]["totals"].tolist() == [0.0, 0.0]
    assert summed_states(third).keys() == {"means"}


def test_nothing_counted_is_nothing_kept():
    assert summed_states(module()) == {}
    untouched = module()
    restore_states(untouched, {})
    assert float(untouched["means"].weight) == 0
    assert not untouched.state_dict().keys() - {"other.weight", "other.bias"}
