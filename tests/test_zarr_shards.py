"""SSL4EO-S12 v1.1 in Zarr: the records of the folder layout, and shards that are refused."""

import re
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, load_script
from rasters import S1_SCENES, S2_SCENES
from zarr_shards import dataset, draw, save, shard_path, write_folders, write_labels, write_shards

from cromss import layouts, scenes, zarr_shards
from cromss.config import parse
from cromss.sensors import S1, S2
from cromss.store import LmdbReader

pytestmark = pytest.mark.filterwarnings("ignore:.*consolidated.*", "ignore:.*Duplicate name.*")
IDS = ("0000003", "0000012", "0000100")
script = load_script("write_pretrain_lmdb")


@pytest.fixture
def made() -> dict[str, np.ndarray]:
    return draw(IDS)


@pytest.fixture
def root(tmp_path, made) -> Path:
    write_shards(tmp_path / "zarr", IDS, made)
    return tmp_path / "zarr"


def write(root: Path, out: Path, **options) -> dict[str, list]:
    """Ids and records of every store, and the ledgers."""
    script.main(script.PretrainSet(root, out, **{"workers": 4, "size": 12, "layout": "zarr", **options}))
    stores = {path.name: LmdbReader(path) for path in sorted(out.glob("*.lmdb"))}
    records = {
        name: [(s.location_id(i), s.read(i, t).tobytes()) for i in range(len(s)) for t in range(s.num_seasons)]
        for name, s in stores.items()
    }
    return records | {name: (out / name).read_text() for name in ("skipped.csv", "scenes.csv", "s2_offsets.csv")}


@pytest.mark.parametrize("size", [12, 20])
@pytest.mark.parametrize("offset", [0, 1000])
def test_the_records_are_those_of_the_folders(tmp_path, made, size, offset):
    made["s2"] += np.int16(offset)
    write_folders(tmp_path / "raw", IDS, made)
    write_shards(tmp_path / "zarr", IDS, made)
    expected = write(tmp_path / "raw", tmp_path / "expected", layout="ssl4eo", size=size)
    with tarfile.open(tmp_path / "marks.tar", "w") as tar:
        tar.add(tmp_path / "raw" / "labels", ".")
    for number, labels in enumerate((tmp_path / "raw" / "labels", tmp_path / "marks.tar")):
        assert write(tmp_path / "zarr", tmp_path / str(number), labels_path=labels, size=size) == expected
    assert f",{offset},pixels" in expected["s2_offsets.csv"]
    assert len(expected["dw_labels.lmdb"]) == 6


@pytest.mark.parametrize("modalities", [("s1",), ("s2",), ("s2", "s1")])
def test_any_modality_subset(root, tmp_path, modalities):
    found = write(root, tmp_path / "out", modalities=modalities)
    assert len(found) == len(modalities) + 3


def test_s1_and_labels_alone(root, tmp_path, made):
    write_labels(tmp_path / "marks", IDS, made["labels"])
    found = write(root, tmp_path / "out", modalities=("s1", "labels"), labels_path=tmp_path / "marks")
    assert found["dw_labels.lmdb"][3][1] == made["labels"][1, 1].tobytes()


def test_labels_of_other_days(root, tmp_path, made):
    write_labels(tmp_path / "marks", IDS, made["labels"])
    (tmp_path / "marks" / IDS[1] / S2_SCENES[1]).rename(tmp_path / "marks" / IDS[1] / "20210101T000000")
    with pytest.raises(ValueError, match=f"location {IDS[1]}: 1 labels scenes, wanted 2"):
        write(root, tmp_path / "out", labels_path=tmp_path / "marks")


def test_seasons_go_by_date_and_bands_by_name(tmp_path, made):
    shard = dataset("s2", IDS, made["s2"]).isel(time=[1, 0], band=slice(None, None, -1))
    found = zarr_shards.shard_scenes(save(tmp_path / "a.zarr.zip", shard), S2)
    assert list(found) == ["3", "12", "100"]
    for row, season in enumerate(found.values()):
        assert [scene.name for scene in season] == list(S2_SCENES)
        for time, scene in enumerate(season):
            np.testing.assert_array_equal(scenes.read_image(scene, S2), made["s2"][row, time])


def test_where_a_sample_lies(tmp_path, made):
    path = save(tmp_path / "a.zarr.zip", dataset("s1", IDS, made["s1"]))
    grid = scenes.scene_grid(zarr_shards.shard_scenes(path, S1)["12"][0])
    assert (grid.crs.to_epsg(), grid.shape, grid.is_north_up()) == (32643, (12, 12), True)
    assert (grid.transform.c, grid.transform.f) == (360000, 360000)


