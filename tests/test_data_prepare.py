"""The scripts that write stores: end to end, bad input, interruptions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, load_script
from rasters import S1_SCENES, S2_SCENES, fake_dn, write_dfc2020, write_ssl4eo, write_tiff

from cromss.sensors import S1, S2
from cromss.store import LmdbReader

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

IDS = ("0000001", "0000002", "0000003")
NAMES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}


pretrain, dfc2020 = load_script("write_pretrain_lmdb"), load_script("write_dfc2020_lmdb")


def write_pretrain(root: Path, out: Path, **options) -> None:
    pretrain.main(pretrain.PretrainSet(root, out, **{"size": 12, "workers": 2, **options}))


def command(script: str, *arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, str(REPOSITORY / "data_prepare" / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def readers(out: Path) -> dict[str, LmdbReader]:
    return {modality: LmdbReader(out / name) for modality, name in NAMES.items()}


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
    (remove_scene, "location 0000002: 1 s1 scenes, wanted 2"),
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
        ({"data_name_s1": "x.lmdb", "data_name_s2": "x.lmdb"}, "three different names"),
        ({"data_name_s1": "../x.lmdb"}, "three different names"),
        ({"size": -5}, "--size -5: must be at least 1"),
        ({"modalities": ()}, "--modalities: name at least one"),
        ({"num_seasons": 4}, "3 of 3 locations are incomplete: location 0000001: 2 s1 scenes, wanted 4"),
    ],
)
def test_bad_flags_write_nothing(root, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_pretrain(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(root, tmp_path, capsys):
    write_pretrain(root, tmp_path / "out", dry_run=True)
    assert "GB wanted" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


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


def test_real_tiles(real, tmp_path):
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


def test_dfc2020_keeps_raw_values(tmp_path, capsys):
    made = write_dfc2020(tmp_path / "raw")
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
    write_dfc2020(tmp_path / "raw")
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
    assert "written: 3 locations" in good.stdout
