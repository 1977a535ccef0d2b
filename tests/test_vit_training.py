"""ViTs from settings to metrics: pretraining of twins, transfer under every head, resume."""

import numpy as np
import pytest
import torch
from sets import NAMES, PART, raw_arrays, season_arrays, write_ours

from cromss.config import parse
from cromss.legends import NOL
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.training import finetune, pretrain
from cromss.training.finetuning import finetuning_task
from cromss.training.pretraining import pretraining_network, pretraining_task

pytestmark = pytest.mark.usefixtures("one_thread", "one_row", "narrow")

VIT = "--model_type vit_tiny_patch16_224 --crop_size 32 --batch_size 4 --epochs 1 --accelerator cpu"
RECIPE = "--optimizer adamw --lr_adjust_type cos --lr_adjust 1e-6 --drop_path 0.2 --layer_decay 0.8"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(2)
    write_ours(folder / "noisy", season_arrays(), NAMES)
    for part, count in {"train": 4, "test": 2}.items():
        write_ours(folder / part, raw_arrays(count, rng), PART)
    return folder


def pretrain_with(save_dir, sets, arguments, kind=MultiModalSettings):
    place = f"--save_dir {save_dir} --data_path {sets / 'noisy'} --display_interval 0"
    return pretrain(parse(kind, f"{VIT} {place} {arguments}".split()))


def transfer_settings(save_dir, sets, arguments):
    place = f"--save_dir {save_dir} --data_path {sets} --save_maps 0"
    return parse(FinetuneSettings, f"{VIT} {place} --model_framework upernet {arguments}".split())


def state_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def twins(sets, tmp_path_factory):
    """Fusion -> checkpoint."""
    folder = tmp_path_factory.mktemp("twins")
    method = "--sample_selection --label_smoothing --validation 0.2 --max_steps 1"
    return {
        fusion: pretrain_with(folder, sets, f"{RECIPE} {method} --fusion_type {fusion} --name {fusion}")["checkpoint"]
        for fusion in ("mid", "late")
    }


@pytest.mark.parametrize(("modality", "fusion"), [("s1", "mid"), ("s2", "late")])
def test_a_twin_is_transferred_whole_and_stays_as_it_was(twins, sets, tmp_path, fusion, modality, capsys):
    arguments = f"--input_type {modality} --weight_path {twins[fusion]} --name a --max_steps 1"
    metrics = finetune(transfer_settings(tmp_path, sets, arguments))
    assert 0 <= metrics["oa"] <= 1
    assert f" model.{'encoders' if fusion == 'mid' else 'networks'}.{modality}." in metrics["weights"]["images"]
    assert "interpolated" not in capsys.readouterr().out
    pretrained, transferred = state_of(twins[fusion]), state_of(tmp_path / "a" / "checkpoints" / "last.ckpt")
    place = f"encoders.{modality}.vit." if fusion == "mid" else f"networks.{modality}.encoder.vit."
    names = [name.removeprefix(f"model.{place}") for name in pretrained if name.startswith(f"model.{place}")]
    assert len(names) > 100
    for name in names:
        assert torch.equal(pretrained[f"model.{place}{name}"], transferred[f"model.network.encoder.vit.{name}"]), name


def test_position_embeddings_of_other_crops_are_interpolated_with_a_message(twins, sets, tmp_path, capsys):
    settings = transfer_settings(tmp_path, sets, f"--weight_path {twins['mid']} --crop_size 64")
    task, origins = finetuning_task(settings)
    assert "pos_embed interpolated from 2x2 to 4x4" in str(origins["images"])
    assert "pos_embed interpolated from 2x2 to 4x4" in capsys.readouterr().out
    assert task.model.encoders["images"].pos_embed.shape == (1, 17, 192)


@pytest.mark.parametrize(
    "arguments",
    [
        "--model_framework segmenter --encoder_finetune_tag etr --decoder_finetune_tag dasc --drop_path 0.1",
        "--model_framework unet --input_type s12 --fusion_type twin",
        "--model_framework fpn --input_type s12 --optimizer adamw",
        "--model_type dofa_tiny_patch16_224 --input_type s12",
        "--model_type dofa_tiny_patch16_224 --n_channels 9 --normalization native --weight_path random",
        "--model_type satmae_tiny_patch8_96 --n_channels 10 --encoder_finetune_tag etr --grad_checkpointing",
        "--model_type scalemae_tiny_patch16_224 --n_channels 3",
        "--patch_size 8 --image_size 64",
        "--crop_size 8",
        "--epochs 3 --encoder_finetune_tag eft --encoder_finetune_epoch 1 --warmup_epochs 1",
    ],
)
def test_variants_train(sets, tmp_path, arguments):
    metrics = finetune(transfer_settings(tmp_path, sets, f"{arguments} --max_steps 2 --name a"))
    assert 0 <= metrics["oa"] <= 1


def test_a_wrong_encoder_is_told_before_the_set_is_made(tmp_path):
    settings = parse(MultiModalSettings, f"--model_type vit_smal_patch16_224 --save_dir {tmp_path}".split())
    with pytest.raises(ValueError, match="did you mean vit_small_patch16_224"):
        pretrain(settings)
    assert not list(tmp_path.iterdir())


def test_a_single_modality_is_pretrained(sets, tmp_path):
    arguments = "--input_type s2 --max_steps 1 --model_type dofa_tiny_patch16_224"
    assert np.isfinite(pretrain_with(tmp_path, sets, arguments, SingleModalSettings)["val/loss"])


def test_a_resumed_run_equals_an_undisturbed_one(sets, tmp_path):
    flags = "--optimizer adamw --drop_path 0.3 --layer_decay 0.8 --lr_adjust_type exp --lr_adjust 0.9 --warmup_epochs 1"
    flags += " --limit_batches 2"
    for name, epochs in (("straight", 3), ("parts", 2), ("parts", 3)):
        pretrain_with(tmp_path, sets, f"{flags} --name {name} --epochs {epochs}", SingleModalSettings)
    states = [state_of(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("straight", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_learning_rates_by_layer_with_warm_up_and_cosine():
    settings = parse(
        MultiModalSettings,
        f"{VIT} {RECIPE} --epochs 20 --warmup_epochs 4 --learning_rate 0.01 --weight_decay 0.05".split(),
    )
    made = pretraining_task(settings, pretraining_network(settings), NOL).configure_optimizers()
    groups = made["optimizer"].param_groups
    assert max(group["initial_lr"] for group in groups) == pytest.approx(0.01)
    assert min(group["initial_lr"] for group in groups) == pytest.approx(0.01 * 0.8**13)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    factor = made["lr_scheduler"].lr_lambdas[0]
    assert factor(0) == pytest.approx(1 / 5)
    assert factor(4) == 1
    assert factor(20) == pytest.approx(1e-4)
    assert all(factor(epoch) > factor(epoch + 1) for epoch in range(4, 20))
