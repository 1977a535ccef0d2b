"""Land use on grids: windows, blocks, and the world looked up at every pixel."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from map_server import COLOURS, inner, serving, world
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import array_bounds
from rasterio.warp import transform

from cromss.downloads import FileMark, NothingThere
from cromss.downloads.land_use import Extraction, blocks, covering, on_grid, reference_grid, write_codes
from cromss.downloads.map_service import open_layer
from cromss.legends import OSM
from cromss.scenes import Grid


def grid(crs, west, north, step, shape=(90, 110)):
    return Grid(CRS.from_string(crs), Affine(step, 0, west, 0, -step, north), shape)


GRIDS = {
    "north": grid("EPSG:32632", 466000, 5328000, 10),
    "high north": grid("EPSG:32633", 620000, 7600000, 10),
    "south": grid("EPSG:32723", 333000, 7394000, 10),
    "degrees": grid("EPSG:4326", 8.5, 48.1, 1e-4),
    "mercator": grid("EPSG:3857", 950003, 6200007, 15),
}


def centres(grid, system="EPSG:3857"):
    """Places of all pixel centres in a system."""
    columns, rows = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    x, y = grid.transform.c + columns * grid.transform.a, grid.transform.f + rows * grid.transform.e
    x, y = transform(grid.crs, system, x.ravel(), y.ravel())
    return np.reshape(x, grid.shape), np.reshape(y, grid.shape)


@pytest.fixture(scope="module")
def service():
    with serving() as service:
        yield service


@pytest.fixture(scope="module")
def extraction(service):
    return Extraction(open_layer(service.url, "osmlanduse:osm_lulc"), COLOURS, min_labelled=0)


@pytest.mark.parametrize("place", GRIDS)
@pytest.mark.parametrize("blend", [False, True])
def test_every_pixel_has_the_class_of_its_place(service, extraction, place, blend):
    service.blend = blend
    codes, (x, y) = extraction.fetch(GRIDS[place]), centres(GRIDS[place])
    step = extraction.window(GRIDS[place]).transform.a
    inside = inner(x, y, (1 + blend) * step)
    assert codes.dtype == np.uint8
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(codes[inside], world(x, y)[inside])
    assert (codes == world(x, y)).mean() > (0.85 if blend else 0.96)
    assert {*np.unique(world(x, y))} >= {0, 5, 13}


@pytest.mark.parametrize("most", [(4096, 4096), (64, 100), (37, 41)])
def test_blocks_make_up_the_same_map(service, extraction, most):
    service.blend = False
    whole = extraction.fetch(GRIDS["north"])
    service.sizes.clear()
    limited = replace(extraction, layer=replace(extraction.layer, max_shape=most))
    np.testing.assert_array_equal(limited.fetch(GRIDS["north"]), whole)
    assert max(height for _, height in service.sizes) <= most[0]
    assert max(width for width, _ in service.sizes) <= most[1]


@pytest.mark.parametrize(
    ("shape", "most"), [((5, 7), (5, 7)), ((10, 3), (4, 4)), ((1, 1), (9, 9)), ((100, 99), (33, 1))]
)
def test_blocks_cover_each_pixel_once(shape, most):
    count = np.zeros(shape, int)
    for rows, columns in blocks(shape, most):
        count[rows, columns] += 1
        assert 0 < rows.stop - rows.start <= most[0]
        assert 0 < columns.stop - columns.start <= most[1]
    assert (count == 1).all()


@pytest.mark.parametrize("system", ["EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("place", GRIDS)
def test_windows_cover_the_grid_with_its_margin(place, system):
    window = covering(GRIDS[place], system, 2, 8)
    x, y = centres(GRIDS[place], system)
    west, south, east, north = array_bounds(*window.shape, window.transform)
    step = window.transform.a
    assert step == -window.transform.e
    assert (x.min() - west) / step >= 15
    assert (y.min() - south) / step >= 15
    assert (east - x.max()) / step >= 15
    assert (north - y.max()) / step >= 15
    pixel = min(
        np.hypot(np.diff(x, axis=1), np.diff(y, axis=1)).max(), np.hypot(np.diff(x, axis=0), np.diff(y, axis=0)).max()
    )
    assert 0.4 * pixel < step < 0.6 * pixel


@pytest.mark.parametrize(
    "lost",
    [
        grid("EPSG:32601", 320000, 7200000, 10, (900, 9000)),
        grid("EPSG:4326", -10, 95, 0.05, (100, 100)),
        grid("EPSG:3413", -50000, 50000, 100, (1000, 1000)),
    ],
)
def test_grids_without_a_place_are_refused(lost):
    with pytest.raises(ValueError, match="date line"):
        covering(lost, "EPSG:3857", 2, 8)


def test_specks_go_to_their_surroundings_and_patches_stay(extraction):
    class Layer:
        crs, max_shape = "EPSG:3857", (4096, 4096)

        def map(self, bounds, shape):
            picture = np.zeros((*shape, 4), np.uint8)
            picture[:] = (*COLOURS[1], 255)
            picture[40:43, 40:45] = (*COLOURS[6], 255)  # 15 of 16 wanted
            picture[40:44, 80:84] = (*COLOURS[6], 255)
            picture[90:93, 90:95] = 0
            picture[120:160, 60:140] = 0
            picture[130:133, 100:105] = (*COLOURS[2], 255)
            return picture

    clean = replace(extraction, layer=Layer(), margin=0)
    codes = clean.fetch(GRIDS["mercator"])
    wanted = np.full((90, 110), 2, np.uint8)
    wanted[20:22, 40:42] = 7
    wanted[60:80, 30:70] = 0
    np.testing.assert_array_equal(codes, wanted)
    assert {*np.unique(replace(clean, min_patch=0).fetch(GRIDS["mercator"]))} == {0, 2, 3, 7}


def test_places_with_too_few_labels_are_nothing(service, extraction):
    service.blend = False
    x, y = centres(GRIDS["north"])
    share = (world(x, y) > 0).mean()
    assert replace(extraction, min_labelled=share - 0.02).fetch(GRIDS["north"]).any()
    with pytest.raises(NothingThere, match=r"less than 0.99 of the pixels are labelled"):
        replace(extraction, min_labelled=0.99).fetch(GRIDS["north"])


def test_the_nearest_pixel_is_taken_and_nothing_outside():
    source = grid("EPSG:3857", 0, 100, 10, (10, 10))
    codes = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    shifted = on_grid(codes, source, grid("EPSG:3857", -17, 123, 10, (10, 10)))
    assert shifted[5, 5] == codes[3, 3]
    assert not shifted[:2].any()
    assert not shifted[:, :1].any()
    np.testing.assert_array_equal(on_grid(codes, source, grid("EPSG:3857", 0, 100, 5, (20, 20)))[1::2, ::2], codes)


def test_files_tell_place_colours_and_classes(tmp_path):
    codes = np.random.default_rng(0).integers(0, 14, (90, 110)).astype(np.uint8)
    path = tmp_path / "label_osm" / "osm_1.tif"
    mark = write_codes(path, tmp_path, codes, GRIDS["south"], "a service")
    assert mark == FileMark.of(path, tmp_path)
    assert mark.path == "label_osm/osm_1.tif"
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), codes)
        assert (raster.crs, raster.transform, raster.nodata) == (GRIDS["south"].crs, GRIDS["south"].transform, 0)
        assert raster.tags()["LEGEND"] == "OSM"
        assert [raster.tags(1)[f"CLASS_{code}"] for code in range(1, 14)] == list(OSM.classes)
        assert [bytes(raster.colormap(1)[code][:3]).hex() for code in range(1, 14)] == list(OSM.colours)
    assert reference_grid(path) == GRIDS["south"]
