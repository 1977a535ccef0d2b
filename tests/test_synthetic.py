"""The synthetic world: what it looks like in numbers, and that its noise is the planted one."""

import numpy as np
import pytest

from cromss.fields import (
    block_means,
    local_mean,
    near,
    parcels,
    resampled,
    shifted,
    smooth_field,
    uniform_pair,
)
from cromss.input_checks import check_values, detect_offset
from cromss.legends import NOL
from cromss.sensors import S1, S2
from cromss.synthetic import (
    Ground,
    NoiseModel,
    draw_ground,
    land_cover,
    landscape,
    noisy_labels,
    optical,
    radar,
)
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


def test_local_means_and_neighbours_equal_loops_over_windows():
    mask = rng(3).random((13, 9)) < 0.05
    padded = np.pad(mask, 2, mode="edge")
    windows = [[padded[r : r + 5, c : c + 5] for c in range(9)] for r in range(13)]
    np.testing.assert_allclose(local_mean(mask, 2), [[w.mean() for w in row] for row in windows], atol=1e-12)
    np.testing.assert_array_equal(near(mask, 2), [[w.any() for w in row] for row in windows])


def test_shifting_repeats_the_edge():
    image = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(shifted(image, 1, 0), image[[0, 0, 1]])
    np.testing.assert_array_equal(shifted(image, 0, -2), image[:, [2, 3, 3, 3]])


def test_resampling_keeps_places():
    y, x = np.mgrid[:20, :30] + 0.5
    ramp = 3 * y + 2 * x
    np.testing.assert_allclose(resampled(ramp, (20, 30), (20, 30)), ramp)
    finer = resampled(ramp, (36, 50), (18, 25))[2:-2, 2:-2]
    rows, columns = (np.mgrid[:36, :50] + 0.5) / 2
    np.testing.assert_allclose(finer, (3 * rows + 2 * columns)[2:-2, 2:-2])


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
