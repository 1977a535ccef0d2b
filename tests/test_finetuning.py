"""Transfer from settings to metrics: whole runs on tiny sets."""

import csv
import io
import json
import os
import pickle
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, load_script
from PIL import Image
from processes import run_together
from sets import PART, raw_arrays, season_arrays, write_ours, written_labels
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cromss import callbacks, checkpointing, signals
from cromss.config import parse
from cromss.downstream_sets import CHANGE_SCORES
from cromss.legends import DFC2020, DW, OSCD
from cromss.models import build_segmenter
from cromss.models.weights import load_encoder
from cromss.sensors import S1, S2
from cromss.settings import FinetuneSettings, MultiModalSettings
from cromss.signals import StopRequested
from cromss.store import LmdbWriter, StoreMeta
from cromss.store.repair import exclude
from cromss.tasks import FinetuneTask
from cromss.training import finetune, pretrain
from cromss.training.common import tell_small_tiles
from cromss.training.downstream import downstream_data
from cromss.training.finetuning import summary

pytestmark = pytest.mark.usefixtures("one_row", "narrow")

BANDS = {"s1": S1.bands, "s2": S2.bands}
COUNTS = {"train": 6, "test": 5}
SMALL = "--model_type tu-test_resnet --crop_size 64 --batch_size 3 --epochs 2 --accelerator cpu --save_maps -1"
RESNET18 = "--model_type resnet18"


