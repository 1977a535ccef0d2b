"""Layers in forward order, and their features against those computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cromss.analysis.layers import PARTS, list_layers, visit
from cromss.models import build_pretrainer

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "tu-test_resnet"


def noise(channels, side=64):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    return build_pretrainer("mid", "resnet18", {"s2": 13}, 9)


@pytest.fixture(scope="module")
def vit():
    return build_pretrainer("mid", "vit_tiny_patch16_224", {"s2": 4}, 3)


@pytest.fixture(scope="module", params=["mid", "late"])
def twins(request):
    return build_pretrainer(request.param, SMALL, {"s1": 2, "s2": 13}, 9, common_branch=True)


def seen(model, branch, layers, images):
    features = {}
    logits = visit(model, branch, layers, images, lambda layer, output: features.update({layer.name: output}))
    return features, logits


def test_all_convolutions_of_a_resnet_in_forward_order(resnet):
    layers = list_layers(resnet, "s2", noise(13))
    names, parts = [layer.name for layer in layers], [layer.part for layer in layers]
    assert len(layers) == sum(isinstance(module, nn.Conv2d) for module in resnet.modules()) == 31
    assert [parts.count(part) for part in PARTS] == [20, 10, 1]
    assert parts == sorted(parts, key=PARTS.index)
    assert names[:2] == ["encoder.conv1", "encoder.layer1.0.conv1"]
    assert names[6:9] == ["encoder.layer2.0.conv2", "encoder.layer2.0.downsample.0", "encoder.layer2.1.conv1"]
    assert names[-2:] == ["decoder.blocks.4.conv2.0", "head.0"]
    assert len(set(names)) == len(names)


def test_features_are_what_the_layers_put_out(resnet):
    images = noise(13)
    layers = list_layers(resnet, "s2", images)
    features, logits = seen(resnet, "s2", layers, images)
    encoder = resnet.encoders["s2"]
    first = F.conv2d(images, encoder.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(features["encoder.conv1"], first)
    torch.testing.assert_close(features["head.0"], logits)
    resnet.eval()
    with torch.no_grad():
        torch.testing.assert_close(logits, resnet(s2=images)["s2"])
    assert [tuple(features[layer.name].shape[-2:]) for layer in layers[-3:]] == [(64, 64)] * 3


def test_a_visit_leaves_no_trace(resnet):
    images = noise(13)
    layers = list_layers(resnet, "s2", images)
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    for training in (True, False):
        resnet.train(training)
        features, logits = seen(resnet, "s2", layers, images)
        assert resnet.training == training
        assert not logits.requires_grad
        assert not any(tensor.requires_grad for tensor in features.values())
        with pytest.raises(RuntimeError, match="stop"):
            visit(resnet, "s2", layers, images, stop)
        assert resnet.training == training
    assert not any(module._forward_hooks for module in resnet.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in resnet.state_dict().items())


def stop(layer, features):
    raise RuntimeError("stop")


@pytest.mark.parametrize(("branch", "channels"), [("s1", 2), ("s2", 13), ("common", 15)])
def test_each_branch_of_twins_has_its_own_encoder(twins, branch, channels):
    layers = list_layers(twins, branch, noise(channels, 32))
    own = set(twins.encoders[branch].modules())
    assert all((layer.module in own) == (layer.part == "encoder") for layer in layers)
    others = {name: list_layers(twins, name, noise(c, 32)) for name, c in (("s1", 2), ("s2", 13))}
    shared = {layer.module for layer in others["s1"]} & {layer.module for layer in others["s2"]}
    assert bool(shared) == hasattr(twins, "decoder")
    assert [layer.name for layer in layers] == [layer.name for layer in others["s1"]]


@pytest.mark.parametrize("branch", ["s3", "", "encoder", "common"])
def test_a_branch_that_is_not_there_is_refused(resnet, branch):
    with pytest.raises(ValueError, match=rf"--branch {branch}: this network has s2$"):
        list_layers(resnet, branch, noise(13))


def test_blocks_of_a_vit_are_maps(vit):
    images = noise(4)[..., :32]
    layers = list_layers(vit, "s2", images)
    features, _ = seen(vit, "s2", layers, images)
    encoder = vit.encoders["s2"].vit.eval()
    with torch.no_grad():
        _, maps = encoder.forward_intermediates(images, norm=False, output_fmt="NCHW")
    assert len(maps) == 12
    for at, tokens in enumerate(maps):
        torch.testing.assert_close(features[f"encoder.vit.blocks.{at}"], tokens)
    assert maps[0].shape == (2, 192, 4, 2)


def test_the_pyramid_of_a_vit_is_of_the_decoder_and_single_cells_are_left_out(vit):
    parts = {layer.name: layer.part for layer in list_layers(vit, "s2", noise(4))}
    assert list(parts)[:2] == ["encoder.vit.patch_embed.proj", "encoder.vit.blocks.0"]
    assert {name: part for name, part in parts.items() if ".pyramid." in name} == {
        f"encoder.pyramid.{name}": "decoder" for name in ("0.0", "0.3", "1.0")
    }
    assert "decoder.psp.blocks.1.1.0" in parts
    assert "decoder.psp.blocks.0.1.0" not in parts


def test_channel_groups_are_averaged():
    model = build_pretrainer("mid", "satmae_tiny_patch16_32", {"s2": 10}, 3)
    images = noise(10, 32)
    layers = list_layers(model, "s2", images)
    outputs = []
    hook = model.encoders["s2"].vit.blocks[3].register_forward_hook(lambda m, i, output: outputs.append(output))
    features, _ = seen(model, "s2", layers, images)
    hook.remove()
    (tokens,) = outputs
    assert tokens.shape == (2, 1 + 3 * 4, 192)
    naive = sum(tokens[:, 1 + 4 * group : 5 + 4 * group] for group in range(3)) / 3
    map_of_cell = features["encoder.vit.blocks.3"][:, :, 1, 0]
    torch.testing.assert_close(map_of_cell, naive[:, 2])
