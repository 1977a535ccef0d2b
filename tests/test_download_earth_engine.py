"""The download script from the list of places to the stores."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from archives import FakeArchive, year_archive
from conftest import REPOSITORY, load_script

from cromss.config import read
from cromss.downloads import MANIFEST_NAME, Unavailable
from cromss.scene_names import read_ids
from cromss.sensors import S2, quantise
from cromss.settings.pretraining_set import PretrainSet
from cromss.store import LmdbReader

SEASONS = ("2020-03-20", "2020-06-21")
PLACES = "id,lon,lat\n0000001,11.5,48.1\n0000002,-43.2,-22.9\n0000010,179.999,-17\n"
SIZE = 24

script = load_script("download_earth_engine")
writer = load_script("write_pretrain_lmdb")


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs the script on an archive; returns the exit status."""
    (tmp_path / "places.csv").write_text(PLACES)

    def run(archive=None, **options):
        monkeypatch.setattr(script, "EarthEngine", lambda project: archive or year_archive())
        chosen = {"seasons": SEASONS, "size": SIZE, "workers": 2, "attempts": 2} | options
        return script.main(script.EarthEnginePlaces(tmp_path / "places.csv", tmp_path / "out", **chosen))

    return run


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.tif"))}


def test_from_places_to_stores(job, tmp_path, capsys):
    assert job() == 0
    out = tmp_path / "out"
    ids = read_ids(out / "ids.csv")
    assert list(ids) == ["0000001", "0000002", "0000010"]
    assert {len(scenes) for scenes in ids.values()} == {2}
    printed = capsys.readouterr().out
    assert "3 places x 2 seasons (s1, s2, labels), 24 px; 0 there already" in printed
    assert "fetched: 3 items" in printed
    shown = shlex.split(printed.splitlines()[-1])
    assert shown[:2] == ["python", "data_prepare/write_pretrain_lmdb.py"]
    settings = read(PretrainSet, shown[2:])
    writer.main(settings)
    readers = {modality: LmdbReader(settings.out / name, modality) for modality, name in settings.stores.items()}
    assert {modality: (len(r), r.meta.num_seasons) for modality, r in readers.items()} == dict.fromkeys(readers, (3, 2))
    for index, (name, scenes) in enumerate(ids.items()):
        for season, scene in enumerate(scenes):
            folder = out / "s2c" / name / scene
            raw = np.stack([rasterio.open(folder / f"{band}.tif").read(1) for band in S2.bands])
            np.testing.assert_array_equal(readers["s2"].read(index, season), quantise(raw, S2))
            labels = rasterio.open(out / "labels" / name / scene / "label.tif").read(1)
            np.testing.assert_array_equal(readers["labels"].read(index, season), labels)
    with (settings.out / "s2_offsets.csv").open() as file:
        assert {tuple(row.values())[-2:] for row in csv.DictReader(file)} == {("0", "metadata")}


def test_a_second_run_asks_for_what_is_missing(job, tmp_path):
    job(limit=2)
    before = files(tmp_path / "out")
    next(iter((tmp_path / "out" / "s1" / "0000002").rglob("VV.tif"))).unlink()
    archive = year_archive()
    assert job(archive) == 0
    assert archive.calls["pixels"] == 2 * 2 * 3
    assert before.items() <= files(tmp_path / "out").items()
    assert list(read_ids(tmp_path / "out" / "ids.csv")) == ["0000001", "0000002", "0000010"]
    idle = year_archive()
    job(idle)
    assert not idle.calls


def test_places_without_scenes_are_counted_and_left_out(job, tmp_path, capsys):
    archive = year_archive()
    everywhere = archive.scenes
    archive.scenes = lambda collection, lon, *rest: everywhere(collection, lon, *rest) if lon > 0 else []
    assert job(archive) == 0
    assert "skipped: 1 x 2020-03-20: no Sentinel-2 scene with labels under 20 % cloud" in capsys.readouterr().out
    assert list(read_ids(tmp_path / "out" / "ids.csv")) == ["0000001", "0000010"]
    idle = year_archive()
    job(idle)
    assert not idle.calls
    assert job(idle, retry_skipped=True) == 0
    assert len(read_ids(tmp_path / "out" / "ids.csv")) == 3


def test_no_place_with_scenes(job, tmp_path, capsys):
    assert job(FakeArchive()) == 0
    assert capsys.readouterr().out.endswith("no place is complete\n")
    assert not (tmp_path / "out" / "ids.csv").exists()


def test_places_that_failed_are_status_1_and_tried_again(job, tmp_path, capsys):
    busy = [Unavailable("Too many requests", wait=0)] * 2
    assert job(year_archive(errors=busy), workers=1) == 1
    assert "failed: 0000001 at 11.5 48.1: Too many requests" in capsys.readouterr().out
    assert list(read_ids(tmp_path / "out" / "ids.csv")) == ["0000002", "0000010"]
    assert job() == 0
    assert len(read_ids(tmp_path / "out" / "ids.csv")) == 3


def test_a_place_that_moved_is_another(job, tmp_path):
    job()
    (tmp_path / "places.csv").write_text("id,lon,lat\n0000001,12.5,48.1\n")
    archive = year_archive()
    assert job(archive) == 0
    assert archive.calls["pixels"] == 6


