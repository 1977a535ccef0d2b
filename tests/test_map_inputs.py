"""Maps of awkward scenes: bands that end early, names of all kinds, VRTs, other pixels, images that never meet."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from map_scenes import NORTH, UTM, WEST, band_step, optical, plane, radar, write_scene
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform
from test_mapping import CPU, SENSORS, Pixelwise, predictor_of

from cromss.mapping import predict_map
from cromss.mapping.feeding import open_feed
from cromss.mapping.scene import Scene, pixel_metres
from cromss.normalization import NORMALIZATIONS, published_zscore
from cromss.scenes import Grid
from cromss.sensors import S1, S2

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = {"s1": S1.bands, "s2": S2.bands}


def band_folder(folder, short):
    """A scene of 1,200 m in planes; of the band `short` there are 900 m down and 600 m across."""
    for band in S2.bands:
        step = band_step(band)
        pixels = plane(band, step).astype(np.uint16)
        pixels = pixels[:, : 900 // step, : 600 // step] if band == short else pixels
        write_scene(folder / f"{band}.tif", pixels, step)
    return folder


def test_pixels_beyond_the_file_of_a_band_have_no_data(tmp_path):
    folder = band_folder(tmp_path / "scene", "B9")
    with Scene({"s2": folder}, {"s2": S2.bands}, SENSORS) as scene:
        values, valid = scene.images["s2"].read(slice(20, 120), slice(0, 120))
    assert valid[:70, :60].all()
    assert not valid[70:].any()
    assert not valid[:, 60:].any()
    expected = np.concatenate([plane(band, 10) for band in S2.bands])[:, 20:85, 5:55]
    assert np.abs(values[:, :65, 5:55].astype(float) - expected).max() < 30  # of the cubic at edges
    report = predict_map(predictor_of(Pixelwise()), {"s2": folder}, tmp_path / "map.tif", **CPU)
    assert report.without_data == pytest.approx(1 - 90 * 60 / 120**2)


def test_bands_that_end_early_in_another_crs_have_no_data_beyond(tmp_path):
    """A band in degrees that covers the west of the scene; a value of 0 within it is a dark pixel, no hole."""
    folder = band_folder(tmp_path / "scene", short=None)
    (west, middle), (south, north) = transform(UTM, "EPSG:4326", [WEST - 100, WEST + 600], [NORTH - 1300, NORTH + 100])
    step = 5e-4
    shape = round((north - south) / step), round((middle - west) / step)
    dark = np.zeros((1, *shape), np.uint16)
    dark[:, ::2] = 900
    (folder / "B9.tif").unlink()
    write_scene(folder / "B9.tif", dark, step, "EPSG:4326", (west, north))
    with Scene({"s2": folder}, {"s2": S2.bands}, SENSORS) as scene:
        assert scene.grid.crs == UTM  # degrees are smaller numbers, not finer pixels
        _, valid = scene.images["s2"].read(slice(0, 120), slice(0, 120))
    assert valid[:, :55].all()
    assert not valid[:, 65:].any()


@pytest.mark.parametrize("written", ["B{}, central wavelength {} nm", "b{} - {}", "B{}"])
def test_bands_are_known_by_the_first_word_of_their_descriptions(tmp_path, written):
    order = np.random.default_rng(0).permutation(13)
    names = [written.format(S2.bands[band][1:], 400 + band) for band in order]
    path = write_scene(tmp_path / "s2.tif", optical(40, 40)[order], names=names)
    with Scene({"s2": path}, {"s2": S2.bands}, SENSORS) as scene:
        assert (scene.images["s2"].read(slice(0, 40), slice(0, 40))[0] == optical(40, 40)).all()
        assert scene.images["s2"].source.note == ""


def test_names_that_are_of_no_band_are_refused(tmp_path):
    names = ("Blue", "Green", "Red")
    path = write_scene(tmp_path / "s2.tif", optical(40, 40)[1:4], names=names)
    with pytest.raises(ValueError, match=r"^--s2 .*named Blue, Green, Red, which are no bands of Sentinel-2; rename"):
        predict_map(predictor_of(Pixelwise(3), {"s2": S2.bands[1:4]}), {"s2": path}, tmp_path / "map.tif", **CPU)


def test_the_sources_of_a_vrt_are_files_of_the_scene(tmp_path):
    """Those of a VRT within it, too: what is among them is not overwritten, and begins a map anew where it changes."""
    source = write_scene(tmp_path / "pixels.tif", optical(40, 40), names=S2.bands)
    inner, outer = tmp_path / "inner.vrt", tmp_path / "s2.vrt"
    rasterio.shutil.copy(source, inner, driver="VRT")
    outer.write_text(inner.read_text().replace(source.name, inner.name))
    with Scene({"s2": outer}, {"s2": S2.bands}, SENSORS) as scene:
        assert scene.files == [inner, source, outer]
    with pytest.raises(ValueError, match=r"^--out .*pixels.tif: is a raster of the scene"):
        predict_map(predictor_of(Pixelwise()), {"s2": outer}, source, **CPU)


def test_radar_is_clipped_to_percentiles_of_the_scene_not_of_tiles(tmp_path):
    """One side is bright: seen alone, its percentiles would differ. Every tile is as in the image as a whole."""
    pixels = radar(96, 96)
    pixels[:, :, 48:] += 9
    path = write_scene(tmp_path / "s1.tif", pixels)
    fed = []

    class Watched(Pixelwise):
        def forward(self, images):
            fed.append(images.numpy().copy())
            return super().forward(images)

    predictor = predictor_of(Watched(2), {"s1": S1.bands})
    predictor.normalizations["s1"] = "zscore"
    predict_map(predictor, {"s1": path}, tmp_path / "map.tif", tile_size=64, overlap=32, **CPU)
    expected = published_zscore(pixels, S1)
    places = [(0, 0), (0, 32), (32, 0), (32, 32)]
    assert len(fed) == len(places)
    for tile, (row, column) in zip(fed, places):
        assert np.abs(tile[0] - expected[:, row : row + 64, column : column + 64]).max() < 0.1


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("normalization", ["common", "zscore", "reflectance"])
def test_values_of_any_type_are_normalised_alike(tmp_path, normalization, dtype):
    """Extremes of the type among them, and a pixel without data; against the values as float64."""
    dn = optical(64, 48).astype(np.float64) + 1000
    dn[:, 0, :4] = 0, 1, 999, 32767
    dn[:, 0, 0] = 0
    dn[0, 0, 4] = {"uint16": 65535, "int16": -32768, "float32": 60000.5}[dtype]
    path = write_scene(tmp_path / "s2.tif", dn.astype(dtype))
    predictor = replace(predictor_of(Pixelwise()), normalizations={"s2": normalization})
    with Scene({"s2": path}, predictor.bands, SENSORS) as scene:
        feed = open_feed(scene, predictor, 1000)
        (left, right), there = feed.tiles((0, 64), [(0, 32), (16, 48)])
    assert bool(feed.tables) == (dtype != "float32")
    filled = np.maximum(dn - 1000, 0)
    filled[:, 0, 0] = np.trunc(S2.mean) if feed.tables else S2.mean
    expected = NORMALIZATIONS[normalization](filled, S2)
    assert left["s2"].dtype == expected.dtype
    assert np.allclose(left["s2"], expected[..., :32], rtol=1e-6, atol=1e-6)
    assert np.allclose(right["s2"], expected[..., 16:], rtol=1e-6, atol=1e-6)
    assert np.argwhere(~there).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("crs", "corner", "step", "metres"),
    [
        (UTM, (WEST, NORTH), 10, 10),
        ("EPSG:4326", (9.0, 0.0), 1e-3, (111.32 + 110.57) / 2),  # a thousandth of a degree at the equator
        ("EPSG:4326", (9.0, 60.0), 1e-3, (55.80 + 111.41) / 2),
        ("EPSG:3857", (1e6, 8399737.9), 10, 5),  # at 60 degrees Mercator doubles
        ("EPSG:2263", (1e6, 2e5), 30, 30 * 0.3048),  # feet
        ('LOCAL_CS["site",UNIT["metre",1]]', (0, 0), 7, 7),
    ],
)
def test_pixels_are_measured_in_metres_in_any_crs(crs, corner, step, metres):
    grid = Grid(CRS.from_user_input(crs), from_origin(*corner, step, step), (2, 2))
    assert pixel_metres(grid) == pytest.approx(metres, rel=0.005)


@pytest.mark.parametrize(("step", "far"), [(10, False), (20, False), (60, True), (0.5, True)])
def test_pixels_far_from_those_of_training_are_told(tmp_path, capsys, step, far):
    path = write_scene(tmp_path / "s2.tif", optical(40, 40), step)
    predict_map(predictor_of(Pixelwise()), {"s2": path}, tmp_path / "map.tif", **CPU)
    printed = capsys.readouterr().out
    assert f"on pixels of {step} m" in printed
    assert (f"warning: pixels of {step} m, but networks learn from 10 m" in printed) == far


def test_images_that_never_have_data_at_the_same_pixel_give_no_map(tmp_path):
    dn, db = optical(64, 64), radar(64, 64)
    dn[:, :, 32:], db[:, :, :32] = 0, np.nan
    rasters = {"s2": write_scene(tmp_path / "s2.tif", dn), "s1": write_scene(tmp_path / "s1.tif", db)}
    with pytest.raises(ValueError, match=r"^--s2 .*s2.tif and --s1 .*s1.tif: no pixel has data in both") as error:
        predict_map(predictor_of(Pixelwise(15), BOTH), rasters, tmp_path / "map.tif", **CPU)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]