def test_threads_share_a_shard(tmp_path, made):
    path = save(tmp_path / "a.zarr.zip", dataset("s1", IDS, made["s1"]))
    rows = list(zarr_shards.shard_scenes(path, S1).values())
    wanted = [(row, time) for row in range(3) for time in range(2)] * 10
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda at: scenes.read_image(rows[at[0]][at[1]], S1), wanted))
    assert all((image == made["s1"][at].astype(np.float32)).all() for image, at in zip(images, wanted))
    assert zarr_shards.open_shard(path) is zarr_shards.open_shard(path)


def test_an_unfinished_set_goes_on(root, tmp_path, monkeypatch):
    options = {"modalities": ("s1", "s2")}
    expected = write(root, tmp_path / "expected", **options)
    read, calls = layouts.read_location, []

    def stops(location, *arguments):
        calls.append(location.id)
        if location.id == IDS[2]:
            raise KeyboardInterrupt
        return read(location, *arguments)

    monkeypatch.setattr(layouts, "read_location", stops)
    with pytest.raises(KeyboardInterrupt):
        write(root, tmp_path / "out", **options)
    monkeypatch.undo()
    assert write(root, tmp_path / "out", **options) == expected


def other(name):
    """A shard of Sentinel-2 that is wrong in one way."""
    shard = dataset("s2", IDS, draw(IDS)["s2"])
    file_id, time = shard.file_id.copy(), shard.time_.copy()
    file_id[0, 0], time[1, 1] = "no date", np.datetime64("2001-01-01", "ns")
    return {
        "no bands": shard.drop_vars("bands"),
        "no ids": shard.drop_vars("file_id"),
        "transposed": shard.assign(bands=shard.bands.transpose("sample", "time", "y", "x", "band")),
        "4 dims": shard.assign(bands=shard.bands[:, 0]),
        "2A": shard.sel(band=[name for name in shard.band.values if name != "B10"]),
        "other names": shard.assign_coords(band=[f"x{i}" for i in range(13)]),
        "twice": shard.assign_coords(sample=[IDS[0], IDS[0], IDS[2]]),
        "no date": shard.assign(file_id=file_id),
        "other time": shard.assign(time_=time),
        "no time": shard.assign(time_=shard.time_.astype(np.int64).assign_attrs()),
        "text": shard.assign(bands=shard.bands.astype("U4")),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no bands", "has no bands, so it is no shard"),
        ("no ids", "has no file_id, so it is no shard"),
        ("transposed", r"bands are \(sample, time, y, x, band\), wanted \(sample, time, band, y, x\)"),
        ("4 dims", r"bands are \(sample, band, y, x\)"),
        ("2A", r"B12, wanted B1 .* \(level 2A has no B10: level 1C is wanted\)"),
        ("other names", "bands are X0 .*, wanted B1"),
        ("twice", "sample 0000003 is in it twice"),
        ("no date", "scene 'no date' of sample 0000003 holds no YYYYMMDD date"),
        ("other time", f"scene {S2_SCENES[1]} of sample 0000012 has the time 20010101"),
        ("no time", "time_ is int64, wanted times"),
        ("text", "bands are <?U4, wanted numbers|bands are .*, wanted numbers"),
    ],
)
def test_foreign_shards(tmp_path, name, message):
    path = save(tmp_path / "a.zarr.zip", other(name))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}") as error:
        zarr_shards.shard_scenes(path, S2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4"])
def test_no_zip(tmp_path, content):
    path = tmp_path / "a.zarr.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: cannot be read, truncated or not a zipped Zarr"):
        zarr_shards.shard_scenes(path, S2)


