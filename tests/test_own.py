"""One's own set, from raw folders and its own statistics to scores with its own class names."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, load_script
from rasters import fake_db, fake_dn, write_tiff

from cromss import layouts
from cromss.config import parse, read
from cromss.layouts.own import list_own
from cromss.sensors import S1, S2
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.settings.pretraining_set import PretrainSet
from cromss.store import LmdbReader
from cromss.training import finetune, pretrain

pytestmark = [
    pytest.mark.usefixtures("one_thread", "one_row", "narrow"),
]

DAYS = ("20200210", "20200615", "20201001")
RADAR_DAYS = ("20200212", "20200611", "20201004")
LEGEND = {
    "classes": {"reed": "1b6b3a", "open water": "2f7ed8", "salt pan": "c8a878"},
    "codes": {11: "reed", 22: "open water", 33: "salt pan"},
    "ignored": [0],
}
CODES = np.array([11, 22, 33, 0], np.uint8)
IDS = ("north farm", "west", "east", "ridge", "old dam")
STORES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}
TINY = "--model_type tu-test_resnet --crop_size 32 --batch_size 2 --epochs 1 --accelerator cpu --seed 1"

writer, statistics, downstream = map(
    load_script, ("write_pretrain_lmdb", "compute_statistics", "write_downstream_lmdb")
)


def write_world(root, ids, days, size=40):
    """A set with darker optical images than the built-in statistics, and a legend of its own."""
    rng = np.random.default_rng(len(days))
    for name in ids:
        for day, radar_day in zip(days, RADAR_DAYS):
            write_tiff(root / "s2" / name / f"S2A_{day}T054639.tif", fake_dn(rng, size) // 2)
            write_tiff(root / "s1" / name / f"{radar_day}.tif", fake_db(rng, size) - 3)
            write_tiff(root / "labels" / name / f"mask-{day}.tif", CODES[rng.integers(0, 4, (size, size))])
    (root / "legend.yaml").write_text(yaml.safe_dump(LEGEND, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Raw set, statistics, stores and a twin pretraining of it; a downstream set beside it."""
    home = tmp_path_factory.mktemp("own")
    raw = write_world(home / "raw", IDS, DAYS)
    statistics.main(statistics.RawStatistics(raw, home / "statistics.yaml"))
    writer.main(PretrainSet(raw, home / "lmdb", layout="own", statistics=home / "statistics.yaml"))
    data = f"--data_path {home / 'lmdb'} --n_classes 3 --save_dir {home / 'runs'} {TINY}"
    pretrain(parse(MultiModalSettings, f"--name twin --fusion_type mid {data}".split()))
    for part, ids in (("train", ("a1", "a2", "a3")), ("test", ("b1", "b2"))):
        write_world(home / "small" / part, ids, DAYS[:1])
    (home / "small" / "legend.yaml").write_text(yaml.safe_dump(LEGEND, sort_keys=False))
    downstream.main(downstream.DownstreamFolders("OWN", home / "small", home / "own"))
    return home


