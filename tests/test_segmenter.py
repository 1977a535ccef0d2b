"""Downstream networks: one tester for every head and kind of input, and an encoder that is truly frozen."""

import copy
from functools import cache

import pytest
import torch
from model_tester import batch, changed, check_frozen, check_trains_whole, check_travels, step

from cromss.models import build_change_segmenter, build_segmenter, build_twin_segmenter
from cromss.models.encoders import ARCHITECTURES
from cromss.models.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")


KINDS = ("single", "twin", "change")
PUBLISHED = ("unet", "fpn", "pspnet", "deeplabv3plus", "upernet")
EVERY = [("single", head) for head in ARCHITECTURES] + [(kind, head) for kind in KINDS[1:] for head in PUBLISHED]
"""Kinds of input and heads: every head for an image, those of the papers for two."""


def build(kind: str, architecture: str, encoder_name: str = "tu-test_resnet", depth: int | None = None) -> Segmenter:
    """Any kind of network for 5 bands and 6 in all; 4 classes."""
    if kind == "twin":
        return build_twin_segmenter(architecture, encoder_name, {"s1": 2, "s2": 4}, 4, depth)
    if kind == "change":
        return build_change_segmenter(architecture, encoder_name, 3, 4, depth)
    return build_segmenter(architecture, encoder_name, 6, 4, depth)


@pytest.mark.parametrize(
    ("kind", "architecture", "encoder_name"),
    [(*pair, "tu-test_resnet") for pair in EVERY]
    + [("twin", "unet", "resnet18"), ("change", "unet", "mobilenet_v2"), ("single", "deeplabv3plus", "tu-resnet18")],
)
def test_heads_take_every_kind_of_input(kind, architecture, encoder_name):
    model = build(kind, architecture, encoder_name)
    check_trains_whole(model)
    check_frozen(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["unet", "pspnet"])
def test_saved_and_loaded_it_gives_the_same_logits(kind, architecture, tmp_path):
    check_travels(build(kind, architecture), build(kind, architecture), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("kind", "architecture", "size"),
    [(kind, head, 33) for kind in KINDS for head in ARCHITECTURES]
    + [("single", head, size) for head in ARCHITECTURES for size in (264, 510)],
)
def test_sizes_of_the_published_sets(kind, architecture, size, metas):
    model = metas(kind, architecture)
    assert model(torch.empty(2, 6, size, size, device="meta")).shape == (2, 4, size, size)


@pytest.fixture(scope="module")
def metas():
    """Networks without values, each built once."""

    @cache
    def empty(kind: str, architecture: str) -> Segmenter:
        with torch.device("meta"):
            return build(kind, architecture, depth=5).eval()

    return empty


@pytest.mark.parametrize(
    ("kind", "architecture", "depth"),
    [(*pair, 5) for pair in EVERY] + [(kind, *less) for kind in KINDS for less in (("fpn", 4), ("pspnet", 3))],
)
def test_no_head_looks_at_the_image_itself(kind, architecture, depth):
    """Level 0 is the stack of both images, which no decoder may take for a feature."""
    model = build(kind, architecture, depth=depth).eval()
    with torch.no_grad():
        features = model.encoder(torch.ones(1, 6, 128, 128))
        expected = model.network.decoder(list(features))
        got = model.network.decoder([torch.full_like(features[0], torch.nan), *features[1:]])
    assert torch.equal(got, expected)


@pytest.mark.parametrize("encoder_depth", [3, 4])
@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("single", name) for name in ("unet", "fpn", "pspnet", "deeplabv3plus", "pan")]
    + [(kind, name) for kind in ("twin", "change") for name in ("unet", "fpn")],
)
def test_every_depth_keeps_the_size_and_leaves_no_idle_parameter_trainable(kind, architecture, encoder_depth):
    if (kind, architecture, encoder_depth) == ("twin", "fpn", 3):
        with pytest.raises(ValueError, match="encoder_depth 3: the image itself is a feature of fpn"):
            build(kind, architecture, depth=3)
        return
    check_trains_whole(build(kind, architecture, depth=encoder_depth))


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


def test_frozen_as_published_moves_only_batchnorm_statistics():
    model = build_segmenter("fpn", "resnet18")
    model.freeze_encoder(update_batchnorm=True)
    before = copy.deepcopy(model.encoder.state_dict())
    step(model.train(), batch())
    moved = changed(before, model.encoder.state_dict())
    assert {name.rsplit(".", 1)[1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_networks_built_without_gradients_train_as_well():
    with torch.no_grad():
        model = build_segmenter("pspnet", "tu-test_resnet", in_channels=3, num_classes=4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    again = build_segmenter("pspnet", "tu-test_resnet", in_channels=3, num_classes=4)
    assert trained == {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained


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


@pytest.mark.parametrize("encoder_name", ["tu-twins_pcpvt_small", "tu-resnet50_clip"])
def test_of_timm_whatever_takes_any_size_is_taken(encoder_name):
    """Though timm says of their classifiers that they do not."""
    with torch.device("meta"):
        model = build_segmenter("fpn", encoder_name, in_channels=3, num_classes=4).eval()
        assert model(torch.empty(1, 3, 64, 96)).shape == (1, 4, 64, 96)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "pspnett"}, "architecture 'pspnett': choose one of unet, .*pspnet"),
        ({"architecture": "segformer"}, "choose one of"),
        ({"encoder_name": "resnet180"}, "encoder_name 'resnet180': no such encoder; did you mean .*resnet18"),
        ({"encoder_name": "tu-swin_tiny_patch4_window7_224"}, r"takes images of one size only; .* \(--model_type\)$"),
        (
            {"encoder_name": "tu-swin_tiny_patch4_window7_224.ms_in1k"},
            "one size only; choose a CNN such as tu-resnet50",
        ),
        ({"encoder_name": "tu-deit_tiny_patch16_224"}, "'tu-deit_tiny_patch16_224': it takes images of one size only"),
        ({"encoder_name": "tu-eva02_tiny_patch14_224"}, "one size only; .* a plain ViT such as vit_small_patch16_224"),
        ({"encoder_name": "tu-samvit_base_patch16"}, "'tu-samvit_base_patch16': it has no pyramid of features; choose"),
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
