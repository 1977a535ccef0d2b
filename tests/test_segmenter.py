"""Downstream networks: one tester for every architecture, and an encoder that is truly frozen."""

import copy

import pytest
import torch

from cromss.models import build_segmenter
from cromss.models.encoders import ARCHITECTURES

torch.set_num_threads(2)


def step(model: torch.nn.Module, images: torch.Tensor) -> None:
    """One training step on random images."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def batch(channels: int = 13, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("architecture", "encoder_name"),
    [(architecture, "resnet18") for architecture in ARCHITECTURES]
    + [(architecture, "mobilenet_v2") for architecture in ("unet", "pspnet", "deeplabv3plus")],
)
def test_every_architecture_trains_whole_and_runs_at_any_size(architecture, encoder_name, tmp_path):
    model = build_segmenter(architecture, encoder_name, in_channels=9, num_classes=5)
    logits = model(batch(9))
    assert logits.shape == (2, 5, 64, 64)
    logits.square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)

    torch.save(model.state_dict(), tmp_path / "model.pt")
    twin = build_segmenter(architecture, encoder_name, in_channels=9, num_classes=5)
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images = batch(9, 33, 70)
    with torch.no_grad():
        expected = model.eval()(images)
        assert expected.shape == (2, 5, 33, 70)
        assert torch.equal(twin.eval()(images), expected)


@pytest.mark.parametrize("size", [264, 510])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_of_the_published_sets(architecture, size):
    with torch.device("meta"):
        model = build_segmenter(architecture, "resnet18", in_channels=3, num_classes=8, encoder_depth=5)
    model = model.to("meta").eval()
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 8, size, size)


@pytest.mark.parametrize("encoder_depth", [3, 4])
@pytest.mark.parametrize("architecture", ["unet", "fpn", "pspnet", "deeplabv3plus", "pan"])
def test_every_depth_keeps_the_size_and_leaves_no_idle_parameter_trainable(architecture, encoder_depth):
    model = build_segmenter(architecture, "resnet18", 2, 3, encoder_depth=encoder_depth)
    logits = model(batch(2))
    assert logits.shape == (2, 3, 64, 64)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("channels", [2, 9, 13])
def test_band_counts(channels):
    model = build_segmenter("pspnet", "resnet18", in_channels=channels).eval()
    with torch.no_grad():
        assert model(batch(channels)).shape == (2, 8, 64, 64)
    with pytest.raises(ValueError, match=f"images: this model takes {channels} bands"):
        model(batch(channels + 1))


def test_pspnet_stops_at_layer2_unless_told():
    model = build_segmenter("pspnet", "resnet18")
    trainable = {name.split(".")[0] for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert trainable == {"conv1", "bn1", "layer1", "layer2"}
    assert {"layer3", "layer4"} <= {name.split(".")[0] for name in model.encoder.state_dict()}
    whole = build_segmenter("pspnet", "resnet18", encoder_depth=5)
    assert all(p.requires_grad for p in whole.parameters())


def test_pspnet_needs_no_padding_at_264():
    model = build_segmenter("pspnet", "resnet18", in_channels=2).eval()
    images = batch(2, 264, 264)
    with torch.no_grad():
        assert torch.equal(model(images), model.network(images))


@pytest.mark.parametrize(
    ("architecture", "encoder_name"),
    [("pspnet", "resnet18"), ("deeplabv3plus", "resnet18"), ("fpn", "mobilenet_v2")],
)
def test_frozen_is_frozen(architecture, encoder_name):
    model = build_segmenter(architecture, encoder_name)
    model.freeze_encoder()
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        model.eval()
        model.train()
        step(model, batch())
    moved = changed(before, model.state_dict())
    assert moved
    assert not any(name.startswith("network.encoder.") for name in moved)
    assert not any(module.training for module in model.encoder.modules())
    assert model.training


def test_frozen_as_published_moves_only_batchnorm_statistics():
    model = build_segmenter("fpn", "resnet18")
    model.freeze_encoder(update_batchnorm=True)
    before = copy.deepcopy(model.encoder.state_dict())
    step(model.train(), batch())
    moved = changed(before, model.encoder.state_dict())
    assert {name.rsplit(".", 1)[1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_an_unfrozen_encoder_trains_but_not_its_idle_stages():
    model = build_segmenter("pspnet", "resnet18")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    model.freeze_encoder()
    assert {name for name, p in model.named_parameters() if p.requires_grad} < trainable
    model.unfreeze_encoder()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert all(module.training for module in model.encoder.modules())
    before = copy.deepcopy(model.encoder.state_dict())
    step(model, batch())
    assert {name.split(".")[0] for name in changed(before, model.encoder.state_dict())} == {
        *("conv1", "bn1", "layer1", "layer2")
    }


def test_freezing_keeps_the_mode():
    model = build_segmenter("fpn", "resnet18").eval()
    model.freeze_encoder()
    model.unfreeze_encoder()
    assert not any(module.training for module in model.modules())


def test_a_copy_of_a_frozen_model_is_frozen():
    model = build_segmenter("fpn", "resnet18")
    model.freeze_encoder()
    twin = copy.deepcopy(model).train()
    assert not any(module.training for module in twin.encoder.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "pspnett"}, "architecture 'pspnett': choose one of unet, .*pspnet"),
        ({"architecture": "segformer"}, "choose one of"),
        ({"encoder_name": "resnet180"}, "encoder_name 'resnet180': no such encoder; did you mean .*resnet18"),
        ({"encoder_depth": 2}, "encoder_depth 2: choose 3, 4 or 5"),
        ({"encoder_depth": 6}, "encoder_depth 6"),
        ({"in_channels": 0}, "in_channels 0"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"encoder_name": "resnet18", "encoder_weights": "moco"}, "encoder_weights 'moco': resnet18 offers imagenet"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_segmenter(**settings)
    assert "\n" not in str(caught.value)