@pytest.mark.parametrize("changed", [{"size": 20}, {"max_cloud": 10.0}, {"seasons": SEASONS[:1]}, {"s1_days": 3}])
def test_other_settings_do_not_go_on_in_the_same_folder(job, changed):
    job(limit=1)
    with pytest.raises(ValueError, match=f"begun with {next(iter(changed))} .*another --out"):
        job(**changed)


def test_the_order_of_modalities_does_not_matter(job):
    job(limit=1, modalities=("labels", "s2"))
    idle = year_archive()
    assert job(idle, limit=1, modalities=("s2", "labels")) == 0
    assert not idle.calls


def test_a_dry_run_asks_nothing(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ee", None)
    monkeypatch.setattr(script, "EarthEngine", lambda project: pytest.fail("asked"))
    settings = script.EarthEnginePlaces(tmp_path / "places.csv", tmp_path / "out", SEASONS, dry_run=True)
    assert script.main(settings) == 0
    printed = capsys.readouterr().out
    assert "3 places x 2 seasons (s1, s2, labels), 264 px; 0 there already" in printed
    assert f"up to {3 * 2 * 264**2 * (2 * 4 + 13 * 2 + 1) / 1e9:.3f} GB wanted" in printed
    assert "0000010 at 179.999 -17.0" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seasons 2020-03-20 2020-04-01", "--seasons 2020-03-20 2020-04-01: windows of 30 days"),
        ("--seasons soon", "--seasons soon: not a date"),
        ("--seasons", "--seasons"),
        ("", "required: --seasons"),
        ("--seasons 2020-03-20 --modalities s1 s1", "--modalities s1 s1: must be s1 s2 labels, each once"),
        ("--seasons 2020-03-20 --modalities dw", "--modalities"),
        ("--seasons 2020-03-20 --max_cloud 36", "--max_cloud 36.0: must be above 0 and at most 35"),
        ("--seasons 2020-03-20 --max_cloud 0", "--max_cloud 0.0: must be"),
        ("--seasons 2020-03-20 --max_cloud nan", "--max_cloud nan: must be"),
        ("--seasons 2020-03-20 --size 1359", "--size 1359: must be 1 to 1358"),
        ("--seasons 2020-03-20 --size 0", "--size 0: must be"),
        ("--seasons 2020-03-20 --workers 0", "--workers 0: must be at least 1"),
        ("--seasons 2020-03-20 --attempts 0", "--attempts 0: must be at least 1"),
        ("--seasons 2020-03-20 --limit 0", "--limit 0: must be at least 1"),
        ("--seasons 2020-03-20 --window_days -1", "--window_days -1: must be 0 to 180"),
        ("--seasons 2020-03-20 --s1_days 61", "--s1_days 61: must be 1 to 60"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ValueError, match=message) as error:
        read(script.EarthEnginePlaces, ["--places", "p.csv", "--out", "o", *flags.split()])
    assert "\n" not in str(error.value)


KILLED = """
import sys, time
from pathlib import Path
import download_earth_engine as script
from archives import year_archive
archive = year_archive()
drawn = archive.pixels
archive.pixels = lambda *asked: (time.sleep(0.02), drawn(*asked))[1]
script.EarthEngine = lambda project: archive
root = Path(sys.argv[1])
print("begun", flush=True)
sys.exit(script.main(script.EarthEnginePlaces(root / "places.csv", root / "out", ("2020-03-20",), size=24, workers=2)))
"""


def test_a_kill_loses_nothing(tmp_path, monkeypatch):
    rows = [f"{number},{number % 170},{number % 60}" for number in range(1, 7)]
    (tmp_path / "places.csv").write_text("\n".join(["id,lon,lat", *rows]))
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(REPOSITORY / part) for part in ("tests", "data_prepare", "")))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as killed:
        killed.stdout.readline()
        manifest, deadline = tmp_path / "out" / MANIFEST_NAME, time.monotonic() + 60
        while time.monotonic() < deadline and (not manifest.exists() or manifest.read_text().count('"done"') < 2):
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    ids = read_ids(tmp_path / "out" / "ids.csv")
    assert list(ids) == [str(number) for number in range(1, 7)]
    names = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*") if path.is_file()
    }
    assert sum(name.endswith(".tif") for name in names) == 6 * 16
    assert not any(name.endswith(".partial") for name in names)
    for name in names:
        if name.endswith(".tif"):
            with rasterio.open(tmp_path / "out" / name) as dataset:
                dataset.read()


def test_without_the_package_it_is_one_line(tmp_path):
    (tmp_path / "places.csv").write_text(PLACES)
    line = [
        sys.executable,
        "-c",
        "import sys, runpy; sys.modules['ee'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')",
    ]
    path = str(REPOSITORY / "data_prepare" / "download_earth_engine.py")
    flags = ["--places", str(tmp_path / "places.csv"), "--out", str(tmp_path / "out"), "--seasons", *SEASONS]
    result = subprocess.run([*line, path, *flags], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: Earth Engine wants the package earthengine-api")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_shown_command_parses():
    (shown,) = (line for line in script.__doc__.replace("\\\n", " ").splitlines() if line.startswith("python"))
    assert len(read(script.EarthEnginePlaces, shown.split()[2:]).seasons) == 4