@pytest.fixture(scope="module")
def downstream(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("downstream"), np.random.default_rng(2)
    for part, count in COUNTS.items():
        write_ours(folder / part, raw_arrays(count, rng), PART)
    return folder


@pytest.fixture(scope="module")
def change(tmp_path_factory):
    """Two dates; the test cities differ in size and are larger than the training tiles."""
    folder, rng = tmp_path_factory.mktemp("change"), np.random.default_rng(3)
    sizes = {"train": [(64, 64)] * 6, "test": [(96, 70), (65, 80), (64, 110)]}
    for part, shapes in sizes.items():
        s2, labels = [], []
        for height, width in shapes:
            changed = rng.random((height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)[:height, :width] < 0.2
            dates = rng.normal(1500, 60, (2, 13, height, width))
            dates[1] += 900 * changed
            s2.append(dates.astype(np.uint16))
            labels.append(changed[None].astype(np.uint8))
        ids = [f"{part}_r{i}_c0" if part == "train" else f"city{i}" for i in range(len(shapes))]
        write_ours(folder / part, {"s2": s2, "labels": labels}, {"s2": "s2.lmdb", "labels": "labels.lmdb"}, ids)
    return folder


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Checkpoint of a short middle-fusion pretraining."""
    folder, arrays = tmp_path_factory.mktemp("twins"), season_arrays()
    names = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}
    write_ours(folder / "set", arrays, names)
    flags = (
        f"--model_type tu-test_resnet --crop_size 32 --batch_size 4 --epochs 1 --accelerator cpu "
        f"--data_path {folder / 'set'}"
    )
    return pretrain(parse(MultiModalSettings, f"{flags} --save_dir {folder} --name a".split()))["checkpoint"]


def settings_of(save_dir, data, arguments):
    place = ["--save_dir", str(save_dir), *(["--data_path", str(data)] if data else [])]
    return parse(FinetuneSettings, [*SMALL.split(), *place, *arguments.split()])


def finetune_with(save_dir, data, arguments):
    return finetune(settings_of(save_dir, data, arguments))


def state_of(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def encoder_of(state):
    return {name: value for name, value in state.items() if "encoder" in name}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def naive_confusion(folder, legend, truth):
    """Confusion counts from the maps that were written, pixel by pixel."""
    colours = {tuple(colour): i for i, colour in enumerate(legend.palette()[: legend.num_classes].tolist())}
    confusion = np.zeros((legend.num_classes, legend.num_classes), int)
    maps = sorted(folder.glob("*.png"))
    assert [path.stem for path in maps] == sorted(truth)
    for path in maps:
        image = np.asarray(Image.open(path)).astype(int)
        shown = truth[path.stem]
        predicted = np.vectorize(lambda r, g, b: colours[r, g, b])(*image.transpose(2, 0, 1))
        predicted = predicted[: shown.shape[0], : shown.shape[1]]
        for t, p in zip(shown.flat, predicted.flat):
            if t != 255:
                confusion[t, p] += 1
    return confusion


def test_scores_equal_a_naive_count_over_the_written_maps(downstream, tmp_path):
    metrics = finetune_with(tmp_path, downstream, "--name a --test_batch_size 2")
    confusion = naive_confusion(tmp_path / "a" / "maps", DFC2020, written_labels(downstream / "test" / "labels.lmdb"))
    assert metrics["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    assert metrics["miou"] == pytest.approx(np.mean(np.diag(confusion)[union > 0] / union[union > 0]))


def test_the_picture_shows_the_first_tiles_with_exact_labels_and_predictions(downstream, tmp_path, monkeypatch):
    monkeypatch.undo()  # `one_row`
    drawn, draw = [], callbacks.panel
    monkeypatch.setattr(callbacks, "panel", lambda rows, *more: drawn.append((rows, more[-1])) or draw(rows, *more))
    finetune_with(tmp_path, downstream, "--name a --input_type s12 --max_steps 1 --test_batch_size 3")
    ((rows, names),) = drawn
    truth = written_labels(downstream / "test" / "labels.lmdb")
    assert names == list(truth)[:4]
    for name, row in zip(names, rows, strict=True):
        shown = ["Sentinel-1 (VV, VH)", "Sentinel-2 (RGB)", "exact label", "prediction"]
        assert list(row) == shown
        np.testing.assert_array_equal(row["exact label"], DFC2020.palette()[truth[name]])
        written = np.asarray(Image.open(tmp_path / "a" / "maps" / f"{name}.png"))
        np.testing.assert_array_equal(row["prediction"], written)
    (found,) = (tmp_path / "a").glob("*.png")
    events = EventAccumulator(str(tmp_path / "a"), {"images": 0}).Reload()
    (event,) = events.Images("test")
    assert np.array_equal(Image.open(found), Image.open(io.BytesIO(event.encoded_image_string)))


def test_a_signal_stops_the_test_which_is_done_again(downstream, tmp_path, monkeypatch):
    calls = iter(range(9))
    whole = finetune_with(tmp_path, downstream, "--name whole --test_batch_size 2 --max_steps 1")
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "noted", lambda: signal.SIGUSR1 if next(calls) == 2 else 0)
        with pytest.raises(StopRequested, match="stopped after step 1; the same command goes on"):
            finetune_with(tmp_path, downstream, "--name a --test_batch_size 2 --max_steps 1")
    assert not (tmp_path / "a" / "metrics.json").exists()
    again = finetune_with(tmp_path, downstream, "--name a --test_batch_size 2 --max_steps 1")
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_are_heard_within_the_test(downstream, tmp_path, monkeypatch, number):
    plain = FinetuneTask.test_step

    def asked(*arguments):
        os.kill(os.getpid(), number)
        return plain(*arguments)

    before = signal.getsignal(signal.SIGUSR1)
    signals.listen(signals.REQUEUE)
    monkeypatch.setattr(FinetuneTask, "test_step", asked)
    with pytest.raises(StopRequested, match=f"{signal.Signals(number).name}: stopped after step 1"):
        finetune_with(tmp_path, downstream, "--name a --max_steps 1")
    signal.signal(signal.SIGUSR1, before)
    assert signals.noted() == 0


@pytest.fixture
def repaired(downstream, tmp_path):
    """Training tile 1 and test tiles 0 and 3 are out of use, each in one store alone."""
    shutil.copytree(downstream, tmp_path / "set")
    exclude(tmp_path / "set" / "train" / "labels.lmdb", {1: "damaged"})
    exclude(tmp_path / "set" / "test" / "labels.lmdb", {0: "gone"}, drop=True)
    exclude(tmp_path / "set" / "test" / "s2.lmdb", {3: "damaged"})
    return tmp_path / "set"


def test_tiles_left_out_of_use_are_neither_trained_on_nor_scored(repaired, downstream, tmp_path, capsys):
    metrics = finetune_with(tmp_path, repaired, "--name a --test_batch_size 2 --max_steps 1")
    printed = capsys.readouterr().out
    assert f"{repaired / 'train' / 'labels.lmdb'}: 1 of 6 locations are left out of use" in printed
    assert f"{repaired / 'test' / 'labels.lmdb'}: 2 of 5 locations are left out of use" in printed
    truth = {
        name: labels
        for name, labels in written_labels(downstream / "test" / "labels.lmdb").items()
        if name not in ("0000000", "0000003")
    }
    confusion = naive_confusion(tmp_path / "a" / "maps", DFC2020, truth)
    assert metrics["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())


def test_tiles_left_out_of_use_are_no_part_of_splits(repaired, tmp_path):
    data = downstream_data(settings_of(tmp_path, repaired, ""))
    assert sorted(data.train_indices) == [0, 2, 3, 4, 5]
    data = downstream_data(settings_of(tmp_path, repaired, "--validation 0.34"))
    assert sorted([*data.train_indices, *data.val_indices]) == [0, 2, 3, 4, 5]
    sizes = []
    for fraction in (40, 60, 100):
        chosen = downstream_data(settings_of(tmp_path, repaired, f"--fraction {fraction}")).train_indices
        assert 1 not in chosen
        sizes.append(len(chosen))
    assert sizes == [2, 3, 5]


@pytest.mark.parametrize("part", ["train", "test"])
def test_parts_without_a_tile_in_use_are_refused(downstream, tmp_path, part):
    shutil.copytree(downstream, tmp_path / "set")
    exclude(tmp_path / "set" / part / "s2.lmdb", dict.fromkeys(range(COUNTS[part]), "gone"), drop=True)
    with pytest.raises(ValueError, match=rf"all {COUNTS[part]} locations wanted are left out of use"):
        downstream_data(settings_of(tmp_path, tmp_path / "set", ""))


@pytest.mark.parametrize("batch", [1, 3])
def test_change_scores_equal_a_naive_count(change, tmp_path, batch):
    """Cities of differing sizes, alone or padded to one batch: every pixel counts once."""
    flags = f"--dataset OSCD --model_framework unet --encoder_finetune_tag etr --name a --test_batch_size {batch}"
    metrics = finetune_with(tmp_path, change, flags)
    truth = written_labels(change / "test" / "labels.lmdb")
    confusion = naive_confusion(tmp_path / "a" / "maps", OSCD, truth)
    assert confusion.sum() == sum(labels.size for labels in truth.values())
    hit, union = confusion[1, 1], confusion[1].sum() + confusion[:, 1].sum() - confusion[1, 1]
    assert metrics["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert metrics["iou"] == pytest.approx(hit / union)
    assert metrics["recall"] == pytest.approx(hit / confusion[1].sum())
    assert (tmp_path / "a" / "test_tiles.png").is_file()


def test_city_in_both_parts_is_refused(change, tmp_path):
    shutil.copytree(change, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "train")
    shutil.copytree(change / "test", tmp_path / "set" / "train")
    with pytest.raises(ValueError, match="city0, city1, city2: both in train and in test"):
        finetune_with(tmp_path, tmp_path / "set", "--dataset OSCD --model_framework unet --name a")


def test_maps_have_the_size_of_their_city(change, tmp_path):
    finetune_with(tmp_path, change, "--dataset OSCD --model_framework unet --name a --test_batch_size 3 --max_steps 1")
    for name, labels in written_labels(change / "test" / "labels.lmdb").items():
        assert Image.open(tmp_path / "a" / "maps" / f"{name}.png").size == labels.shape[::-1]


def test_change_is_learnt(change, tmp_path):
    flags = "--dataset OSCD --model_framework unet --encoder_finetune_tag etr --epochs 12 --learning_rate 5e-3 --name a"
    metrics = finetune_with(tmp_path, change, flags)
    assert metrics["iou"] > 0.5


@pytest.mark.parametrize("modality", ["s1", "s2"])
@pytest.mark.parametrize("tag", ["efix", "etr"])
def test_transfer_from_our_checkpoint(twins, downstream, tmp_path, modality, tag):
    flags = f"--weight_path {twins} --input_type {modality} --encoder_finetune_tag {tag} --name a --epochs 1"
    metrics = finetune_with(tmp_path, downstream, flags)
    assert 0 <= metrics["miou"] <= 1
    assert "48/48 tensors" in metrics["weights"]["images"]
    fresh = build_segmenter("pspnet", "tu-test_resnet", in_channels=len(BANDS[modality]), num_classes=8)
    load_encoder(fresh.encoder, twins, modality)
    start = encoder_of(fresh.state_dict(prefix="model."))
    assert start
    assert equal(encoder_of(state_of(tmp_path / "a")), start) is (tag == "efix")


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(twins, downstream, tmp_path):
    folder = Path(twins).parent.parent
    found = [
        finetune_with(tmp_path / place, downstream, f"--weight_path {path} --input_type s2 --max_steps 1")
        for place, path in (("file", twins), ("folder", folder))
    ]
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["miou"] == found[1]["miou"]
    (run,) = {path.name for place in ("file", "folder") for path in (tmp_path / place).iterdir()}
    assert folder.name in run
    with pytest.raises(ValueError, match=r"--weight_path .*file: no checkpoint in this folder"):
        finetune_with(tmp_path, downstream, f"--weight_path {tmp_path / 'file'} --input_type s2 --max_steps 1")


@pytest.mark.parametrize(("size", "told"), [((64, 64), "64 x 64 px: 75% "), ((128, 96), "128 x 96 px: 25% ")])
def test_tiles_smaller_than_the_crop_are_told(size, told, capsys):
    labels = SimpleNamespace(read_seasons=lambda index: np.zeros((4, *size), np.uint8))
    tell_small_tiles(SimpleNamespace(min_size=128, labels=labels, in_use=lambda: [3]))
    assert f"tiles of {told}of a crop is mirrored, without labels (--crop_size 128)" in capsys.readouterr().out
    tell_small_tiles(SimpleNamespace(min_size=64, labels=labels, in_use=lambda: [3]))
    assert not capsys.readouterr().out


def test_twin_encoders_take_both_from_one_checkpoint(twins, downstream, tmp_path):
    flags = f"--weight_path {twins} --input_type s12 --fusion_type twin --model_framework unet --name a --epochs 1"
    metrics = finetune_with(tmp_path, downstream, flags)
    assert set(metrics["weights"]) == {"s1", "s2"}
    assert all("90/90 tensors" in line for line in metrics["weights"].values())


def test_both_modalities_stacked(downstream, tmp_path):
    metrics = finetune_with(tmp_path, downstream, "--input_type s12 --name a --max_steps 1")
    assert 0 <= metrics["oa"] <= 1
    assert next(iter(encoder_of(state_of(tmp_path / "a")).values())).shape[1] == 15


def test_orthophotos(tmp_path):
    rng = np.random.default_rng(5)
    for part in ("train", "test"):
        labels = rng.integers(0, 8, (4, 1, 4, 4)).repeat(16, 2).repeat(16, 3).astype(np.uint8)
        ortho = (labels[:, :, None] * 25 + rng.integers(0, 30, (4, 1, 4, 64, 64))).astype(np.uint8)
        files = {"ortho": "ortho.lmdb", "labels": "labels.lmdb"}
        write_ours(tmp_path / "set" / part, {"ortho": ortho, "labels": labels}, files)
    metrics = finetune_with(tmp_path, tmp_path / "set", "--dataset NYC --input_type ortho --name a")
    assert 0 <= metrics["miou"] <= 1


@pytest.fixture(scope="module")
def published_and_ours(tmp_path_factory):
    """The same tiles with Dynamic World codes as one published LMDB a part, and as stores of ours."""
    folder, rng = tmp_path_factory.mktemp("dw"), np.random.default_rng(4)
    for part, count in COUNTS.items():
        arrays = raw_arrays(count, rng, num_classes=9)
        side = "-" if part == "train" else ""
        ids = [f"{i}.5_{side}{i}.25-20200{i + 1}01" for i in range(count)]
        write_ours(folder / "ours" / part, arrays, PART, ids)
        codes = np.where(arrays["labels"] == 255, 10, arrays["labels"] + 1).astype(np.uint8)
        values = {"s1": arrays["s1"][:, 0], "s2": arrays["s2"][:, 0], "dw": codes[:, 0]}
        with lmdb.open(str(folder / part), map_size=1 << 28) as environment, environment.begin(write=True) as txn:
            for key, stack in values.items():
                for i, array in enumerate(stack):
                    value = (array.tobytes(), array.shape, f"{key}_{ids[i]}")
                    txn.put(f"{key}_{i}".encode(), pickle.dumps(value))
    return folder


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_published_lmdb_gives_the_same_run_as_ours(published_and_ours, tmp_path, modality):
    flags = f"--dataset DW --input_type {modality} --model_framework fpn --epochs 1"
    ours = finetune_with(tmp_path, published_and_ours / "ours", f"{flags} --name ours")
    paths = f"--train_path {published_and_ours / 'train'} --test_path {published_and_ours / 'test'}"
    published = finetune_with(tmp_path, "", f"{flags} {paths} --name published")
    for key in ("oa", "aa", "miou", "mf1", "iou"):
        assert published[key] == ours[key]
    truth = written_labels(published_and_ours / "ours" / "test" / "labels.lmdb")
    confusion = naive_confusion(tmp_path / "published" / "maps", DW, truth)
    assert published["oa"] == pytest.approx(np.trace(confusion) / confusion.sum())


def test_fewer_training_tiles(downstream, tmp_path):
    metrics = finetune_with(tmp_path, downstream, "--n_train 3 --epochs 1 --name a")
    assert metrics["train_tiles"] == 3
    with pytest.raises(ValueError, match="99"):
        finetune_with(tmp_path, downstream, "--n_train 99")


def test_fractions_are_nested_saved_and_seeded(downstream, tmp_path):
    chosen = {
        share: set(downstream_data(settings_of(tmp_path, downstream, f"--fraction {share}")).train_indices)
        for share in (1, 20, 50, 80, 100)
    }
    assert [len(tiles) for tiles in chosen.values()] == [1, 2, 3, 5, 6]
    shares = list(chosen)
    assert all(chosen[a] <= chosen[b] for a, b in pairwise(shares))
    (saved,) = (tmp_path / "splits").glob("*.txt")
    told = settings_of(tmp_path / "b", downstream, f"--fraction 50 --split_file {saved}")
    assert set(downstream_data(told).train_indices) == chosen[50]
    others = [
        tuple(downstream_data(settings_of(tmp_path, downstream, f"--n_train 2 --split_seed {s}")).train_indices)
        for s in range(6)
    ]
    assert len(set(others)) > 1


def test_validation_tiles_are_not_trained_on(downstream, tmp_path):
    data = downstream_data(settings_of(tmp_path, downstream, "--validation 0.34 --fraction 50"))
    assert len(data.val_indices) == 2
    assert len(data.train_indices) == 2
    assert not set(data.val_indices) & set(data.train_indices)


def test_heads_train(downstream, tmp_path):
    for head in ("unetplusplus", "deeplabv3plus", "fpn", "upernet"):
        flags = f"--model_framework {head} --max_steps 1 --name {head} --save_maps 0"
        assert np.isfinite(finetune_with(tmp_path, downstream, flags)["oa"]), head


@pytest.mark.parametrize(
    "arguments",
    [
        "--optimizer sgd --scheduler_type step --scheduler_values 1",
        "--scheduler_type exp --decoder_finetune_tag dasc --encoder_finetune_tag etr --model_framework unet",
        "--scheduler_type none --decoder_finetune_tag ddes",
        "--normalization zscore --input_type s1",
        "--moving_batchnorm --absent one --encoder_depth 5",
        "--loss_type f --validation 0.3",
    ],
)
def test_protocols_train(downstream, tmp_path, arguments):
    assert 0 <= finetune_with(tmp_path, downstream, f"{arguments} --name a")["oa"] <= 1


def test_late_unfreezing_keeps_the_encoder_until_its_epoch(downstream, tmp_path):
    flags = "--encoder_finetune_tag eft --encoder_finetune_epoch 2 --save_interval 1 --scheduler_type none"
    finetune_with(tmp_path, downstream, f"{flags} --epochs 4 --name a")
    frozen = finetune_with(tmp_path, downstream, "--epochs 2 --scheduler_type none --name frozen")
    assert frozen
    folder = tmp_path / "a" / "checkpoints"
    encoders = [
        encoder_of(torch.load(path, weights_only=True)["state_dict"]) for path in sorted(folder.glob("epoch*.ckpt"))
    ]
    assert len(encoders) == 4
    assert equal(encoders[0], encoders[1])
    assert not equal(encoders[1], encoders[2])
    assert equal(encoders[1], encoder_of(state_of(tmp_path / "frozen")))


def test_late_unfreezing_resumes_like_an_undisturbed_run(downstream, tmp_path):
    flags = "--encoder_finetune_tag eft --encoder_finetune_epoch 2 --scheduler_type none"
    finetune_with(tmp_path, downstream, f"{flags} --epochs 4 --name whole")
    finetune_with(tmp_path, downstream, f"{flags} --epochs 3 --name parts")
    finetune_with(tmp_path, downstream, f"{flags} --epochs 4 --name parts")
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_more_epochs_need_a_schedule_that_does_not_follow_from_their_number(downstream, tmp_path):
    finetune_with(tmp_path, downstream, "--epochs 1 --name a --save_maps 0")
    with pytest.raises(ValueError, match=r"other settings .epochs 1 -> 2"):
        finetune_with(tmp_path, downstream, "--epochs 2 --name a --save_maps 0")
    for epochs in (1, 2):
        flags = f"--scheduler_values 5 1e-5 --epochs {epochs} --name b --save_maps 0"
        assert finetune_with(tmp_path, downstream, flags)["epochs"] == epochs


def test_run_killed_before_its_scores_is_scored(downstream, tmp_path):
    flags = "--max_steps 1 --name a --save_maps 0"
    first = finetune_with(tmp_path, downstream, flags)
    (tmp_path / "a" / "metrics.json").unlink()
    again = finetune_with(tmp_path, downstream, flags)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_learning_rates_stand_in_their_own_epoch(downstream, tmp_path):
    flags = "--scheduler_type step --scheduler_values 1 2 --learning_rate 1e-3 --epochs 3 --name a --save_maps 0"
    finetune_with(tmp_path, downstream, flags)
    with (tmp_path / "a" / "metrics.csv").open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_refused_start_does_not_bind_its_folder(downstream, tmp_path):
    flags = "--model_framework deeplabv3plus --n_train 1 --max_steps 1 --name a --save_maps 0"
    with pytest.raises(ValueError, match="a batch of one tile"):
        finetune_with(tmp_path, downstream, f"{flags} --crop_size 16 --batch_size 1")
    finetune_with(tmp_path, downstream, f"{flags} --n_train 2 --batch_size 2")


@pytest.mark.parametrize("content", ["null", '{"epochs": "2", "max_steps": -1}', "[]", "{"])
def test_damaged_metrics_are_named(downstream, tmp_path, content):
    finetune_with(tmp_path, downstream, "--max_steps 1 --name a --save_maps 0")
    (tmp_path / "a" / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json: damaged"):
        finetune_with(tmp_path, downstream, "--max_steps 1 --name a --save_maps 0")


def test_labels_that_are_all_ignored_are_refused(downstream, tmp_path):
    arrays = raw_arrays(2, np.random.default_rng(0))
    write_ours(tmp_path / "set" / "train", arrays | {"labels": np.full_like(arrays["labels"], 255)}, PART)
    shutil.copytree(downstream / "test", tmp_path / "set" / "test")
    with pytest.raises(ValueError, match="not one training pixel has a label"):
        finetune_with(tmp_path, tmp_path / "set", "--name a")


def test_nan_of_a_single_tile_is_refused(downstream, tmp_path):
    arrays = raw_arrays(9, np.random.default_rng(0))
    arrays["s1"][5, 0, 0, 3, 4] = np.nan
    write_ours(tmp_path / "set" / "train", arrays, PART)
    shutil.copytree(downstream / "test", tmp_path / "set" / "test")
    with pytest.raises(ValueError, match="location 0000005: s1 holds NaN"):
        finetune_with(tmp_path, tmp_path / "set", "--name a --input_type s1 --batch_size 9")


def test_tile_in_both_parts_is_refused(published_and_ours, tmp_path):
    shutil.copytree(published_and_ours / "ours" / "train", tmp_path / "copy")
    paths = f"--train_path {published_and_ours / 'ours' / 'train'} --test_path {tmp_path / 'copy'}"
    with pytest.raises(ValueError, match="both in train and in test"):
        finetune_with(tmp_path, "", f"--dataset DW --model_framework fpn {paths} --name a")


def test_validation_of_nothing_is_refused(downstream, tmp_path):
    with pytest.raises(ValueError, match=r"--validation 0\.01: holds out none of 6 tiles"):
        finetune_with(tmp_path, downstream, "--validation 0.01 --name a")


def test_told_split_file_must_be_there(downstream, tmp_path):
    with pytest.raises(ValueError, match=r"--split_file nowhere\.txt: no such file"):
        finetune_with(tmp_path, downstream, "--fraction 50 --split_file nowhere.txt")


def test_several_seeds_are_summarised(downstream, tmp_path):
    flags = "--epochs 1 --save_maps 0"
    metrics = finetune_with(tmp_path, downstream, f"{flags} --seed 3 1 2")
    runs = [finetune_with(tmp_path, downstream, f"{flags} --seed {seed}") for seed in (3, 1, 2)]
    scores = [run["miou"] for run in runs]
    assert len(set(scores)) > 1
    assert metrics["miou"] == pytest.approx(np.mean(scores))
    assert metrics["std"]["miou"] == pytest.approx(np.std(scores, ddof=1))
    assert metrics["runs"] == runs
    (saved,) = tmp_path.glob("*_seeds_3_1_2.json")
    assert json.loads(saved.read_text()) == metrics
    with pytest.raises(ValueError, match="--seed 1 2: several seeds follow each other"):
        finetune_with(tmp_path, downstream, "--seed 1 2 --devices 2")


def test_summary_leaves_undefined_scores_out():
    runs = [{"oa": 0.5, "iou": None}, {"oa": 0.7, "iou": 0.2}]
    result = summary(runs, ("oa", "iou"))
    assert result["oa"] == pytest.approx(0.6)
    assert result["std"] == {"oa": pytest.approx(0.1 * 2**0.5), "iou": None}
    assert result["iou"] == 0.2


def test_weights_of_other_bands_are_refused(downstream, tmp_path):
    """9 bands and 9 bands RGB first fit each other's stems."""
    state = build_segmenter("unet", "resnet18", in_channels=9, num_classes=9).state_dict(prefix="model.networks.s2.")
    weights = tmp_path / "last.ckpt"
    bands = {"s2": ["B4", "B3", "B2", "B5", "B6", "B7", "B8", "B11", "B12"]}
    torch.save({"state_dict": state, "cromss": {"bands": bands}}, weights)
    with pytest.raises(ValueError, match=r"B4 B3 B2 B5 .* but B2 B3 B4 B5 .* are fed"):
        finetune_with(tmp_path, downstream, f"{RESNET18} --n_channels 9 --weight_path {weights}")
    finetune_with(tmp_path, downstream, f"{RESNET18} --n_channels 92 --weight_path {weights} --max_steps 1")


def test_native_normalisation_of_foreign_weights(downstream, tmp_path):
    state = build_segmenter("unet", "resnet18", in_channels=13, num_classes=9).encoder.state_dict()
    weights = tmp_path / "bare.pth"
    torch.save(state, weights)
    flags = f"{RESNET18} --weight_path {weights} --normalization native --max_steps 1"
    with pytest.raises(ValueError, match="weight_source"):
        finetune_with(tmp_path, downstream, f"{flags} --name a")
    metrics = finetune_with(tmp_path, downstream, f"{flags} --weight_source moco --name b")
    assert metrics["normalization"] == {"s2": "reflectance"}
    tuned = tmp_path / "b" / "checkpoints" / "last.ckpt"
    again = finetune_with(tmp_path, downstream, f"{RESNET18} --weight_path {tuned} --normalization native --name c")
    assert again["normalization"] == {"s2": "reflectance"}
    settings = settings_of(tmp_path, downstream, "")
    sample = downstream_data(settings, {"s2": "reflectance"}).test[0]["s2"]
    raw = downstream_data(settings).test.images["s2"].read(0, 0)
    np.testing.assert_allclose(sample, np.clip(raw / 10000, 0, 1), rtol=1e-6)


def test_stacked_weights_keep_their_bands_and_normalisation(downstream, tmp_path):
    flags = "--input_type s12 --normalization zscore --n_channels 9 --max_steps 1"
    finetune_with(tmp_path, downstream, f"{flags} --name a")
    weights = f"--weight_path {tmp_path / 'a' / 'checkpoints' / 'last.ckpt'} --input_type s12 --max_steps 1"
    again = finetune_with(tmp_path, downstream, f"{weights} --n_channels 9 --normalization native --name b")
    assert again["normalization"] == {"s1": "zscore", "s2": "zscore"}
    with pytest.raises(ValueError, match=r"trained on bands VV VH B2 B3 B4 .* but VV VH B4 B3 B2"):
        finetune_with(tmp_path, downstream, f"{weights} --n_channels 92 --name c")


def test_bare_weights_of_nine_bands_want_their_order_told(downstream, tmp_path):
    weights = tmp_path / "bare.pth"
    torch.save(build_segmenter("unet", "resnet18", in_channels=9, num_classes=9).encoder.state_dict(), weights)
    flags = f"{RESNET18} --weight_path {weights} --max_steps 1"
    for n_channels in (9, 92):
        with pytest.raises(ValueError, match="two orders"):
            finetune_with(tmp_path, downstream, f"{flags} --n_channels {n_channels} --name a")
    with pytest.raises(ValueError, match="trained on bands B4 B3 B2"):
        finetune_with(tmp_path, downstream, f"{flags} --n_channels 9 --weight_source satlas --name a")
    finetune_with(tmp_path, downstream, f"{flags} --n_channels 92 --weight_source satlas --name a")


def test_quantised_stores_have_no_native_normalisation(downstream, tmp_path):
    for part in COUNTS:
        arrays = raw_arrays(2, np.random.default_rng(0))
        write_ours(tmp_path / "set" / part, arrays | {"s2": (arrays["s2"] // 20).astype(np.uint8)}, PART)
    with pytest.raises(ValueError, match="raw"):
        _ = downstream_data(settings_of(tmp_path, tmp_path / "set", ""), {"s2": "reflectance"}).test[0]


@pytest.mark.parametrize(
    ("modality", "change_values", "message"),
    [
        ("s1", lambda s1: 10 ** (s1 / 10), "looks linear"),
        ("s1", lambda s1: np.full_like(s1, np.nan), "NaN"),
        ("s2", lambda s2: (s2 / 20).clip(0, 255).astype(np.uint16), "8-bit"),
    ],
)
def test_raw_values_in_other_units_are_refused(downstream, tmp_path, modality, change_values, message):
    arrays = raw_arrays(2, np.random.default_rng(0))
    arrays[modality] = change_values(arrays[modality])
    for part in COUNTS:
        write_ours(tmp_path / "set" / part, arrays, PART)
    with pytest.raises(ValueError, match=message):
        finetune_with(tmp_path, tmp_path / "set", f"--input_type {modality}")


def test_labels_of_another_legend_are_refused(downstream, tmp_path):
    meta = StoreMeta("labels", (), "uint8", 1, "class id", legend="OSM")
    for part, count in COUNTS.items():
        shutil.copytree(downstream / part, tmp_path / "set" / part)
        shutil.rmtree(tmp_path / "set" / part / "labels.lmdb")
        with LmdbWriter(tmp_path / "set" / part / "labels.lmdb", meta) as writer:
            for index in range(count):
                writer.write(f"{index:07d}", [np.zeros((64, 64), np.uint8)])
            writer.finish()
    with pytest.raises(ValueError, match="13 classes of OSM, but 8 classes of DFC2020 are wanted"):
        finetune_with(tmp_path, tmp_path / "set", "")


def test_missing_parts_are_named(tmp_path, downstream):
    with pytest.raises(ValueError, match="nowhere"):
        finetune_with(tmp_path, tmp_path / "nowhere", "")
    with pytest.raises(ValueError, match="nowhere"):
        finetune_with(tmp_path, "", f"--train_path {downstream / 'train'} --test_path {tmp_path / 'nowhere'}")


def test_two_processes_unfreeze_late_stay_alike_and_score_like_one(change, tmp_path):
    """Three cities on two processes, evened out by a filler that is not counted; the encoder is frozen in the first
    epoch, trained in the second. Without metrics.json the finished run is only scored again."""
    flags = (
        f"{SMALL} --dataset OSCD --model_framework fpn --batch_size 2 --encoder_finetune_tag eft "
        f"--encoder_finetune_epoch 1 --save_interval 1 --name two --save_dir {tmp_path} --data_path {change}"
    )
    run_together(tmp_path, 2, "train_scripts/finetune.py", *flags.split(), "--devices", 2)
    truth = written_labels(change / "test" / "labels.lmdb")
    confusion = naive_confusion(tmp_path / "two" / "maps", OSCD, truth)
    assert confusion.sum() == sum(labels.size for labels in truth.values())
    together = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert together["oa"] == pytest.approx(np.trace(confusion) / confusion.sum(), rel=1e-6)
    first, second = (
        encoder_of(torch.load(path, weights_only=True)["state_dict"])
        for path in sorted((tmp_path / "two" / "checkpoints").glob("epoch*.ckpt"))
    )
    assert not equal(first, second)
    (tmp_path / "two" / "metrics.json").unlink()
    alone = finetune(parse(FinetuneSettings, flags.split()))
    assert {key: together[key] for key in CHANGE_SCORES} == {key: alone[key] for key in CHANGE_SCORES}


def test_scores_are_printed_with_their_spread(downstream, tmp_path, capsys):
    settings = settings_of(tmp_path, downstream, "--epochs 1 --seed 1 2 --save_maps 0")
    load_script("finetune", REPOSITORY / "train_scripts").main(settings)
    assert "+-" in capsys.readouterr().out.strip().splitlines()[-1]
    with next(tmp_path.glob("*seed1/metrics.csv")).open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0"]
