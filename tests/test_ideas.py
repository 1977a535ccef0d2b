"""Changes to the selection that were tried: each does what it says."""

import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY, load_script
from torch import nn

from cromss.noisy_labels.confidence import label_confidence
from cromss.noisy_labels.selection import label_weights
from cromss.objective import CrossModalObjective

SETTINGS = {"selection": True, "ramp": "none", "smoothing_factors": (0.1,)}


@pytest.fixture(scope="module")
def ideas():
    home = REPOSITORY / "benchmarks"
    sys.path.insert(0, str(home))
    yield load_script("ideas", home)
    sys.path.remove(str(home))


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = {m: torch.randn(2, 3, 6, 5, generator=random) for m in ("s1", "s2")}
    labels = torch.randint(0, 2, (2, 6, 5), generator=random)
    labels[0, 0], labels[1, 2, 3] = 255, 2  # the only pixel of its class
    return logits, labels


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.s1, self.s2 = (nn.Sequential(nn.Conv2d(bands, 3, 1), nn.BatchNorm2d(3)) for bands in (2, 4))

    def forward(self, s1, s2):
        return {"s1": self.s1(s1), "s2": self.s2(s2)}


def changed(ideas, name):
    """An objective with a change, its task, and the plain one."""
    plain = CrossModalObjective(3, **SETTINGS)
    task = SimpleNamespace(objective=plain, model=Twin())
    ideas.CHANGES[name](task)
    return task.objective, task, plain


def test_methods_end_in_the_names_of_changes(ideas):
    grid = load_script("science_grid", REPOSITORY / "benchmarks")
    assert {ideas.change_of(method) for method in grid.TRIED} == set(ideas.CHANGES.values())
    assert not any(ideas.change_of(method) for method in (*grid.METHODS, *grid.ABLATED))


def test_own_confidence_is_not_moved_by_the_other_modality(ideas, batch):
    (logits, labels), (objective, _, plain) = batch, changed(ideas, "own confidence")
    trust, mixed = objective.select(logits, labels, 5), plain.select(logits, labels, 5)
    for modality, x in logits.items():
        alone = label_weights(label_confidence(x, labels), labels, 3, 0.5)
        torch.testing.assert_close(trust.label[modality], alone)
        assert not torch.equal(mixed.label[modality], alone)
    assert trust.prediction.keys() == trust.confidence.keys() == logits.keys()


def test_with_a_floor_no_known_label_counts_less_than_a_half(ideas, batch):
    (logits, labels), (objective, _, plain) = batch, changed(ideas, "floor")
    trust, usual = objective.select(logits, labels, 5), plain.select(logits, labels, 5)
    for modality, weights in trust.label.items():
        assert (weights[labels == 255] == 0).all()
        assert weights[labels != 255].min() == 0.5
        assert torch.equal(weights == 1, usual.label[modality] == 1)
        assert (weights[labels == 2], usual.label[modality][labels == 2]) == (0.5, 0)


def test_a_teacher_is_the_running_mean_of_the_weights(ideas, batch):
    (_, labels), (objective, task, plain) = batch, changed(ideas, "teacher")
    random = torch.Generator().manual_seed(1)
    images = {m: torch.rand(2, bands, 6, 5, generator=random) for m, bands in (("s1", 2), ("s2", 4))}
    first = {name: x.clone() for name, x in task.model.state_dict().items() if x.is_floating_point()}
    own = task.model(**images)
    for modality, x in objective.teacher.items():
        torch.testing.assert_close(x, own[modality])
        assert not x.requires_grad
    with torch.no_grad():
        task.model.s1[0].weight += 1
        task.model.s1[1].bias[0] += 4
    own, mean = task.model(**images), Twin()
    states = {n: x if n not in first else 0.95 * first[n] + 0.05 * x for n, x in task.model.state_dict().items()}
    mean.load_state_dict(states)
    for modality, x in mean(**images).items():
        torch.testing.assert_close(objective.teacher[modality], x)
    trust = objective.select(own, labels, 5)
    assert torch.equal(trust.label["s1"], plain.select(objective.teacher, labels, 5).label["s1"])
    assert not torch.equal(trust.label["s1"], plain.select(own, labels, 5).label["s1"])
    kept = dict(objective.teacher)
    task.model.eval()(**images)
    assert all(objective.teacher[m] is x for m, x in kept.items())
    assert not any("teacher" in name or "module" in name for name in task.model.state_dict())