def test_a_truncated_shard_and_an_empty_zip(root, tmp_path):
    path = shard_path(root, "s2")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: cannot be read, truncated"):
        write(root, tmp_path / "out", modalities=("s2",))
    with zipfile.ZipFile(tmp_path / "b.zarr.zip", "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"b\.zarr\.zip: cannot be read"):
        zarr_shards.shard_scenes(tmp_path / "b.zarr.zip", S2)


def test_a_corrupt_chunk(root, tmp_path):
    path = shard_path(root, "s1")
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("bands/1.0.0.0.0")
    content = bytearray(path.read_bytes())
    start = place.header_offset + 60
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    scene = re.escape(f"{path} sample 1 {S1_SCENES[0]}")
    with pytest.raises(ValueError, match=rf"^{scene}: cannot be decoded \(.+\); download the shard again") as error:
        write(root, tmp_path / "out", modalities=("s1",))
    assert "\n" not in str(error.value)
    assert "GeoTIFF" not in str(error.value)
    found = write(root, tmp_path / "rest", modalities=("s1",), on_error="skip")
    assert f"{IDS[1]}," in found["skipped.csv"]
    assert len(found["0k_251k_uint8_s1.lmdb"]) == 4


OPENINGS = """
import sys
from pathlib import Path

from cromss.sensors import S2
from cromss.zarr_shards import shard_scenes

def resident():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) / 1024

scene = shard_scenes(Path(sys.argv[1]), S2)["3"][0]
for number in range(80):
    if number == 20:
        before = resident()
    with scene.open_raster() as dataset:
        assert dataset.shape == (200, 200)
print(resident() - before)
"""


def test_a_closed_scene_gives_back_its_memory(tmp_path):
    """60 openings of 1 MB: kept, they would be 60 MB."""
    pixels = draw(IDS[:1], size=200)["s2"][:, :1]
    path = save(tmp_path / "a.zarr.zip", dataset("s2", IDS[:1], pixels))
    done = subprocess.run([sys.executable, "-c", OPENINGS, str(path)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5  # MB


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_nan(tmp_path, made, kind):
    pixels = made["s1"].astype(kind)
    pixels[1, 0, 0, 3, 3] = np.nan
    found = zarr_shards.shard_scenes(save(tmp_path / "a.zarr.zip", dataset("s1", IDS, pixels)), S1)
    np.testing.assert_array_equal(scenes.read_image(found["3"][0], S1), made["s1"][0, 0])
    with pytest.raises(ValueError, match=r"sample 1 S1B.*: 1 NaN or infinite values"):
        scenes.read_image(found["12"][0], S1)


def test_a_missing_shard_or_another_sample(root, tmp_path):
    shard_path(root, "s1", 2).unlink()
    with pytest.raises(ValueError, match=rf"1 of 3 locations are incomplete: location {IDS[2]}: no s1 scenes"):
        write(root, tmp_path / "out", modalities=("s1", "s2"))
    found = write(root, tmp_path / "out", modalities=("s1", "s2"), on_error="skip")
    assert {name for name, _ in found["0k_251k_uint8_s1.lmdb"]} == set(IDS[:2])


def test_a_sample_in_two_shards(root, tmp_path):
    shard_path(root, "s2", 3).write_bytes(shard_path(root, "s2", 1).read_bytes())
    with pytest.raises(ValueError, match=r"000003\.zarr\.zip: sample 12 is in .*000001\.zarr\.zip too"):
        write(root, tmp_path / "out", modalities=("s2",))


def test_folders_that_are_not_there(root, tmp_path):
    with pytest.raises(ValueError, match="S1GRD: no such folder"):
        write(root, tmp_path / "out", modalities=("s1",), split="val")
    (root / "train" / "S2L1C").rename(root / "train" / "S2L2A")
    with pytest.raises(ValueError, match="S2L1C: no such folder; S2L2A has no B10"):
        write(root, tmp_path / "out", modalities=("s2",))
    (root / "train" / "S2L1C").mkdir()
    with pytest.raises(ValueError, match=r"S2L1C: holds no \*\.zarr\.zip"):
        write(root, tmp_path / "out", modalities=("s2",))


@pytest.mark.parametrize("package", ["xarray", "zarr.storage"])
def test_the_optional_packages(root, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    zarr_shards._opened.cache_clear()
    with pytest.raises(ValueError, match=r"is not installed; pip install 'cromss\[zarr\]'"):
        zarr_shards.open_shard(shard_path(root, "s1"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--layout zarr", "--labels_path"),
        ("--layout zarr --modalities s1 labels", "--labels_path"),
        ("--split val", "--split"),
        ("--layout zarr --modalities ortho", "--modalities"),
        ("--layout zarr --modalities s1 --labels_path x", "--labels_path"),
        ("--layout zarr --modalities s1 --s1_dir x", "--s1_dir"),
    ],
)
def test_flags(flags, message, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        parse(script.PretrainSet, ["--data_path", "a", "--out", "b", *flags.split()])
    assert message in f"{error.value}{capsys.readouterr().err}"
