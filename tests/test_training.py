"""From settings to metrics: whole runs on tiny sets."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial

import lmdb
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cromss.config import parse, run
from cromss.legends import DFC2020
from cromss.models import build_segmenter
from cromss.models.weights import load_encoder
from cromss.sensors import S1, S2
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.store import LmdbWriter, StoreMeta
from cromss.training import finetune, pretrain
from cromss.training.pretraining import pretraining_task

NAMES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}
BANDS = {"s1": S1.bands, "s2": S2.bands, "labels": (), "exact": ()}
COUNT, SEASONS, SIZE = 8, 4, 64


def season_arrays():
    """Blocks of classes that both sensors can tell apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (COUNT, SEASONS, SIZE // 16, SIZE // 16)).repeat(16, 2).repeat(16, 3).astype(np.uint8)
    arrays = {"labels": labels}
    for modality in ("s1", "s2"):
        levels = np.arange(len(BANDS[modality]))[:, None, None] * 5 + labels[:, :, None] * 20
        arrays[modality] = np.clip(levels + rng.normal(0, 10, levels.shape), 0, 255).astype(np.uint8)
    return arrays


def write_ours(folder, arrays, names):
    for modality, name in names.items():
        dtype = arrays[modality].dtype.name
        with LmdbWriter(
            folder / name, StoreMeta(modality, BANDS[modality], dtype, arrays[modality].shape[1], "x")
        ) as writer:
            for index, seasons in enumerate(arrays[modality]):
                writer.write(f"{index:07d}", list(seasons))
            writer.finish()


def write_published(folder, arrays):
    for modality, name in NAMES.items():
        with lmdb.open(str(folder / name), map_size=1 << 28) as environment, environment.begin(write=True) as txn:
            for index, stack in enumerate(arrays[modality]):
                txn.put(str(index).encode(), pickle.dumps((stack.tobytes(), stack.shape, f"{index:07d}")))


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


@pytest.fixture(scope="module")
def downstream(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("downstream"), np.random.default_rng(2)
    for part, count in (("train", 6), ("test", 5)):
        labels = rng.integers(0, 8, (count, 1, 4, 4)).repeat(16, 2).repeat(16, 3).astype(np.uint8)
        labels[:, :, :3] = 255
        s2 = (labels[:, :, None] % 8 * 300.0 + rng.normal(1000, 60, (count, 1, 13, 64, 64))).clip(0).astype(np.uint16)
        s1 = (labels[:, :, None] % 8 * 2.0 - 25 + rng.normal(0, 1, (count, 1, 2, 64, 64))).astype(np.float32)
        (folder / part).mkdir()
        files = {"s1": "s1.lmdb", "s2": "s2.lmdb", "labels": "labels.lmdb"}
        write_ours(folder / part, {"s1": s1, "s2": s2, "labels": labels}, files)
    return folder


COMMON = "--model_type resnet18 --crop_size 32 --batch_size 4 --epochs 2 --accelerator cpu --learning_rate 0.001"
METHOD = "--label_smoothing --sample_selection --sample_selection_rmdown_epoch 2 --validation 0.2"


def pretrain_with(save_dir, data, arguments, kind=MultiModalSettings):
    place = ["--save_dir", str(save_dir), "--data_path", str(data)]
    return pretrain(parse(kind, [*COMMON.split(), *place, *arguments.split()]))


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
    for mine, theirs in zip(ours, published):
        for key in mine:
            assert float(mine[key]) == pytest.approx(float(theirs[key]), rel=1e-5), key


PUBLISHED = """
    --input_type s12 --fusion_type mid --model_type resnet50 --n_channels 13 --n_classes 9 --loss_type cd
    --consist_loss_type ce --label_smoothing --label_smoothing_factor 0.15 0.05 --label_smoothing_prior_type ts
    --sample_selection --sample_selection_rmup_func exp --sample_selection_rmdown_epoch 80 --sample_selection_prop 0.5
    --sample_selection_confidence_type ce --experiment ns_labels --validation 0.01 --num_workers 12
    --optimizer adam --learning_rate 0.005 --lr_adjust_type rop --lr_adjust 30
    --data_name_s1 0k_251k_uint8_s1.lmdb --data_name_s2 0k_251k_uint8_s2c.lmdb --data_name_label dw_labels.lmdb
"""


def test_published_command_on_both_layouts(tmp_path):
    """Word for word but for paths, epochs, batch size and device; 264 pixels, ResNet-50."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (4, SEASONS, 33, 33)).repeat(8, 2).repeat(8, 3).astype(np.uint8)
    arrays = {
        m: np.clip(labels[:, :, None] * 20 + rng.integers(0, 40, (4, SEASONS, len(BANDS[m]), 264, 264)), 0, 255)
        for m in ("s1", "s2")
    }
    arrays = {m: a.astype(np.uint8) for m, a in arrays.items()} | {"labels": labels}
    curves = []
    for name in ("ours", "published"):
        (tmp_path / name).mkdir()
        write = partial(write_ours, names=NAMES) if name == "ours" else write_published
        write(tmp_path / name, arrays)
        paths = ["--data_path", str(tmp_path / name), "--save_dir", str(tmp_path / f"runs_{name}")]
        arguments = f"{PUBLISHED} --epochs 1 --batch_size 1 --accelerator cpu".split()
        settings = parse(MultiModalSettings, [*arguments, *paths])
        pretrain(settings)
        (folder,) = (tmp_path / f"runs_{name}").iterdir()
        assert folder.name == "mid_s12_resnet50_seed42"
        curves.append(step_losses(folder))
        shutil.rmtree(folder)
    assert len(curves[0]) == 3
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def step_losses(run):
    events = EventAccumulator(str(run)).Reload()
    return [event.value for event in events.Scalars("train/loss_step")]


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
    assert [event.step for event in events.Images("validation")] == [1, 2]


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


def test_finished_run_is_not_done_again(twins, sets, capsys):
    folder, metrics = twins
    before = (folder / "a" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = pretrain_with(folder, sets / "ours", f"{METHOD} --name a --gt_available --display_interval 1")
    assert again == metrics
    assert (folder / "a" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


def test_run_with_other_settings_is_refused(twins, sets):
    with pytest.raises(ValueError, match=r"learning_rate 0.001 -> 0.1\); choose another --name"):
        pretrain_with(twins[0], sets / "ours", f"{METHOD} --name a --gt_available --learning_rate 0.1")


def test_resume_none_moves_the_old_run_aside(sets, tmp_path):
    arguments = "--name a --epochs 1"
    pretrain_with(tmp_path, sets / "ours", arguments)
    pretrain_with(tmp_path, sets / "ours", f"{arguments} --resume none --learning_rate 0.01")
    assert (tmp_path / "a.1" / "metrics.json").exists()
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["learning_rate"] == 0.01


@pytest.mark.parametrize("schedule", ["--lr_adjust_type rop --lr_adjust 0", "--lr_adjust_type exp --lr_adjust 0.5"])
def test_resumed_run_equals_an_undisturbed_one(sets, tmp_path, schedule):
    flags = f"{METHOD} {schedule}"
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name straight --epochs 3")
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --epochs 1")
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --epochs 3")
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("straight", "parts")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    rows = [table(tmp_path / name / "metrics.csv") for name in ("straight", "parts")]
    assert [row["epoch"] for row in rows[1]] == ["0", "1", "2"]
    assert [row["lr"] for row in rows[0]] == [row["lr"] for row in rows[1]]
    with pytest.raises(ValueError, match=r"--epochs 2: .* has finished 3 epochs already"):
        pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --epochs 2")


@pytest.mark.parametrize("resume", ["missing.ckpt", "/", "setup.cfg"])
def test_resume_from_nothing_is_refused(sets, tmp_path, resume, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ValueError, match=r"--resume|setup\.cfg: cannot be read"):
        pretrain_with(tmp_path, sets / "ours", f"--resume {resume} --max_steps 1")


def test_resume_from_another_model_or_weights_alone_is_refused(twins, sets, tmp_path):
    checkpoints = twins[0] / "a" / "checkpoints"
    with pytest.raises(ValueError, match="weights of another model"):
        pretrain_with(tmp_path, sets / "ours", f"--resume {checkpoints / 'last.ckpt'} --fusion_type late --epochs 3")
    with pytest.raises(ValueError, match="holds no training state"):
        pretrain_with(tmp_path, sets / "ours", f"--resume {checkpoints / 'best.ckpt'} --epochs 3")


def test_broken_newest_checkpoint_is_passed_over(sets, tmp_path, capsys):
    flags = "--name a --save_interval 1"
    pretrain_with(tmp_path, sets / "ours", f"{flags} --epochs 1")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    pretrain_with(tmp_path, sets / "ours", f"{flags} --epochs 2")
    assert "passing it over" in capsys.readouterr().out
    assert [row["epoch"] for row in table(tmp_path / "a" / "metrics.csv")] == ["0", "1"]


def test_steps_may_end_inside_an_epoch(sets, tmp_path):
    metrics = pretrain_with(tmp_path, sets / "ours", "--batch_size 2 --max_steps 1 --name a --lr_adjust_type rop")
    assert np.isfinite(metrics["val/loss"])
    assert (tmp_path / "a" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "--fusion_type late",
        "--use_common_feature --sample_selection",
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


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_single_modality_trains(sets, tmp_path, modality):
    metrics = pretrain_with(tmp_path, sets / "ours", f"--input_type {modality} --max_steps 1", SingleModalSettings)
    assert np.isfinite(metrics[f"val/miou_{modality}"])


def test_loss_falls(sets, tmp_path):
    pretrain_with(tmp_path, sets / "ours", "--epochs 12 --crop_size 64 --learning_rate 0.003 --name a")
    losses = [float(row["train/loss"]) for row in table(tmp_path / "a" / "metrics.csv")]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_a_run_limited_in_steps_goes_on_like_an_unlimited_one(sets, tmp_path):
    """An interruption at an epoch's end, then the same command with more steps; and no step beyond the limit."""
    flags = f"{METHOD} --save_interval 1 --epochs 9"
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name straight --max_steps 3")
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --max_steps 1")
    pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --max_steps 3")
    straight, parts = (table(tmp_path / name / "metrics.csv") for name in ("straight", "parts"))
    assert [row["step"] for row in parts] == ["1", "2", "3"]
    assert [row["train/loss"] for row in parts] == [row["train/loss"] for row in straight]
    with pytest.raises(ValueError, match="--max_steps 2: the run has done 3 steps already"):
        pretrain_with(tmp_path, sets / "ours", f"{flags} --name parts --max_steps 2")


def test_damaged_run_folders_are_named(sets, tmp_path):
    pretrain_with(tmp_path, sets / "ours", "--max_steps 1 --name a")
    for name, content in (("metrics.json", "{"), ("config.yaml", ""), ("config.yaml", "[1")):
        (tmp_path / "a" / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: damaged; delete it"):
            pretrain_with(tmp_path, sets / "ours", "--max_steps 1 --name a")
        (tmp_path / "a" / "metrics.json").unlink(missing_ok=True)


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


def test_start_from_given_weights(twins, sets, tmp_path):
    weights = twins[0] / "a" / "checkpoints" / "last.ckpt"
    trained = torch.load(weights, weights_only=True)["state_dict"]
    settings = parse(MultiModalSettings, f"--model_type resnet18 --fusion_type late --init_s2 {weights}".split())
    fresh = pretraining_task(settings).model
    for modality, same in (("s1", False), ("s2", True)):
        stem = fresh.encoders[modality].conv1.weight
        assert torch.equal(stem, trained[f"model.encoders.{modality}.conv1.weight"]) is same
    with pytest.raises(ValueError, match=r"missing\.ckpt"):
        pretrain_with(tmp_path / "b", sets / "ours", f"--init_s2 {tmp_path / 'missing.ckpt'} --max_steps 1")


def test_weights_of_other_bands_are_refused(sets, downstream, tmp_path):
    """9 bands and 9 bands RGB first fit each other's stems."""
    pretrain_with(tmp_path, sets / "ours", "--n_channels 92 --max_steps 1 --name a")
    weights = tmp_path / "a" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"trained on bands B4 B3 B2 B5 .* but B2 B3 B4 B5 .* are fed"):
        finetune_with(tmp_path, downstream, f"--n_channels 9 --weight_path {weights}")
    finetune_with(tmp_path, downstream, f"--n_channels 92 --weight_path {weights} --max_steps 1")


def test_weights_from_the_network_need_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = parse(MultiModalSettings, ["--model_type", "resnet18", "--init_s2", "imagenet"])
    with pytest.raises(ValueError, match="could not be downloaded"):
        pretraining_task(settings)


def test_labels_of_another_legend_are_refused(sets, downstream, tmp_path):
    meta = StoreMeta("labels", (), "uint8", 1, "class id", legend="OSM")
    for part in ("train", "test"):
        shutil.copytree(downstream / part, tmp_path / "set" / part)
        shutil.rmtree(tmp_path / "set" / part / "labels.lmdb")
        with LmdbWriter(tmp_path / "set" / part / "labels.lmdb", meta) as writer:
            for index in range({"train": 6, "test": 5}[part]):
                writer.write(f"{index:07d}", [np.zeros((64, 64), np.uint8)])
            writer.finish()
    with pytest.raises(ValueError, match="13 classes of OSM, but 8 classes of DFC2020 are wanted"):
        finetune_with(tmp_path, tmp_path / "set", "")


def test_missing_set_is_refused_with_its_path(tmp_path):
    with pytest.raises(ValueError, match=NAMES["s1"]):
        pretrain_with(tmp_path, tmp_path / "nowhere", "")
    assert not list(tmp_path.iterdir())


def finetune_with(save_dir, data, arguments):
    flags = (
        "--model_type resnet18 --crop_size 64 --batch_size 3 --epochs 2 --validation 0 --accelerator cpu --save_maps -1"
    )
    place = ["--save_dir", str(save_dir), "--data_path", str(data)]
    return finetune(parse(FinetuneSettings, [*flags.split(), *place, *arguments.split()]))


def test_scores_equal_a_naive_count_over_the_written_maps(downstream, tmp_path):
    metrics = finetune_with(tmp_path, downstream, "--name a --test_batch_size 2")
    colours = {tuple(colour): i for i, colour in enumerate(DFC2020.palette()[:8].tolist())}
    truth = written_labels(downstream / "test" / "labels.lmdb")
    maps = sorted((tmp_path / "a" / "maps").glob("*.png"))
    assert len(maps) == len(truth) == 5
    confusion = np.zeros((8, 8), int)
    for path in maps:
        image = np.asarray(Image.open(path))
        predicted = np.vectorize(lambda r, g, b: colours[r, g, b])(*image.transpose(2, 0, 1).astype(int))
        for t, p in zip(truth[path.stem].flat, predicted.flat):
            if t != 255:
                confusion[t, p] += 1
    assert metrics["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    assert metrics["miou"] == pytest.approx(np.mean(np.diag(confusion)[union > 0] / union[union > 0]))


def written_labels(path):
    from cromss.store import LmdbReader

    reader = LmdbReader(path)
    return {reader.location_id(i): reader.read(i, 0) for i in range(len(reader))}


@pytest.mark.parametrize("modality", ["s1", "s2"])
@pytest.mark.parametrize("tag", ["efix", "etr"])
def test_transfer_from_our_checkpoint(twins, downstream, tmp_path, modality, tag):
    weights = twins[0] / "a" / "checkpoints" / "last.ckpt"
    flags = f"--weight_path {weights} --input_type {modality} --encoder_finetune_tag {tag} --name a --epochs 1"
    metrics = finetune_with(tmp_path, downstream, flags)
    assert 0 <= metrics["miou"] <= 1
    assert "tensors from" in metrics["weights"]
    state = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    fresh = build_segmenter("pspnet", "resnet18", in_channels=len(BANDS[modality]), num_classes=8)
    load_encoder(fresh.encoder, weights, modality)
    pairs = [(state[key], value) for key, value in fresh.state_dict(prefix="model.").items() if "encoder" in key]
    assert pairs
    same = [torch.equal(tuned, start) for tuned, start in pairs]
    assert all(same) if tag == "efix" else not all(same)


def test_fewer_training_tiles(downstream, tmp_path):
    finetune_with(tmp_path, downstream, "--n_train 3 --epochs 1 --name a")
    with pytest.raises(ValueError, match="--n_train 99: only 6"):
        finetune_with(tmp_path, downstream, "--n_train 99")


def test_every_head_trains(downstream, tmp_path):
    for head in ("unet", "fpn", "deeplabv3plus", "upernet"):
        metrics = finetune_with(
            tmp_path, downstream, f"--model_framework {head} --max_steps 1 --name {head} --save_maps 0"
        )
        assert np.isfinite(metrics["oa"]), head


def test_two_processes_train_and_score(sets, tmp_path):
    arguments = f"{COMMON} --devices 2 --batch_size 2 --name a --data_path {sets / 'ours'} --save_dir {tmp_path}"
    command = [sys.executable, "train_scripts/train_pretrain_mm.py", *arguments.split(), "--validation", "0.3"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [row["step"] for row in table(tmp_path / "a" / "metrics.csv")] == ["1", "2"]
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["epochs"] == 2


def test_two_processes_score_like_one(downstream, tmp_path):
    """Five test tiles on two processes: a filler evens them out and is not counted."""
    arguments = f"""
        --model_type resnet18 --crop_size 64 --accelerator cpu --devices 2 --save_maps -1 --n_train 2 --epochs 1
        --batch_size 1 --name two --save_dir {tmp_path} --data_path {downstream}
    """
    command = [sys.executable, "train_scripts/finetune.py", *arguments.split()]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr[-2000:]
    truth = written_labels(downstream / "test" / "labels.lmdb")
    maps = sorted((tmp_path / "two" / "maps").glob("*.png"))
    assert [path.stem for path in maps] == sorted(truth)
    correct = [np.asarray(Image.open(path)) == DFC2020.palette()[truth[path.stem]] for path in maps]
    counted = np.concatenate([truth[path.stem].ravel() != 255 for path in maps])
    correct = np.concatenate([tile.all(-1).ravel() for tile in correct])
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["oa"] == pytest.approx(correct[counted].mean(), rel=1e-6)
