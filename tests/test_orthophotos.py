"""Orthophotos from raw folders to scores: noisy labels, pretraining, transfer with the encoder frozen."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY

from cromss import synthetic
from cromss.config import read
from cromss.legends import NYC_LIDAR
from cromss.settings import FinetuneSettings, SingleModalSettings
from cromss.store import LmdbReader, LmdbWriter
from cromss.training import finetune, pretrain

pytestmark = pytest.mark.usefixtures("one_thread", "one_row", "narrow")
SMALL = (
    "--model_type tu-test_resnet --crop_size 64 --batch_size 4 --num_workers 0 --epochs 1 --devices 1 --accelerator cpu"
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nyc")
    synthetic.write_nyc(folder / "raw", 5, 1, 72, progress=False)
    command = "data_prepare/write_pretrain_lmdb.py --layout nyc --data_name_label noisy_labels.lmdb"
    paths = ["--data_path", folder / "raw", "--out", folder / "lmdb"]
    subprocess.run([sys.executable, *command.split(), *paths], check=True, cwd=REPOSITORY, capture_output=True)
    return folder / "lmdb"


def pretrained(stores, save_dir, arguments=""):
    config = REPOSITORY / "train_scripts" / "configs" / "nyc.yaml"
    words = f"--config {config} {SMALL} --data_path {stores} --save_dir {save_dir} --validation 0.4 {arguments}"
    return pretrain(read(SingleModalSettings, words.split()))


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    return pretrained(stores, tmp_path_factory.mktemp("runs"), "--gt_available --cal_tr_acc --name a")


def test_noisy_labels_are_learnt_and_exact_ones_scored(run):
    card = torch.load(run["checkpoint"], weights_only=True)["cromss"]
    assert (card["classes"], card["bands"]) == (list(NYC_LIDAR.classes), {"ortho": ["NIR", "R", "G", "B"]})
    assert 0 <= run["val/oa_ortho"] <= 1


def test_training_is_scored_against_exact_labels_where_there_are_any(stores, run, tmp_path):
    other = pretrained(stores, tmp_path, "--cal_tr_acc --name b")
    assert other["train/loss"] == run["train/loss"]
    assert other["train/oa_ortho"] != run["train/oa_ortho"]


def test_exact_labels_are_learnt_on_request(stores, run, tmp_path):
    assert pretrained(stores, tmp_path, "--experiment gt_labels --name b")["train/loss"] != run["train/loss"]


def test_the_encoder_goes_on_to_the_exact_classes(run, tmp_path):
    config = REPOSITORY / "train_scripts" / "configs" / "ft_nyc.yaml"
    words = f"--config {config} {SMALL} --n_train 0 --synthetic_tiles 4 2 --synthetic_size 72 --name a"
    words += f" --weight_path {run['checkpoint']} --save_dir {tmp_path}"
    result = finetune(read(FinetuneSettings, words.split()))
    assert 0 <= result["miou"] <= 1
    frozen = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    before = torch.load(run["checkpoint"], weights_only=True)["state_dict"]
    stem = next(name for name in frozen if name.endswith("encoder.model.conv1.0.weight"))
    assert torch.equal(frozen[stem], before["model.networks.ortho.encoder.model.conv1.0.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--n_classes 9",
            r"--n_classes 9: .*noisy_labels\.lmdb.*4 classes of NYC_LIDAR, but 9 classes are wanted; say --n_classes 4",
        ),
        ("--n_channels 9", "--n_channels 9: must be left out"),
        ("--init_s2 a.ckpt", r"--init_s2 a\.ckpt: must be left out"),
        ("--data_name_ortho exact_labels.lmdb", "exact_labels.lmdb"),
        ("--data_name_label orthophotos.lmdb", "a store of ortho, where noisy or exact labels are wanted"),
        ("--data_name_label exact_labels.lmdb", "--experiment gt_labels"),
        ("--data_name_gt noisy_labels.lmdb --gt_available", "the same store as --data_name_label"),
        ("--data_name_gt no.lmdb --gt_available", r"no\.lmdb"),
        (r"--place_pattern x(\d)", "matches none of 5 whole ids"),
        (r"--place_pattern x\d", "a pattern with a group"),
        ("--place_pattern x(", "no regular expression"),
        ("--place_pattern (00000).", r"1 place\(s\) of 5 locations"),
    ],
)
def test_what_does_not_fit_is_refused(stores, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretrained(stores, tmp_path, f"{arguments} --name x")


def test_exact_labels_of_classes_in_another_order_are_refused(stores, tmp_path):
    store = LmdbReader(stores / "exact_labels.lmdb")
    turned = replace(store.meta, classes=store.meta.classes[::-1], legend="own")
    for name in ("orthophotos.lmdb", "noisy_labels.lmdb"):
        (tmp_path / name).symlink_to(stores / name)
    with LmdbWriter(tmp_path / "exact_labels.lmdb", turned) as writer:
        for index, name in enumerate(store.location_ids()):
            writer.write(name, [store.read(index, 0)])
        writer.finish()
    with pytest.raises(ValueError, match=r"exact_labels\.lmdb has the classes roads, buildings"):
        pretrained(tmp_path, tmp_path / "runs", "--gt_available --name x")


def test_an_optional_group_that_matches_nothing_makes_no_common_place(stores, tmp_path):
    assert pretrained(stores, tmp_path, r"--place_pattern (?:(000003)|.*) --name x")["val/loss"] > 0
