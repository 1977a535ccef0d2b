"""The synthetic world: what it looks like in numbers, that its noise is the planted one, and its folders."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss.legends import DFC2020, NOL
from cromss.sensors import S1, S2, check_values, detect_offset
from cromss.synthetic import (
    Ground,
    NoiseModel,
    draw_ground,
    land_cover,
    landscape,
    noisy_labels,
    optical,
    radar,
    write_dfc2020,
    write_nol,
)
from cromss.synthetic.fields import block_means, parcels, smooth_field, uniform_pair
from cromss.synthetic.noise import SEASONAL_FLIPS

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(9)
CLEAN = {"confusion_rate": 0.0, "border_shift": 0.0, "min_object": 0, "seasonal_flip": 0.0}
PAIRS = [(BUILT, BARE), (WATER, FLOODED), (GRASS, BARE), (TREES, GRASS), (SNOW, BARE)]
COARSE = {2: ("B5", "B6", "B7", "B8A", "B11", "B12"), 6: ("B1", "B9", "B10")}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.fixture(scope="module")
def world() -> list[dict[str, np.ndarray]]:
    """40 locations of 132 px, one season each."""
    tiles = []
    for index in range(40):
        land = landscape(rng(7, index, 0), 132)
        ground = draw_ground(land.labels, rng(7, index, 1), land)
        tiles.append(
            {
                "labels": land.labels,
                "s2": optical(land.labels, index % 4, rng(7, index, 2), ground),
                "s1": radar(land.labels, index % 4, rng(7, index, 3), ground),
                "noisy": noisy_labels(land.labels, index % 4, rng(7, index, 4)),
            }
        )
    return tiles


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


# fields


@pytest.mark.parametrize("scale", [0.8, 2, 5])
def test_smooth_fields_are_standard_normal_in_every_pixel(scale):
    stack = np.stack([smooth_field(rng(i), (24, 20), scale) for i in range(1500)])
    np.testing.assert_allclose(stack.std(axis=0).mean(), 1, atol=0.04)
    np.testing.assert_allclose(stack.mean(), 0, atol=0.05)


def test_uniform_pairs_are_uniform_and_independent():
    whether, which = (np.stack(fields) for fields in zip(*(uniform_pair(rng(i), (64, 64), 2) for i in range(60))))
    for field in (whether, which):
        np.testing.assert_allclose(np.quantile(field, [0.1, 0.3, 0.5, 0.9]), [0.1, 0.3, 0.5, 0.9], atol=0.02)
    assert abs(np.corrcoef(whether.ravel(), which.ravel())[0, 1]) < 0.03


def test_block_means_repeat_the_edge():
    image = np.arange(35, dtype=np.float64).reshape(5, 7)
    padded = np.pad(image, ((0, 1), (0, 2)), mode="edge")
    naive = [[padded[r : r + 3, c : c + 3].mean() for c in (0, 3, 6)] for r in (0, 3)]
    np.testing.assert_allclose(block_means(image, 3), naive)


def test_parcels_cover_the_picture_in_sensible_sizes():
    sizes = np.bincount(parcels(rng(0), (200, 150), 15).ravel())
    assert 30 < (sizes > 0).sum() < 250
    assert sizes.max() < 0.1 * 200 * 150


# land cover


def test_land_cover_is_a_function_of_the_generator():
    first = land_cover(rng(0, 5), 64)
    assert first.shape == (64, 64)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, land_cover(rng(0, 5), 64))
    assert (first != land_cover(rng(0, 6), 64)).any()


def test_all_classes_occur_and_snow_is_rare(world):
    counts = np.bincount(np.concatenate([tile["labels"].ravel() for tile in world]), minlength=9)
    share = counts / counts.sum()
    assert len(share) == NOL.num_classes
    assert share.min() > 0.002
    assert share.max() < 0.35
    assert share[SNOW] < 0.08


def test_neighbours_agree_as_land_does(world):
    same = np.mean([(tile["labels"][:, 1:] == tile["labels"][:, :-1]).mean() for tile in world])
    assert 0.8 < same < 0.97


# sensors


def test_images_have_the_sensors_units_and_pass_their_checks(world):
    for index, tile in enumerate(world):
        assert (tile["s2"].dtype, tile["s2"].shape) == (np.uint16, (13, 132, 132))
        assert (tile["s1"].dtype, tile["s1"].shape) == (np.float32, (2, 132, 132))
        check_values(tile["s2"], S2, f"s2 {index}")
        check_values(tile["s1"], S1, f"s1 {index}")
        assert detect_offset(tile["s2"], where=f"s2 {index}") == 0


@pytest.mark.parametrize("modality", [S1, S2], ids=lambda m: m.name)
def test_band_statistics_are_near_the_real_ones(world, modality):
    pixels = np.concatenate([tile[modality.name].reshape(len(modality.bands), -1) for tile in world], axis=1)
    mean, std = np.array(modality.mean), np.array(modality.std)
    assert (np.abs(pixels.mean(axis=1, dtype=np.float64) - mean) < 0.6 * std).all()
    assert (pixels.std(axis=1, dtype=np.float64) < 1.3 * std).all()
    clipped = np.abs(pixels - mean[:, None]) > 2 * std[:, None]
    assert clipped.mean(axis=1).max() < 0.15


@pytest.mark.parametrize("factor", COARSE)
def test_coarse_bands_repeat_their_native_pixels(world, factor):
    for band in COARSE[factor]:
        image = world[0]["s2"][S2.index(band)]
        np.testing.assert_array_equal(image, image[::factor, ::factor].repeat(factor, 0).repeat(factor, 1))
    ten_metres = world[0]["s2"][S2.index("B4")]
    assert (ten_metres[::2] != ten_metres[1::2]).mean() > 0.5


def test_blue_is_hazy_and_cirrus_dark(world):
    image = np.mean([tile["s2"].mean(axis=(1, 2)) for tile in world], axis=0)
    b1, b2, b3, b10 = (image[S2.index(band)] for band in ("B1", "B2", "B3", "B10"))
    assert b1 > b2 > b3
    assert 10 < b10 < 60
    labels = world[0]["labels"]
    clear, hazy = (optical(labels, 1, rng(0), draw_ground(labels, rng(1)), haze)[0].mean() for haze in (0.5, 3))
    assert hazy > clear + 20


def flat_ground(shape: tuple[int, int], kind: float = 0.5) -> Ground:
    zeros = np.zeros(shape, np.float32)
    return Ground(kind=zeros + kind, vigour=zeros, soil=zeros + 0.5, gain=zeros, slope=zeros, grain=zeros)


def greenest_season(class_id: int, kind: float) -> int:
    labels = np.full((48, 48), class_id, np.uint8)
    ndvi = []
    for season in range(4):
        image = optical(labels, season, rng(1), flat_ground(labels.shape, kind)).astype(float)
        red, nir = image[S2.index("B4")].mean(), image[S2.index("B8")].mean()
        ndvi.append((nir - red) / (nir + red))
    return int(np.argmax(ndvi))


def test_phenology_differs_between_crop_types():
    assert greenest_season(CROPS, kind=0) == 0
    assert greenest_season(CROPS, kind=1) == 1
    assert greenest_season(TREES, kind=0) == 1


def test_speckle_has_the_looks_of_a_ground_range_product():
    labels = np.full((160, 160), GRASS, np.uint8)
    power = 10 ** (radar(labels, 1, rng(2), flat_ground(labels.shape)).astype(float) / 10)
    blocks = power.reshape(2, 20, 8, 20, 8)
    looks = 1 / (blocks.var(axis=(2, 4)) / blocks.mean(axis=(2, 4)) ** 2).mean()
    assert 3.9 < looks < 5.2


def test_seasons_share_the_ground():
    land = landscape(rng(4, 0), 96)
    ground = draw_ground(land.labels, rng(4, 1), land)
    first, second = (optical(land.labels, s, rng(4, 2, s), ground)[7].astype(float).ravel() for s in (1, 2))
    other = optical(land.labels, 1, rng(4, 2, 1), draw_ground(land.labels, rng(4, 9), land))[7].astype(float).ravel()
    assert np.corrcoef(first, second)[0, 1] > np.corrcoef(first, other)[0, 1]


@pytest.mark.parametrize("season", [-1, 4, 7.5])
@pytest.mark.parametrize("sensor", [optical, radar])
def test_sensors_refuse_unknown_seasons(sensor, season):
    with pytest.raises(ValueError, match=r"season .*spring"):
        sensor(np.zeros((24, 24), np.uint8), season, rng(0))


# difficulty


def discriminant_predictions(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis with a pooled covariance and class priors."""
    groups = [train[labels == c] for c in range(9)]
    means = np.array([group.mean(axis=0) for group in groups])
    pooled = np.mean([np.cov(group.T) for group in groups], axis=0)
    weights = np.linalg.solve(pooled, means.T)
    prior = np.array([len(group) for group in groups]) / len(train)
    return (test @ weights - 0.5 * (means * weights.T).sum(axis=1) + np.log(prior)).argmax(axis=1)


