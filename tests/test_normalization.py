"""Normalisations by name: the published numbers, naive NumPy, and refusals of what makes no sense."""

from dataclasses import replace

import numpy as np
import pytest

from cromss.normalization import FMOW_SENTINEL, NORMALIZATIONS, STANDARD, WITH_STATISTICS
from cromss.sensors import MODALITIES, ORTHO, S1, S2, S2_SUBSETS, s2_bands

RGB = S2_SUBSETS[3]


def decibels(shape=(2, 9, 7)) -> np.ndarray:
    return np.random.default_rng(0).normal(-14, 6, shape).astype(np.float32)


def digital_numbers(count=13) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 14000, (count, 9, 7)).astype(np.uint16)


def photo(count=4) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 9, 7)).astype(np.uint8)


@pytest.mark.parametrize("n_channels", [3, 9, 92, 13])
def test_sentinel_2_matches_published(reference, n_channels):
    arrays = np.load(reference / "f1_normalise.npz")
    bands = s2_bands(n_channels)
    image = arrays["s2_u16"][S2.indices(bands)]
    got = {name: NORMALIZATIONS[name](image, S2, bands) for name in ("common", "zscore", "reflectance")}
    np.testing.assert_array_equal(got["common"], arrays[f"data_clip_s2_{n_channels}"])
    np.testing.assert_allclose(got["zscore"], arrays[f"data_normalize_s2_{n_channels}"], atol=3e-7)
    np.testing.assert_allclose(got["reflectance"], arrays[f"normalize_s2_{n_channels}"], atol=1e-7)
    assert [values.dtype for values in got.values()] == [np.uint8, np.float32, np.float32]


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_sentinel_1_matches_published(reference, precision):
    arrays = np.load(reference / "f1_normalise.npz")
    image = arrays[f"s1_{precision}"]
    quantised, score = (NORMALIZATIONS[name](image, S1, None) for name in ("common", "zscore"))
    assert (quantised != arrays[f"data_clip_s1_{precision}"]).mean() <= 1e-3
    np.testing.assert_allclose(score, arrays[f"data_normalize_s1_{precision}"], atol=2e-6)
    assert score.dtype == np.float32


@pytest.mark.parametrize("dataset", ["dfc", "dw", "osm"])
def test_downstream_inputs_match_published(reference, dataset):
    arrays = np.load(reference / "f3_downstream_items.npz")
    image = arrays["s2_u16"]
    for name, flag, scale in (("common", 0, 255), ("zscore", 1, 1)):
        published = arrays[f"{dataset}__s2_13b_s1norm0_s2norm{flag}__img"]
        np.testing.assert_allclose(NORMALIZATIONS[name](image, S2, S2.bands) / scale, published, atol=1e-5)


@pytest.mark.parametrize(("modality", "values"), [(S1, photo(2)), (S2, photo(13)), (ORTHO, photo(4))])
def test_common_leaves_quantised_values_as_they_are(modality, values):
    assert NORMALIZATIONS["common"](values, modality, None) is values


