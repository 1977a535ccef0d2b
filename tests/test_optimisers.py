"""Learning rates by stage and epoch, and who is decayed, against the formulas written out."""

import math

import pytest
import torch
from torch import nn

from cromss.optimisers import order_as_weights, schedule, staged_optimiser


@pytest.fixture
def stages():
    return [[nn.Parameter(torch.ones(2))] for _ in range(4)]


def rates(result):
    return [group["lr"] for group in result["optimizer"].param_groups]


def rate_of(result, parameter):
    """Learning rate of a parameter, which must be in one group, once."""
    (rate,) = [group["lr"] for group in result["optimizer"].param_groups for p in group["params"] if p is parameter]
    return rate


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("same", [1.0, 1.0, 1.0, 1.0]),
        ("descending", [1.0, 0.5, 0.25, 0.125]),
        ("ascending", [0.125, 0.25, 0.5, 1.0]),
    ],
)
def test_rates_by_stage(stages, name, order, expected):
    result = staged_optimiser(stages, name, learning_rate=1.0, order=order, ratio=0.5)
    assert [rate_of(result, stage[0]) for stage in stages] == pytest.approx(expected)
    assert len(rates(result)) == len(set(expected))


@pytest.mark.parametrize(("order", "ratio"), [("same", 0.5), ("ascending", 1.0), ("descending", 1.0)])
def test_stages_of_one_rate_are_one_group_in_their_order(stages, order, ratio):
    (group,) = staged_optimiser(stages, order=order, ratio=ratio)["optimizer"].param_groups
    assert [id(p) for p in group["params"]] == [id(p) for stage in stages for p in stage]
    assert group["lr"] == 5e-4


def test_plain_adam_is_what_it_was():
    """One group with one weight decay for all parameters: the optimiser of the published runs."""
    ours, theirs = (nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    stages = [list(layer.parameters()) for layer in ours]
    optimizers = [
        staged_optimiser(stages, "adam", 0.1, 0.3)["optimizer"],
        torch.optim.Adam(theirs.parameters(), lr=0.1, weight_decay=0.3),
    ]
    images = torch.randn(2, 2, 5, 5)
    for _ in range(3):
        for network, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            (network(images) - 1).square().mean().backward()  # gradients that are more than rounding
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_momentum_goes_on_in_the_order_of_the_weights(name):
    """From CPU to GPU, whose kernels have the channels last, and back."""
    kernel, *gradients = torch.randn(4, 4, 3, 5, 5, generator=torch.manual_seed(0))
    weight, expected = nn.Parameter(kernel.clone()), nn.Parameter(kernel.clone())
    optimizer, straight = (staged_optimiser([[w]], name, 0.1)["optimizer"] for w in (weight, expected))
    for gradient, order in zip(gradients, (torch.contiguous_format, torch.channels_last, torch.contiguous_format)):
        state, weight = optimizer.state_dict(), nn.Parameter(weight.detach().clone(memory_format=order))
        optimizer = staged_optimiser([[weight]], name, 0.1)["optimizer"]
        optimizer.load_state_dict(state)
        order_as_weights(optimizer)
        weight.grad, expected.grad = gradient.clone(memory_format=order), gradient
        optimizer.step()
        straight.step()
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


class Block(nn.Module):
    """One parameter of every kind of a ViT and its decoder."""

    def __init__(self):
        super().__init__()
        self.patches, self.linear = nn.Conv2d(3, 4, 2), nn.Linear(4, 4)
        self.norm, self.scale = nn.LayerNorm(4), nn.Parameter(torch.ones(()))
        self.cls_token, self.pos_embed = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 9, 4))