@pytest.fixture(scope="module")
def predictions(world) -> dict[str, np.ndarray]:
    def pixels(key: str, start: int) -> np.ndarray:
        chosen = [np.atleast_3d(tile[key].T)[::3, ::3] for tile in world[start::2]]
        return np.concatenate([image.reshape(-1, image.shape[-1]) for image in chosen]).astype(np.float64)

    train, test = ({key: pixels(key, start) for key in ("s1", "s2", "labels")} for start in (0, 1))
    for part in (train, test):
        part["both"] = np.concatenate([part["s1"], part["s2"]], axis=1)
    truth = train["labels"][:, 0].astype(int)
    found = {key: discriminant_predictions(train[key], truth, test[key]) for key in ("s1", "s2", "both")}
    return {**found, "truth": test["labels"][:, 0].astype(int)}


def test_single_pixels_tell_a_part_of_the_truth(predictions):
    oa = {key: (predictions[key] == predictions["truth"]).mean() for key in ("s1", "s2", "both")}
    assert 0.55 < oa["s2"] < 0.80
    assert 0.30 < oa["s1"] < 0.60
    assert oa["s2"] + 0.03 < oa["both"] < 0.9


def fisher_ratio(world, key: str, first: int, second: int) -> float:
    """Separation of two classes along their best linear direction."""
    stacks = {c: np.concatenate([tile[key][:, tile["labels"] == c] for tile in world], axis=1) for c in (first, second)}
    difference = stacks[first].mean(axis=1) - stacks[second].mean(axis=1)
    pooled = np.cov(stacks[first].astype(float)) + np.cov(stacks[second].astype(float))
    return float(difference @ np.linalg.solve(pooled, difference))


