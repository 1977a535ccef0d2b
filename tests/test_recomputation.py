"""Gradient checkpointing: the same numbers for less memory, in the blocks where it pays."""

import copy

import pytest
import timm
import torch
from model_tester import batch
from sets import NAMES, season_arrays, write_ours
from test_training import pretrain_one, table
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torchvision.models import DenseNet
from torchvision.models.resnet import BasicBlock

from cromss.models import build_pretrainer, build_segmenter, recomputation
from cromss.models.fusion import LateFusion
from cromss.models.recomputation import MOST_WEIGHTS, blocks, recompute_activations
from cromss.models.vit import AS_NAMED, ViTOptions

pytestmark = pytest.mark.usefixtures("one_thread")

BANDS = {"s1": 2, "s2": 3}


def twins(encoder_name: str = "tu-test_resnet", vit: ViTOptions = AS_NAMED) -> nn.Module:
    torch.manual_seed(0)
    return build_pretrainer("mid", encoder_name, BANDS, 4, vit=vit).train()


def twin_vits() -> nn.Module:
    return twins("vit_tiny_patch16_224", ViTOptions(image_size=64, drop_path=0.5))


def dense_twins() -> nn.Module:
    """Their blocks are given lists that grow."""
    torch.manual_seed(0)
    networks = {modality: DenseNet(8, (3, 3), 16, num_classes=4) for modality in BANDS}
    for modality, network in networks.items():
        network.features.conv0 = nn.Conv2d(BANDS[modality], 16, 3, stride=2)
    return LateFusion(networks, BANDS).train()


def loss_of(model: nn.Module) -> torch.Tensor:
    images = {modality: batch(count, 32, 32) for modality, count in BANDS.items()}
    return sum(model.segment(modality, image).square().mean() for modality, image in images.items())


def trained(model: nn.Module, steps: int = 2) -> dict[str, torch.Tensor]:
    """Weights and statistics after some steps, and the gradients of the last."""
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for seed in range(steps):
        torch.manual_seed(seed)
        optimiser.zero_grad()
        loss_of(model).backward()
        optimiser.step()
    return model.state_dict() | {f"gradient of {name}": p.grad for name, p in model.named_parameters()}