def test_adamw_decays_matrices_and_kernels_alone():
    """Without gradients a step is the decay alone: p - rate x decay x p."""
    blocks = [Block(), Block()]
    before = [{name: p.detach().clone() for name, p in block.named_parameters()} for block in blocks]
    stages = [list(block.parameters()) for block in blocks]
    result = staged_optimiser(stages, "adamw", 0.1, 0.5, order="ascending", ratio=0.5)
    for block in blocks:
        for parameter in block.parameters():
            parameter.grad = torch.zeros_like(parameter)
    result["optimizer"].step()
    for block, old, rate in zip(blocks, before, (0.05, 0.1)):
        for name, parameter in block.named_parameters():
            kept = 1 - rate * 0.5 if name in ("patches.weight", "linear.weight") else 1
            torch.testing.assert_close(parameter.detach(), kept * old[name])
    assert rates(result) == pytest.approx([0.05, 0.05, 0.1, 0.1])


def test_adamw_keeps_every_parameter_once():
    blocks = [Block(), Block()]
    groups = staged_optimiser([list(block.parameters()) for block in blocks], "adamw")["optimizer"].param_groups
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for block in blocks for p in block.parameters())


def test_schedule_scales_all_stages(stages):
    result = staged_optimiser(
        stages, learning_rate=1.0, order="descending", ratio=0.5, factor=schedule("step", (2,), 5, 1.0)
    )
    seen = []
    for _ in range(4):
        seen.append(rates(result))
        result["optimizer"].step()
        result["lr_scheduler"].step()
    assert seen[1] == pytest.approx([1, 0.5, 0.25, 0.125])
    assert seen[2] == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_without_a_factor_the_rates_are_left_alone(stages):
    assert staged_optimiser(stages).keys() == {"optimizer"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"order": "up"}, "order 'up': choose one of same"), ({"name": "lamb"}, "--optimizer 'lamb': choose one of adam")],
)
def test_unknown_words_are_refused(stages, wrong, message):
    with pytest.raises(ValueError, match=message):
        staged_optimiser(stages, **wrong)


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
        ("cos", (4, 0.0), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
    ],
)
def test_schedules(kind, values, expected):
    factor = schedule(kind, values, 5, 1.0)
    assert [factor(epoch) for epoch in range(5)] == pytest.approx(expected)
    assert [schedule(kind, values, 5, 1.0, warmup=0)(epoch) for epoch in range(5)] == [factor(e) for e in range(5)]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("none", (), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("exp", (0.5,), [0.25, 0.5, 0.75, 1, 0.5, 0.25, 0.125, 0.0625]),
        ("step", (5, 7), [0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.01]),
        ("step", (), [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.01]),  # three and four fifths of the five epochs left
        ("cos", (5, 0.2), [0.25, 0.5, 0.75, 1, 0.6, 0.2, 0.2, 0.2]),
        ("cos", (), [0.25, 0.5, 0.75, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
    ],
)
def test_schedules_after_three_epochs_of_warm_up(kind, values, expected):
    factor = schedule(kind, values, 8, 1.0, warmup=3)
    assert [factor(epoch) for epoch in range(8)] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("kind", ["cos", "step", "exp", "none"])
@pytest.mark.parametrize("warmup", [1, 4, 9])
def test_warm_up_rises_in_equal_steps_to_the_start_of_the_schedule(kind, warmup):
    factor = schedule(kind, (), 10, 1.0, warmup)
    rise = [factor(epoch) for epoch in range(warmup + 1)]
    assert rise[-1] == pytest.approx(1)
    assert [b - a for a, b in zip([0, *rise], rise)] == pytest.approx([1 / (warmup + 1)] * (warmup + 1))
    assert all(0 < factor(epoch) <= 1 for epoch in range(10))


def test_warm_up_holds_for_every_stage(stages):
    factor = schedule("cos", (9, 1e-5), 9, 0.1, warmup=3)
    result = staged_optimiser(stages, "adamw", 0.1, order="ascending", ratio=0.5, factor=factor)
    assert rates(result) == pytest.approx([0.1 / 4 * ratio for ratio in (0.125, 0.25, 0.5, 1)])


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="--scheduler_type 'poly'"):
        schedule("poly", (), 5, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimisers_by_name(stages, name, kind):
    assert type(staged_optimiser(stages, name)["optimizer"]) is kind