def test_each_sensor_knows_what_the_other_does_not(world):
    s1, s2 = ({pair: fisher_ratio(world, key, *pair) for pair in PAIRS} for key in ("s1", "s2"))
    assert s1[BUILT, BARE] > s2[BUILT, BARE]
    assert s1[WATER, FLOODED] > s1[GRASS, BARE]
    assert s2[TREES, GRASS] > 1
    assert s2[GRASS, BARE] > s1[GRASS, BARE]
    assert s2[SNOW, BARE] > s1[SNOW, BARE]


# noise


def test_noisy_labels_are_as_good_as_dynamic_world(world):
    agreement = [(tile["noisy"] == tile["labels"]).mean() for tile in world]
    assert 0.68 < np.mean(agreement) < 0.76
    assert all(tile["noisy"].dtype == np.uint8 and tile["noisy"].max() <= 8 for tile in world)


def test_no_noise_leaves_the_truth(world):
    labels = world[0]["labels"]
    for season in range(4):
        np.testing.assert_array_equal(noisy_labels(labels, season, rng(0), NoiseModel(**CLEAN)), labels)


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_planted_confusion_equals_the_matrix(rate):
    noise = NoiseModel(**{**CLEAN, "confusion_rate": rate, "confusion_scale": 1.5})
    counts = np.zeros((9, 9))
    for index in range(12):
        exact = rng(index).integers(0, 9, (320, 320), dtype=np.uint8)
        np.add.at(counts, (exact, noisy_labels(exact, 0, rng(1, index), noise)), 1)
    found, matrix = counts / counts.sum(axis=1, keepdims=True), noise.confusion_matrix()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(found, matrix, atol=0.015)
    assert (found[matrix == 0] == 0).all()


