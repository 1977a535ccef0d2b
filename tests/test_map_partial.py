"""Unfinished maps: one process at a time, and none of more rows than the scene has."""

import subprocess
import sys

import numpy as np
import pytest
from map_scenes import optical, write_scene
from test_mapping import CPU, Pixelwise, predictor_of

from cromss.mapping import predict_map
from cromss.mapping.partial import PartialMap

pytestmark = pytest.mark.usefixtures("one_thread")

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("held", ["out", "confidence"])
def test_what_another_process_writes_is_refused_in_a_line_until_it_ends(tmp_path, held):
    scene, network = write_scene(tmp_path / "s2.tif", optical(64, 64)), Pixelwise()
    paths = {name: tmp_path / f"{name}.tif" for name in ("out", "confidence")}
    command = [sys.executable, "-c", HOLD, str(tmp_path / f".{held}.tif.lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"^--{held} {paths[held]}: another process is writing it; wait") as error:
            predict_map(predictor_of(network), {"s2": scene}, **paths, **CPU)
    finally:
        process.kill()
        process.communicate()
    assert "\n" not in str(error.value)
    assert network.calls == 0
    assert not list(tmp_path.glob(".*.partial*"))
    predict_map(predictor_of(network), {"s2": scene}, **paths, **CPU)  # what a kill leaves is no lock
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".xml") == [
        "confidence.tif",
        "out.tif",
        "s2.tif",
    ]


def test_a_lock_goes_with_the_work_that_failed(tmp_path, monkeypatch):
    scene, there = write_scene(tmp_path / "s2.tif", optical(64, 64)), []

    def failing(partial, rows):
        there.append((tmp_path / ".map.tif.lock").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(PartialMap, "append", failing)
    with pytest.raises(KeyboardInterrupt):
        predict_map(predictor_of(Pixelwise()), {"s2": scene}, tmp_path / "map.tif", **CPU)
    assert there == [True]
    assert not (tmp_path / ".map.tif.lock").exists()


@pytest.mark.parametrize("surplus", [1, 5 * 64])
def test_more_rows_than_the_scene_has_begin_anew(tmp_path, capsys, surplus):
    """As two processes leave them that both append: what is there may be of either."""
    partial, rows = PartialMap(tmp_path / "map.tif", 1, 64), np.full((40, 1, 64), 7, np.uint8)
    assert partial.open({"a": 1}, [24, 40]) == 0
    partial.append(rows)
    assert partial.open({"a": 1}, [24, 40]) == 40
    with partial.path.open("ab") as file:
        file.write(b"\7" * surplus)
    assert partial.open({"a": 1}, [24, 40]) == 0
    assert partial.path.stat().st_size == 0
    assert "holds more rows than the scene; beginning anew" in capsys.readouterr().out


def test_rows_are_on_the_disk_before_the_next_ones_are_mapped(tmp_path, monkeypatch):
    synced, partial = [], PartialMap(tmp_path / "map.tif", 1, 64)
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(partial.path.stat().st_size))
    partial.append(np.zeros((3, 1, 64), np.uint8))
    assert synced == [3 * 64]


ASIDE = {
    "statistics": (".aux.xml", '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata>', "64 of 150 rows are done"),
    "overviews": (".ovr", "", "64 of 150 rows are done"),
    "nodata": (".aux.xml", "<NoDataValue>700</NoDataValue>", "beginning anew"),
}


@pytest.mark.parametrize(("end", "content", "words"), ASIDE.values(), ids=ASIDE)
def test_a_map_goes_on_whatever_a_gis_wrote_beside_its_raster(tmp_path, monkeypatch, capsys, end, content, words):
    """Unless it tells something else of the pixels."""
    scene, network = write_scene(tmp_path / "s2.tif", optical(150, 64)), Pixelwise()
    options = {"tile_size": 96, "overlap": 32, **CPU}

    def killed(partial, rows):
        append(partial, rows)
        raise KeyboardInterrupt

    append = PartialMap.append
    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_map(predictor_of(network), {"s2": scene}, tmp_path / "map.tif", **options)
    aside = f'<PAMDataset><PAMRasterBand band="1">{content}</PAMRasterBand></PAMDataset>'
    scene.with_name(scene.name + end).write_bytes(aside.encode() if content else scene.read_bytes())
    capsys.readouterr()
    predict_map(predictor_of(network), {"s2": scene}, tmp_path / "map.tif", **options)
    assert words in capsys.readouterr().out