def kept_bytes(model: nn.Module) -> int:
    """What is kept for the backward pass, weights aside."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    sizes = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(model)
    return sum(size for size, _ in sizes.values())


@pytest.mark.parametrize("build", [twins, dense_twins, twin_vits])
def test_training_ends_with_the_same_bits(build):
    kept, recomputed = build(), build()
    assert recompute_activations(recomputed) > 0
    expected, got = trained(kept), trained(recomputed)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@pytest.mark.parametrize(("build", "share"), [(lambda: twins("resnet50"), 0.6), (twin_vits, 0.65)])
def test_less_is_kept(build, share):
    model = build()
    before = kept_bytes(model)
    recompute_activations(model)
    assert kept_bytes(model) < share * before


def test_blocks_of_twin_resnets():
    with torch.device("meta"):
        model = build_pretrainer("mid", "resnet50", BANDS, 4)
    names = {block: name for name, block in model.named_modules()}
    places = [(stage, i) for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for i in range(count)]
    of_encoders = [f"encoders.{modality}.layer{stage}.{i}" for stage, i in places for modality in BANDS]
    of_decoder = [f"decoder.blocks.{i}" for i in range(5)]
    assert {names[block] for block in blocks(model)} == {*of_encoders, *of_decoder}
    kinds = [type(block) for block in blocks(model)]
    assert recompute_activations(model) == 17
    changed = {names[block] for block, kind in zip(blocks(model), kinds) if type(block) is not kind}
    assert changed == {*of_encoders[: 2 * (3 + 4)], *of_decoder[2:]}
    assert all(isinstance(block, kind) for block, kind in zip(blocks(model), kinds))


def test_a_second_time_changes_nothing():
    model = twins()
    assert recompute_activations(model) == recompute_activations(model)
    names = [[kind.__name__ for kind in type(block).__mro__].count("_Recomputed") for block in blocks(model)]
    assert names == [sum(weight.numel() for weight in block.parameters()) <= MOST_WEIGHTS for block in blocks(model)]


def test_copies_have_their_own_weights():
    model = twins()
    recompute_activations(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert loss_of(other) == 0
    assert loss_of(model) > 0


def test_statistics_move_once_even_where_the_backward_pass_fails():
    model = build_segmenter("unet", "tu-test_resnet", 3, 4).train()
    recompute_activations(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    loss = model(batch(3, 32, 32)).square().mean()
    counted = [int(norm.num_batches_tracked) for norm in norms]
    handle = norms[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    handle.remove()
    assert set(counted) == {1}
    assert [int(norm.num_batches_tracked) for norm in norms] == counted
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_what_is_kept_can_be_used_twice(kind):
    network, images = nn.Sequential(BasicBlock(3, 3)), batch(3, 8, 8)
    recompute_activations(network)
    if kind is nn.SyncBatchNorm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    loss = network(images).square().mean()
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    first, second = (
        torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, create_graph=create)
        for create in (False, True)
    )
    torch.testing.assert_close(second, first)
    second[0].square().sum().backward()
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("encoder_name", "kind", "num_kinds"),
    [("darknet53", "DarkBlock", 2), ("caformer_s18", "MetaFormerBlock", 1)],
)
def test_blocks_are_chosen_by_their_attention_not_their_names(encoder_name, kind, num_kinds):
    with torch.device("meta"):
        encoder = timm.create_model(encoder_name, features_only=True)
    before = {block: type(block) for block in blocks(encoder) if type(block).__name__ == kind}
    recompute_activations(encoder)
    for block, was in before.items():
        light = sum(weight.numel() for weight in block.parameters()) <= MOST_WEIGHTS
        assert (type(block) is not was) == (light or "Attention" in {type(part).__name__ for part in block.modules()})
    assert len({type(block) for block in before}) == num_kinds


def test_nothing_is_recomputed_in_evaluation(monkeypatch):
    model = twins()
    recompute_activations(model)
    monkeypatch.setattr("cromss.models.recomputation.checkpoint", lambda *_, **__: 1 / 0)
    loss_of(model.eval())
    with torch.no_grad():
        loss_of(model.train())
    with pytest.raises(ZeroDivisionError):
        loss_of(model)


def test_the_compiler_is_left_the_blocks_with_batch_norm():
    network = nn.Sequential(BasicBlock(3, 3))
    compiled, images = copy.deepcopy(network), batch(3, 8, 8)
    assert recompute_activations(compiled) == 1
    compiled.compile(backend="eager")
    for each in (network, compiled):
        each(images).square().mean().backward()
    for one, other in zip(network.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for (name, one), other in zip(network.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.usefixtures("narrow")
def test_runs_end_alike_with_and_without(tmp_path, monkeypatch):
    write_ours(tmp_path / "set", season_arrays(), NAMES)
    calls = []
    told = recomputation.checkpoint
    monkeypatch.setattr(recomputation, "checkpoint", lambda *a, **k: (calls.append(a), told(*a, **k))[1])
    weights = []
    for flag in ("", "--grad_checkpointing"):
        assert not calls
        arguments = f"--name {flag.strip('-') or 'kept'} --epochs 1 {flag}"
        metrics = pretrain_one(tmp_path, tmp_path / "set", arguments)
        weights.append(torch.load(metrics["checkpoint"], weights_only=True)["state_dict"])
    assert calls
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.usefixtures("narrow")
def test_a_run_goes_on_with_it(tmp_path):
    write_ours(tmp_path / "set", season_arrays(), NAMES)
    for epochs, flag in ((1, ""), (2, "--grad_checkpointing")):
        pretrain_one(tmp_path, tmp_path / "set", f"--name a --epochs {epochs} {flag}")
    assert len(table(tmp_path / "a" / "metrics.csv")) == 2
