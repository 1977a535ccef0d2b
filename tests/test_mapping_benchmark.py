"""The benchmark of maps, on a small scene."""

import csv
import os
import re
from pathlib import Path

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


def test_rates_are_pixels_over_seconds_and_the_network_alone_over_the_map(scene, tmp_path, monkeypatch):
    seconds = iter([4.0, 1.0, 2.0, 1.0, 8.0, 1.0])
    monkeypatch.setattr(benchmark, "timed", lambda work: work() and next(seconds))
    rates = benchmark.rate(tmp_path, predictor_of(Pixelwise()), scene, rounds=3)
    assert rates == {"part_map_mpx_s": 0.122, "part_network_mpx_s": 0.49, "map_of_network_rate": 0.25}


def test_seams_are_where_tiles_begin_cross_and_cease_to_count():
    side = Side(1000, 640, 192, 32)
    assert side.spans == [(0, 640), (384, 1000)]
    assert benchmark.seams_of(side) == [(456, 512, 568)]
    assert benchmark.several(side).sum() == 640 - 384
    classes = np.zeros((1000, 1000), int)
    classes[:500, 456:] = 1
    classes[:, 512:] = 2  # the edge of a place
    assert benchmark.crossings(classes, [456, 512, 568]) == pytest.approx((0.5 / 2 + 0) / 2, abs=1e-3)
    assert benchmark.crossings(classes.T, [456, 512, 568]) == pytest.approx((0.5 / 2 + 0) / 2, abs=1e-3)
    assert benchmark.crossings(classes, [300, 700]) == 0


def test_seams_that_two_maps_share_are_left_out():
    """Of 1,920 pixels: the last tiles of 640 begin where some of 448 do, and share 256 with their neighbours."""
    ours, others = (benchmark.seams_of(Side(1920, size, 192, 32)) for size in (640, 448))
    assert ours == [(520, 544, 568), (968, 992, 1016), (1352, 1408, 1464)]
    assert others[4] == (1352, 1376, 1400)
    lines, elsewhere = benchmark.apart(ours, others, 1920)
    assert lines == [520, 544, 568, 968, 992, 1016, 1464]
    assert {512, 530, 576, 584, 1352, 1420, 1472}.isdisjoint(elsewhere)
    assert {1, 511, 800, 1240, 1919} <= set(elsewhere)


def test_rows_of_parts_that_are_not_measured_stay(tmp_path, monkeypatch):
    results = tmp_path / "results.csv"
    results.write_text("figure,value,date\nencoder,resnet18,old\nmpx_s,1,old\nother_tile_size,2,old\n")
    for name in ("trained", "open_predictor", "write_scene"):
        monkeypatch.setattr(benchmark, name, lambda *_: "there")
    monkeypatch.setattr(benchmark, "seams", lambda *_: {"other_tile_size": 448})
    benchmark.main(benchmark.Mapping(parts=("seams",), results=results))
    with results.open() as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert {name: row["value"] for name, row in rows.items()} == {
        "encoder": "resnet18",
        "mpx_s": "1",
        "other_tile_size": "448",
        "tile_size": "640",
        "overlap": "192",
    }
    assert [name for name, row in rows.items() if row["date"] == "old"] == ["mpx_s"]
    with pytest.raises(ValueError, match="of encoder resnet18, not resnet50; measure all parts"):
        benchmark.main(benchmark.Mapping(parts=("rate",), encoder="resnet50", results=results))


def test_memory_is_told_in_millions_of_bytes():
    kibibytes = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    assert benchmark.peak_mb(os.getpid()) == pytest.approx(kibibytes * 1024 / 1e6, rel=0.01)
