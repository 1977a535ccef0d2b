"""Checkpoints to go on from: what they tell, and what is refused in a line before anything is made of it."""

import os

import pytest
import torch
from test_training import METHOD, pretrain_one

from cromss.training.saved_state import SavedState, misfit, saved_state

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")
MISSING = object()
FLAGS = f"{METHOD} --optimizer sgd --name a --epochs"


@pytest.fixture(scope="module")
def home(noisy, tmp_path_factory):
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    pretrain_one(folder, noisy, f"{FLAGS} 1")
    return folder


@pytest.fixture(scope="module")
def content(home):
    """What its last checkpoint holds."""
    return torch.load(home / "a" / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def saved(content, tmp_path):
    """Saves other content: `saved("a", "b", value)` changes content["a"]["b"]."""

    def save(*keys_and_value):
        *keys, value = keys_and_value
        torch.save(changed(content, keys, value), tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return save


def changed(content, keys, value):
    """A mapping with another value behind some keys, or without the last of these."""
    key, *rest = keys
    if value is MISSING and not rest:
        return {name: part for name, part in content.items() if name != key}
    return content | {key: changed(content[key], rest, value) if rest else value}


def test_it_tells_how_far_the_run_has_come_and_by_which_command(home):
    path = home / "a" / "checkpoints" / "last.ckpt"
    state = saved_state(path)
    assert state == SavedState(path, 1, 1, state.settings)
    assert (state.settings["epochs"], state.settings["name"]) == (1, "a")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(("epoch", value) for value in ("1", True, None, -5, 2.0)),
        *(("global_step", value) for value in (10**30, -7, None, torch.tensor(2))),
        *(("pytorch-lightning_version", value) for value in ("abc", 2, None, "2.5; import os")),
        *(("state_dict", value) for value in ("x", {"a": 1}, [torch.zeros(1)])),
        *(("optimizer_states", value) for value in ("x", {}, [1], [{}], [{"state": {}, "param_groups": [1]}])),
        *(("optimizer_states", [{"state": {0: 1}, "param_groups": []}]), ("optimizer_states", None)),
        *(("lr_schedulers", value) for value in (None, "x", [1])),
        *(("loops", value) for value in ("x", None, {"fit_loop": None})),
        *(("callbacks", value) for value in ("x", {"EpochTable": 1})),
        *(("epoch_sums", value) for value in ("x", {"confusion": 1}, {"confusion": {"counts": 1}})),
        *(("cromss", value) for value in ("x", {}, {"settings": "x"}, {"settings": {"learning_rate": "0.1"}})),
    ],
)
def test_what_no_training_leaves_is_refused(saved, entry, value):
    with pytest.raises(ValueError, match=rf"--resume .*other\.ckpt: {entry} is not what a training leaves there"):
        saved_state(saved(entry, value))


@pytest.mark.parametrize("entry", ["epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops"])
def test_weights_alone_are_refused(saved, entry):
    with pytest.raises(ValueError, match=r"weights without training state; they go to --weight_path or --init_s1"):
        saved_state(saved(entry, MISSING))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("loops", "fit_loop"), MISSING),
        (("loops", "fit_loop"), {}),
        (("loops", "fit_loop", "epoch_progress"), "x"),
        (("loops", "fit_loop", "epoch_progress", "current", "processed"), "1"),
        (("loops", "fit_loop", "epoch_loop.batch_progress", "total"), MISSING),
        (("callbacks", "LastCheckpoint", "processes"), "2"),
        (("callbacks", "LastCheckpoint", "batches"), MISSING),
    ],
)
def test_progress_that_the_trainer_cannot_take_over_is_refused(home, noisy, saved, keys, value):
    where = r"\.".join(keys[:2])
    with pytest.raises(ValueError, match=rf"--resume .*other\.ckpt: {where}.* is not what a training leaves there"):
        pretrain_one(home, noisy, f"{FLAGS} 2 --resume {saved(*keys, value)} --max_steps 3")


def test_another_version_of_lightning_may_have_left_less(noisy, saved, tmp_path):
    path = saved("loops", "fit_loop", "epoch_loop.val_loop.state_dict", MISSING)
    flags = f"{FLAGS} 2 --resume {path} --name b"
    with pytest.raises(ValueError, match=r"loops\.fit_loop\.epoch_loop\.val_loop\.state_dict is not what a training"):
        pretrain_one(tmp_path, noisy, flags)
    less = torch.load(path, weights_only=True)
    torch.save(less | {"pytorch-lightning_version": "2.5.0"}, path)
    assert pretrain_one(tmp_path, noisy, flags)["val/loss"] > 0


def test_settings_that_cannot_be_compared_are_those_of_another_command(home, noisy, saved, monkeypatch):
    """A requeued job goes on from what it has saved itself alone."""
    path = home / "a" / "checkpoints" / "last.ckpt"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    before = path.read_bytes()
    os.replace(saved("cromss", "settings", "epochs", torch.zeros(3)), path)
    try:
        pretrain_one(home, noisy, f"{FLAGS} 1 --resume none")
    finally:
        path.write_bytes(before)
    assert (home / "a.1").exists()


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"a": {"b": 1, "c": True}, "d": "x", "more": 5}, ""),
        ({"a": {"b": 1, "c": True}, "d": None}, ""),
        ({"a": {"b": 1.0, "c": True}, "d": None}, "all.a.b"),
        ({"a": {"b": True, "c": True}, "d": None}, "all.a.b"),
        ({"a": {"b": 1}, "d": None}, "all.a.c"),
        ({"a": [1], "d": None}, "all.a"),
        ([], "all"),
    ],
)
def test_misfits_are_named(told, wrong):
    assert misfit(told, {"a": {"b": 0, "c": False}, "d": None}, "all") == wrong
