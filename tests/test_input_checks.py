"""Checks of raw images, and the +1000 offset."""

import numpy as np
import pytest
import rasterio

from cromss.input_checks import UndecidableOffset, check_values, detect_offset, refuse_offset
from cromss.sensors import ORTHO, S1, S2


def decibels(seed=0, shape=(2, 16, 16)):
    return np.random.default_rng(seed).normal(-14, 4, shape)


def digital_numbers(seed=0, shape=(13, 16, 16), low=100, high=4000):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


def with_band(name: str, change) -> np.ndarray:
    image = digital_numbers().astype(np.float64)
    image[S2.index(name)] = change(image[S2.index(name)])
    return image


def test_good_values_pass():
    check_values(decibels(), S1, "a.tif")
    check_values(digital_numbers(), S2, "a.tif")


@pytest.mark.parametrize(
    ("values", "sensor", "message"),
    [
        (10 ** (decibels() / 10), S1, "looks linear"),
        (np.random.default_rng(0).integers(0, 255, (2, 8, 8)), S1, "digital numbers"),
        (digital_numbers(shape=(2, 8, 8)), S1, "digital numbers"),
        (decibels() - 100, S1, "too low for dB"),
        (np.where(np.arange(16) == 3, -9999, decibels()), S1, "a fill value"),
        (np.zeros((2, 8, 8)), S1, "nodata"),
        (np.where(np.arange(16) == 3, np.nan, decibels()), S1, "NaN"),
        (np.where(np.arange(16) == 3, np.inf, decibels()), S1, "infinite"),
        (digital_numbers() / 10000, S2, "reflectance"),
        (np.random.default_rng(0).integers(0, 255, (13, 8, 8)).astype(np.uint8), S2, "8-bit"),
        (np.random.default_rng(0).normal(0, 1, (13, 8, 8)), S2, "negative"),
        (decibels(shape=(13, 8, 8)), S2, "negative"),
        (digital_numbers().astype(np.float64) * 100, S2, "16-bit"),
        (np.zeros((13, 8, 8), np.uint16), S2, "nodata"),
        (digital_numbers()[:12], S2, r"wants \(13, H, W\)"),
        (digital_numbers()[0], S2, r"wants \(13, H, W\)"),
        (decibels(), S2, r"wants \(13, H, W\)"),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_the_file(values, sensor, message):
    with pytest.raises(ValueError, match=message) as error:
        check_values(values, sensor, "tile_7.tif")
    assert "tile_7.tif" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("B4", np.zeros_like, "every pixel of band B4 is 0"),
        ("B12", lambda band: np.full_like(band, 700), "every pixel of band B12 is 700"),
        ("B9", lambda band: band / 10000, "band B9 looks like reflectance"),
        ("B4", lambda band: band / 40, r"band B4 reaches [\d.]+ where the bands like it reach [\d.]+; is it in DN"),
        ("B8A", lambda band: band / 40, "band B8A reaches"),
    ],
)
def test_one_bad_band_is_refused_by_name(name, change, message):
    with pytest.raises(ValueError, match=f"^tile_7.tif: {message}"):
        check_values(with_band(name, change), S2, "tile_7.tif")


@pytest.mark.parametrize(
    ("name", "change"),
    [("B10", np.zeros_like), ("B10", lambda band: band / 10000), ("B4", lambda band: band / 4), ("B12", np.sqrt)],
)
def test_a_dark_band_is_no_bad_band(name, change):
    check_values(with_band(name, change), S2, "tile_7.tif")


def test_bands_in_any_order_are_checked_by_name():
    names = ("B04", "B08", "B02")
    with pytest.raises(ValueError, match="every pixel of band B8 is 0"):
        check_values(with_band("B8", np.zeros_like)[S2.indices(names)], S2, "a.tif", names)


def test_one_constant_polarisation_is_refused():
    image = decibels()
    image[1] = -20
    with pytest.raises(ValueError, match="band VH is -20"):
        check_values(image, S1, "a.tif")


def test_an_orthophoto_of_dark_water_passes():
    image = np.random.default_rng(0).integers(0, 90, (4, 8, 8))
    image[0] = 0
    check_values(image, ORTHO, "a.tif")


def test_real_tiles_pass_in_any_part(real):
    for path in sorted((real / "s12_tiles").glob("*/S2L1C*.tif")):
        with rasterio.open(path) as source:
            image = source.read()
        for row, column in np.ndindex(3, 3):
            check_values(image[:, 64 * row :, 64 * column :][:, :64, :64], S2, str(path))


def test_data_that_predate_the_offset_are_refused_with_it():
    image = digital_numbers(low=5)
    refuse_offset(image, "imgs_2")
    refuse_offset(digital_numbers(low=6000, high=9000), "imgs_2")
    with pytest.raises(
        ValueError, match=r"^imgs_2: the pixels show a DN offset of 1000, .* predate it; subtract 1000$"
    ):
        refuse_offset(image + 1000, "imgs_2")


def test_offset_is_seen_in_dark_pixels():
    image = digital_numbers(low=5)
    assert detect_offset(image) == 0
    assert detect_offset(image + 1000) == 1000


def test_offset_of_snow_is_undecidable():
    with pytest.raises(UndecidableOffset, match="--s2_offset"):
        detect_offset(digital_numbers(low=6000, high=9000))


def test_offset_of_an_empty_tile_is_undecidable():
    with pytest.raises(UndecidableOffset):
        detect_offset(np.zeros((13, 4, 4), np.uint16))


@pytest.mark.parametrize(
    ("tile", "offset"),
    [("terramesh_282D_485L_3_3", 1000), ("terramesh_38D_378R_2_3", 0), ("sen12mscr_ROIs1970_fall_139_p839", 0)],
)
def test_offset_of_real_tiles(real, tile, offset):
    with rasterio.open(real / "s12_tiles" / tile / "S2L1C.tif") as source:
        assert detect_offset(source.read()) == offset


def test_offset_of_real_snow_is_undecidable(real):
    with (
        rasterio.open(real / "s12_tiles" / "terramesh_609U_541L_3_0" / "S2L1C.tif") as source,
        pytest.raises(UndecidableOffset),
    ):
        detect_offset(source.read())
