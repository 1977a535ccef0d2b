"""Raw folders to stores: end to end, bad input, interruptions, and the look into the result."""

import importlib.util
import json
import pickle
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import lmdb
import numpy as np
import pytest
import rasterio
from test_layouts import S1_SCENES, S2_SCENES, fake_db, fake_dn, write_ssl4eo, write_tiff

from cromss import preparation
from cromss.layouts import Location
from cromss.sensors import S1, S2
from cromss.store import LmdbReader, LmdbWriter

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SCRIPTS = Path(__file__).resolve().parents[1] / "data_prepare"
IDS = ("0000001", "0000002", "0000003")
NAMES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}


def load(name: str):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pretrain, dfc2020, inspection = map(load, ("write_pretrain_lmdb", "write_dfc2020_lmdb", "inspect_lmdb"))


def write_pretrain(root: Path, out: Path, **options) -> None:
    pretrain.main(pretrain.PretrainSet(root, out, **{"size": 12, "workers": 2, **options}))


def command(script: str, *arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, str(SCRIPTS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def readers(out: Path) -> dict[str, LmdbReader]:
    return {modality: LmdbReader(out / name) for modality, name in NAMES.items()}


def contents(out: Path) -> dict:
    """All a finished set holds, as comparable values; and the two reports."""
    stores = {
        modality: [(store.location_id(i), store.read_seasons(i).tobytes()) for i in range(len(store))]
        for modality, store in readers(out).items()
    }
    return stores | {name: (out / name).read_text() for name in ("skipped.csv", "s2_offsets.csv")}


def finished(out: Path) -> list[Path]:
    return [path for path in out.rglob("*.lmdb") if path.is_dir()]


@pytest.fixture
def root(tmp_path) -> Path:
    write_ssl4eo(tmp_path / "raw", IDS)
    return tmp_path / "raw"


def stretched(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Mean +- 2 std to 0..255, pixel by pixel."""
    return np.array([[int(255 * min(max((v - (mean - 2 * std)) / (4 * std), 0), 1)) for v in row] for row in values])


def test_a_pretraining_set_end_to_end(root, tmp_path, capsys):
    write_pretrain(root, tmp_path / "out")
    stores = readers(tmp_path / "out")
    assert {tuple(store.location_ids()) for store in stores.values()} == {IDS}
    assert {store.num_seasons for store in stores.values()} == {2}
    assert (stores["s2"].meta.bands, stores["labels"].meta.legend) == (S2.bands, "NoL")
    for season in range(2):
        with rasterio.open(root / "s1" / IDS[1] / S1_SCENES[season] / "VH.tif") as dataset:
            expected = stretched(dataset.read(1).tolist(), S1.mean[1], S1.std[1])
        assert np.abs(stores["s1"].read(1, season)[1] - expected).max() <= 1
        with rasterio.open(root / "s2c" / IDS[1] / S2_SCENES[season] / "B11.tif") as dataset:
            expected = stretched(dataset.read(1).tolist(), S2.mean[11], S2.std[11])
        np.testing.assert_array_equal(stores["s2"].read(1, season)[11], expected)
        with rasterio.open(root / "labels" / IDS[1] / S2_SCENES[season] / "label.tif") as dataset:
            np.testing.assert_array_equal(stores["labels"].read(1, season), dataset.read(1))
    printed = capsys.readouterr().out
    assert "3 locations x 2 seasons (s1, s2, labels)" in printed
    assert "s2 offset 0: 6 scenes (pixels)" in printed
    assert not list((tmp_path / "out").glob("*.partial"))


def test_resampling_invents_no_class(root, tmp_path):
    for path in root.glob("labels/*/*/label.tif"):
        write_tiff(path, np.kron([[0, 8], [8, 0]], np.ones((5, 5))).astype(np.uint8))
    write_pretrain(root, tmp_path / "out", size=17)
    stores = readers(tmp_path / "out")
    assert np.unique(stores["labels"].read_seasons(0)).tolist() == [0, 8]
    assert stores["s2"].read(0, 0).shape == (13, 17, 17)


def test_ids_limit_and_modalities(root, tmp_path):
    (tmp_path / "ids.csv").write_text(f"3,{S2_SCENES[1]}\n1,{S2_SCENES[0]}\n2,{S2_SCENES[0]}\n")
    options = {"ids_csv": tmp_path / "ids.csv", "limit": 2, "modalities": ("s2", "labels")}
    write_pretrain(root, tmp_path / "out", **options)
    assert [path.name for path in sorted(finished(tmp_path / "out"))] == [NAMES["s2"], NAMES["labels"]]
    store = LmdbReader(tmp_path / "out" / NAMES["labels"])
    assert (store.location_ids(), store.num_seasons) == (["0000003", "0000001"], 1)
    with rasterio.open(root / "labels" / IDS[2] / S2_SCENES[1] / "label.tif") as dataset:
        np.testing.assert_array_equal(store.read(0, 0), dataset.read(1))


def band(root: Path, modality: str, name: str, season: int = 1) -> Path:
    folder, scenes = ("s1", S1_SCENES) if modality == "s1" else ("s2c", S2_SCENES)
    return root / folder / IDS[1] / scenes[season] / f"{name}.tif"


def remove_band(root):
    band(root, "s2", "B5").unlink()


def remove_cirrus(root):
    band(root, "s2", "B10").unlink()


def remove_scene(root):
    band(root, "s1", "VV").parent.rename(root / "gone")


def remove_location(root):
    (root / "labels" / IDS[1]).rename(root / "gone")


def make_linear(root):
    for name in S1.bands:
        write_tiff(band(root, "s1", name), np.random.default_rng(0).uniform(0, 1, (12, 12)).astype(np.float32))


def make_nan(root):
    write_tiff(band(root, "s1", "VH"), np.full((12, 12), np.nan, np.float32))


def make_nodata(root):
    write_tiff(band(root, "s2", "B3"), np.full((12, 12), 7, np.uint16), nodata=7)


def truncate(root):
    path = band(root, "s2", "B8")
    path.write_bytes(path.read_bytes()[:-90])


def make_unknown_code(root):
    write_tiff(root / "labels" / IDS[1] / S2_SCENES[1] / "label.tif", np.full((12, 12), 42, np.uint8))


def make_undecidable(root):
    for name in S2.bands:
        write_tiff(band(root, "s2", name), np.arange(8000, 8144, dtype=np.uint16).reshape(12, 12))


def break_metadata(root):
    (band(root, "s2", "B1").parent / "metadata.json").write_text("{")


BREAKAGES = [
    (remove_band, "no file for band B5 of Sentinel-2"),
    (remove_cirrus, "no file for band B10 of Sentinel-2"),
    (remove_scene, "location 0000002: 1 s1 scenes where 2 seasons are wanted"),
    (remove_location, "location 0000002: no labels scene"),
    (make_linear, "looks linear"),
    (make_nan, "NaN or infinite"),
    (make_nodata, r"B3\.tif: 144 nodata pixels"),
    (truncate, r"B8\.tif: cannot be read"),
    (make_unknown_code, r"label\.tif: label codes outside the NoL legend: 42"),
    (make_undecidable, "of 0000002: .*say --s2_offset_ids 0000002=0 or 0000002=1000"),
    (break_metadata, r"metadata\.json: not JSON"),
]


@pytest.mark.parametrize(("spoil", "message"), BREAKAGES, ids=lambda case: getattr(case, "__name__", None))
def test_one_bad_location_stops_or_is_skipped(root, tmp_path, capsys, spoil, message):
    spoil(root)
    with pytest.raises(ValueError, match=message) as error:
        write_pretrain(root, tmp_path / "out")
    assert "--on_error skip" in str(error.value)
    assert "\n" not in str(error.value)
    assert not finished(tmp_path / "out")

    write_pretrain(root, tmp_path / "out", on_error="skip")
    stores = readers(tmp_path / "out")
    assert {tuple(store.location_ids()) for store in stores.values()} == {(IDS[0], IDS[2])}
    header, line = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert (header, line[:8]) == ("id,reason", "0000002,")
    assert "skipped: 1 x " in capsys.readouterr().out


def test_equal_reasons_count_as_one(root, tmp_path, capsys):
    for name in IDS[:2]:
        (root / "s2c" / name / S2_SCENES[0] / "B5.tif").unlink()
    write_pretrain(root, tmp_path / "out", on_error="skip")
    assert "skipped: 2 x no file for band B5 of Sentinel-2" in capsys.readouterr().out


def test_nothing_left_is_an_error(root, tmp_path):
    for path in root.glob("s2c/*/*/B5.tif"):
        path.unlink()
    with pytest.raises(ValueError, match="all 3 locations were skipped"):
        write_pretrain(root, tmp_path / "out", on_error="skip")
    assert not finished(tmp_path / "out")


@pytest.mark.parametrize("kept", [(0, 0, 0), (3, 1, 2), (2, 2, 2), (4, 4, 3)])
def test_an_interrupted_run_goes_on_as_if_undisturbed(tmp_path, monkeypatch, kept):
    ids = [f"{i:07d}" for i in range(6)]
    write_ssl4eo(tmp_path / "raw", ids)
    (tmp_path / "raw" / "s2c" / ids[1] / S2_SCENES[0] / "B5.tif").unlink()
    write_pretrain(tmp_path / "raw", tmp_path / "whole", on_error="skip")

    read, seen, ledgers = pretrain.layouts.read_location, [], []

    def interrupted(location, *arguments):
        if location.id == ids[5]:
            raise KeyboardInterrupt
        return read(location, *arguments)

    def counted(location, *arguments):
        seen.append(location.id)
        ledgers.append((tmp_path / "out" / "s2_offsets.csv").read_text().splitlines())
        return read(location, *arguments)

    monkeypatch.setattr(pretrain.layouts, "read_location", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_pretrain(tmp_path / "raw", tmp_path / "out", on_error="skip")
    for name, count in zip(NAMES.values(), kept):
        with LmdbWriter(tmp_path / "out" / name, LmdbReader(tmp_path / "whole" / name).meta) as writer:
            assert len(writer.location_ids) == 4
            writer.truncate(count)
    with (tmp_path / "out" / "s2_offsets.csv").open("a") as file:
        file.write("00000")
    monkeypatch.setattr(pretrain.layouts, "read_location", counted)
    write_pretrain(tmp_path / "raw", tmp_path / "out", on_error="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    first = 0 if min(kept) == 0 else [0, 2, 3, 4][min(kept) - 1] + 1
    assert sorted(seen) == ids[first:]
    header, *rows = contents(tmp_path / "whole")["s2_offsets.csv"].splitlines()
    assert ledgers[0] == [header, *(row for row in rows if row[:7] in ids[:first])], "a kill here would lose rows"


def test_an_interruption_between_finished_stores(root, tmp_path, monkeypatch):
    (root / "s2c" / IDS[2] / S2_SCENES[0] / "B5.tif").unlink()
    write_pretrain(root, tmp_path / "whole", on_error="skip")
    finish = LmdbWriter.finish

    def interrupted(writer):
        if writer.meta.modality == "s2":
            raise KeyboardInterrupt
        finish(writer)

    monkeypatch.setattr(LmdbWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_pretrain(root, tmp_path / "out", on_error="skip")
    assert [path.name for path in finished(tmp_path / "out")] == [NAMES["s1"]]
    monkeypatch.undo()
    write_pretrain(root, tmp_path / "out", on_error="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_finished_stores_are_not_touched(root, tmp_path):
    write_pretrain(root, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="finished already; remove them or choose another --out"):
        write_pretrain(root, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_unfinished_stores_of_other_locations_are_refused(root, tmp_path):
    remove_band(root)
    with pytest.raises(ValueError, match="no file for band B5"):
        write_pretrain(root, tmp_path / "out")
    (tmp_path / "ids.csv").write_text("2\n3\n")
    with pytest.raises(ValueError, match="unfinished stores are of other locations"):
        write_pretrain(root, tmp_path / "out", ids_csv=tmp_path / "ids.csv", on_error="skip")


@pytest.mark.parametrize("options", [{"size": 16}, {"s2_offset": "1000"}, {"label_codes": "DW"}])
def test_unfinished_stores_of_other_settings_are_refused(root, tmp_path, options):
    remove_band(root)
    with pytest.raises(ValueError, match="no file for band B5"):
        write_pretrain(root, tmp_path / "out")
    with pytest.raises(ValueError, match="begun with"):
        write_pretrain(root, tmp_path / "out", on_error="skip", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers 0: at least 1"),
        ({"limit": 0}, "--limit 0: at least 1"),
        ({"s2_offset_ids": ("0000001",)}, "--s2_offset_ids 0000001: wanted ID=0 or ID=1000"),
        ({"s2_offset_ids": ("0000001=500",)}, "--s2_offset_ids 0000001=500: wanted"),
        ({"s2_offset_ids": ("77=0",)}, "--s2_offset_ids 77=0: wanted"),
        ({"s2_dir": "s2a"}, "s2a: no such folder"),
        ({"num_seasons": 4}, "3 of 3 locations are incomplete: location 0000001: 2 s1 scenes where 4"),
    ],
)
def test_bad_flags_write_nothing(root, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_pretrain(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_disk_estimate_of_the_published_set():
    source = "test"
    metas = [preparation.image_meta(modality, "uint8", 4, source) for modality in ("s1", "s2")]
    wanted = preparation.estimate_bytes(103_793, [*metas, preparation.label_meta("NoL", 4, source)], 264 * 264)
    pixels = 103_793 * 4 * 16 * 264 * 264
    assert pixels <= wanted <= 1.05 * pixels


def test_the_disk_estimate_covers_what_is_written(tmp_path):
    write_ssl4eo(tmp_path / "raw", IDS, size=64)
    write_pretrain(tmp_path / "raw", tmp_path / "out", size=64)
    for modality, name in NAMES.items():
        store = LmdbReader(tmp_path / "out" / name)
        used = (tmp_path / "out" / name / "data.mdb").stat().st_size
        estimate = preparation.estimate_bytes(3, [store.meta], 64 * 64)
        assert used <= estimate + 20 * 4096, modality
        assert estimate <= 2 * used, modality


def test_a_full_disk_is_seen_first(root, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(ValueError, match=r"--out .*: 0.00 GB wanted, 0.00 GB free; choose another disk"):
        write_pretrain(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(root, tmp_path, capsys):
    write_pretrain(root, tmp_path / "out", dry_run=True)
    assert "GB wanted" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def scene(folder: Path, offset: int, bright: int = 0, metadata=None, **tags) -> tuple[np.ndarray, Path]:
    dn = fake_dn(np.random.default_rng(0)) + np.uint16(offset + bright)
    folder.mkdir(exist_ok=True)
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return dn, write_tiff(folder / "S2.tif", dn, **tags)


@pytest.mark.parametrize(
    ("made", "told", "decision"),
    [
        ({"offset": 0}, None, (0, "pixels")),
        ({"offset": 1000}, None, (1000, "pixels")),
        ({"offset": 1000}, 0, (0, "told")),
        ({"offset": 1000, "PROCESSING_BASELINE": "04.00"}, None, (1000, "metadata")),
        ({"offset": 1000, "metadata": {"properties": {"PROCESSING_BASELINE": "05.10"}}}, None, (1000, "metadata")),
        ({"offset": 0, "metadata": {"properties": {"PROCESSING_BASELINE": "02.06"}}}, None, (0, "metadata")),
        ({"offset": 1000, "RADIO_ADD_OFFSET_0": "-1000"}, None, (1000, "metadata")),
        ({"offset": 0, "RADIO_ADD_OFFSET_0": "0", "PROCESSING_BASELINE": "04.00"}, None, (0, "metadata")),
        ({"offset": 0, "bright": 8000, "PROCESSING_BASELINE": "03.01"}, None, (0, "metadata")),
        ({"offset": 1000, "bright": 8000, "PROCESSING_BASELINE": "04.00"}, None, (1000, "metadata")),
        (
            {"offset": 0, "metadata": {"id": "COPERNICUS/S2_HARMONIZED/x", "PROCESSING_BASELINE": "05.00"}},
            None,
            (0, "metadata"),
        ),
    ],
)
def test_the_offset_follows_the_user_the_metadata_the_pixels(tmp_path, made, told, decision):
    assert preparation.decide_offset(*scene(tmp_path / "p1", **made), "p1", told) == decision


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"offset": 0, "bright": 8000}, "of p1: the pixels cannot tell .*; say --s2_offset_ids p1=0 or p1=1000"),
        ({"offset": 0, "PROCESSING_BASELINE": "04.00"}, "of p1: the metadata declare .*; say --s2_offset_ids p1=0"),
        ({"offset": 0, "PROCESSING_BASELINE": "new"}, "not a number"),
    ],
)
def test_an_offset_in_doubt_is_refused(tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        preparation.decide_offset(*scene(tmp_path / "p1", **made), "p1")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_the_offset_is_clipped_at_zero(dtype):
    found = preparation.remove_offset(np.array([0, 999, 1000, 1234, 9000], dtype), 1000)
    assert (found.dtype, found.tolist()) == (dtype, [0, 0, 0, 234, 8000])


def test_offsets_leave_the_stores_equal(tmp_path):
    for name, offset in (("plain", 0), ("shifted", 1000)):
        for location in ("a", "b"):
            rng = np.random.default_rng(ord(location))
            write_tiff(tmp_path / name / location / "S2.tif", fake_dn(rng, 9) + np.uint16(offset))
        write_pretrain(tmp_path / name, tmp_path / f"{name}_out", layout="tiles", modalities=("s2",))
    plain, shifted = (LmdbReader(tmp_path / f"{name}_out" / NAMES["s2"]) for name in ("plain", "shifted"))
    np.testing.assert_array_equal(plain.read_seasons(1), shifted.read_seasons(1))
    rows = (tmp_path / "shifted_out" / "s2_offsets.csv").read_text().splitlines()
    assert rows == ["id,season,scene,offset,decided_by", "a,0,S2.tif,1000,pixels", "b,0,S2.tif,1000,pixels"]


def test_real_tiles(real, tmp_path, capsys):
    options = {"layout": "tiles", "s2_pattern": "S2L1C.tif"}
    with pytest.raises(ValueError, match="terramesh_609U_541L_3_0=1000"):
        write_pretrain(real / "s12_tiles", tmp_path / "out", **options)
    with pytest.raises(ValueError, match="written with 0 already"):
        write_pretrain(real / "s12_tiles", tmp_path / "out", **options, s2_offset_ids=("terramesh_38D_378R_2_3=1000",))
    told = ("terramesh_609U_541L_3_0=1000",)
    write_pretrain(real / "s12_tiles", tmp_path / "out", **options, s2_offset_ids=told)
    rows = [line.split(",") for line in (tmp_path / "out" / "s2_offsets.csv").read_text().splitlines()[1:]]
    found = {row[0][:15]: (int(row[3]), row[4]) for row in rows}
    assert found == {
        "sen12mscr_ROIs1": (0, "pixels"),
        "terramesh_282D_": (1000, "pixels"),
        "terramesh_38D_3": (0, "pixels"),
        "terramesh_609U_": (1000, "told"),
    }
    stores = readers(tmp_path / "out")
    assert [stores["s2"].read(i, 0).shape[-1] for i in range(4)] == [256, 224, 224, 224]
    with rasterio.open(real / "s12_tiles" / "terramesh_282D_485L_3_3" / "DW.tif") as dataset:
        np.testing.assert_array_equal(stores["labels"].read(1, 0), dataset.read(1))
    assert inspection.main(inspection.Inspection(tuple(tmp_path / "out" / name for name in NAMES.values()))) == 0
    assert "the stores match" in capsys.readouterr().out


def test_real_ssl4eo_scenes(real, tmp_path):
    options = {"s2_dir": "imgs", "modalities": ("s2",), "size": 264}
    write_pretrain(real / "ssl4eo_layout", tmp_path / "out", **options)
    store = LmdbReader(tmp_path / "out" / NAMES["s2"])
    assert (store.location_ids(), store.read(0, 0).shape) == (["000000", "000001"], (13, 264, 264))
    with rasterio.open(next((real / "ssl4eo_layout").glob("imgs/000001/*/B4.tif"))) as dataset:
        expected = stretched(dataset.read(1).tolist(), S2.mean[3], S2.std[3])
    np.testing.assert_array_equal(store.read(1, 0)[3], expected)
    assert "0,metadata" in (tmp_path / "out" / "s2_offsets.csv").read_text()


RAW_TO_CLASS = {1: 1, 2: 5, 3: 255, 4: 2, 5: 3, 6: 4, 7: 6, 8: 255, 9: 7, 10: 0}


def write_dfc(root: Path, numbers=(2, 10)) -> dict[tuple[str, int], tuple]:
    rng, made = np.random.default_rng(5), {}
    for split in ("validation", "test"):
        for number in numbers:
            images = (fake_db(rng, 8).astype(np.float64), fake_dn(rng, 8), rng.integers(1, 11, (8, 8), np.uint8))
            for word, image in zip(("s1", "s2", "dfc"), images):
                name = f"ROIs0000_{split}_{word}_0_p{number}.tif"
                write_tiff(root / split / f"{word}_{split}" / name, image)
            made[split, number] = images
    return made


def test_dfc2020_keeps_raw_values(tmp_path, capsys):
    made = write_dfc(tmp_path / "raw")
    dfc2020.main(dfc2020.Dfc2020Set(tmp_path / "raw", tmp_path / "out"))
    for split, folder in (("validation", "train"), ("test", "test")):
        s1, s2, labels = (LmdbReader(tmp_path / "out" / folder / f"{n}.lmdb") for n in ("s1", "s2", "labels"))
        assert s1.location_ids() == s2.location_ids() == labels.location_ids() == ["p2", "p10"]
        db, dn, raw = made[split, 10]
        np.testing.assert_array_equal(s1.read(1, 0), db.astype(np.float32))
        np.testing.assert_array_equal(s2.read(1, 0), dn)
        np.testing.assert_array_equal(labels.read(1, 0), np.vectorize(RAW_TO_CLASS.get)(raw))
        assert (s1.meta.dtype, s1.meta.unit, s2.meta.unit, labels.meta.legend) == ("float32", "dB", "DN", "DFC2020")
    dfc2020.main(dfc2020.Dfc2020Set(tmp_path / "raw", tmp_path / "out"))
    assert "train: finished already, left as it is" in capsys.readouterr().out


def test_dfc2020_refuses_unknown_codes(tmp_path):
    write_dfc(tmp_path / "raw")
    path = tmp_path / "raw" / "test" / "dfc_test" / "ROIs0000_test_dfc_0_p10.tif"
    write_tiff(path, np.full((8, 8), 17, np.uint8))
    with pytest.raises(ValueError, match=r"p10\.tif: label codes outside the DFC2020 legend: 17"):
        dfc2020.main(dfc2020.Dfc2020Set(tmp_path / "raw", tmp_path / "out"))
    assert {path.parent.name for path in finished(tmp_path / "out")} == {"train"}


def test_the_command_line(root, tmp_path):
    shown = command("write_pretrain_lmdb", "--help")
    assert shown.returncode == 0
    assert "--s2_offset_ids" in shown.stdout
    flags = ("--data_path", root, "--out", tmp_path / "out", "--size", 12)
    bad = command("write_pretrain_lmdb", *flags, "--label_dir", "none")
    assert (bad.returncode, bad.stderr.count("\n"), bad.stderr[:7]) == (2, 1, "error: ")
    good = command("write_pretrain_lmdb", *flags)
    assert good.returncode == 0, good.stderr
    paths = [tmp_path / "out" / name for name in NAMES.values()]
    assert command("inspect_lmdb", *paths).returncode == 0
    assert command("inspect_lmdb", tmp_path / "nothing").returncode == 2


def test_inspection_finds_mismatches(root, tmp_path, capsys):
    write_pretrain(root, tmp_path / "all")
    write_pretrain(root, tmp_path / "two", limit=2, size=9, modalities=("labels",))
    stores = (tmp_path / "all" / NAMES["s2"], tmp_path / "two" / NAMES["labels"])
    settings = inspection.Inspection(stores, json=tmp_path / "report.json", panel=tmp_path / "panel.png")
    assert inspection.main(settings) == 1
    assert "3 and 2 locations" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [problem.split(": ", 1)[1] for problem in report["mismatches"]] == [
        "3 and 2 locations",
        "1 ids differ, at index 2: 0000003 and None",
        "tile sizes differ, at index 0: (12, 12) and (9, 9); 1: (12, 12) and (9, 9)",
    ]
    shares = report["stores"][str(stores[1])]["classes"]
    labels = np.stack([LmdbReader(stores[1]).read_seasons(i) for i in range(2)])
    assert shares["water"] == pytest.approx((labels == 0).mean())
    assert sum(shares.values()) == pytest.approx(1)
    bands = report["stores"][str(stores[0])]["bands"]
    values = np.stack([LmdbReader(stores[0]).read_seasons(i) for i in range(3)])[:, :, 4]
    assert (bands["B5"]["mean"], bands["B5"]["std"]) == pytest.approx((values.mean(), values.std()))
    assert (tmp_path / "panel.png").stat().st_size > 1000


@pytest.mark.parametrize(("shift", "flagged"), [(0, []), (5000, [b for b in S2.bands if b not in ("B10",)])])
def test_bands_out_of_range_are_flagged(tmp_path, shift, flagged):
    rng = np.random.default_rng(6)
    mean, std = S2.statistics()
    image = rng.normal(mean, std, (13, 40, 40)).clip(0)
    image[np.arange(13) != 10] += shift
    with LmdbWriter(tmp_path / "s2", preparation.image_meta("s2", "uint16", 1, "test")) as writer:
        writer.write("a", [image.astype(np.uint16)])
        writer.finish()
    report = inspection.describe(LmdbReader(tmp_path / "s2"), 10)
    assert [band for band, found in report["bands"].items() if found["out_of_range"]] == flagged


def test_expected_statistics_of_quantised_values():
    rng = np.random.default_rng(7)
    mean, std = S1.statistics()
    values = preparation.quantise(rng.normal(mean, std, (2, 400, 400)), S1).astype(float)
    expected_mean, expected_std = inspection.expected_statistics("s1", "uint8")
    np.testing.assert_allclose(values.mean(axis=(1, 2)), expected_mean, atol=0.5)
    np.testing.assert_allclose(values.std(axis=(1, 2)), expected_std, atol=0.5)


def test_few_records_are_sampled_evenly():
    assert inspection.sample_records(3, 2, 10) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    records = inspection.sample_records(1000, 4, 8)
    assert len(records) == 8
    assert (records[0], records[-1]) == ((0, 0), (999, 3))


def test_published_stores_are_inspected_too(tmp_path):
    array = np.random.default_rng(8).integers(0, 9, (4, 16, 16), dtype=np.uint8)
    with lmdb.open(str(tmp_path / "labels"), map_size=1 << 22) as env, env.begin(write=True) as txn:
        txn.put(b"0", pickle.dumps((array.tobytes(), array.shape, "0000042")))
    settings = inspection.Inspection((tmp_path / "labels",), json=tmp_path / "report.json")
    assert inspection.main(settings) == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())["stores"].values()
    assert (report["ids"], report["num_seasons"], report["shapes"]) == (["0000042"], 4, [[16, 16]])
    assert report["classes"]["snow & ice"] == pytest.approx((array == 8).mean())


def test_unfinished_stores_do_not_look_whole(tmp_path):
    meta = preparation.label_meta("NoL", 1, "test")
    location = Location("a", {"labels": (tmp_path / "none.tif",)})
    with pytest.raises(ValueError, match="broken"):
        preparation.write_stores({tmp_path / "labels": meta}, [location], broken)
    assert not (tmp_path / "labels").exists()
    with pytest.raises(ValueError, match="unfinished"):
        LmdbReader(tmp_path / "labels")


def broken(location: Location) -> preparation.Prepared:
    raise ValueError(f"{location.id}: broken")
