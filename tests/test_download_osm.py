"""The script that downloads land use: names, resume, refusals, and what becomes of its labels."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, load_script
from map_server import COLOURS, inner, legend, png, serving, world
from rasterio.warp import transform
from rasters import write_tiff

from cromss.config import read
from cromss.downloads import MANIFEST_NAME
from cromss.layouts import check_location, list_dwosm
from cromss.legends import OSM
from cromss.store import LmdbReader
from cromss.synthetic.tile_folders import write_dw

script = load_script("download_osm")
BOX = (8.5, 48.1, 8.512, 48.11)


@pytest.fixture
def service():
    with serving() as service:
        yield service


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        box = tuple(edge + 0.02 * number for edge in BOX)
        write_tiff(tmp_path / "image_s2" / f"s2_{number}.tif", np.zeros((40, 48), np.uint8), box=box)
    return tmp_path / "image_s2" / "s2_*.tif"


def arguments(images, service, *more):
    flags = {"--like": images, "--out": images.parents[1] / "out", "--url": service.url, "--pause": 0}
    return [*(str(part) for pair in flags.items() for part in pair), *more]


def fetch(images, service, *more):
    """Run the script in this process; its exit status."""
    return script.main(read(script.OsmDownload, arguments(images, service, *more)))


def labels(images):
    return sorted(path.name for path in (images.parents[1] / "out").glob("label_osm/*"))


def test_each_image_gets_its_labels(images, service, capsys):
    assert fetch(images, service) == 0
    assert labels(images) == [f"osm_{number}.tif" for number in range(4)]
    assert "fetched: 4 items" in capsys.readouterr().out
    assert service.seen == {"capabilities": 1, "legend": 1, "map": 4}
    for number in range(4):
        assert_right(images.parents[1] / "out" / "label_osm" / f"osm_{number}.tif", images.parent / f"s2_{number}.tif")


def assert_right(labels, image):
    """The labels lie on the image's pixels and are what the world has there."""
    with rasterio.open(labels) as made, rasterio.open(image) as given:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        codes, (rows, columns) = made.read(1), np.mgrid[: made.height, : made.width]
        x, y = transform(made.crs, "EPSG:3857", *made.transform * (columns.ravel() + 0.5, rows.ravel() + 0.5))
    right = world(x, y).reshape(codes.shape)
    inside = inner(x, y, 20).reshape(codes.shape)
    np.testing.assert_array_equal(codes[inside], right[inside])
    assert inside.mean() > 0.3


def test_a_second_run_asks_for_what_is_missing_alone(images, service, capsys):
    service.answers["map"] = [(503, {"Retry-After": "0"}, b"")] * 2
    assert fetch(images, service, "--attempts", "1", "--workers", "1") == 1
    assert len(labels(images)) == 2
    assert "HTTP 503" in capsys.readouterr().out
    (images.parents[1] / "out" / "label_osm" / "osm_3.tif").unlink()
    service.seen.clear()
    assert fetch(images, service) == 0
    assert service.seen["map"] == 3
    assert len(labels(images)) == 4
    service.seen.clear()
    assert fetch(images, service) == 0
    assert service.seen["map"] == 0


def test_failing_answers_are_tried_again(images, service):
    service.answers["capabilities"] = [(503, {}, b"")]
    service.answers["legend"] = [(429, {"Retry-After": "0"}, b"")]
    service.answers["map"] = [(200, {}, b"<html>")] * 3
    assert fetch(images, service) == 0
    assert service.seen == {"capabilities": 2, "legend": 2, "map": 7}


def test_kills_leave_no_broken_labels(images, service):
    command = [sys.executable, "data_prepare/download_osm.py", *arguments(images, service, "--workers", "1")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    real, service.map = service.map, lambda query: (time.sleep(0.1), real(query))[1]
    job = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not labels(images) and time.monotonic() < limit:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    for number in range(4):
        path = images.parents[1] / "out" / "label_osm" / f"osm_{number}.tif"
        if path.exists():
            assert_right(path, images.parent / f"s2_{number}.tif")
    assert fetch(images, service) == 0
    assert labels(images) == [f"osm_{number}.tif" for number in range(4)]
    rows = (images.parents[1] / "out" / MANIFEST_NAME).read_text().splitlines()
    assert sorted(json.loads(row)["name"] for row in rows[1:]) == [f"osm_{i}.tif" for i in range(4)]


def test_a_dry_run_writes_nothing_and_asks_for_no_map(images, service, capsys):
    service.limits = "<MaxWidth>64</MaxWidth><MaxHeight>64</MaxHeight>"
    assert fetch(images, service, "--dry_run", "--limit", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith("3 images, 0 with labels in ")
    assert "at most 0.0 MB; legend of 13 classes" in out
    assert service.seen == {"capabilities": 1, "legend": 1}
    assert not (images.parents[1] / "out").exists()
    fetch(images, service, "--limit", "3")
    assert f"{service.seen['map']} requests" in out
    assert service.seen["map"] > 3
    assert len(labels(images)) == 3


def test_images_with_few_labels_are_skipped_until_told(images, service, capsys):
    service.map = lambda query: np.zeros((int(query["height"]), int(query["width"]), 4), np.uint8)
    assert fetch(images, service) == 0
    assert "skipped: 4 x less than 0.1 of the pixels are labelled" in capsys.readouterr().out
    assert not labels(images)
    del service.map
    fetch(images, service)
    assert not labels(images)
    fetch(images, service, "--retry_skipped")
    assert len(labels(images)) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layer", "rivers"), "--layer rivers: .* has osmlanduse:osm_lulc, roads"),
        (("--style", "dark"), "--style dark: layer osmlanduse:osm_lulc has default"),
        (("--like", "no/where/*.tif"), r"--like no/where/\*.tif: no such file"),
        (("--oversample", "0"), "--oversample 0: must be 1 to 8"),
        (("--margin", "-1"), "--margin -1: must be 0 to 256"),
        (("--min_patch", "-1"), "--min_patch -1: must be 0 to"),
        (("--min_labelled", "30"), "--min_labelled 30.0: must be a share"),
        (("--timeout", "0"), "--timeout 0.0: must be over 0"),
        (("--pause", "nan"), "--pause nan: must be at least 0"),
        (("--attempts", "0"), "--attempts 0: must be at least 1"),
        (("--workers", "0"), "--workers 0: must be at least 1"),
        (("--limit", "0"), "--limit 0: must be at least 1"),
        (("--url", "ftp://somewhere"), "--url ftp://somewhere: no web address"),
        (("--url", "http://127.0.0.1:9", "--attempts", "2"), "http://127.0.0.1:9: ConnectionError"),
        (("--version", "1.0.0"), "version"),
    ],
)
def test_bad_flags_are_refused_in_a_line(images, service, flags, message):
    with pytest.raises(ValueError, match=message) as error:
        fetch(images, service, *flags)
    assert "\n" not in str(error.value)
    assert not (images.parents[1] / "out").exists()


