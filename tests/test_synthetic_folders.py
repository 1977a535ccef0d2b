"""Folders of the pretraining world and of DFC2020: layouts, grids, resuming, and pixels that stay as they are."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss.input_checks import check_values
from cromss.legends import DFC2020
from cromss.sensors import S1, S2
from cromss.synthetic import NoiseModel, landscape, write_dfc2020, write_nol

COARSE = {2: ("B5", "B6", "B7", "B8A", "B11", "B12"), 6: ("B1", "B9", "B10")}


@pytest.fixture(scope="module")
def nol(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "nol"
    write_nol(root, 2, size=50, seed=3, progress=False)
    return root


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_nol_layout_and_grids(nol):
    rows = list(csv.reader((nol / "dw_complete_ids.csv").open()))
    assert rows[0] == ["id", "season1", "season2", "season3", "season4"]
    assert [row[0] for row in rows[1:]] == ["0000000", "0000001"]
    for identifier, *scenes in rows[1:]:
        assert scenes == sorted(scenes)
        for kind in ("s2c", "labels", "exact"):
            assert sorted(path.name for path in (nol / kind / identifier).iterdir()) == scenes
        radar_scenes = sorted(path.name for path in (nol / "s1" / identifier).iterdir())
        assert [name[17:23] for name in radar_scenes] == [name[:6] for name in scenes]
        for s1, s2 in zip(radar_scenes, scenes):
            assert sorted(p.name for p in (nol / "s1" / identifier / s1).iterdir()) == ["VH.tif", "VV.tif"]
            assert {p.stem for p in (nol / "s2c" / identifier / s2).iterdir()} == set(S2.bands)
            assert [p.name for p in (nol / "labels" / identifier / s2).iterdir()] == ["label.tif"]


@pytest.mark.parametrize(
    ("pattern", "dtype", "side", "pixel"),
    [
        ("s1/*/*/V?.tif", "float32", 50, 10),
        *[(f"s2c/*/*/{band}.tif", "uint16", 50, 10) for band in ("B2", "B3", "B4", "B8")],
        *[(f"s2c/*/*/{band}.tif", "uint16", 25, 20) for band in COARSE[2]],
        *[(f"s2c/*/*/{band}.tif", "uint16", 9, 60) for band in COARSE[6]],
        ("labels/*/*/label.tif", "uint8", 50, 10),
        ("exact/*/*/label.tif", "uint8", 50, 10),
    ],
)
def test_nol_files(nol, pattern, dtype, side, pixel):
    paths = list(nol.glob(pattern))
    assert len(paths) >= 8
    for path in paths:
        with rasterio.open(path) as file:
            assert (file.count, file.height, file.width, file.dtypes[0]) == (1, side, side, dtype)
            assert 32601 <= file.crs.to_epsg() <= 32660
            assert file.res == (pixel, pixel)
            assert file.nodata is None


def test_nol_rasters_of_a_location_share_their_corner(nol):
    for identifier in ("0000000", "0000001"):
        corners = set()
        for path in nol.glob(f"*/{identifier}/*/*.tif"):
            with rasterio.open(path) as file:
                corners.add((file.crs.to_epsg(), file.bounds.left, file.bounds.top))
        assert len(corners) == 1


def test_nol_truth_is_the_same_in_all_seasons_and_the_noise_is_not(nol):
    exact, noisy = (
        [read(path) for path in sorted(nol.glob(f"{kind}/0000000/*/label.tif"))] for kind in ("exact", "labels")
    )
    assert all((image == exact[0]).all() for image in exact)
    assert any((image != noisy[0]).any() for image in noisy)
    assert (noisy[0] != exact[0]).any()


def test_world_record_tells_the_truth_of_the_noise(nol):
    record = json.loads((nol / "world.json").read_text())
    assert (record["version"], record["seed"], record["size"], record["num_locations"]) == (1, 3, 50, 2)
    assert record["noise"]["min_object"] == NoiseModel().min_object
    np.testing.assert_array_equal(record["confusion_matrix"], NoiseModel().confusion_matrix())


def test_locations_depend_on_seed_and_index_only(nol, tmp_path):
    write_nol(tmp_path / "same", 1, size=50, seed=3, progress=False)
    write_nol(tmp_path / "other", 1, size=50, seed=4, num_seasons=1, progress=False)
    first = contents(nol)
    for path, data in contents(tmp_path / "same").items():
        if path.endswith(".tif"):
            assert data == first[path], path
    other = next((tmp_path / "other").glob("exact/0000000/*/label.tif"))
    assert (read(other) != read(next(nol.glob("exact/0000000/*/label.tif")))).any()
    assert len(list((tmp_path / "other").glob("s2c/0000000/*"))) == 1


def test_nol_is_reused_and_resumed(nol, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(nol, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_nol(root, 2, size=50, seed=3, progress=False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    shutil.rmtree(root / "exact" / "0000001")
    (root / "dw_complete_ids.csv").unlink()
    (root / ".partial" / "s1").mkdir(parents=True)
    (root / ".partial" / "s1" / "rubbish.tif").write_bytes(b"cut off")
    next((root / "s2c" / "0000001").rglob("B4.tif")).unlink()
    write_nol(root, 2, size=50, seed=3, progress=False)
    assert contents(root) == contents(nol)


def test_a_failed_write_leaves_no_half_location(tmp_path, monkeypatch):
    from cromss.synthetic import rasters

    root, write, written = tmp_path / "nol", rasters._write_raster, []

    def fail_late(path, raster):
        written.append(path)
        if len(written) > 25:
            raise OSError("disk full")
        write(path, raster)

    monkeypatch.setattr(rasters, "_write_raster", fail_late)
    with pytest.raises(OSError, match="disk full"):
        write_nol(root, 2, size=50, seed=3, num_seasons=1, progress=False)
    assert not (root / "s1" / "0000001").exists()
    assert (root / "exact" / "0000000").exists()
    monkeypatch.undo()
    write_nol(root, 2, size=50, seed=3, num_seasons=1, progress=False)
    assert not (root / ".partial").exists()
    assert len(list(root.glob("*/0000001/*/*.tif"))) == 17


@pytest.mark.parametrize(
    ("change", "word"),
    [
        *[({"seed": 5}, "seed 3, asked for 5"), ({"size": 60}, "size"), ({"num_locations": 3}, "num_locations")],
        *[({"noise": NoiseModel(border_shift=0)}, "noise"), ({"num_seasons": 2}, "num_seasons")],
    ],
)
def test_other_settings_are_refused(nol, change, word):
    with pytest.raises(ValueError, match=word):
        write_nol(nol, **{"num_locations": 2, "size": 50, "seed": 3, "progress": False, **change})


def test_a_downstream_set_is_not_written_over_a_pretraining_set(nol):
    with pytest.raises(ValueError, match="layout NoL, asked for DFC2020"):
        write_dfc2020(nol, 1, 1, size=50, seed=3, progress=False)


def test_foreign_data_is_refused(tmp_path):
    (tmp_path / "precious.tif").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"world\.json"):
        write_nol(tmp_path, 1, size=50, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.tif"]


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_broken_record_is_refused(tmp_path, text):
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(ValueError, match=r"world\.json"):
        write_nol(tmp_path, 1, size=50, progress=False)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        *[({"num_locations": 0}, "num_locations 0"), ({"size": 10}, "size 10"), ({"seed": -1}, "seed -1")],
        *[({"num_seasons": 0}, "num_seasons 0"), ({"num_seasons": 5}, "num_seasons 5")],
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, settings, word):
    with pytest.raises(ValueError, match=word):
        write_nol(tmp_path / "new", **{"num_locations": 1, "size": 50, "progress": False, **settings})
    assert not (tmp_path / "new").exists()


def test_dfc2020_layout(tmp_path):
    write_dfc2020(tmp_path, 3, 2, size=64, seed=1, progress=False)
    assert len(list(tmp_path.rglob("*.tif"))) == 15
    truths = []
    for split, number in (("validation", 3), ("test", 2)):
        for index in range(number):
            s1, s2, dfc = (
                tmp_path / split / f"{kind}_{split}" / f"ROIs0000_{split}_{kind}_0_p{index}.tif"
                for kind in ("s1", "s2", "dfc")
            )
            images = [read(path) for path in (s1, s2, dfc)]
            assert [(image.shape, image.dtype) for image in images] == [
                *[((2, 64, 64), np.float64), ((13, 64, 64), np.uint16), ((1, 64, 64), np.uint8)]
            ]
            check_values(images[0], S1, str(s1))
            check_values(images[1], S2, str(s2))
            truths.append(DFC2020.to_class_ids(images[2], where=str(dfc)))
    assert all((first != second).any() for i, first in enumerate(truths) for second in truths[:i])
    before = contents(tmp_path)
    (tmp_path / "test/s2_test/ROIs0000_test_s2_0_p1.tif").unlink()
    write_dfc2020(tmp_path, 3, 2, size=64, seed=1, progress=False)
    assert contents(tmp_path) == before


def test_dfc2020_codes_are_the_published_ones(tmp_path, monkeypatch):
    from cromss.synthetic import location

    every_class = np.arange(9, dtype=np.uint8).repeat(6)[:, None].repeat(54, axis=1)
    monkeypatch.setattr(location, "landscape", lambda rng, size: replace(landscape(rng, size), labels=every_class))
    write_dfc2020(tmp_path, 1, 1, size=54, progress=False)
    raw = read(next(tmp_path.rglob("*_dfc_0_p0.tif")))[0]
    assert [raw[6 * c, 0] for c in range(9)] == [10, 1, 4, 5, 6, 2, 7, 9, 8]


def test_pixels_are_those_of_world_version_1(nol, tmp_path):
    write_dfc2020(tmp_path, 1, 1, size=64, seed=1, progress=False)
    digests = {
        (nol, "labels/*/*/*.tif"): "5a47da97c40c7ad3",
        (nol, "exact/*/*/*.tif"): "9efb4d9ed741ecf6",
        (tmp_path, "*/dfc_*/*.tif"): "30de8406470c104d",
    }
    means = {
        (nol, "s2c/*/*/B4.tif"): 1433.1488,
        (nol, "s2c/*/*/B11.tif"): 2415.791,
        (nol, "s1/*/*/VV.tif"): -9.005895431,
        (tmp_path, "*/s1_*/*.tif"): -12.89659443,
        (tmp_path, "*/s2_*/*.tif"): 1771.2151161,
    }
    for (root, pattern), digest in digests.items():
        pixels = b"".join(read(path).tobytes() for path in sorted(root.glob(pattern)))
        assert hashlib.sha256(pixels).hexdigest().startswith(digest), pattern
    for (root, pattern), mean in means.items():
        found = np.mean([read(path).mean(dtype=np.float64) for path in root.glob(pattern)])
        np.testing.assert_allclose(found, mean, rtol=1e-5, err_msg=pattern)
