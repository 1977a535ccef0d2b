"""Pretraining runs opened again: what is restored, and what is refused."""

import re

import pytest
import torch
from checkpoints import save_checkpoint, settings_of, state_dict_of

from cromss.config import to_flat
from cromss.training.pretrained import blank_network, open_pretrained, settings_from

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

RUNS = (
    "--input_type s2",
    "--input_type s1 --init_s1 somewhere.ckpt --seed 7",
    "--input_type s12 --fusion_type mid --use_common_feature --label_smoothing --label_smoothing_factor 0.1",
    "--input_type s12 --fusion_type late --amp",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "some.ckpt")


@pytest.mark.parametrize("arguments", RUNS)
def test_settings_come_back_from_the_card(arguments):
    settings = settings_of(arguments)
    assert settings_from(to_flat(settings)) == settings


def test_settings_that_are_new_have_their_defaults():
    flat = to_flat(settings_of("--input_type s2"))
    del flat["layer_decay"]
    assert settings_from(flat).optimisation.layer_decay == 1


def test_a_dofa_has_its_wavelengths_again():
    settings = settings_of("--input_type s1 --model_type dofa_tiny_patch16_32 --wavelengths 3.75 3.75")
    assert settings_from(to_flat(settings)) == settings
    assert blank_network(settings).encoders["s1"] is not None


@pytest.mark.parametrize("arguments", RUNS[1:3])
def test_networks_come_back_with_all_weights(tmp_path, arguments):
    path = save_checkpoint(tmp_path / "x.ckpt", arguments, seed=3, classes=["a", "b"])
    opened = open_pretrained(str(path), "noisy")
    network = opened.network()
    original, restored = state_dict_of(arguments, 3), network.state_dict()
    assert original.keys() == {f"model.{name}" for name in restored}
    assert all(torch.equal(original[f"model.{name}"], tensor) for name, tensor in restored.items())
    assert not network.training
    assert (opened.path, opened.epochs, opened.classes) == (path, 2, ("a", "b"))
    assert opened.settings == settings_of(arguments)


def changed(flat=None, **entries):
    """A change of the card."""
    return entries | ({"settings": to_flat(settings_of("--input_type s2")) | flat} if flat else {})


TENSOR = {"model.networks.s2.encoder.model.conv1.0.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (changed(settings=None), "not a checkpoint of pretraining"),
        (changed(settings=[1]), "not a checkpoint of pretraining"),
        (changed(classes=5), "damaged: its epoch is no number, or its classes are no list"),
        (changed({"new_setting": 3}), "new_setting"),
        (changed({"n_classes": "nine"}), "n_classes"),
        (changed({"n_classes": 1}), "--n_classes 1: must be at least 2"),
        (changed({"input_type": "s3"}), "input_type"),
        (changed({"model_type": "resnet5"}), "encoder_name 'resnet5': no such encoder"),
        (changed({"n_classes": 4}), "its weights do not fit its settings"),
        (changed({"model_type": "resnet18"}), "its weights do not fit its settings"),
        (changed(state_dict=TENSOR), "its weights do not fit its settings"),
        (changed(state_dict={}), "no tensors found"),
    ],
)
def test_cards_that_tell_another_network_are_refused(tmp_path, changes, words):
    path = save_checkpoint(tmp_path / "x.ckpt", **changes)
    check_refused(path, words)


def test_an_epoch_that_is_no_number_is_refused(tmp_path):
    path = save_checkpoint(tmp_path / "x.ckpt")
    torch.save(torch.load(path, weights_only=True) | {"epoch": "1"}, path)
    check_refused(path, "damaged: its epoch is no number")


def check_refused(path, words):
    with pytest.raises(ValueError, match=rf"^--exact {re.escape(str(path))}.*{re.escape(words)}") as error:
        open_pretrained(str(path), "exact").network()
    assert "\n" not in str(error.value)
    assert str(error.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": TENSOR}, "not a checkpoint of pretraining"),
        ({"state_dict": TENSOR, "cromss": {"bands": {}, "settings": {}}}, "not a checkpoint of pretraining"),
        (TENSOR, "not a checkpoint of pretraining"),
        ([1, 2], "not a checkpoint of pretraining"),
        (b"no checkpoint at all", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    check_refused(path, words)


def test_damaged_weights_are_refused(tmp_path, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.networks.s2.segmentation_head.0.weight"][0] = torch.nan
    torch.save(content, tmp_path / "x.ckpt")
    check_refused(tmp_path / "x.ckpt", "its weights are damaged (networks.s2.segmentation_head.0.weight holds NaN")


def test_missing_files_and_empty_folders_are_refused(tmp_path):
    check_refused(tmp_path / "nothing.ckpt", "no such file")
    check_refused(tmp_path, "no checkpoint in this folder")
