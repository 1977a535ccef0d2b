"""The benchmark of maps, on a small scene."""

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, load_script
from test_mapping import Pixelwise, predictor_of

from cromss.mapping.blending import Side

pytestmark = pytest.mark.usefixtures("one_thread")

benchmark = load_script("mapping", REPOSITORY / "benchmarks")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return benchmark.write_scene(tmp_path_factory.mktemp("scene") / "700.tif", 700)


def test_the_scene_is_of_places_side_by_side(scene):
    with rasterio.open(scene) as dataset:
        assert (dataset.count, dataset.shape, dataset.dtypes[0]) == (13, (700, 700), "uint16")
        pixels = dataset.read()
    assert (pixels[:, :512, :512] == benchmark.draw_place(0)).all()
    assert (pixels[:, :512, 512:] == benchmark.draw_place(2)[..., :188]).all()


def test_figures_of_what_sees_pixels_alone_show_no_seams(scene, tmp_path):
    predictor = predictor_of(Pixelwise())
    found = benchmark.seams(tmp_path, predictor, scene, 448)
    assert found["probability_difference"] < 1e-5  # what rounding turns
    assert found["class_difference_in_overlaps"] == pytest.approx(found["class_difference_elsewhere"], abs=1e-4)
    assert found["class_borders_elsewhere"] > 0
    rates = benchmark.rate(tmp_path, predictor, scene, rounds=1)
    assert 0 < rates["map_of_network_rate"] < 1.2
    assert rates["part_map_mpx_s"] > 0


def test_seams_are_where_tiles_begin_cross_and_cease_to_count():
    side = Side(1000, 640, 192, 32)
    assert side.spans == [(0, 640), (384, 1000)]
    assert benchmark.seam_lines(side) == [456, 480, 504]
    classes = np.zeros((4, 1000), int)
    classes[:2, 480:] = 1
    classes[:, 512:] = 2  # the edge of a place
    at, elsewhere = benchmark.crossings(classes, benchmark.seam_lines(side))
    assert at == pytest.approx(0.5 / 3)
    assert elsewhere == 0
    assert benchmark.several(side).sum() == 640 - 384
