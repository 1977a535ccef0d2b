"""Every tensor of a part by name and shape, or none."""

import signal

import pytest
import torch
from torch import nn

from cromss.models import build_segmenter
from cromss.models.strict_loading import Undrawn, damages, fill, own_names, pick


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


def file(prefix: str = "net.", **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The network's tensors as ones behind a prefix, some changed, those for `None` left out."""
    ones = {key: torch.ones_like(value) for key, value in network().state_dict().items()}
    ones |= {key.replace("__", "."): value for key, value in changes.items()}
    return {prefix + key: value for key, value in ones.items() if value is not None}


def test_all_fit():
    beside = {"net.head.weight": torch.zeros(1), "other.0.weight": torch.zeros(1), "0.weight": torch.zeros(1)}
    found, problems = pick(file() | beside, "net.", network())
    assert problems == []
    assert found.keys() == network().state_dict().keys()
    target = network()
    fill(target, found)
    assert all((value == 1).all() for value in target.state_dict().values())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"0__bias": None}, "0.bias is missing"),
        ({"0__bias": torch.ones(4)}, "0.bias is (4,), not (3,)"),
        ({"1__scale": torch.ones(3)}, "1.scale has no place in it"),
        ({"1__num_batches_tracked": torch.ones(2)}, "1.num_batches_tracked is (2,), not ()"),
    ],
)
def test_what_does_not_fit_is_named(changes, problem):
    assert pick(file(**changes), "net.", network())[1] == [problem]


@pytest.mark.parametrize(
    ("changes", "damage"),
    [
        ({}, []),
        ({"1__num_batches_tracked": torch.tensor(7)}, []),
        ({"0__bias": torch.ones(3, dtype=torch.float16)}, []),
        ({"0__bias": torch.ones(3, dtype=torch.int64)}, ["0.bias is torch.int64, not torch.float32"]),
        ({"1__running_var": torch.tensor([1, torch.nan, 1])}, ["1.running_var holds NaN or infinity"]),
        ({"1__running_var": torch.tensor([1, torch.inf, 1])}, ["1.running_var holds NaN or infinity"]),
    ],
)
def test_damaged_values_are_named(changes, damage):
    found, problems = pick(file(**changes), "net.", network())
    assert problems == []
    assert damages(network(), found) == damage


def test_step_counters_may_be_missing_and_are_zero_then():
    target = network()
    target[1].num_batches_tracked += 5
    found, problems = pick(file(**{"1__num_batches_tracked": None}), "net.", target)
    assert problems == []
    fill(target, found)
    assert target[1].num_batches_tracked == 0


NORM = ("1.weight", "1.bias")


def test_what_is_dispensable_may_be_missing_and_starts_anew():
    lacking = file(**{"1__weight": None, "1__bias": None})
    target = network()
    assert pick(lacking, "net.", target)[1] == ["1.weight is missing", "1.bias is missing"]
    found, problems = pick(lacking, "net.", target, NORM)
    assert problems == []
    assert found.keys() == target.state_dict().keys() - set(NORM)
    torch.nn.init.constant_(target[1].weight, 7)
    torch.nn.init.constant_(target[1].bias, 7)
    fill(target, found)
    assert target[1].weight.tolist() == [1, 1, 1]
    assert target[1].bias.tolist() == [0, 0, 0]


def test_what_is_dispensable_must_fit_where_it_is_there():
    found, problems = pick(file(**{"1__bias": torch.ones(4)}), "net.", network(), NORM)
    assert problems == ["1.bias is (4,), not (3,)"]
    assert (found["1.weight"] == 1).all()


def test_timms_wrapper():
    wrapped = nn.ModuleDict({"model": network()})
    assert own_names(wrapped).keys() == network().state_dict().keys()
    found, problems = pick(file(), "net.", wrapped)
    fill(wrapped, found)
    assert problems == []
    assert (wrapped["model"][0].weight == 1).all()
    mixed = nn.ModuleDict({"model": network(), "head": nn.Linear(1, 1)})
    assert "model.0.weight" in own_names(mixed)


NETWORKS = {
    "resnet": (lambda: build_segmenter("deeplabv3plus", "resnet18", 4, 3), 4),
    "timm": (lambda: build_segmenter("unet", "tu-test_resnet", 4, 3), 4),
    "hiera": (lambda: build_segmenter("unet", "tu-hieradet_small", 4, 3), 4),
    "vit": (lambda: build_segmenter("upernet", "vit_tiny_patch16_224", 4, 3), 4),
    "masks": (lambda: build_segmenter("segmenter", "vit_tiny_patch16_224", 4, 3), 4),
    "dofa": (lambda: build_segmenter("fpn", "dofa_tiny_patch16_224", 2, 3, wavelengths=(5.4, 5.4)), 2),
}


@pytest.mark.parametrize(("make", "bands"), NETWORKS.values(), ids=NETWORKS)
def test_networks_that_were_not_drawn_are_the_same_with_all_weights(make, bands):
    drawn = make().eval()
    with Undrawn():
        network = make().eval()
    network.load_state_dict(drawn.state_dict())
    images = torch.randn(1, bands, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), drawn(images), rtol=0, atol=0)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == [name for name, parameter in drawn.named_parameters() if parameter.requires_grad]


@pytest.fixture
def a_minute():
    """What takes longer ends with an error."""

    def end(*_):
        raise TimeoutError("it goes on for a minute")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("a_minute")
def test_nothing_is_drawn_and_draws_within_bounds_end():
    """PyTorch draws again what is out of bounds, from newer versions on, in memory that may hold anything."""
    before = torch.get_rng_state()
    with Undrawn():
        made = [nn.Linear(3, 4).weight, nn.Conv2d(2, 3, 1).weight, torch.full((9,), 5.0).uniform_()]
        shifted = nn.init.trunc_normal_(torch.full((4096,), 90.0), mean=7, std=0.1, a=6, b=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all((tensor == 0).all() for tensor in made)
    assert ((shifted >= 6) & (shifted <= 8)).all()
    assert (nn.Linear(3, 4).weight != 0).all()