def test_displacement_touches_only_borders(world):
    labels, shift = world[2]["labels"], 1.5
    noisy = noisy_labels(labels, 0, rng(3), NoiseModel(**{**CLEAN, "border_shift": shift}))
    reach = int(np.ceil(3 * shift))
    padded = np.pad(labels, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    inner = windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))
    changed = noisy != labels
    assert inner.any()
    assert not changed[inner].any()
    assert 0.01 < changed.mean() < 0.3


def test_small_objects_are_lost_and_large_ones_stay():
    exact = np.full((60, 60), CROPS, np.uint8)
    exact[10:14, 10:14] = BUILT
    exact[30:40, 30:40] = WATER
    noisy = noisy_labels(exact, 0, rng(0), NoiseModel(**{**CLEAN, "min_object": 17}))
    assert (noisy == BUILT).sum() == 0
    np.testing.assert_array_equal(noisy == WATER, exact == WATER)
    kept = noisy_labels(exact, 0, rng(0), NoiseModel(**{**CLEAN, "min_object": 16}))
    np.testing.assert_array_equal(kept, exact)


def test_seasons_differ_by_their_flips_only(world):
    labels = world[1]["labels"]
    seasons = [noisy_labels(labels, s, rng(5), NoiseModel()) for s in range(4)]
    steady = [noisy_labels(labels, s, rng(5), NoiseModel(seasonal_flip=0)) for s in range(4)]
    for season, (with_flips, without) in enumerate(zip(seasons, steady)):
        np.testing.assert_array_equal(without, steady[0])
        flipped = with_flips != without
        assert 0 < flipped.mean() < 0.25
        pairs = set(zip(without[flipped].tolist(), with_flips[flipped].tolist()))
        assert pairs <= set(SEASONAL_FLIPS[season].items())
    assert (seasons[0] != seasons[3]).any()


def test_flip_probability_is_the_planted_one():
    noise = NoiseModel(**{**CLEAN, "seasonal_flip": 0.3})
    exact = np.full((256, 256), CROPS, np.uint8)
    found = np.mean([(noisy_labels(exact, 3, rng(i), noise) == BARE).mean() for i in range(12)])
    assert found == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("season", [-1, 4, 0.5])
def test_noise_refuses_unknown_seasons(season):
    with pytest.raises(ValueError, match="season"):
        noisy_labels(np.zeros((24, 24), np.uint8), season, rng(0))


@pytest.mark.parametrize(
    "exact",
    [np.full((24, 24), 255, np.uint8), np.zeros((24, 24), np.int64), np.zeros((1, 24, 24), np.uint8)],
    ids=["ignored", "int64", "3-d"],
)
def test_noise_refuses_what_is_no_map_of_class_ids(exact):
    with pytest.raises(ValueError, match="exact labels"):
        noisy_labels(exact, 0, rng(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("confusion_rate", -0.1), ("confusion_rate", 1.1), ("confusion_rate", float("nan"))],
        *[("border_shift", -1.0), ("min_object", -1), ("seasonal_flip", 2.0), ("confusion_scale", -3.0)],
    ],
)
def test_noise_model_refuses_impossible_values(name, value):
    with pytest.raises(ValueError, match=name):
        NoiseModel(**{name: value})


# folders


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
    from cromss.synthetic import folders

    root, write, written = tmp_path / "nol", folders._write_raster, []

    def fail_late(path, raster, place):
        written.append(path)
        if len(written) > 25:
            raise OSError("disk full")
        write(path, raster, place)

    monkeypatch.setattr(folders, "_write_raster", fail_late)
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
    from cromss.synthetic import folders

    every_class = np.arange(9, dtype=np.uint8).repeat(6)[:, None].repeat(54, axis=1)
    monkeypatch.setattr(folders, "landscape", lambda rng, size: replace(landscape(rng, size), labels=every_class))
    write_dfc2020(tmp_path, 1, 1, size=54, progress=False)
    raw = read(next(tmp_path.rglob("*_dfc_0_p0.tif")))[0]
    assert [raw[6 * c, 0] for c in range(9)] == [10, 1, 4, 5, 6, 2, 7, 9, 8]
