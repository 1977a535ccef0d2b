"""Scenes: how pixels are resampled, and what is refused."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasters import fake_db, fake_dn, write_bands, write_tiff

from cromss import scenes
from cromss.legends import DFC2020, NOL
from cromss.sensors import ORTHO, S1, S2


def bicubic_weights(num_in: int, num_out: int) -> np.ndarray:
    """`(num_out, num_in)` cubic convolution (a = -0.5) between pixel centres, for upsampling."""
    weights = np.zeros((num_out, num_in))
    for row in range(num_out):
        centre = (row + 0.5) * num_in / num_out - 0.5
        for column in range(num_in):
            x = abs(centre - column)
            if x < 1:
                weights[row, column] = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                weights[row, column] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("names", [S2.bands, [f"B{int(b[1:]):02d}" if b != "B8A" else b for b in S2.bands]])
def test_native_grids_are_resampled_bicubically(tmp_path, names):
    rng = np.random.default_rng(1)
    bands = [
        rng.uniform(100, 4000, (n, n)).astype(np.float32) for n in (4, 24, 24, 24, *[12] * 3, 24, 12, 4, 4, 12, 12)
    ]
    write_bands(tmp_path / "scene", bands, names)
    image = scenes.read_image(tmp_path / "scene", S2, size=24)
    for band, found in zip(bands, image):
        weights = bicubic_weights(len(band), 24)
        np.testing.assert_allclose(found, weights @ band @ weights.T, rtol=1e-4, atol=0.1)


def test_a_multi_band_file_keeps_size_and_type(tmp_path):
    dn = fake_dn(np.random.default_rng(2), 9).astype(np.int16)
    image = scenes.read_image(write_tiff(tmp_path / "S2.tif", dn, S2.bands), S2)
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image, dn)


@pytest.mark.parametrize("size", [5, 8, 24, 30])
def test_labels_are_resampled_to_the_nearest(tmp_path, size):
    labels = np.random.default_rng(3).choice([0, 3, 8, 255], (8, 8)).astype(np.uint8)
    found = scenes.read_labels(write_tiff(tmp_path / "label.tif", labels), NOL, size)
    nearest = ((np.arange(size) + 0.5) * 8 / size).astype(int)
    np.testing.assert_array_equal(found, labels[np.ix_(nearest, nearest)])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_that_is_nodata_is_ignored(tmp_path, kind):
    pixels = np.array([[0, np.nan], [8, 255]], kind)
    found = scenes.read_labels(write_tiff(tmp_path / "label.tif", pixels, nodata=np.nan), NOL)
    assert (found.dtype, found.tolist()) == (np.uint8, [[0, 255], [8, 255]])
    with pytest.raises(ValueError, match="NaN where codes are wanted"):
        scenes.read_labels(write_tiff(tmp_path / "other.tif", pixels, nodata=-1), NOL)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_classes_that_are_declared_nodata_are_refused(tmp_path, kind):
    pixels = np.array([[3, 5], [8, 255]], kind)
    wanted = r"a.tif: declares nodata 3, which the codes map to flooded vegetation: put 3 under ignored, or clear the"
    with pytest.raises(ValueError, match=wanted):
        scenes.read_labels(write_tiff(tmp_path / "a.tif", pixels, nodata=3), NOL)
    for nodata in (None, 4, 255):
        found = scenes.read_labels(write_tiff(tmp_path / "b.tif", pixels, nodata=nodata), NOL)
        assert found.tolist() == [[3, 5], [8, 255]]
    codes = write_tiff(tmp_path / "c.tif", np.array([[0, 1]], kind), nodata=0)
    assert scenes.read_labels(codes, DFC2020).tolist() == [[255, 1]]


def test_labels_become_class_ids(tmp_path):
    path = write_tiff(tmp_path / "dfc.tif", np.array([[1, 2, 3], [10, 0, 9]], np.uint16))
    np.testing.assert_array_equal(scenes.read_labels(path, DFC2020), [[1, 5, 255], [0, 255, 7]])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), 9, np.uint8), "label codes outside the NoL legend: 9"),
        (np.full((4, 4), 2.5, np.float32), "label codes must be whole numbers"),
        (np.array([[0, np.nan]], np.float32), "NaN where codes are wanted"),
        (np.zeros((3, 4, 4), np.uint8), "3 bands where 1 are wanted: label"),
    ],
)
def test_bad_labels_are_refused(tmp_path, pixels, message):
    path = write_tiff(tmp_path / "label.tif", pixels)
    with pytest.raises(ValueError, match=f"label.tif: {message}"):
        scenes.read_labels(path, NOL)


def without(band: str) -> list[str]:
    return [name for name in S2.bands if name != band]


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (without("B10"), r"no file for band B10 of Sentinel-2 \(level 2A has none"),
        (without("B8A"), "no file for band B8A of Sentinel-2$"),
        (["B2"], "no file for band B1 B3 B4"),
    ],
)
def test_a_missing_band_file_is_named(tmp_path, bands, message):
    write_bands(tmp_path / "scene", fake_dn(np.random.default_rng(0)), bands)
    with pytest.raises(ValueError, match=message):
        scenes.read_image(tmp_path / "scene", S2)


@pytest.mark.parametrize(
    ("count", "descriptions", "message"),
    [
        (12, (), r"12 bands where 13 are wanted; missing: B10 \(level 2A has none\)"),
        (12, without("B9"), "12 bands where 13 are wanted; missing: B9"),
        (4, (), "4 bands where 13 are wanted: B1 B2"),
        (13, S2.bands[::-1], "bands are B12 B11 .* wanted in the order B1 B2"),
        (13, ("B02", "B01", *S2.bands[2:]), "bands are B2 B1 B3"),
    ],
)
def test_wrong_bands_of_a_multi_band_file_are_named(tmp_path, count, descriptions, message):
    path = write_tiff(tmp_path / "S2.tif", fake_dn(np.random.default_rng(0))[:count], descriptions)
    with pytest.raises(ValueError, match=f"S2.tif: {message}"):
        scenes.read_image(path, S2)


def test_swapped_polarisations_are_seen(tmp_path):
    path = write_tiff(tmp_path / "S1.tif", fake_db(np.random.default_rng(0)), ("VH", "VV"))
    with pytest.raises(ValueError, match="bands are VH VV, wanted in the order VV VH"):
        scenes.read_image(path, S1)


RGBN = ("R", "G", "B", "NIR")
DEFAULT_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
LEADING_INFRARED = (ColorInterp.undefined, ColorInterp.red, ColorInterp.green, ColorInterp.blue)
UNCOLOURED = (ColorInterp.gray, *[ColorInterp.undefined] * 3)


def orthophoto() -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (4, 6, 6), np.uint8)


@pytest.mark.parametrize(
    ("descriptions", "colours", "told", "order"),
    [
        ((), UNCOLOURED, None, ORTHO.bands),
        ((), LEADING_INFRARED, None, ORTHO.bands),
        (ORTHO.bands, DEFAULT_COLOURS, None, ORTHO.bands),
        (("Near Infrared", "Red", "Green", "Blue"), None, None, ORTHO.bands),
        ((), None, ORTHO.bands, ORTHO.bands),
        ((), None, RGBN, RGBN),
        (("red", "green", "blue", "nir"), None, RGBN, RGBN),
        ((), UNCOLOURED, ("B", "G", "R", "NIR"), ("B", "G", "R", "NIR")),
    ],
)
def test_orthophotos_come_in_the_order_of_the_sensor(tmp_path, descriptions, colours, told, order):
    image = orthophoto()
    stored = image[[ORTHO.index(band) for band in order]]
    path = write_tiff(tmp_path / "a.tif", stored, descriptions, colours=colours)
    np.testing.assert_array_equal(scenes.read_image(path, ORTHO, bands=told), image)


@pytest.mark.parametrize(
    ("descriptions", "colours", "told", "message"),
    [
        (RGBN, UNCOLOURED, None, "bands are R G B NIR, wanted in the order NIR R G B; say --band_order R G B NIR"),
        (("Red", "Green", "Blue", "Infrared"), None, None, "bands are R G B NIR, wanted in the order NIR R G B"),
        (ORTHO.bands, None, RGBN, "bands are NIR R G B, wanted in the order R G B NIR"),
        ((), None, None, "bands are R G B NIR by their colour interpretation.*say --band_order R G B NIR or"),
        ((), (*DEFAULT_COLOURS[:3], ColorInterp.undefined), None, "bands are R G B NIR by their colour interpretation"),
    ],
)
def test_orthophotos_in_another_order_do_not_pass(tmp_path, descriptions, colours, told, message):
    path = write_tiff(tmp_path / "a.tif", orthophoto(), descriptions, colours=colours)
    with pytest.raises(ValueError, match=f"a.tif: {message}"):
        scenes.read_image(path, ORTHO, bands=told)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (orthophoto()[:3], "3 bands where 4 are wanted: NIR R G B"),
        (orthophoto() / np.float32(255), "looks scaled to 0..1"),
        (orthophoto().astype(np.uint16) * 16, "wanted are 0..255"),
        (np.zeros((4, 6, 6), np.uint8), "nodata"),
    ],
)
def test_bad_orthophotos_are_refused(tmp_path, image, message):
    path = write_tiff(tmp_path / "a.tif", image, colours=UNCOLOURED[: len(image)])
    with pytest.raises(ValueError, match=f"a.tif: .*{message}"):
        scenes.read_image(path, ORTHO)


def test_real_orthophotos_tell_their_order(real):
    path = next((real / "naip").glob("*/naip_new.tif"))
    with pytest.raises(ValueError, match="say --band_order R G B NIR or --band_order NIR R G B"):
        scenes.read_image(path, ORTHO)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(scenes.read_image(path, ORTHO, bands=RGBN), dataset.read([4, 1, 2, 3]))


def test_the_second_band_is_the_label_only_where_asked_for(tmp_path):
    codes = np.array([[[9, 9]], [[1, 2]], [[77, 77]]], np.uint8)
    for stored in (codes[1:2], codes[:2], codes):
        path = write_tiff(tmp_path / "label.tif", stored)
        assert scenes.read_labels(path, NOL, second_band=True).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="3 bands where 1 are wanted: label"):
        scenes.read_labels(path, NOL)


def test_bands_are_found_by_the_end_of_the_name(tmp_path):
    folder = write_bands(tmp_path / "a", fake_dn(np.random.default_rng(0)), [f"T49_20160927_{b}" for b in S2.bands])
    assert [path.stem[13:] for path in scenes.band_files(folder, S2).values()] == list(S2.bands)
    write_tiff(folder / "B08.tif", np.ones((3, 3), np.uint16))
    with pytest.raises(ValueError, match=r"B08\.tif and T49_20160927_B8\.tif are both band B8"):
        scenes.band_files(folder, S2)


@pytest.mark.parametrize(
    ("stem", "band"),
    [("B02", "B2"), ("b8a", "B8A"), ("T49_2016_B11", "B11"), ("T49_B05_20m", "B5"), ("B10_60m", "B10"), ("a_vv", "VV")],
)
def test_a_band_is_told_by_the_end_of_a_name_but_for_its_pixels(stem, band):
    assert scenes.band_in_name(stem) == band


def test_free_descriptions_are_not_band_names(tmp_path):
    db = fake_db(np.random.default_rng(0))
    path = write_tiff(tmp_path / "S1.tif", db, ("copolarised", "crosspolarised"))
    np.testing.assert_array_equal(scenes.read_image(path, S1), db)


def spoilt(value: float) -> np.ndarray:
    db = fake_db(np.random.default_rng(0))
    db[1, 3, 4] = value
    return db


@pytest.mark.parametrize(
    ("db", "nodata", "message"),
    [
        (10 ** (fake_db(np.random.default_rng(0)) / 10), None, "looks linear"),
        (spoilt(np.nan), None, "1 NaN or infinite"),
        (spoilt(np.nan), np.nan, r"1 nodata pixels \(nan\)"),
        (spoilt(-9999), -9999, r"1 nodata pixels \(-9999\)"),
        (np.zeros((2, 4, 4), np.float32), None, "nodata"),
        (np.full((2, 12, 12), 900, np.float32) + spoilt(0), None, "looks like digital numbers"),
    ],
)
def test_bad_values_are_refused(tmp_path, db, nodata, message):
    path = write_tiff(tmp_path / "S1.tif", db, nodata=nodata)
    with pytest.raises(ValueError, match=f"S1.tif: .*{message}"):
        scenes.read_image(path, S1)


@pytest.mark.parametrize("kept", [0, 4, 200, -100])
def test_a_truncated_file_is_one_line(tmp_path, kept):
    path = write_tiff(tmp_path / "S1.tif", fake_db(np.random.default_rng(0), 40))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"S1\.tif: cannot be read") as error:
        scenes.read_image(path, S1)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="20190704: no such file"):
        scenes.read_image(tmp_path / "20190704", S2)
    with pytest.raises(ValueError, match=r"label\.tif: no such file"):
        scenes.read_labels(tmp_path / "label.tif", NOL)


def test_bands_on_several_grids_need_a_size(tmp_path):
    write_bands(tmp_path / "scene", [np.full((n, n), -9.0 - n, np.float32) for n in (4, 8)], S1.bands)
    with pytest.raises(ValueError, match="different grids"):
        scenes.read_image(tmp_path / "scene", S1)


def test_real_scenes_are_resampled_bicubically(real):
    scene = next((real / "ssl4eo_layout" / "imgs" / "000000").iterdir())
    image = scenes.read_image(scene, S2, 264)
    with rasterio.open(scene / "B9.tif") as dataset:
        native = dataset.read(1)
    weights = bicubic_weights(len(native), 264)
    assert np.abs(image[9] - np.rint(weights @ native @ weights.T)).max() <= 1


def test_complex_products_are_refused(tmp_path):
    path = write_tiff(tmp_path / "S1.tif", np.zeros((2, 8, 8), np.complex64))
    with pytest.raises(ValueError, match=r"S1\.tif: complex values"):
        scenes.read_image(path, S1)


def test_gigantic_headers_are_refused_before_any_pixel_is_read(tmp_path):
    profile = {"driver": "GTiff", "count": 2, "height": 200_000, "width": 200_000, "dtype": "float32"}
    with rasterio.open(tmp_path / "S1.tif", "w", tiled=True, sparse_ok=True, BIGTIFF="YES", **profile):
        pass
    with pytest.raises(ValueError, match="2 x 200000 x 200000 values"):
        scenes.read_image(tmp_path / "S1.tif", S1)


def test_place_of_a_scene(tmp_path):
    plain = write_tiff(tmp_path / "a.tif", np.zeros((1, 4, 4), np.uint8))
    with rasterio.open(plain, "r+") as dataset:
        dataset.crs, dataset.transform = "EPSG:32633", rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    grid = scenes.scene_grid(plain)
    assert (grid.crs.to_epsg(), grid.transform[:6], grid.shape) == (32633, (10, 0, 500_000, 0, -10, 5_000_000), (4, 4))
