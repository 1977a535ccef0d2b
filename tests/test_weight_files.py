"""Weights files are opened without running code, out of any container, and a damaged one is one line."""

import argparse
import pickle

import pytest
import torch
from foreign import Attack, bare, encoder, holds, mid, moco, save, tensors
from safetensors.torch import save_file

from cromss.models.weight_files import WeightsError, read_state_dict, told_bands
from cromss.models.weights import inspect, load_encoder
from cromss.sensors import S2, S2_SUBSETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "teacher", "student"])
def test_every_container_is_opened(tmp_path, container):
    content = {container: {"a": torch.ones(2)}, "epoch": 3, "optimizer": {"b": torch.ones(1)}}
    assert list(read_state_dict(save(content, tmp_path / "w.pt"))) == ["a"]


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}, torch.ones(2), {3: torch.ones(2)}])
def test_files_without_tensors(tmp_path, content):
    with pytest.raises(WeightsError, match=r"w\.pt: no tensors found"):
        read_state_dict(save(content, tmp_path / "w.pt"))


def test_safetensors(tmp_path):
    save_file({key: value.contiguous() for key, value in bare().items()}, tmp_path / "encoder.safetensors")
    target = encoder()
    assert load_encoder(target, tmp_path / "encoder.safetensors").layout == "bare"
    assert holds(target, tensors())


def test_old_container_without_zip(tmp_path):
    torch.save(mid(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    target = encoder()
    assert load_encoder(target, tmp_path / "w.pt").layout == "cromss-mid"
    assert holds(target, tensors())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [False, True])
def test_code_is_refused_and_not_run(tmp_path, zipped, hidden):
    attack = Attack(tmp_path / "ran")
    content = mid() | {"hyper_parameters": argparse.Namespace(attack=attack)} if hidden else attack
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"w\.pt: holds a pickled \w+\.system, which was not run") as caught:
        inspect(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Attack(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in bare().items()}, path)
    else:
        save(mid(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=rf"w{suffix}: cannot be read as weights") as caught:
        load_encoder(encoder(), path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pt: no such file"):
        inspect(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="a folder, not a weights file"):
        inspect(tmp_path)


CARD = {"cromss": {"bands": {"s2": ["B4", "B3", "B2"], "s1": "VV"}}}
TWO = {"cromss": {"bands": {"s2": ["B3", "B2"], "s1": ["VV"]}}}
SETTINGS = argparse.Namespace(n_channels=92)


@pytest.mark.parametrize(
    ("content", "modality", "in_channels", "bands"),
    [
        (CARD, "s2", 3, ("B4", "B3", "B2")),
        (CARD, "s1", 2, None),
        (CARD, "common", 15, None),
        (TWO, "common", 3, ("VV", "B3", "B2")),
        (TWO, "common", None, ("VV", "B3", "B2")),
        (TWO, "common", 15, None),
        (CARD | {"hyper_parameters": SETTINGS}, "s2", 3, ("B4", "B3", "B2")),
        ({"hyper_parameters": SETTINGS}, "s2", 9, S2_SUBSETS[92]),
        ({"hyper_parameters": {"args": SETTINGS, "lr": 0.1}}, "s2", 9, S2_SUBSETS[92]),
        ({"hyper_parameters": SETTINGS}, "s2", 13, None),
        ({"hyper_parameters": SETTINGS}, "s1", 2, None),
        (mid(13), "s2", 13, S2.bands),
        ({"hyper_parameters": argparse.Namespace(n_channels=[9])}, "s2", 9, None),
        ({"hyper_parameters": {"n_channels": "9"}}, "s2", 9, None),
        (moco(), "s2", 13, None),
        ({"cromss": "a card"}, "s2", 13, None),
        ([1], "s2", 13, None),
    ],
)
def test_bands_that_a_checkpoint_tells(content, modality, in_channels, bands):
    assert told_bands(content, modality, in_channels) == bands
