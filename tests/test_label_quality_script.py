"""The label quality script: what it writes from stores and folders, and what it refuses."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import yaml
from conftest import REPOSITORY, load_script
from matplotlib.image import imread
from rasters import write_tiff

from cromss import quality_figures
from cromss.config import read
from cromss.legends import NYC_LIDAR
from cromss.preparation import label_meta
from cromss.store import LmdbWriter
from cromss.store.repair import exclude

script = load_script("label_quality")
pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = ("confusion.png", "distance.png", "worst.png")
TABLES = ("quality.csv", "confusion.csv", "distance.csv")
CODES = ("--noisy_codes", "NYC_LIDAR", "--exact_codes", "NYC_MERGED")
TO_MERGED = np.array([0, 1, 0, 0, 0, 2, 3, 0, 0], np.uint8)
"""Exact code of New York -> class id of its noisy labels, code 0 aside."""


def run(*arguments):
    """The script in this process."""
    script.main(read(script.Comparison, list(map(str, arguments))))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def counts(path):
    return np.array([list(row.values())[1:] for row in rows(path)], int)


def recount(pairs, num_classes):
    """Confusion of pairs of masks, by NumPy alone."""
    matrix = np.zeros((num_classes, num_classes), int)
    for noisy, exact in pairs:
        both = (noisy != 255) & (exact != 255)
        np.add.at(matrix, (exact[both], noisy[both]), 1)
    return matrix


@pytest.fixture
def city(tmp_path):
    """A small folder in the layout of New York; id -> noisy and exact class ids."""
    rng, made = np.random.default_rng(0), {}
    for number in range(7):
        codes = rng.integers(0, 9, (5, 6)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        exact = np.where(codes == 0, 255, TO_MERGED[codes]).astype(np.uint8)
        right = rng.random(codes.shape) < 0.4 + 0.08 * number
        noisy = np.where(right & (exact != 255), exact, rng.integers(0, 4, codes.shape)).astype(np.uint8)
        noisy[0, :number] = 255
        made[str(number)] = noisy, exact
        write_tiff(tmp_path / "noisy" / f"{number}.tif", noisy)
        write_tiff(tmp_path / "label" / f"{number}.tif", codes)
    return made


@pytest.fixture
def shown(monkeypatch):
    """Examples that would be drawn; nothing is, for speed."""
    examples, nothing = [], np.zeros((2, 2, 3), np.uint8)
    monkeypatch.setattr(quality_figures, "worst_picture", lambda found, _: examples.extend(found) or nothing)
    for name in ("confusion_picture", "distance_picture"):
        monkeypatch.setattr(quality_figures, name, lambda *_: nothing)
    return examples


@pytest.fixture
def folders(tmp_path, city):
    return "--noisy", tmp_path / "noisy", "--exact", tmp_path / "label", "--out", tmp_path / "out", *CODES


def test_folders_give_the_whole_report(tmp_path, city, folders, capsys):
    run(*folders, "--pixel_size", 1, "--max_distance", 6)
    out, printed = tmp_path / "out", capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == sorted((*PICTURES, *TABLES, "quality.md"))
    wanted = recount(city.values(), 4)
    np.testing.assert_array_equal(counts(out / "confusion.csv"), wanted)
    *classes, mean = rows(out / "quality.csv")
    assert [row["class"] for row in classes] == list(NYC_LIDAR.classes)
    for k, row in enumerate(classes):
        right, true, labelled = wanted[k, k], wanted[k].sum(), wanted[:, k].sum()
        assert float(row["precision"]) == pytest.approx(100 * right / labelled)
        assert float(row["recall"]) == pytest.approx(100 * right / true)
        assert float(row["iou"]) == pytest.approx(100 * right / (true + labelled - right))
        assert f"| {100 * right / labelled:.2f} | {100 * right / true:.2f} |" in printed
    oa = 100 * wanted.trace() / wanted.sum()
    assert float(mean["oa"]) == pytest.approx(oa)
    page = (out / "quality.md").read_text()
    assert printed.split("\n\n")[0] in page
    assert f"OA **{oa:.2f}**" in page
    assert f"{tmp_path}/noisy/*.tif`, classes of NYC_LIDAR" in page
    assert f"{tmp_path}/label/*.tif`, classes of NYC_MERGED" in page
    by_distance = rows(out / "distance.csv")
    assert sum(int(row["pixels"]) for row in by_distance) == 2 * wanted.sum()
    assert sum(int(row["wrong"]) for row in by_distance) == 2 * (wanted.sum() - wanted.trace())
    for name in PICTURES:
        assert imread(out / name)[..., :3].std() > 0.02


def test_the_help_knows_one_wildcard(capsys):
    with pytest.raises(SystemExit):
        read(script.Comparison, ["--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "the wildcards" not in told
    assert "* is the only wildcard" in told


def test_the_worst_masks_are_shown(city, folders, shown):
    run(*folders)
    matrices = {name: recount([pair], 4) for name, pair in city.items()}
    oa = {name: matrix.trace() / matrix.sum() for name, matrix in matrices.items()}
    assert [example.name for example in shown] == sorted(oa, key=oa.get)[: script.SHOWN]
    for example in shown:
        assert example.oa == pytest.approx(oa[example.name])
        np.testing.assert_array_equal(example.noisy, city[example.name][0])
        np.testing.assert_array_equal(example.exact, city[example.name][1])


def write_store(path, arrays, num_seasons, modality="labels"):
    with LmdbWriter(path, label_meta(NYC_LIDAR, num_seasons, "test", modality=modality)) as writer:
        for name, seasons in arrays.items():
            writer.write(name, list(seasons))
        writer.finish()
    return path


def test_all_seasons_of_stores_count(tmp_path, shown):
    rng = np.random.default_rng(1)
    exact = {name: rng.integers(0, 4, (3, 8, 8), np.uint8) for name in "ab"}
    noisy = {name: seasons.copy() for name, seasons in reversed(exact.items())}
    noisy["a"][2, :4] = (noisy["a"][2, :4] + 1) % 4
    noisy["b"][0, :1] = (noisy["b"][0, :1] + 1) % 4
    paths = write_store(tmp_path / "n.lmdb", noisy, 3), write_store(tmp_path / "e.lmdb", exact, 3, "exact")
    run("--noisy", paths[0], "--exact", paths[1], "--out", tmp_path / "out")
    wanted = recount([(noisy[name], exact[name]) for name in "ab"], 4)
    np.testing.assert_array_equal(counts(tmp_path / "out" / "confusion.csv"), wanted)
    assert [(example.name, example.oa) for example in shown] == [("a, season 3", 0.5), ("b, season 1", 0.875)]
    np.testing.assert_array_equal(shown[0].noisy, noisy["a"][2])
    assert "6 pairs of masks, 384 pixels" in (tmp_path / "out" / "quality.md").read_text()


@pytest.mark.usefixtures("shown")
def test_locations_left_out_of_use_are_listed(tmp_path):
    rng = np.random.default_rng(3)
    noisy, exact = ({name: rng.integers(0, 4, (1, 8, 8), np.uint8) for name in "abcd"} for _ in range(2))
    paths = write_store(tmp_path / "n.lmdb", noisy, 1), write_store(tmp_path / "e.lmdb", exact, 1, "exact")
    exclude(paths[0], {1: "damaged, it is"})
    exclude(paths[1], {3: "record: gone"}, drop=True)
    run("--noisy", paths[0], "--exact", paths[1], "--out", tmp_path / "out")
    skipped = {row["id"]: row["reason"] for row in rows(tmp_path / "out" / "skipped.csv")}
    assert skipped == {"b": "damaged, it is", "d": "record: gone"}
    wanted = recount([(noisy[name], exact[name]) for name in "ac"], 4)
    np.testing.assert_array_equal(counts(tmp_path / "out" / "confusion.csv"), wanted)
    assert "Left out: 2 locations, see skipped.csv." in (tmp_path / "out" / "quality.md").read_text()


def test_one_place_of_many_scenes_is_shown_once(tmp_path, shown):
    rng = np.random.default_rng(2)
    for name in ("1/x", "1/y", "2/x"):
        for side in ("noisy", "exact"):
            write_tiff(tmp_path / side / name / "label.tif", rng.integers(0, 4, (9, 9), np.uint8))
    source = [part for side in ("noisy", "exact") for part in (f"--{side}", tmp_path / side)]
    patterns = ["--noisy_pattern", "*/*/label.tif", "--exact_pattern", "*/*/label.tif"]
    codes = ["--noisy_codes", "NYC_LIDAR", "--exact_codes", "NYC_LIDAR"]
    run(*source, *patterns, *codes, "--out", tmp_path / "out")
    assert sorted(example.name.split("/")[0] for example in shown) == ["1", "2"]


@pytest.mark.usefixtures("shown")
def test_masks_without_a_partner_stop_or_are_left_out(tmp_path, city, folders):
    write_tiff(tmp_path / "noisy" / "extra.tif", np.zeros((20, 24), np.uint8))
    (tmp_path / "noisy" / "3.tif").unlink()
    message = "2 locations without a partner: extra: no exact mask; 3: no noisy mask .*--on_error skip"
    with pytest.raises(ValueError, match=message):
        run(*folders)
    assert not (tmp_path / "out").exists()
    run(*folders, "--on_error", "skip")
    skipped = {row["id"]: row["reason"] for row in rows(tmp_path / "out" / "skipped.csv")}
    assert skipped == {"extra": "no exact mask", "3": "no noisy mask"}
    wanted = recount([pair for name, pair in city.items() if name != "3"], 4)
    np.testing.assert_array_equal(counts(tmp_path / "out" / "confusion.csv"), wanted)
    assert "Left out: 2 locations" in (tmp_path / "out" / "quality.md").read_text()
    (tmp_path / "noisy" / "extra.tif").unlink()
    (tmp_path / "label" / "3.tif").unlink()
    run(*folders)
    assert not (tmp_path / "out" / "skipped.csv").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((20, 23), np.uint8), r"noisy/2.tif and .*label/2.tif: 1 x 20 x 23 and 1 x 20 x 24"),
        (np.full((20, 24), 4, np.uint8), r"noisy/2.tif: label codes outside the NYC_LIDAR legend: 4"),
        (np.full((20, 24), 0.5, np.float32), r"noisy/2.tif: .*whole numbers"),
        (b"", r"noisy/2.tif: cannot be read"),
    ],
)
@pytest.mark.usefixtures("shown")
def test_bad_masks_stop_or_are_left_out(tmp_path, city, folders, bad, message):
    path = tmp_path / "noisy" / "2.tif"
    path.write_bytes(bad) if isinstance(bad, bytes) else write_tiff(path, bad)
    with pytest.raises(ValueError, match=message):
        run(*folders)
    run(*folders, "--on_error", "skip")
    ((name, reason),) = [row.values() for row in rows(tmp_path / "out" / "skipped.csv")]
    assert name == "2"
    assert "2.tif" in reason
    assert (
        counts(tmp_path / "out" / "confusion.csv").sum()
        == recount([pair for name, pair in city.items() if name != "2"], 4).sum()
    )


def test_ids_of_a_store_outside_its_classes_are_refused(tmp_path):
    good, bad = np.zeros((1, 4, 4), np.uint8), np.full((1, 4, 4), 9, np.uint8)
    paths = write_store(tmp_path / "n.lmdb", {"a": bad}, 1), write_store(tmp_path / "e.lmdb", {"a": good}, 1)
    with pytest.raises(ValueError, match=r"n.lmdb, location a and .*: noisy mask: class ids lie in 0..3.*found 9"):
        run("--noisy", paths[0], "--exact", paths[1], "--out", tmp_path / "out")


def test_stores_with_nothing_in_common_are_refused(tmp_path):
    good = np.zeros((1, 4, 4), np.uint8)
    paths = write_store(tmp_path / "n.lmdb", {"a": good}, 1), write_store(tmp_path / "e.lmdb", {"b": good}, 1)
    source = "--noisy", paths[0], "--exact", paths[1], "--out", tmp_path / "out"
    with pytest.raises(ValueError, match="2 locations without a partner: a: no exact mask; b: no noisy mask"):
        run(*source)
    with pytest.raises(ValueError, match=r"nothing to compare.*\(a: no exact mask"):
        run(*source, "--on_error", "skip")
    unknown = write_store(tmp_path / "u.lmdb", {"a": good + 255}, 1)
    with pytest.raises(ValueError, match=r"no pixel has a class in both masks$"):
        run("--noisy", paths[0], "--exact", unknown, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max_distance", "0"), "--max_distance 0: 1 to 1000"),
        (("--max_distance", "1001"), "--max_distance 1001"),
        (("--pixel_size", "0"), "--pixel_size 0"),
        (("--pixel_size", "-1"), "--pixel_size -1"),
        (("--pixel_size", "nan"), "--pixel_size nan"),
        (("--pixel_size", "inf"), "--pixel_size inf"),
        (("--exact_codes", "OSM"), "--noisy_codes and --exact_codes: noisy classes background"),
        (("--exact_codes", "none.yaml"), "--exact_codes none.yaml"),
        (("--noisy_pattern", "a.tif"), "--noisy_pattern 'a.tif'"),
        (("--exact_pattern", "*/x.tif"), "no file like --exact_pattern"),
    ],
)
def test_wrong_settings_are_refused(folders, flags, message):
    with pytest.raises(ValueError, match=message):
        run(*folders, *flags)


def test_the_command_ends_with_one_line_and_its_status(tmp_path, folders):
    command = [sys.executable, str(REPOSITORY / "data_prepare" / "label_quality.py"), *map(str, folders)]
    (tmp_path / "noisy" / "0.tif").unlink()
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: 1 locations without a partner: 0: no noisy mask (--on_error skip leaves them out)\n"


NLCD = {"trees": (41, 42, 43, 90), "built": (22, 23, 24), "other": (11, 21, 31, 52, 71, 81, 82, 95)}
LAND_COVER = {"trees": (2,), "built": (5, 6), "other": (1, 3, 4)}
COLOURS = {"other": "b4aaa0", "trees": "1b6b3a", "built": "c4281b"}


def by_hand(path, groups):
    """Class ids of a file: the rest is other."""
    with rasterio.open(path) as file:
        codes = file.read(1)
    ids = np.zeros(codes.shape, np.uint8)
    for class_id, name in ((1, "trees"), (2, "built")):
        ids[np.isin(codes, groups[name])] = class_id
    return ids


def test_real_land_cover_maps_equal_a_recount(real, tmp_path):
    """NLCD, 30 m, by a rule against 1 m land cover, on the tiles with two classes of land cover at least."""
    pairs = []
    for folder in sorted((real / "naip").iterdir()):
        with rasterio.open(folder / "landcover.tif") as file:
            if len(np.unique(file.read(1))) < 2:
                continue
        (tmp_path / "naip").mkdir(exist_ok=True)
        (tmp_path / "naip" / folder.name).symlink_to(folder)
        pairs.append((by_hand(folder / "nlcd.tif", NLCD), by_hand(folder / "landcover.tif", LAND_COVER)))
    assert len(pairs) == 7
    flags = []
    for side, file, groups in (("noisy", "nlcd", NLCD), ("exact", "landcover", LAND_COVER)):
        codes = {code: name for name, group in groups.items() for code in group}
        (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump({"classes": COLOURS, "codes": codes}, sort_keys=False))
        flags += [f"--{side}", tmp_path / "naip", f"--{side}_pattern", f"*/{file}.tif"]
        flags += [f"--{side}_codes", tmp_path / f"{file}.yaml"]
    run(*flags, "--pixel_size", 1, "--out", tmp_path / "out")
    wanted = recount(pairs, 3)
    np.testing.assert_array_equal(counts(tmp_path / "out" / "confusion.csv"), wanted)
    *classes, mean = rows(tmp_path / "out" / "quality.csv")
    assert [row["class"] for row in classes] == list(COLOURS)
    assert float(mean["oa"]) == pytest.approx(100 * wanted.trace() / wanted.sum())
    precision, recall = wanted.diagonal() / wanted.sum(axis=0), wanted.diagonal() / wanted.sum(axis=1)
    assert [float(row["precision"]) for row in classes] == pytest.approx(list(100 * precision))
    assert [float(row["recall"]) for row in classes] == pytest.approx(list(100 * recall))
    assert float(mean["precision"]) == pytest.approx(100 * precision.mean())
    touching = wrong = 0
    for noisy, exact in pairs:
        border = np.zeros(exact.shape, bool)
        for near, far in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            border[near] |= exact[near] != exact[far]
            border[far] |= exact[near] != exact[far]
        touching, wrong = touching + border.sum(), wrong + (border & (noisy != exact)).sum()
    first = rows(tmp_path / "out" / "distance.csv")[0]
    assert (first["class"], first["distance"]) == ("all classes", "1")
    assert (int(first["pixels"]), int(first["wrong"])) == (touching, wrong)
