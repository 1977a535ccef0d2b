"""Real tiles from GeoTIFF to LMDB to pretraining."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY
from PIL import Image

from cromss.config import parse
from cromss.legends import OSCD
from cromss.sensors import S2, quantise
from cromss.settings import FinetuneSettings, MultiModalSettings
from cromss.store import LmdbReader
from cromss.training import finetune, pretrain

SNOW = "terramesh_609U_541L_3_0"


def write(*arguments):
    command = [sys.executable, "data_prepare/write_pretrain_lmdb.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)


@pytest.fixture(scope="module")
def tiles(real, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiles")
    source = ["--data_path", real / "s12_tiles", "--out", out, "--layout", "tiles", "--s2_pattern", "S2L1C.tif"]
    result = write(*source, "--s2_offset_ids", f"{SNOW}=1000")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_snow_asks_to_be_told(real, tmp_path):
    result = write(
        "--data_path", real / "s12_tiles", "--out", tmp_path, "--layout", "tiles", "--s2_pattern", "S2L1C.tif"
    )
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert SNOW in line
    assert "--s2_offset_ids" in line
    assert not list(tmp_path.glob("*.lmdb"))


def test_offsets_are_decided_and_said(tiles):
    out, said = tiles
    with (out / "s2_offsets.csv").open() as file:
        decided = {row["id"]: (row["offset"], row["decided_by"]) for row in csv.DictReader(file)}
    assert decided == {
        "sen12mscr_ROIs1970_fall_139_p839": ("0", "pixels"),
        "terramesh_282D_485L_3_3": ("1000", "pixels"),
        "terramesh_38D_378R_2_3": ("0", "pixels"),
        SNOW: ("1000", "told"),
    }
    assert "s2 offset 1000: 1 scenes (pixels)" in said


def test_stores_hold_the_quantised_pixels(tiles, real):
    reader = LmdbReader(tiles[0] / "0k_251k_uint8_s2c.lmdb", "s2")
    assert reader.num_seasons == 1
    for index, name in enumerate(reader.location_ids()):
        with rasterio.open(real / "s12_tiles" / name / "S2L1C.tif") as source:
            dn = source.read()
        offset = 1000 if name in ("terramesh_282D_485L_3_3", SNOW) else 0
        expected = quantise(np.maximum(dn.astype(int) - offset, 0), S2)
        np.testing.assert_array_equal(reader.read(index, 0), expected)


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_pretraining_on_real_tiles(tiles, tmp_path, fusion):
    """30 steps on tiles of 224 and 256 pixels: finite, falling loss."""
    arguments = f"""
        --data_path {tiles[0]} --save_dir {tmp_path} --name a --fusion_type {fusion} --model_type tu-test_resnet
        --crop_size 64 --batch_size 1 --epochs 10 --max_steps 30 --learning_rate 0.003
        --label_smoothing --sample_selection --sample_selection_rmdown_epoch 7 --accelerator cpu --display_interval 10
        --validation 0.25 --save_interval 100
    """
    pretrain(parse(MultiModalSettings, arguments.split()))
    with (tmp_path / "a" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows]
    assert (len(rows), rows[-1]["step"]) == (10, "30")
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.85 * losses[0]


def test_ssl4eo_scenes_are_read_in_their_own_layout(real, tmp_path):
    result = write(
        *("--data_path", real / "ssl4eo_layout", "--out", tmp_path, "--s2_dir", "imgs", "--modalities", "s2"),
    )
    assert result.returncode == 0, result.stderr
    reader = LmdbReader(tmp_path / "0k_251k_uint8_s2c.lmdb", "s2")
    assert reader.location_ids() == ["000000", "000001"]
    assert reader.read(1, 0).shape == (13, 264, 264)


@pytest.fixture(scope="module")
def cities(real, tmp_path_factory):
    """Change stores of one training and two test cities; date 2 of hongkong has another pixel size."""
    out = tmp_path_factory.mktemp("oscd")
    command = [sys.executable, "data_prepare/write_oscd_lmdb.py", "--data_path", str(real / "oscd"), "--out", str(out)]
    flags = ["--train_cities", "saclay_e", "--test_cities", "hongkong", "bordeaux"]
    result = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    return out


def test_change_detection_on_real_cities(cities, tmp_path):
    """A few steps; the loss falls, and every pixel of both test cities is scored once."""
    arguments = f"""
        --dataset OSCD --data_path {cities} --save_dir {tmp_path} --name a --model_framework unet
        --model_type tu-test_resnet --encoder_finetune_tag etr --crop_size 64 --batch_size 4 --epochs 8
        --limit_batches 3 --learning_rate 1e-3 --scheduler_type none --test_batch_size 1
        --accelerator cpu --save_maps -1
    """
    metrics = finetune(parse(FinetuneSettings, arguments.split()))
    with (tmp_path / "a" / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]
    labels = LmdbReader(cities / "test" / "labels.lmdb")
    right = counted = 0
    for index, name in enumerate(labels.location_ids()):
        truth = labels.read(index, 0)
        shown = np.asarray(Image.open(tmp_path / "a" / "maps" / f"{name}.png"))
        predicted = (shown == OSCD.palette()[1]).all(-1)
        assert predicted.shape == truth.shape
        right, counted = right + ((predicted == truth) & (truth != 255)).sum(), counted + (truth != 255).sum()
    assert metrics["oa"] == pytest.approx(right / counted)
