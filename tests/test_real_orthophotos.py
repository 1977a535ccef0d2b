"""Real aerial tiles: a coarse product becomes noisy labels, is compared with the exact ones, and is pretrained on."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY

from cromss.config import parse
from cromss.doctor import examine
from cromss.settings import SingleModalSettings
from cromss.store import LmdbReader, LmdbWriter
from cromss.training import pretrain

pytestmark = pytest.mark.usefixtures("one_thread", "one_row", "narrow")
RULES = "data_prepare/rules/nlcd.yaml"


def script(name, *arguments):
    command = [sys.executable, f"data_prepare/{name}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tiles(real, tmp_path_factory):
    """The tiles with at least two exact classes."""
    folder = tmp_path_factory.mktemp("naip")
    for tile in sorted((real / "naip").iterdir()):
        with rasterio.open(tile / "landcover.tif") as file:
            if len(np.unique(file.read())) > 1:
                (folder / tile.name).symlink_to(tile)
    assert len(list(folder.iterdir())) == 7
    return folder


@pytest.fixture(scope="module")
def stores(tiles, tmp_path_factory):
    noisy, out = tmp_path_factory.mktemp("noisy"), tmp_path_factory.mktemp("lmdb")
    script("make_noisy_labels", "--data_path", tiles, "--pattern", "*/nlcd.tif", "--rules", RULES, "--out", noisy)
    script(
        *("write_pretrain_lmdb", "--layout", "tiles", "--data_path", tiles, "--out", out),
        *("--modalities", "ortho", "labels", "exact"),
        *("--ortho_pattern", "naip_new.tif", "--band_order", "R", "G", "B", "NIR"),
        *("--labels_path", noisy, "--label_pattern", "*.tif", "--label_codes", noisy / "legend.yaml"),
        *("--exact_pattern", "landcover.tif", "--exact_codes", "data_prepare/rules/landcover.yaml"),
    )
    return out


def test_report_of_the_stores_equals_a_recount(tiles, stores, tmp_path):
    masks = ["--noisy", stores / "dw_labels.lmdb", "--exact", stores / "exact_labels.lmdb"]
    script("label_quality", *masks, "--out", tmp_path / "report")
    confusion = np.zeros((3, 3), int)
    for tile in tiles.iterdir():
        with rasterio.open(tile / "nlcd.tif") as noisy, rasterio.open(tile / "landcover.tif") as exact:
            codes, truth = noisy.read(1), exact.read(1)
        given = np.isin(codes, (41, 42, 43, 90)) + 2 * np.isin(codes, (22, 23, 24))
        true = (truth == 2) + 2 * np.isin(truth, (5, 6))
        np.add.at(confusion, (true, given), 1)
    with (tmp_path / "report" / "confusion.csv").open(newline="") as file:
        counted = [[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    assert counted == confusion.tolist()


def rasters(tiles, name):
    """One array a tile, in the order of their names."""
    found = []
    for tile in sorted(tiles.iterdir()):
        with rasterio.open(tile / name) as file:
            found.append(file.read())
    return np.stack(found)


def test_the_doctor_finds_nothing_wrong_in_the_stores(tiles, stores):
    examination = examine(sorted(stores.glob("*.lmdb")))
    labels, exact, ortho = examination.reports
    assert (examination.findings, [report["num_examined"] for report in examination.reports]) == ([], [7, 7, 7])
    assert labels["classes"]["trees"] == pytest.approx(np.isin(rasters(tiles, "nlcd.tif"), (41, 42, 43, 90)).mean())
    assert exact["classes"]["built"] == pytest.approx(np.isin(rasters(tiles, "landcover.tif"), (5, 6)).mean())
    for name, values in zip(("R", "G", "B", "NIR"), rasters(tiles, "naip_new.tif").swapaxes(0, 1)):
        band = ortho["bands"][name]
        assert (band["mean"], band["std"]) == pytest.approx((values.mean(), values.std()))


def test_the_doctor_finds_a_photo_that_is_there_twice(stores, tmp_path):
    reader = LmdbReader(stores / "orthophotos.lmdb")
    with LmdbWriter(tmp_path / "twice", reader.meta) as writer:
        for index, name in enumerate([*reader.location_ids(), "again"]):
            writer.write(name, [reader.read(index if index < 7 else 2, 0)])
        writer.finish()
    (finding,) = examine([tmp_path / "twice"]).findings
    assert (finding.code, finding.index) == ("same-pixels", 7)
    assert reader.location_id(2) in finding.what


def test_pretraining_on_the_noisy_labels(stores, tmp_path):
    words = f"""
        --input_type ortho --n_classes 3 --data_path {stores} --gt_available --model_type tu-test_resnet
        --validation 0.5 --place_pattern (.*)-\\d --crop_size 64 --batch_size 2 --epochs 25 --learning_rate 2e-3
        --lr_adjust_type none --display_interval 25 --save_dir {tmp_path} --name a --accelerator cpu --devices 1
    """
    result = pretrain(parse(SingleModalSettings, words.split()))
    with (tmp_path / "a" / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-3:]) < 0.85 * losses[0]
    assert {f"val_iou_ortho/{name}" for name in ("other", "trees")} <= result.keys()