def test_standard_by_hand():
    dn, bands = digital_numbers(2), ("B12", "B2")
    by_hand = np.stack([(dn[0] - 1537.4) / 1142.9, (dn[1] - 1397.6) / 854.3])
    np.testing.assert_allclose(NORMALIZATIONS["standard"](dn, S2, bands), by_hand, rtol=1e-5, atol=1e-6)
    db = decibels()
    by_hand = np.stack([(db[0] + 12.59) / 5.26, (db[1] + 20.26) / 5.91])
    np.testing.assert_allclose(NORMALIZATIONS["standard"](db, S1, S1.bands), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modality", [S1, S2])
def test_statistics_of_standard_are_close_to_ours(modality):
    """Both come from SSL4EO-S12: a swapped band would show."""
    for own, theirs in zip((modality.mean, modality.std), STANDARD[modality.name], strict=True):
        np.testing.assert_allclose(theirs, own, rtol=0.08)


def test_satlas_by_hand():
    dn = digital_numbers(9)
    got = NORMALIZATIONS["satlas"](dn, S2, S2_SUBSETS[92])
    by_hand = [np.minimum(dn[i] / (3558 if i < 3 else 8160), 1) for i in range(9)]
    np.testing.assert_allclose(got, by_hand, rtol=1e-6)
    other_order = NORMALIZATIONS["satlas"](dn[[2, 1, 0, 3]], S2, ("B02", "B3", "B4", "B5"))
    np.testing.assert_array_equal(other_order, got[[2, 1, 0, 3]])


def test_imagenet_by_hand():
    dn = digital_numbers(3)
    unit = np.minimum(dn / 3558, 1)
    by_hand = [(unit[0] - 0.485) / 0.229, (unit[1] - 0.456) / 0.224, (unit[2] - 0.406) / 0.225]
    np.testing.assert_allclose(NORMALIZATIONS["imagenet"](dn, S2, RGB), by_hand, atol=1e-6)
    unit = photo(3) / 255
    by_hand = [(unit[0] - 0.485) / 0.229, (unit[1] - 0.456) / 0.224, (unit[2] - 0.406) / 0.225]
    np.testing.assert_allclose(NORMALIZATIONS["imagenet"](photo(3), ORTHO, ("R", "G", "B")), by_hand, atol=1e-6)


def test_satmae_by_hand():
    dn, bands = digital_numbers(3), ("B2", "B8A", "B12")
    mean, std = (1184.3824625, 1972.62420416, 1247.91870117), (650.2842772, 1364.38688993, 1087.6020813)
    by_hand = [np.clip((dn[i] - (mean[i] - 2 * std[i])) / (4 * std[i]) * 255, 0, 255) for i in range(3)]
    got = NORMALIZATIONS["satmae"](dn, S2, bands)
    np.testing.assert_array_equal(got, np.stack(by_hand).astype(np.uint8))


def test_statistics_of_satmae_belong_to_their_bands():
    """Other places and times than ours, the same sensor: a swapped band would show."""
    assert np.corrcoef(FMOW_SENTINEL.mean, S2.mean)[0, 1] > 0.99
    assert np.corrcoef(FMOW_SENTINEL.std, S2.std)[0, 1] > 0.98


def test_dofa_by_hand():
    dn = digital_numbers(9)
    mean = (114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168, 103.94461911, 101.435633, 72.32804172)
    std = (77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487, 61.34187099, 60.29744676, 47.88519516)
    mean, std = (*mean, 56.66528851), (*std, 42.55886798)
    by_hand = [(255 * np.minimum(dn[i] / (3558 if i < 3 else 8160), 1) - mean[i]) / std[i] for i in range(9)]
    got = NORMALIZATIONS["dofa"](dn, S2, S2_SUBSETS[92])
    np.testing.assert_allclose(got, by_hand, atol=1e-5)
    np.testing.assert_array_equal(NORMALIZATIONS["dofa"](dn[[8, 2]], S2, ("B12", "B2")), got[[8, 2]])
    db = np.float32([[[-20, 0]], [[-20, -np.inf]]])
    by_hand = [[[(60 - 166.36275909) / 64.83126309, (255 - 166.36275909) / 64.83126309]]]
    by_hand += [[[(60 - 88.45542715) / 43.07350145, -88.45542715 / 43.07350145]]]
    np.testing.assert_allclose(NORMALIZATIONS["dofa"](db, S1, None), by_hand, atol=1e-5)
    np.testing.assert_allclose(NORMALIZATIONS["dofa"](db[::-1], S1, ("VH", "VV")), by_hand[::-1], atol=1e-5)


def test_dofa_brings_real_radar_images_near_its_statistics(real):
    rasterio = pytest.importorskip("rasterio")
    tiles = [rasterio.open(path).read() for path in real.glob("s12_tiles/*/S1*.tif")]
    scores = np.stack([NORMALIZATIONS["dofa"](tile[:, :224, :224], S1, None) for tile in tiles])
    assert len(scores) == 4
    np.testing.assert_allclose(scores.mean((0, 2, 3)), 0, atol=0.5)
    assert 0.5 < scores.std((2, 3)).mean() < 1.2


def test_zscore_of_orthophotos_spans_their_range():
    ends = np.array([0, 255], np.uint8)[None, None] * np.ones((4, 1, 1), np.uint8)
    np.testing.assert_allclose(NORMALIZATIONS["zscore"](ends, ORTHO, None), np.float32([[[-2, 2]]] * 4))


INPUTS = {"s1": decibels(), "s2": digital_numbers(), "ortho": photo()}
OFFERED = {
    ("common", "s1"): None,
    ("common", "s2"): None,
    ("common", "ortho"): None,
    ("zscore", "s1"): None,
    ("zscore", "s2"): None,
    ("zscore", "ortho"): None,
    ("reflectance", "s2"): None,
    ("standard", "s1"): None,
    ("standard", "s2"): None,
    ("satlas", "s2"): S2_SUBSETS[9],
    ("imagenet", "s2"): RGB,
    ("imagenet", "ortho"): ("R", "G", "B"),
    ("satmae", "s2"): None,
    ("dofa", "s1"): None,
    ("dofa", "s2"): S2_SUBSETS[9],
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("key", MODALITIES)
def test_every_pair_works_or_is_refused_in_one_line(name, key):
    modality = MODALITIES[key]
    bands = OFFERED.get((name, key))
    values = INPUTS[key][modality.indices(bands)]
    before = values.copy()
    if (name, key) not in OFFERED:
        with pytest.raises(ValueError, match=f"{name} normalization: not known for {modality.title}") as caught:
            NORMALIZATIONS[name](values, modality, bands)
        assert "\n" not in str(caught.value)
        return
    got = NORMALIZATIONS[name](values, modality, bands)
    assert got.shape == values.shape
    assert got.dtype == (np.uint8 if name in ("common", "satmae") else np.float32)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(("name", "key"), OFFERED)
def test_who_goes_by_the_statistics_of_the_sensor(name, key):
    sensor, bands = MODALITIES[key], OFFERED[name, key]
    values = INPUTS[key][sensor.indices(bands)]
    moved = replace(sensor, mean=tuple(mean + std for mean, std in zip(sensor.mean, sensor.std)))
    same = np.array_equal(NORMALIZATIONS[name](values, sensor, bands), NORMALIZATIONS[name](values, moved, bands))
    assert same == (name not in WITH_STATISTICS or (name, key) == ("common", "ortho"))  # uint8 stays as it is


@pytest.mark.parametrize(
    ("name", "values", "modality", "bands", "message"),
    [
        (
            "zscore",
            photo(13),
            S2,
            None,
            "Sentinel-2: these values are quantised to uint8 already, but raw DN are needed",
        ),
        ("reflectance", photo(13), S2, None, "quantised to uint8 already"),
        ("standard", photo(2), S1, None, "Sentinel-1: these values are quantised .* raw dB are needed"),
        ("satlas", photo(9), S2, S2_SUBSETS[92], "quantised to uint8 already"),
        ("imagenet", photo(3), S2, RGB, "quantised to uint8 already"),
        ("satmae", photo(13), S2, None, "quantised to uint8 already"),
        ("satmae", digital_numbers(9), S2, S2_SUBSETS[10], r"\(10, H, W\) with bands B2 .*, got \(9, 9, 7\)"),
        ("dofa", photo(9), S2, S2_SUBSETS[92], "quantised to uint8 already"),
        ("dofa", photo(2), S1, None, "quantised .* raw dB are needed"),
        ("dofa", digital_numbers(10), S2, S2_SUBSETS[10], "dofa normalization: B8A are not among its bands B4 B3 B2"),
        ("dofa", digital_numbers(), S2, None, "B1 B8A B9 B10 are not among its bands .*--n_channels 92"),
        ("satlas", digital_numbers(), S2, None, "B1 B8A B9 B10 are not among its bands B4 B3 B2 .*--n_channels 92"),
        ("imagenet", digital_numbers(), S2, None, "known for B4 B3 B2 only, got B1 B2"),
        ("imagenet", digital_numbers(3), S2, RGB[::-1], "known for B4 B3 B2 only, got B2 B3 B4"),
        ("imagenet", photo(), ORTHO, None, "known for R G B only, got NIR R G B; choose --normalization common"),
        ("reflectance", digital_numbers(12), S2, None, r"Sentinel-2: \(13, H, W\) with bands B1 .*, got \(12, 9, 7\)"),
        ("standard", digital_numbers(1), S2, None, r"\(13, H, W\) with bands"),
        ("standard", digital_numbers()[0], S2, None, r"\(13, H, W\) with bands"),
        ("zscore", digital_numbers(), S2, RGB, r"\(3, H, W\) with bands B4 B3 B2"),
        ("common", digital_numbers(), S2, RGB, r"\(3, H, W\) with bands B4 B3 B2"),
        ("standard", digital_numbers(1), S2, ("B13",), "Sentinel-2 has no band 'B13'"),
    ],
)
def test_bad_input_is_refused_in_one_line(name, values, modality, bands, message):
    with pytest.raises(ValueError, match=message) as caught:
        NORMALIZATIONS[name](values, modality, bands)
    assert "\n" not in str(caught.value)