def test_quantised_values_equal_a_recount(world):
    told = yaml.safe_load((world / "statistics.yaml").read_text())
    locations = {place.id: place for place in list_own(world / "raw", ("s1", "s2"))}
    raw, stored = {"s1": [], "s2": []}, {name: LmdbReader(world / "lmdb" / STORES[name]) for name in ("s1", "s2")}
    for name, sensor in (("s1", S1), ("s2", S2)):
        for index in range(len(IDS)):
            place = locations[stored[name].location_id(index)]
            raw[name] += [layouts.location.read_image(path, sensor) for path in place.scenes[name]]
        pixels = np.stack(raw[name]).astype(np.float64)
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        np.testing.assert_allclose(told[name]["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(told[name]["std"], std, rtol=1e-12)
        assert told[name]["count"] == pixels[:, 0].size
        assert stored[name].meta.statistics == {key: told[name][key] for key in ("mean", "std")}
        mean, std = (np.array(told[name][key])[:, None, None] for key in ("mean", "std"))
        for image, position in zip(raw[name], np.ndindex(len(IDS), 3)):
            values = image if image.dtype.kind == "f" else image.astype(np.float64)
            low, width = (mean - 2 * std).astype(values.dtype), (4 * std).astype(values.dtype)
            wanted = np.floor(255 * np.clip((values - low) / width, 0, 1)).astype(np.uint8)
            assert np.array_equal(stored[name].read(*position), wanted)


def test_stores_have_named_ids_seasons_and_the_legend(world):
    labels = LmdbReader(world / "lmdb" / STORES["labels"])
    assert labels.location_ids() == ["east", "west", "ridge", "old dam", "north farm"]
    assert (labels.num_seasons, labels.meta.classes) == (3, tuple(LEGEND["classes"]))
    assert set(np.unique(labels.read_seasons(0))) == {0, 1, 2, 255}


def test_card_carries_the_statistics(world):
    card = torch.load(world / "runs/twin/checkpoints/last.ckpt", weights_only=True)["cromss"]
    told = yaml.safe_load((world / "statistics.yaml").read_text())
    assert card["statistics"] == {name: {key: told[name][key] for key in ("bands", "mean", "std")} for name in told}


def test_single_modal_training_and_other_numbers_of_classes(world):
    data = f"--data_path {world / 'lmdb'} --save_dir {world / 'runs'} {TINY} --input_type s2"
    metrics = pretrain(parse(SingleModalSettings, f"--name single --n_classes 3 {data}".split()))
    assert np.isfinite(metrics["val/loss"])
    with pytest.raises(
        ValueError,
        match=r"--n_classes 9: .*the label store has 3 classes of legend, but 9 classes are wanted; say --n_classes 3",
    ):
        pretrain(parse(SingleModalSettings, f"--name other {data}".split()))


def tuned(world, weights, name, *flags):
    words = f"--dataset OWN --data_path {world / 'own'} --save_dir {world / 'runs'} --name {name} {TINY}".split()
    return read(FinetuneSettings, [*words, "--weight_path", str(weights), "--model_framework", "unet", *flags])


@pytest.mark.parametrize("inputs", ["s2", "s1"])
def test_transfer_feeds_what_the_encoder_was_trained_with(world, inputs, capsys):
    settings = tuned(world, world / "runs/twin/checkpoints/last.ckpt", f"fed_{inputs}", "--input_type", inputs)
    metrics = finetune(settings)
    assert f"{inputs}: fed with the statistics of the weights (card of " in capsys.readouterr().out
    assert list(metrics["iou"]) == list(LEGEND["classes"])
    card = torch.load(world / f"runs/fed_{inputs}/checkpoints/last.ckpt", weights_only=True)["cromss"]
    told = yaml.safe_load((world / "statistics.yaml").read_text())[inputs]
    assert card["statistics"][inputs]["mean"] == told["mean"]
    assert json.loads((world / f"runs/fed_{inputs}" / "metrics.json").read_text()) == metrics


def test_random_encoders_take_the_statistics_of_the_store(world, capsys):
    finetune(tuned(world, "random", "random"))
    assert "fed with" not in capsys.readouterr().out
    card = torch.load(world / "runs/random/checkpoints/last.ckpt", weights_only=True)["cromss"]
    assert card["statistics"]["s2"]["mean"] == list(S2.mean)


def test_inputs_are_those_of_the_stores(world):
    with pytest.raises(ValueError, match="--input_type ortho: must be s1 or s2 or s12 with --dataset OWN"):
        tuned(world, "random", "x", "--input_type", "ortho")
    with pytest.raises(ValueError, match=r"no labels\.lmdb in it; write the set with write_downstream_lmdb"):
        read(FinetuneSettings, ["--dataset", "OWN", "--data_path", str(world)])


@pytest.mark.parametrize(
    "command", [["bash", "ft_scripts/ft_own.sh"], [sys.executable, "train_scripts/finetune.py", "--dataset", "OWN"]]
)
def test_without_a_path_nothing_is_begun(command, tmp_path):
    """Nothing slow is imported for it: torch cannot be, here."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is imported')")
    told = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "SAVE_DIR": str(tmp_path / "runs"), "DATA": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | told, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --dataset OWN: --data_path (DATA of ft_own.sh) is wanted")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_usage_promises_no_synthetic_set():
    done = subprocess.run(["bash", "ft_scripts/ft_own.sh", "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert "it must be given" in done.stderr
    assert "synthetic set" not in done.stderr


def test_a_set_without_test_part_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="raw/train: no such folder; train/ and test/ are wanted: move the locations"):
        downstream.main(downstream.DownstreamFolders("OWN", write_world(tmp_path / "raw", IDS, DAYS), tmp_path / "o"))


@pytest.mark.parametrize(("train", "test"), [("west", "west"), ("12", "0012")])
@pytest.mark.parametrize("options", [{}, {"splits": ("test",)}, {"tile_size": 16}, {"on_error": "skip"}])
def test_an_id_in_both_parts_is_refused(train, test, options, tmp_path):
    """Other pixels do not excuse it."""
    write_world(tmp_path / "raw" / "train", ("a", train), DAYS[:1])
    write_world(tmp_path / "raw" / "test", (test, "b"), DAYS[:1], size=48)
    (tmp_path / "raw" / "train" / "legend.yaml").rename(tmp_path / "raw" / "legend.yaml")
    folders = re.escape(f"raw: train/*/{train} and test/*/{test} are the same id; ")
    with pytest.raises(ValueError, match=folders + "move the place to one part, or rename") as refused:
        downstream.main(downstream.DownstreamFolders("OWN", tmp_path / "raw", tmp_path / "out", **options))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_one_part_alone_shares_no_id(tmp_path):
    write_world(tmp_path / "raw" / "train", ("a", "b"), DAYS[:1])
    (tmp_path / "raw" / "train" / "legend.yaml").rename(tmp_path / "raw" / "legend.yaml")
    downstream.main(downstream.DownstreamFolders("OWN", tmp_path / "raw", tmp_path / "out", ("train",)))
    assert LmdbReader(tmp_path / "out" / "train" / "s2.lmdb").location_ids() == ["a", "b"]


def test_one_mask_without_a_date_is_that_of_all_seasons(tmp_path):
    root = write_world(tmp_path, ("a",), DAYS)
    for path in (root / "labels" / "a").iterdir():
        path.unlink()
    mask = write_tiff(root / "labels" / "a" / "cover_2020.tif", CODES[np.ones((40, 40), int)])
    (place,) = list_own(root, ("s1", "s2", "labels"))
    assert place.scenes["labels"] == (mask,) * 3
    assert [path.stem for path in place.scenes["s1"]] == list(RADAR_DAYS)


@pytest.mark.parametrize("moved", [0, 45, 46, 365])
def test_radar_of_another_season_is_told(tmp_path, capsys, moved):
    """Of two places, the second one's last radar scene is so many days late."""
    root = write_world(tmp_path / "raw", ("a", "b"), DAYS)
    radar = root / "s1" / "b" / f"{RADAR_DAYS[-1]}.tif"
    late = datetime.strptime(DAYS[-1], "%Y%m%d") + timedelta(moved)
    late = radar.rename(radar.with_stem(late.strftime("%Y%m%d")))
    writer.main(PretrainSet(root, tmp_path / "lmdb", layout="own"))
    image = root / "s2" / "b" / f"S2A_{DAYS[-1]}T054639.tif"
    told = f"warning: {late} goes with {image}, {moved} days apart: Sentinel-1 is put to the days of Sentinel-2"
    assert (told in capsys.readouterr().out) == (moved > 45)


def test_days_that_are_none_are_not_compared(tmp_path):
    root = write_world(tmp_path, ("a",), DAYS[:1])
    for modality in ("s1", "s2"):
        (path,) = (root / modality / "a").iterdir()
        path.rename(path.with_name("scene.tif" if modality == "s1" else "20209999.tif"))
    assert not layouts.far_in_time(list_own(root, ("s1", "s2")))
    assert not layouts.far_in_time([])


def test_radar_of_another_season_is_told_of_sets_to_transfer_to(tmp_path, capsys):
    for part in ("train", "test"):
        write_world(tmp_path / "raw" / part, (f"{part}ing",), DAYS[:1])
    radar = tmp_path / "raw" / "test" / "s1" / "testing" / f"{RADAR_DAYS[0]}.tif"
    radar.rename(radar.with_stem("20210101"))
    (tmp_path / "raw" / "legend.yaml").write_text(yaml.safe_dump(LEGEND, sort_keys=False))
    downstream.main(downstream.DownstreamFolders("OWN", tmp_path / "raw", tmp_path / "own"))
    (warning,) = re.findall("warning: (.*)", capsys.readouterr().out)
    assert warning.startswith(f"{radar.with_stem('20210101')} goes with ")


EXACT_LEGEND = LEGEND | {"codes": {1: "salt pan", 2: "reed", 3: "open water", 4: "open water"}, "ignored": [9]}
EXACT_CODES = np.array([2, 3, 4, 1, 9], np.uint8)
EXACT_IDS = np.array([0, 1, 1, 2, 255], np.uint8)
ORTHO_STORES = {"ortho": "orthophotos.lmdb", "labels": "dw_labels.lmdb", "exact": "exact_labels.lmdb"}


def write_orthophotos(root, legend_exact=EXACT_LEGEND, days=DAYS[:2]):
    """Orthophotos with noisy labels in `CODES` and a single exact mask in `EXACT_CODES`; what was drawn, by id."""
    rng, made = np.random.default_rng(11), {}
    for name in ("quay", "hill"):
        photos = rng.integers(0, 256, (len(days), 4, 24, 20), np.uint8)
        noisy, exact = rng.integers(0, 4, (len(days), 24, 20)), rng.integers(0, 5, (24, 20))
        for day, photo, mask in zip(days, photos, noisy):
            write_tiff(root / "ortho" / name / f"{day}.tif", photo)
            write_tiff(root / "labels" / name / f"{day}.tif", CODES[mask])
        write_tiff(root / "exact" / name / "survey.tif", EXACT_CODES[exact])
        made[name] = photos, noisy, exact
    for name, legend in (("legend.yaml", LEGEND), ("legend_exact.yaml", legend_exact)):
        (root / name).write_text(yaml.safe_dump(legend, sort_keys=False))
    return made


def store_orthophotos(home, **options):
    order = ("R", "G", "B", "NIR")
    writer.main(PretrainSet(home / "raw", home / "out", layout="own", band_order=order, **options))


def test_orthophotos_with_exact_labels_in_other_codes(tmp_path):
    made = write_orthophotos(tmp_path / "raw")
    store_orthophotos(tmp_path)
    stores = {modality: LmdbReader(tmp_path / "out" / name) for modality, name in ORTHO_STORES.items()}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.lmdb")) == sorted(ORTHO_STORES.values())
    for index, name in enumerate(("hill", "quay")):
        photos, noisy, exact = made[name]
        assert {store.location_id(index) for store in stores.values()} == {name}
        assert np.array_equal(stores["ortho"].read_seasons(index), photos[:, [3, 0, 1, 2]])
        assert np.array_equal(stores["labels"].read_seasons(index), np.array([0, 1, 2, 255])[noisy])
        assert np.array_equal(stores["exact"].read_seasons(index), np.stack([EXACT_IDS[exact]] * 2))
    classes = tuple(LEGEND["classes"])
    assert (stores["labels"].meta.classes, stores["exact"].meta.classes) == (classes, classes)
    assert stores["ortho"].meta.statistics == {"mean": [127.5] * 4, "std": [63.75] * 4}


def test_without_a_legend_of_their_own_exact_labels_have_the_codes_of_the_noisy(tmp_path):
    write_orthophotos(tmp_path / "raw")
    (tmp_path / "raw" / "legend_exact.yaml").unlink()
    with pytest.raises(ValueError, match=r"exact/hill/survey\.tif: label codes outside the legend\.yaml legend: 1, 2"):
        store_orthophotos(tmp_path)


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        ({"reed": "1b6b3a", "open water": "2f7ed8", "salt flat": "c8a878"}, "reed, open water, salt flat"),
        ({"reed": "1b6b3a", "salt pan": "c8a878", "open water": "2f7ed8"}, "reed, salt pan, open water"),
        (LEGEND["classes"] | {"road": "404040"}, "reed, open water, salt pan, road"),
    ],
    ids=["another name", "another order", "one more"],
)
def test_exact_labels_of_other_classes_are_refused(classes, shown, tmp_path):
    names = list(classes)
    legend = {"classes": classes, "codes": {code: names[code % len(names)] for code in range(1, 5)}, "ignored": [9]}
    write_orthophotos(tmp_path / "raw", legend)
    message = rf"legend_exact\.yaml: its classes are {shown}, where --label_codes .*legend\.yaml has reed, open water, "
    with pytest.raises(ValueError, match=message) as refused:
        store_orthophotos(tmp_path)
    assert str(refused.value).startswith("--exact_codes ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    store_orthophotos(tmp_path, modalities=("ortho", "labels"))  # what is not written need not agree


def test_masks_of_orthophotos_follow_their_days(tmp_path):
    write_orthophotos(tmp_path / "raw")
    mask = tmp_path / "raw" / "labels" / "hill" / f"{DAYS[1]}.tif"
    mask.rename(mask.with_name("20200616.tif"))
    with pytest.raises(ValueError, match=rf"labels/hill: masks of {DAYS[0]} 20200616, .*{DAYS[0]} {DAYS[1]} in ortho/"):
        store_orthophotos(tmp_path)


def _move(kind, old, new):
    def change(root):
        (root / kind / "west" / old).rename(root / kind / "west" / new)

    return change


def _rewrite(kind, name, pixels, **options):
    return lambda root: write_tiff(root / kind / "west" / name, pixels, **options)


RNG = np.random.default_rng(5)
S2_FILE, MASK = f"S2A_{DAYS[0]}T054639.tif", f"mask-{DAYS[0]}.tif"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _move("labels", MASK, "mask-20200211.tif"),
            "labels/west: masks of 20200211 .*, but images of 20200210 .* in s2/",
        ),
        (
            _move("labels", MASK, "mask.txt"),
            f"labels/west: masks of {DAYS[1]} {DAYS[2]}, but images of {' '.join(DAYS)}",
        ),
        (
            lambda root: shutil.rmtree(root / "labels" / "west"),
            r"no labels scenes, wanted 3 \(labels/west/<day of each",
        ),
        (_move("s1", f"{RADAR_DAYS[0]}.tif", "gone.png"), "west: 2 s1 scenes, wanted 3"),
        (_move("s2", S2_FILE, "first.tif"), r"first\.tif: no date YYYYMMDD in its name, but 3 files"),
        (_rewrite("s2", f"again_{DAYS[0]}.tif", fake_dn(RNG, 40)), "are of the same day; keep one file a day"),
        (_rewrite("s2", S2_FILE, fake_dn(RNG, 40)[:12]), "12 bands where 13 are wanted"),
        (_rewrite("s2", S2_FILE, fake_dn(RNG, 40), descriptions=S2.bands[::-1]), "wanted in the order B1 B2"),
        (_rewrite("s2", S2_FILE, (fake_dn(RNG, 40) / 1e4).astype("f4")), "looks like reflectance"),
        (_rewrite("s2", S2_FILE, fake_dn(RNG, 40), nodata=500), "nodata pixels"),
        (_rewrite("s2", S2_FILE, fake_dn(RNG, 24)), "sizes differ"),
        (_rewrite("s1", f"{RADAR_DAYS[0]}.tif", 10 ** (fake_db(RNG, 40) / 10)), "looks linear"),
        (_rewrite("labels", MASK, np.full((40, 40), 44, np.uint8)), "label codes outside the legend.yaml legend: 44"),
        (
            lambda root: (root / "legend.yaml").unlink(),
            r"--data_path .*raw: no legend\.yaml there; it names classes and codes",
        ),
        (lambda root: (root / "s2").rename(root / "S2c"), r"raw.S2c: is s2/ meant\? rename it, or move it away"),
    ],
)
def test_bad_sets_are_refused(change, message, tmp_path):
    change(write_world(tmp_path / "raw", ("east", "west"), DAYS))
    with pytest.raises(ValueError, match=message) as refused:
        writer.main(PretrainSet(tmp_path / "raw", tmp_path / "out", layout="own"))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("out/*.lmdb"))


def test_a_folder_in_another_layout_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "legend.yaml").write_text(yaml.safe_dump(LEGEND, sort_keys=False))
    with pytest.raises(ValueError, match="raw/s1: no such folder"):
        writer.main(PretrainSet(tmp_path / "raw", tmp_path / "out", layout="own"))
