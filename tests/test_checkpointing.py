"""Runs that stop at any step and go on as if nothing had happened."""

import multiprocessing
import os
import re
import shutil
import signal
from itertools import count
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import METHOD, pretrain_one, pretrain_with, table
from torch.utils.tensorboard import SummaryWriter

from cromss import checkpointing
from cromss.checkpointing import AtomicCheckpointIO, LastCheckpoint
from cromss.signals import StopRequested

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

FLAGS = f"{METHOD} --epochs 3 --batch_size 2 --cal_tr_acc --lr_adjust_type rop --lr_adjust 0 --display_interval 4"


@pytest.fixture(scope="module")
def straight(noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    pretrain_one(folder, noisy, f"{FLAGS} --name run")
    return outcome(folder / "run")


def outcome(folder):
    """Final weights, rows of metrics.csv, and TensorBoard's curves and steps of its pictures."""
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    events.Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    pictures = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return weights, table(folder / "metrics.csv"), curves, pictures


def stop_after(monkeypatch, asked):
    """A signal is seen where it is looked for the `asked`-th time: after each step but the last, and each epoch."""
    calls = count(1)
    monkeypatch.setattr(checkpointing, "noted", lambda: signal.SIGUSR1 if next(calls) == asked else 0)


@pytest.mark.parametrize(("stops", "num_workers"), [((2, 1, 3), 0), ((3, 1), 1), ((4, 2), 1)], ids=str)
def test_stopped_runs_end_like_an_undisturbed_one(noisy, straight, tmp_path, monkeypatch, stops, num_workers):
    """Within the first epoch, again and again; at its end; within the second, and at its end: three steps each."""
    flags = f"{FLAGS} --name run --num_workers {num_workers}"
    for asked in stops:
        stop_after(monkeypatch, asked)
        with pytest.raises(StopRequested, match=r"SIGUSR1: stopped after step \d; the same command goes on"):
            pretrain_one(tmp_path, noisy, flags)
    monkeypatch.undo()
    pretrain_one(tmp_path, noisy, flags)
    weights, rows, curves, pictures = outcome(tmp_path / "run")
    assert weights.keys() == straight[0].keys()
    assert all(torch.equal(weights[key], value) for key, value in straight[0].items())
    assert [without_time(row) for row in rows] == [without_time(row) for row in straight[1]]
    assert curves == straight[2]
    assert pictures == straight[3]


def test_a_run_begun_on_a_gpu_goes_on_on_a_cpu(noisy, straight, tmp_path, monkeypatch):
    """What a GPU has left of kernels, and of their momentum, has the channels last."""
    stop_after(monkeypatch, 2)
    with pytest.raises(StopRequested):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    monkeypatch.undo()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for state in (content["state_dict"], *content["optimizer_states"][0]["state"].values()):
        for name, value in state.items():
            if value.ndim == 4:
                state[name] = value.contiguous(memory_format=torch.channels_last)
    torch.save(content, last)
    pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    weights = outcome(tmp_path / "run")[0]
    assert all(torch.equal(weights[key], value) for key, value in straight[0].items())


def test_a_step_of_a_single_batch_at_the_end_of_an_epoch_is_logged_and_gone_on_from(noisy, tmp_path, monkeypatch):
    """Three batches an epoch make a step of two, and one of one."""
    flags = f"{FLAGS} --epochs 2 --accumulate 2 --display_interval 0"
    pretrain_one(tmp_path, noisy, f"{flags} --name straight")
    for asked in (1, 1):  # at the end of the first epoch's first step, and at the end of the epoch
        stop_after(monkeypatch, asked)
        with pytest.raises(StopRequested):
            pretrain_one(tmp_path, noisy, f"{flags} --name run")
    monkeypatch.undo()
    pretrain_one(tmp_path, noisy, f"{flags} --name run")
    (weights, _, curves, _), stopped = outcome(tmp_path / "straight"), outcome(tmp_path / "run")
    assert [step for step, _ in curves["train/loss_step"]] == [0, 1, 2, 3]
    assert stopped[2] == curves
    assert all(torch.equal(stopped[0][key], value) for key, value in weights.items())


def test_a_run_killed_after_its_last_step_has_no_score_twice(noisy, straight, tmp_path):
    pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert "val/loss" in pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    assert outcome(tmp_path / "run")[2:] == straight[2:]


def test_a_run_that_ended_within_an_epoch_goes_on_there(noisy, tmp_path):
    """With the rest of its batches, and the rates of its epochs."""
    flags = f"{METHOD} --epochs 2 --batch_size 2 --cal_tr_acc --lr_adjust_type exp --lr_adjust 0.1 --display_interval 0"
    pretrain_with(tmp_path, noisy, f"{flags} --name straight")
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --save_interval 1 --max_steps 2")
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --save_interval 1")
    straight, parts = outcome(tmp_path / "straight"), outcome(tmp_path / "parts")
    assert all(torch.equal(parts[0][key], value) for key, value in straight[0].items())
    assert [without_time(row) for row in parts[1]] == [without_time(row) for row in straight[1]]


def test_a_stop_at_the_end_of_an_epoch_leaves_out_none_of_its_checkpoints(noisy, tmp_path, monkeypatch):
    stop_after(monkeypatch, 3)
    with pytest.raises(StopRequested, match="after step 3"):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name run --save_interval 1 --display_interval 0")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"best.ckpt", "epoch=0000.ckpt", "last.ckpt"}
    kept = torch.load(checkpoints / "last.ckpt", weights_only=True)["callbacks"]
    named = {Path(path).name for state in kept.values() for path in state.get("best_k_models", ())}
    assert named == {"best.ckpt", "epoch=0000.ckpt"}


def without_time(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_killed_run_leaves_no_step_twice(noisy, straight, tmp_path, monkeypatch):
    """Ends without a checkpoint of the last steps, which TensorBoard has seen."""
    stop_after(monkeypatch, 2)
    with pytest.raises(StopRequested):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    monkeypatch.setattr(checkpointing, "noted", lambda: 0)
    monkeypatch.setattr(L.Trainer, "save_checkpoint", lambda *_, **__: None)
    seen = count()

    def die(self, trainer, task, *_):
        if next(seen) == 3:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("cromss.callbacks.StepSeed.on_train_batch_end", die, raising=False)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    monkeypatch.undo()
    pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    assert outcome(tmp_path / "run")[2] == straight[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_loader_processes_outlive_what_the_whole_job_is_sent(noisy, tmp_path, monkeypatch, number):
    def send(self, trainer, task, *_):
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)

    monkeypatch.setattr("cromss.callbacks.StepSeed.on_train_batch_end", send, raising=False)
    flags = f"{METHOD} --epochs 1 --batch_size 2 --num_workers 1 --display_interval 0 --name run"
    assert pretrain_one(tmp_path, noisy, flags)["train/loss"] > 0


def cut(content):
    return content[:-1000]


def flip(content):
    """A bit in the middle, which is within a tensor."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.fixture(scope="module")
def stopped(noisy, tmp_path_factory):
    """A run that was stopped within its second epoch, and has saved after each step."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "interval_s", -1, raising=False)
        stop_after(patch, 5)
        with pytest.raises(StopRequested):
            pretrain_one(folder, noisy, f"{FLAGS} --name run --save_seconds 0")
    return folder / "run"


@pytest.mark.parametrize("damage", [cut, flip])
def test_the_checkpoint_before_is_gone_on_from_where_the_last_is_broken(
    noisy, straight, stopped, tmp_path, capsys, damage
):
    shutil.copytree(stopped, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    pretrain_one(tmp_path, noisy, f"{FLAGS} --name run --save_seconds 0")
    assert re.search(r"last\.ckpt: (cannot be read|damaged in).*; passing it over", capsys.readouterr().out)
    weights, _, curves, _ = outcome(tmp_path / "run")
    assert all(torch.equal(weights[key], value) for key, value in straight[0].items())
    assert curves == straight[2]


def test_only_the_newest_checkpoints_are_kept(noisy, tmp_path):
    flags = f"{METHOD} --epochs 4 --name run --save_interval 1 --keep_checkpoints"
    pretrain_one(tmp_path, noisy, f"{flags} 2")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch=*"))
    assert kept == ["epoch=0002.ckpt", "epoch=0003.ckpt"]


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    target, before = tmp_path / "last.ckpt", {"a": torch.ones(3)}
    io = AtomicCheckpointIO(target, tmp_path / "previous.ckpt")
    io.save_checkpoint(before, target)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointing.torch, "save", full)
    with pytest.raises(OSError, match=r"last\.ckpt: cannot be written, \d+ MB are free on its disk; make room"):
        io.save_checkpoint({"a": torch.zeros(3)}, target)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(target, weights_only=True)["a"], before["a"])


def test_the_version_before_is_kept(tmp_path):
    target, before = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    io = AtomicCheckpointIO(target, before)
    for number in range(3):
        io.save_checkpoint({"number": number}, target)
    io.save_checkpoint({"number": 9}, tmp_path / "epoch=0001.ckpt")
    assert [torch.load(path, weights_only=True)["number"] for path in (target, before)] == [2, 1]


def test_what_is_logged_lies_in_files_before_a_checkpoint_does(noisy, tmp_path, monkeypatch):
    done = []
    for kind, name in ((SummaryWriter, "flush"), (AtomicCheckpointIO, "save_checkpoint")):
        monkeypatch.setattr(kind, name, noting(done, name, getattr(kind, name)))
    pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --save_seconds 0 --name run")
    before = [done[at - 1] for at, name in enumerate(done) if name == "save_checkpoint"]
    assert before == ["flush"] * 4, done


def noting(done, name, work):
    """The same work, which adds its name to what is done."""

    def noted(*given, **options):
        done.append(name)
        return work(*given, **options)

    return noted


def test_within_an_epoch_the_number_of_processes_stays(noisy, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    with pytest.raises(StopRequested):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    monkeypatch.undo()
    monkeypatch.setattr(LastCheckpoint, "load_state_dict", lambda self, state: setattr(self, "processes", 4))
    with pytest.raises(ValueError, match="1 processes: the checkpoint lies within an epoch of 4; go on with 4"):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name run")
    monkeypatch.undo()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="2 batches: the checkpoint lies within an epoch of 3; go on with 3"):
        pretrain_one(tmp_path, noisy, f"{FLAGS} --name other --batch_size 3 --resume {last}")