def test_bad_images_are_refused_before_anything_is_asked(images, service):
    folder = images.parent
    refused = {
        "s2_8.tif": lambda path: path.write_bytes(b"II*\0 not much"),
        "s2_9.tif": lambda path: write_tiff(path, np.zeros((4, 4), np.uint8)),
    }
    for (name, spoil), message in zip(refused.items(), ("cannot be read as a raster", "has no CRS, so its place")):
        spoil(folder / name)
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            fetch(images, service)
        (folder / name).unlink()
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "sparse_ok": True, "tiled": True}
    profile |= {"transform": rasterio.Affine(1e-5, 0, 8, 0, -1e-5, 48), "width": 20_000, "height": 20_000}
    for crs, message in (
        ('LOCAL_CS["x",UNIT["m",1]]', "its CRS is a local one"),
        ("EPSG:4326", "20000 x 20000 pixels"),
    ):
        with rasterio.open(folder / "s2_8.tif", "w", crs=crs, **profile):
            pass
        with pytest.raises(ValueError, match=f"s2_8.tif: {message}"):
            fetch(images, service)
    (folder / "s2_8.tif").unlink()
    with rasterio.open(folder / "s2_0.tif", "r+") as raster:
        raster.transform *= rasterio.Affine.rotation(3)
    with pytest.raises(ValueError, match=r"s2_0.tif: is rotated or not north up"):
        fetch(images, service)
    shutil.copy(folder / "s2_1.tif", folder / "s1_1.tif")
    with pytest.raises(ValueError, match=r"s1_1.tif and .*s2_1.tif would both be osm_1.tif"):
        fetch(folder / "s*.tif", service)
    assert not service.seen


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (png(legend(COLOURS[:12])), "legend.png: 12 swatches where 13 are wanted: e6004d"),
        (png(legend(COLOURS[[*range(12), 0]])), "legend.png: swatches 1 and 13 have one colour, e6004d"),
        (b"<html>", "legend.png: no PNG picture"),
    ],
)
def test_other_legends_are_refused(images, service, picture, message):
    service.legend = picture
    with pytest.raises(ValueError, match=message):
        fetch(images, service)
    assert not service.seen["map"]


def test_another_legend_or_rule_makes_another_download(images, service):
    fetch(images, service, "--limit", "1")
    with pytest.raises(ValueError, match="begun with margin 8, not 9"):
        fetch(images, service, "--margin", "9")
    service.legend = png(legend(COLOURS[::-1]))
    with pytest.raises(ValueError, match="begun with colours"):
        fetch(images, service)


def test_labels_and_images_become_stores(tmp_path, service):
    """The way of the data: images as they are, labels by the service, stores of class ids."""
    write_dw(tmp_path / "dw", 2, 1, size=64, progress=False)
    for part in ("train", "test"):
        shutil.copytree(tmp_path / "dw" / f"dw_{part}", tmp_path / "set" / f"osm_{part}")
        shutil.rmtree(tmp_path / "set" / f"osm_{part}" / "label_dw")
        flags = ["--like", str(tmp_path / "dw" / f"dw_{part}" / "image_s2" / "*.tif")]
        flags += ["--out", str(tmp_path / "set" / f"osm_{part}"), "--url", service.url]
        assert script.main(read(script.OsmDownload, flags)) == 0
    locations = list_dwosm(tmp_path / "set", "osm", "train")
    assert len(locations) == 2
    writer = load_script("write_downstream_lmdb")
    flags = ["--dataset", "OSM", "--data_path", str(tmp_path / "set"), "--out", str(tmp_path / "lmdb")]
    writer.main(read(writer.DownstreamFolders, flags))
    reader = LmdbReader(tmp_path / "lmdb" / "train" / "labels.lmdb")
    for index, location in enumerate(locations):
        check_location(location, 1)
        assert_right(location.scenes["labels"][0], location.scenes["s2"][0])
        with rasterio.open(location.scenes["labels"][0]) as raster:
            np.testing.assert_array_equal(np.squeeze(reader.read(index, 0)), OSM.to_class_ids(raster.read(1)))
