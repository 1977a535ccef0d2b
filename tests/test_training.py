"""From settings to metrics: whole runs on tiny sets."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from processes import Script
from sets import COUNT, NAMES, SEASONS, SIZE, season_arrays, write_ours, write_published
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cromss.config import parse, run
from cromss.sensors import S1, S2
from cromss.settings import MultiModalSettings, SingleModalSettings
from cromss.training import pretrain
from cromss.training.pretrained import open_pretrained, settings_from
from cromss.training.pretraining import pretraining_network

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder, arrays = tmp_path_factory.mktemp("sets"), season_arrays()
    for name in ("ours", "published"):
        (folder / name).mkdir()
    write_ours(folder / "ours", arrays, NAMES)
    arrays["exact"] = np.where(np.random.default_rng(1).random(arrays["labels"].shape) < 0.1, 255, arrays["labels"])
    write_ours(folder / "ours", {"labels": arrays["exact"].astype(np.uint8)}, {"labels": "exact_labels.lmdb"})
    write_published(folder / "published", arrays)
    return folder


COMMON = (
    "--model_type tu-test_resnet --crop_size 32 --batch_size 4 --epochs 2 --learning_rate 0.001 --accelerator cpu "
    "--display_interval 0"
)
METHOD = "--label_smoothing --sample_selection --sample_selection_rmdown_epoch 2 --validation 0.2"


def pretrain_with(save_dir, data, arguments, kind=MultiModalSettings):
    place = ["--save_dir", str(save_dir), "--data_path", str(data)]
    return pretrain(parse(kind, [*COMMON.split(), *place, *arguments.split()]))


def pretrain_one(save_dir, data, arguments):
    """Of Sentinel-2 alone, which takes less time."""
    return pretrain_with(save_dir, data, f"--input_type s2 {arguments}", SingleModalSettings)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def twins(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    metrics = pretrain_with(folder, sets / "ours", f"{METHOD} --name a --gt_available --display_interval 1")
    return folder, metrics


def test_both_layouts_give_the_same_loss_curve(sets, tmp_path):
    for name in ("ours", "published"):
        pretrain_with(tmp_path, sets / name, f"{METHOD} --name {name}")
    ours, published = (table(tmp_path / name / "metrics.csv") for name in ("ours", "published"))
    assert len(ours) == len(published) == 2
    assert not (tmp_path / "ours" / "panels").exists()
    for mine, theirs in zip(ours, published):
        for key in mine:
            assert float(mine[key]) == pytest.approx(float(theirs[key]), rel=1e-5), key


def test_tensorboard_shows_losses_scores_and_panels(twins):
    events = EventAccumulator(str(twins[0] / "a")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss_step",
        "train/seg_s1",
        "train/consistency",
        "train/selected_s2",
        "train/confidence_s1",
    } <= scalars
    assert {"val/loss", "val/miou_s1", "val/oa_s2", "lr"} <= scalars
    assert any(tag.startswith("val_iou_s2/") for tag in scalars)
    assert {"clean/random", "clean/cross_s1", "clean/single_s2"} <= scalars
    assert {"clean_random/water", "clean_cross_s2/snow_&_ice", "clean_single_s1/built_area"} <= scalars
    assert [event.value for event in events.Scalars("clean/cross_s1")] == [1, 1]  # exact labels are the noisy ones here
    assert [event.step for event in events.Images("validation")] == [0, 1]


def test_foreseen_errors_end_in_one_line(tmp_path, sets, monkeypatch, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(sets / "ours", broken)
    data = broken / NAMES["s2"] / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    monkeypatch.setattr(
        "sys.argv", ["train_pretrain_mm.py", "--data_path", str(broken), "--save_dir", str(tmp_path / "runs")]
    )
    with pytest.raises(SystemExit) as stop:
        run(pretrain, MultiModalSettings)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert NAMES["s2"] in message
    assert not (tmp_path / "runs").exists()


def test_run_folder_is_complete(twins):
    folder, metrics = twins
    run = folder / "a"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "checkpoints", "metrics.json", "metrics.csv", "panels"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {"last.ckpt", "best.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert len(list((run / "panels").glob("*.png"))) == 2
    assert json.loads((run / "metrics.json").read_text()) == metrics
    for key in ("train/seg_s1", "train/seg_s2", "train/consistency", "train/selected_s1", "val/loss", "val/miou_s2"):
        assert np.isfinite(metrics[key]), key
    assert any(key.startswith("val_iou_s1/") for key in metrics)


def test_checkpoint_holds_plain_values_and_what_its_weights_expect(twins):
    checkpoint = torch.load(twins[0] / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    card = checkpoint["cromss"]
    assert card["bands"] == {"s1": list(S1.bands), "s2": list(S2.bands)}
    assert "2 std" in card["normalization"]
    assert card["settings"]["fusion_type"] == "mid"
    assert yaml.safe_load(yaml.safe_dump(card)) == card
    best = twins[0] / "a" / "checkpoints" / "best.ckpt"
    assert "optimizer_states" not in torch.load(best, weights_only=True)
    opened = open_pretrained(str(best), "noisy")
    assert (opened.settings, opened.classes) == (settings_from(card["settings"]), tuple(card["classes"]))
    assert opened.network().encoders.keys() == {"s1", "s2"}


def test_steps_may_end_inside_an_epoch(sets, tmp_path):
    metrics = pretrain_with(tmp_path, sets / "ours", "--batch_size 2 --max_steps 1 --name a --lr_adjust_type rop")
    assert np.isfinite(metrics["val/loss"])
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "--fusion_type late",
        "--use_common_feature --sample_selection --sample_selection_agreement",
        "--fusion_type late --use_common_feature --label_smoothing",
        "--n_channels 9 --consist_loss_type kl",
        "--sample_selection --sample_selection_rmup_func none --sample_selection_confidence_type gini",
        "--consist_loss_type none --loss_type cdf --optimizer sgd",
        "--num_workers 2",
    ],
)
def test_variants_train(sets, tmp_path, arguments):
    metrics = pretrain_with(tmp_path, sets / "ours", f"{arguments} --max_steps 1 --name a")
    assert np.isfinite(metrics["train/loss"])


def first_row(folder, sets, arguments):
    pretrain_with(folder, sets / "ours", f"{arguments} --max_steps 1 --name a")
    return table(folder / "a" / "metrics.csv")[0]


def test_exact_labels_are_learnt_on_request(sets, tmp_path):
    """The exact labels of this set lack a tenth of the pixels, so that the loss differs."""
    noisy, exact = (first_row(tmp_path / kind, sets, f"--experiment {kind}") for kind in ("ns_labels", "gt_labels"))
    assert float(noisy["train/loss"]) != float(exact["train/loss"])


def test_training_batches_are_scored_in_their_own_epoch(sets, tmp_path):
    row = first_row(tmp_path, sets, "--cal_tr_acc")
    assert 0 <= float(row["train/miou_s2"]) <= 1


def test_mixed_precision_is_close_to_full(sets, tmp_path):
    full, mixed = (first_row(tmp_path / str(i), sets, f"{METHOD} {flag}") for i, flag in enumerate(("", "--amp")))
    assert float(mixed["train/loss"]) != float(full["train/loss"])
    assert float(mixed["train/loss"]) == pytest.approx(float(full["train/loss"]), rel=0.02)


@pytest.mark.parametrize(
    ("modality", "flags"), [("s1", ""), ("s2", "--sample_selection --sample_selection_agreement --gt_available")]
)
def test_single_modality_trains(sets, tmp_path, modality, flags):
    arguments = f"--input_type {modality} --max_steps 1 {flags}"
    metrics = pretrain_with(tmp_path, sets / "ours", arguments, SingleModalSettings)
    assert np.isfinite(metrics[f"val/miou_{modality}"])
    told = {"clean/random", f"clean/single_{modality}", f"calibration_error/{modality}"}
    assert told <= metrics.keys() if flags else not told & metrics.keys()
    assert not any("cross" in key for key in metrics)


def test_a_set_without_any_label_is_refused(sets, tmp_path):
    shutil.copytree(sets / "ours", tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / NAMES["labels"])
    blank = np.full((COUNT, SEASONS, SIZE, SIZE), 255, np.uint8)
    write_ours(tmp_path / "set", {"labels": blank}, {"labels": NAMES["labels"]})
    with pytest.raises(ValueError, match="not one of the pixels to score has a label"):
        pretrain_with(tmp_path, tmp_path / "set", "--max_steps 1 --name a")


def test_limits_of_short_runs(sets, tmp_path):
    pretrain_with(tmp_path, sets / "ours", "--limit_batches 1 --batch_size 2 --epochs 2 --name a")
    assert [row["step"] for row in table(tmp_path / "a" / "metrics.csv")] == ["1", "2"]


def test_gradients_of_several_batches_make_a_step(sets, tmp_path):
    pretrain_with(tmp_path, sets / "ours", "--batch_size 2 --accumulate 2 --limit_batches 4 --epochs 1 --name a")
    assert [row["step"] for row in table(tmp_path / "a" / "metrics.csv")] == ["2"]


def test_loss_falls(sets, tmp_path):
    pretrain_one(tmp_path, sets / "ours", "--epochs 10 --crop_size 64 --learning_rate 0.003 --name a")
    losses = [float(row["train/loss"]) for row in table(tmp_path / "a" / "metrics.csv")]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_start_from_given_weights(twins, sets, tmp_path):
    weights = twins[0] / "a" / "checkpoints" / "last.ckpt"
    trained = torch.load(weights, weights_only=True)["state_dict"]
    settings = parse(MultiModalSettings, f"--model_type tu-test_resnet --fusion_type late --init_s2 {weights}".split())
    fresh = pretraining_network(settings)
    for modality, same in (("s1", False), ("s2", True)):
        stem = fresh.encoders[modality].model.conv1[0].weight
        assert torch.equal(stem, trained[f"model.encoders.{modality}.model.conv1.0.weight"]) is same
    with pytest.raises(ValueError, match=r"missing\.ckpt"):
        pretrain_with(tmp_path / "b", sets / "ours", f"--init_s2 {tmp_path / 'missing.ckpt'} --max_steps 1")


def test_weights_from_the_network_need_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = parse(MultiModalSettings, ["--model_type", "resnet18", "--init_s2", "imagenet"])
    with pytest.raises(ValueError, match="could not be downloaded"):
        pretraining_network(settings)


def test_missing_set_is_refused_with_its_path(tmp_path):
    with pytest.raises(ValueError, match=NAMES["s1"]):
        pretrain_with(tmp_path, tmp_path / "nowhere", "")
    assert not list(tmp_path.iterdir())


VIT = "--model_type vit_tiny_patch16_224 --optimizer adamw --drop_path 0.2 --grad_checkpointing"


def test_two_processes_train_and_score(sets, tmp_path):
    arguments = (
        f"{COMMON} {VIT} --devices 2 --batch_size 2 --limit_batches 1 --sample_selection --validation 0.3 --name a"
    )
    place = ["--data_path", sets / "ours", "--save_dir", tmp_path]
    told = Script(tmp_path / "log", "train_scripts/train_pretrain_mm.py", *arguments.split(), *place).wait(300)
    assert re.findall(r"^epoch (\d) of 2, batch 1 of 1, .*train/loss_step", told, re.MULTILINE) == ["1", "2"]
    assert [row["step"] for row in table(tmp_path / "a" / "metrics.csv")] == ["1", "2"]
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["epochs"] == 2
