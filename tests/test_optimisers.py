"""Learning rates by stage and epoch, against the formulas written out."""

import math

import pytest
import torch

from cromss.optimisers import pretraining_optimiser, schedule, transfer_optimiser


@pytest.fixture
def stages():
    return [[torch.nn.Parameter(torch.ones(2))] for _ in range(4)]


def rates(result):
    return [group["lr"] for group in result["optimizer"].param_groups]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("same", [1.0, 1.0, 1.0, 1.0]),
        ("descending", [1.0, 0.5, 0.25, 0.125]),
        ("ascending", [0.125, 0.25, 0.5, 1.0]),
    ],
)
def test_rates_by_stage(stages, order, expected):
    result = transfer_optimiser(stages, learning_rate=1.0, order=order, ratio=0.5)
    assert rates(result) == pytest.approx(expected)


def test_every_parameter_is_in_its_own_stage(stages):
    groups = transfer_optimiser(stages)["optimizer"].param_groups
    assert [group["params"][0] is stage[0] for group, stage in zip(groups, stages)] == [True] * 4


def test_schedule_scales_all_stages(stages):
    result = transfer_optimiser(
        stages, learning_rate=1.0, order="descending", ratio=0.5, factor=schedule("step", (2,), 5, 1.0)
    )
    seen = []
    for _ in range(4):
        seen.append(rates(result))
        result["optimizer"].step()
        result["lr_scheduler"].step()
    assert seen[1] == pytest.approx([1, 0.5, 0.25, 0.125])
    assert seen[2] == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_unknown_order_is_refused(stages):
    with pytest.raises(ValueError, match="order 'up'"):
        transfer_optimiser(stages, order="up")


def test_published_cosine():
    """5e-4 to 1e-5 at epoch 40 of 50, then flat."""
    factor = schedule("cos", (), 50, 5e-4)
    for epoch in range(50):
        progress = min(epoch, 40) / 40
        expected = 1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * progress)) / 2
        assert 5e-4 * factor(epoch) == pytest.approx(expected)
    assert [factor(e) for e in range(50)] == [schedule("cos", (40, 1e-5), 50, 5e-4)(e) for e in range(50)]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("none", (), [1, 1, 1, 1, 1]),
        ("exp", (0.5,), [1, 0.5, 0.25, 0.125, 0.0625]),
        ("exp", (), [0.95**e for e in range(5)]),
        ("step", (1, 3), [1, 0.1, 0.1, 0.01, 0.01]),
        ("step", (), [1, 1, 1, 0.1, 0.01]),
        ("cos", (1, 0.2), [1, 0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_schedules(kind, values, expected):
    factor = schedule(kind, values, 5, 1.0)
    assert [factor(epoch) for epoch in range(5)] == pytest.approx(expected)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="--scheduler_type 'poly'"):
        schedule("poly", (), 5, 1.0)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_both_optimisers(stages, name, kind):
    assert isinstance(transfer_optimiser(stages, name)["optimizer"], kind)
    assert isinstance(pretraining_optimiser(stages[0], name)["optimizer"], kind)
