"""The scripts that write stores: end to end, bad input, interruptions."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, load_script
from rasters import (
    BOX,
    OSCD_FOLDERS,
    S1_SCENES,
    S2_SCENES,
    fake_db,
    fake_dn,
    write_dfc2020,
    write_dwosm,
    write_mask,
    write_nyc,
    write_oscd,
    write_ssl4eo,
    write_tiff,
)

from cromss import oscd
from cromss.sensors import S1, S2
from cromss.store import LmdbReader

IDS = ("0000001", "0000002", "0000003")
NAMES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}


pretrain, downstream = load_script("write_pretrain_lmdb"), load_script("write_downstream_lmdb")
oscd_script, pretrain_oscd = load_script("write_oscd_lmdb"), load_script("write_oscd_pretrain_lmdb")


def write_pretrain(root: Path, out: Path, **options) -> None:
    size = {"size": 12} if options.get("layout", "ssl4eo") == "ssl4eo" else {}
    pretrain.main(pretrain.PretrainSet(root, out, **{"workers": 2, **size, **options}))


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
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"s2_offset_ids": ("0000001",)}, "--s2_offset_ids 0000001: wanted ID=0 or ID=1000"),
        ({"s2_offset_ids": ("0000001=500",)}, "--s2_offset_ids 0000001=500: wanted"),
        ({"s2_offset_ids": ("77=0",)}, "--s2_offset_ids 77=0: wanted"),
        ({"s2_dir": "s2a"}, "s2a: no such folder"),
        ({"data_name_s1": "x.lmdb", "data_name_s2": "x.lmdb"}, "x.lmdb x.lmdb dw_labels.lmdb: must be different names"),
        ({"data_name_s1": "../x.lmdb"}, "must be different names"),
        ({"data_name_s1": "."}, r"--data_name_\* \. .*: must be different names in --out"),
        ({"data_name_s1": "dw_labels.lmdb.partial"}, r"in --out, without \.partial or \.csv"),
        ({"data_name_s1": "skipped.csv"}, r"in --out, without \.partial or \.csv"),
        ({"s2_offset_ids": ("0000002=0", "0000002=1000")}, "0000002=1000: 0000002=0 is told, too; keep one"),
        ({"size": -5}, "--size -5: must be at least 1"),
        ({"num_seasons": 0}, "--num_seasons 0: must be at least 1"),
        ({"modalities": ("s2", "s2")}, "--modalities s2 s2: must be some of s1 s2 labels, each once"),
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


def write_downstream(dataset: str, root: Path, **options) -> Path:
    out = root / "out"
    downstream.main(downstream.DownstreamFolders(dataset, root / "raw", out, **{"workers": 2, **options}))
    return out


def test_dfc2020_keeps_raw_values(tmp_path, capsys):
    made = write_dfc2020(tmp_path / "raw")
    out = write_downstream("DFC2020", tmp_path)
    for split, folder in (("validation", "train"), ("test", "test")):
        s1, s2, labels = (LmdbReader(out / folder / f"{n}.lmdb") for n in ("s1", "s2", "labels"))
        assert s1.location_ids() == s2.location_ids() == labels.location_ids() == ["p2", "p10"]
        db, dn, raw = made[split, 10]
        np.testing.assert_array_equal(s1.read(1, 0), db.astype(np.float32))
        np.testing.assert_array_equal(s2.read(1, 0), dn)
        np.testing.assert_array_equal(labels.read(1, 0), np.vectorize(RAW_TO_CLASS.get)(raw))
        assert (s1.meta.dtype, s1.meta.unit, s2.meta.unit, labels.meta.legend) == ("float32", "dB", "DN", "DFC2020")
    write_downstream("DFC2020", tmp_path)
    assert capsys.readouterr().out.count("finished already, left as it is") == 2
    write_downstream("DFC2020", tmp_path, splits=("train",))
    assert (
        capsys.readouterr().out
        == f"{out / 'train'}: finished already, left as it is; changed files want another --out\n"
    )


def test_dfc2020_refuses_unknown_codes(tmp_path):
    write_dfc2020(tmp_path / "raw")
    path = tmp_path / "raw" / "test" / "dfc_test" / "ROIs0000_test_dfc_0_p10.tif"
    write_tiff(path, np.full((8, 8), 17, np.uint8))
    with pytest.raises(ValueError, match=r"p10\.tif: label codes outside the DFC2020 legend: 17"):
        write_downstream("DFC2020", tmp_path)
    assert {path.parent.name for path in finished(tmp_path / "out")} == {"train"}


PLACES = ("-3.5_40.25-20190405", "103.99308536_-33.18-20230405")


def write_experts(root: Path, kind: str = "dw", **options) -> dict[tuple[str, str], tuple]:
    """Both splits of a small DW or OSM set; the scenes of 2023 carry the DN offset."""
    made = {}
    for seed, (split, size) in enumerate((("train", 10), ("test", 12))):
        for name, images in write_dwosm(root / "raw", kind, split, PLACES, seed=seed, size=size, **options).items():
            made[split, name] = images
        path = root / "raw" / f"{kind}_{split}" / "image_s2" / f"s2_{PLACES[1]}.tif"
        write_tiff(path, made[split, PLACES[1]][1] + np.uint16(1000))
    return made


@pytest.mark.parametrize(("kind", "bands"), [("dw", 1), ("dw", 2), ("osm", 1)])
def test_expert_labels_end_to_end(tmp_path, kind, bands):
    made = write_experts(tmp_path, kind, bands=bands)
    out = write_downstream(kind.upper(), tmp_path)
    for split, size in (("train", 10), ("test", 12)):
        s1, s2, labels = (LmdbReader(out / split / f"{name}.lmdb") for name in ("s1", "s2", "labels"))
        assert (s1.meta.dtype, s2.meta.dtype, labels.meta.legend) == ("float32", "uint16", kind.upper())
        assert set(s1.location_ids()) == set(PLACES)
        for index, name in enumerate(s1.location_ids()):
            db, dn, codes = made[split, name]
            np.testing.assert_array_equal(s1.read(index, 0), db)
            np.testing.assert_array_equal(s2.read(index, 0), dn)
            codes = codes[-1].astype(int)
            ignored = (codes == 0) | ((codes == 10) & (kind == "dw"))
            np.testing.assert_array_equal(labels.read(index, 0), np.where(ignored, 255, codes - 1))
            assert labels.read(index, 0).shape == (size, size)
    rows = [line.split(",") for line in (out / "train" / "s2_offsets.csv").read_text().splitlines()[1:]]
    assert {row[0]: (row[3], row[4]) for row in rows} == {PLACES[0]: ("0", "pixels"), PLACES[1]: ("1000", "pixels")}


def expert(root: Path, folder: str, word: str) -> Path:
    return root / "raw" / "dw_train" / folder / f"{word}_{PLACES[0]}.tif"


def drop_radar(root):
    expert(root, "image_s1", "s1").unlink()


def drop_label(root):
    expert(root, "label_dw", "dw").unlink()


def make_linear_radar(root):
    write_tiff(expert(root, "image_s1", "s1"), np.random.default_rng(0).uniform(0, 1, (2, 10, 10)).astype(np.float32))


def swap_polarisations(root):
    write_tiff(expert(root, "image_s1", "s1"), fake_db(np.random.default_rng(0), 10), ("VH", "VV"))


def take_level_2a(root):
    write_tiff(expert(root, "image_s2", "s2"), fake_dn(np.random.default_rng(0), 10)[:12])


def cut_off(root):
    path = expert(root, "image_s2", "s2")
    path.write_bytes(path.read_bytes()[:-90])


def use_foreign_codes(root):
    write_tiff(expert(root, "label_dw", "dw"), np.full((10, 10), 11, np.uint8))


def use_another_size(root):
    write_tiff(expert(root, "label_dw", "dw"), np.ones((9, 10), np.uint8))


def brighten(root):
    """DN of 1000 and more everywhere, in 2019."""
    write_tiff(expert(root, "image_s2", "s2"), fake_dn(np.random.default_rng(0), 10) + np.uint16(1000))


def relocate(root):
    for folder, word, zone in (("image_s1", "s1", 32630), ("image_s2", "s2", 32631)):
        with rasterio.open(expert(root, folder, word), "r+") as dataset:
            dataset.crs = f"EPSG:{zone}"
            dataset.transform = rasterio.transform.from_origin(500_000, 4_000_000, 10, 10)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_radar, "location -3.5_40.25-20190405: no s1 scenes"),
        (drop_label, "location -3.5_40.25-20190405: no labels scenes"),
        (make_linear_radar, "looks linear"),
        (swap_polarisations, "bands are VH VV"),
        (take_level_2a, r"missing: B10 \(level 2A has none\)"),
        (cut_off, "cannot be read"),
        (use_foreign_codes, "label codes outside the DW legend: 11"),
        (use_another_size, "sizes differ"),
        (brighten, "the pixels show a DN offset of 1000, its date is before 20220125; say --s2_offset_ids -3.5_40"),
        (relocate, "lie in different places"),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_a_bad_expert_tile_stops_or_is_skipped(tmp_path, spoil, message):
    write_experts(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        write_downstream("DW", tmp_path)
    assert "--on_error skip" in str(error.value)
    out = write_downstream("DW", tmp_path, on_error="skip")
    assert {path: LmdbReader(path).location_ids() for path in finished(out / "train")} == {
        out / "train" / f"{name}.lmdb": [PLACES[1]] for name in ("s1", "s2", "labels")
    }
    assert len(LmdbReader(out / "test" / "s1.lmdb")) == 2
    assert PLACES[0] in (out / "train" / "skipped.csv").read_text()


def test_offsets_are_told_by_location(tmp_path):
    made = write_experts(tmp_path)
    brighten(tmp_path)
    out = write_downstream("DW", tmp_path, s2_offset_ids=(f" {PLACES[0]}=1000",), splits=("train",))
    s2 = LmdbReader(out / "train" / "s2.lmdb")
    expected = {PLACES[0]: fake_dn(np.random.default_rng(0), 10), PLACES[1]: made["train", PLACES[1]][1]}
    for index, name in enumerate(s2.location_ids()):
        np.testing.assert_array_equal(s2.read(index, 0), expected[name])


RGBN = ("R", "G", "B", "NIR")


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("dataset", "first", "second", "message"),
    [
        ("DW", {}, {"s2_offset": "0"}, r"s1\.lmdb: finished with source .*s2_offset auto', not .*s2_offset 0'"),
        ("DW", {"limit": 1}, {}, "finished with source .*auto, first 1', not .*auto'; remove it, or choose"),
        ("DW", {}, {"limit": 1}, "finished with source .*auto', not .*first 1'"),
        ("DW", {"limit": 1}, {"limit": 2}, "finished with source .*first 1', not .*first 2'"),
        ("DW", {}, {"s2_offset_ids": (f" {PLACES[0]}=1000",)}, "-3.5_40.25-20190405=1000: written with 0 already"),
        ("NYC", {"band_order": RGBN}, {}, "finished with source .*bands from R G B NIR', not 'NYC train split'"),
        ("NYC", {"band_order": RGBN}, {"band_order": RGBN[::-1]}, "bands from R G B NIR', not .*from NIR B G R'"),
    ],
)
@pytest.mark.parametrize("splits", [("train", "test"), ("train",)], ids=["both", "train"])
def test_finished_splits_of_other_settings_are_refused(tmp_path, dataset, first, second, message, splits):
    write_experts(tmp_path)
    write_nyc(tmp_path / "raw", order=RGBN)
    before = contents(write_downstream(dataset, tmp_path, splits=splits, **first))
    with pytest.raises(ValueError, match=message) as error:
        write_downstream(dataset, tmp_path, splits=splits, **second)
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "out") == before


def test_orthophotos_end_to_end(tmp_path):
    made = write_nyc(tmp_path / "raw", order=RGBN)
    with pytest.raises(ValueError, match="say --band_order R G B NIR or --band_order NIR R G B"):
        write_downstream("NYC", tmp_path)
    out = tmp_path / "out"
    assert not finished(out)
    assert not out.exists()
    write_downstream("NYC", tmp_path, band_order=RGBN)
    for split in ("train", "test"):
        ortho, labels = (LmdbReader(out / split / f"{name}.lmdb") for name in ("ortho", "labels"))
        assert (ortho.meta.bands, ortho.meta.dtype, ortho.meta.unit) == (("NIR", "R", "G", "B"), "uint8", "8 bit")
        assert ortho.location_ids() == labels.location_ids() == ["tile_2", "tile_10"]
        for index, name in enumerate(ortho.location_ids()):
            image, codes = made[split, name]
            np.testing.assert_array_equal(ortho.read(index, 0), image)
            np.testing.assert_array_equal(labels.read(index, 0), np.where(codes == 0, 255, codes.astype(int) - 1))


def test_described_orthophotos_need_no_flag(tmp_path):
    made = write_nyc(tmp_path / "raw", descriptions=("NIR", "R", "G", "B"))
    out = write_downstream("NYC", tmp_path)
    np.testing.assert_array_equal(LmdbReader(out / "test" / "ortho.lmdb").read(0, 0), made["test", "tile_2"][0])


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("NYC", {"band_order": ("R", "G", "B")}, "--band_order R G B: NIR R G B in any order"),
        ("NYC", {"band_order": ("R", "R", "G", "B")}, "--band_order R R G B: NIR R G B in any order"),
        ("DW", {"band_order": RGBN}, "--band_order R G B NIR: .* with --dataset NYC"),
        ("DFC2020", {"s2_offset": "1000"}, "nothing to subtract with --dataset DFC2020"),
        ("NYC", {"s2_offset_ids": ("a=0",)}, "nothing to subtract with --dataset NYC"),
        ("DW", {"s2_offset_ids": ("a=0",)}, "--s2_offset_ids a=0: wanted ID=0 or ID=1000"),
        ("DW", {"splits": ()}, "--splits : train, test, or both"),
        ("DW", {"splits": ("test", "test")}, "--splits test test: train, test, or both"),
        ("DW", {"limit": 0}, "--limit 0"),
        ("OSM", {}, "osm_train.*: no such folder"),
        ("DFC2020", {}, "no such folder"),
    ],
)
def test_bad_flags_of_downstream_sets_write_nothing(tmp_path, dataset, options, message):
    write_experts(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_downstream(dataset, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def describe_otherwise(root):
    for path in (root / "test" / "image").iterdir():
        with rasterio.open(path) as dataset:
            write_tiff(path, dataset.read(), RGBN)


def lose_image(root):
    next((root / "test" / "image").iterdir()).unlink()


@pytest.mark.parametrize(("spoil", "message"), [(describe_otherwise, "bands are R G B NIR"), (lose_image, "1 of 2")])
def test_all_parts_are_looked_at_before_the_first_is_written(tmp_path, spoil, message):
    write_nyc(tmp_path / "raw")
    spoil(tmp_path / "raw")
    with pytest.raises(ValueError, match=message):
        write_downstream("NYC", tmp_path, band_order=("NIR", "R", "G", "B"))
    assert not (tmp_path / "out").exists()


def test_dfc2020_has_no_offset(tmp_path):
    made = write_dfc2020(tmp_path / "raw")
    path = tmp_path / "raw" / "test" / "s2_test" / "ROIs0000_test_s2_0_p10.tif"
    write_tiff(path, made["test", 10][1] + np.uint16(1000))
    with pytest.raises(ValueError, match=r"s2_0_p10\.tif: the pixels show a DN offset of 1000, .*; subtract 1000"):
        write_downstream("DFC2020", tmp_path)


def test_an_offset_of_all_scenes_must_be_in_all(tmp_path):
    write_experts(tmp_path)
    with pytest.raises(ValueError, match=f"of {PLACES[0]}: the pixels show no DN offset"):
        write_downstream("DW", tmp_path, s2_offset="1000")
    shutil.rmtree(tmp_path / "out")
    out = write_downstream("DW", tmp_path, s2_offset="1000", s2_offset_ids=(f" {PLACES[0]}=0",))
    assert len(LmdbReader(out / "test" / "s2.lmdb")) == 2


CITIES = {"train_cities": ("paris", "rennes"), "test_cities": ("pisa",)}


def write_change(root: Path, **options) -> Path:
    settings = oscd_script.OscdFolders(
        root / "raw", root / "out", **{"workers": 2, "tile_size": 32, **CITIES, **options}
    )
    oscd_script.main(settings)
    return root / "out"


def test_change_sets_end_to_end(tmp_path, capsys):
    masks = write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"], second_shape=(59, 65))
    out = write_change(tmp_path)
    whole = {city.id: oscd.read_city(city) for city in oscd.list_cities(tmp_path / "raw")}
    s2, labels = (LmdbReader(out / "train" / f"{name}.lmdb") for name in ("s2", "labels"))
    assert (s2.num_seasons, labels.num_seasons, labels.meta.legend) == (2, 1, "OSCD")
    assert s2.location_ids() == labels.location_ids()
    assert len(s2) == 2 * 2 * 3
    for index, name in enumerate(s2.location_ids()):
        city, row, column = name.split("_")
        window = np.s_[int(row[1:]) : int(row[1:]) + 32, int(column[1:]) : int(column[1:]) + 32]
        for date in (0, 1):
            np.testing.assert_array_equal(s2.read(index, date), whole[city]["s2"][date][:, *window])
        np.testing.assert_array_equal(labels.read(index, 0), masks[city][window])
    s2, labels = (LmdbReader(out / "test" / f"{name}.lmdb") for name in ("s2", "labels"))
    assert (s2.location_ids(), s2.meta.dtype, s2.read(0, 1).shape) == (["pisa"], "uint16", (13, 60, 66))
    np.testing.assert_array_equal(labels.read(0, 0), masks["pisa"])
    assert "12 locations x 2 seasons (s2, labels)" in capsys.readouterr().out
    write_change(tmp_path)
    assert "test: finished already, left as it is" in capsys.readouterr().out


def test_a_bad_city_stops_or_is_skipped_and_the_rest_resumed(tmp_path):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    next((tmp_path / "raw").glob("*Images/rennes/imgs_2/*_B09.tif")).unlink()
    with pytest.raises(ValueError, match=r"imgs_2: no file for band B9 .*--on_error skip"):
        write_change(tmp_path)
    out = write_change(tmp_path, on_error="skip")
    assert {name.split("_")[0] for name in LmdbReader(out / "train" / "s2.lmdb").location_ids()} == {"paris"}
    assert len((out / "train" / "skipped.csv").read_text().splitlines()) == 1 + 6


def test_all_cities_are_looked_at_before_the_first_is_written(tmp_path):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    shutil.rmtree(next((tmp_path / "raw").glob("*Images/pisa/imgs_2")))
    with pytest.raises(ValueError, match=r"1 of 1 .* incomplete: location pisa: 1 s2 scenes, wanted 2"):
        write_change(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_part_without_a_city_is_refused_before_the_other_is_written(tmp_path):
    write_oscd(tmp_path / "raw", ["paris"])
    (tmp_path / "raw" / OSCD_FOLDERS["images"] / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match="test: no location to write into it"):
        write_change(tmp_path, train_cities=("paris",), test_cities=())
    assert not (tmp_path / "out").exists()


def test_a_city_with_one_date_is_skipped(tmp_path):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa", "rio"])
    for city in ("rennes", "rio"):
        shutil.rmtree(next((tmp_path / "raw").glob(f"*Images/{city}/imgs_2")))
    cities = {"train_cities": ("paris", "rennes"), "test_cities": ("pisa", "rio")}
    with pytest.raises(ValueError, match=r"6 of 12 .* incomplete: location rennes_r0_c0: 1 s2 scenes, wanted 2"):
        write_change(tmp_path, **cities)
    out = write_change(tmp_path, on_error="skip", **cities)
    assert {name.split("_")[0] for name in LmdbReader(out / "train" / "s2.lmdb").location_ids()} == {"paris"}
    assert LmdbReader(out / "test" / "labels.lmdb").location_ids() == ["pisa"]
    rows = (out / "train" / "skipped.csv").read_text().splitlines()[1:]
    assert len(rows) == 6
    assert rows[0] == 'rennes_r0_c0,"location rennes: 1 s2 scenes, wanted 2"'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_cities": ("paris",), "test_cities": ("rennes",)}, "cities paris rennes, .*not .*cities paris, tiles"),
        ({"train_cities": ("paris",)}, "cities paris rennes, .*not .*cities paris, tiles"),
        ({"train_cities": ("rennes", "paris")}, "cities paris rennes, .*not .*cities rennes paris, tiles"),
        ({"train_cities": ("paris", "rennes", "rio")}, "cities paris rennes, .*not .*cities paris rennes rio, tiles"),
        ({"test_cities": ("pisa", "rio")}, r"test.s2\.lmdb: finished with source .*cities pisa, .*not .*pisa rio, "),
        ({"tile_size": 48}, "tiles of 32 px every 32', not .*tiles of 48 px every 48'"),
        ({"stride": 16}, "tiles of 32 px every 32', not .*tiles of 32 px every 16'"),
        ({"limit": 1}, "tiles of 32 px every 32', not .*every 32, first 1'"),
    ],
)
def test_finished_change_sets_of_other_settings_are_refused(tmp_path, options, message):
    """Kept silently, a training part of other cities would hold some that are now tested on."""
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa", "rio"])
    before = contents(write_change(tmp_path))
    with pytest.raises(ValueError, match=f"{message}.*; remove it, or choose another --out") as error:
        write_change(tmp_path, **options)
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "out") == before


def test_a_finished_part_is_looked_at_before_another_is_written(tmp_path):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    out = write_change(tmp_path, splits=("test",))
    with pytest.raises(ValueError, match=r"test.s2\.lmdb: finished with source .*cities pisa, whole', not .*rennes"):
        write_change(tmp_path, train_cities=("paris",), test_cities=("rennes",))
    assert not (out / "train").exists()
    write_change(tmp_path)
    assert (out / "train" / "s2.lmdb").is_dir()


def test_unknown_pixels_of_a_mask_are_stored_as_such(tmp_path):
    masks = write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    codes = np.where(masks["pisa"], 2, 1).astype(np.uint8)
    codes[10:20] = 255
    write_mask(tmp_path / "raw", "pisa", codes)
    out = write_change(tmp_path, splits=("test",))
    expected = masks["pisa"].astype(np.uint8)
    expected[10:20] = 255
    np.testing.assert_array_equal(LmdbReader(out / "test" / "labels.lmdb").read(0, 0), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 0}, "--tile_size 0"),
        ({"stride": 40}, "--stride 40: must be 1 to --tile_size 32"),
        ({"splits": ()}, "--splits"),
        ({"test_cities": ("paris",)}, "paris would train and test"),
        ({"train_cities": ("paris", "paris")}, "--train_cities .*: paris named twice"),
        ({"test_cities": ("oslo",)}, "--test_cities oslo: not in .*Images; it has paris pisa rennes"),
        ({"train_cities": ("pariss",), "on_error": "skip"}, "--train_cities pariss: not in"),
        ({"limit": -1}, "--limit -1"),
    ],
)
def test_bad_flags_of_change_sets(tmp_path, options, message):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    with pytest.raises(ValueError, match=message):
        write_change(tmp_path, **options)
    assert not finished(tmp_path / "out" / "test")


def test_unfinished_change_sets_of_other_tiles_are_refused(tmp_path):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"])
    next((tmp_path / "raw").glob("*Images/rennes/imgs_2/*_B09.tif")).unlink()
    with pytest.raises(ValueError, match="no file for band B9"):
        write_change(tmp_path)
    with pytest.raises(ValueError, match="begun with source"):
        write_change(tmp_path, stride=16, on_error="skip")


def write_change_pretraining(root: Path, labels: Path, **options) -> dict[str, LmdbReader]:
    settings = {"train_cities": ("paris", "rennes"), "tile_size": 48, "workers": 2, **options}
    pretrain_oscd.main(pretrain_oscd.OscdPretrainFolders(root / "raw", labels, root / "out", **settings))
    return {modality: LmdbReader(root / "out" / NAMES[modality]) for modality in ("s2", "labels")}


def test_a_pretraining_set_of_two_dates(tmp_path, capsys):
    write_oscd(tmp_path / "raw", ["paris", "rennes", "pisa"], shape=(60, 40))
    rng, made = np.random.default_rng(0), {}
    for city in ("paris", "rennes"):
        for date in (1, 2):
            made[city, date] = rng.integers(0, 9, (60, 40), np.uint8)
            write_tiff(tmp_path / "dw" / f"{city}_{date}.tif", made[city, date], box=BOX)
    stores = write_change_pretraining(tmp_path, tmp_path / "dw")
    ids = [f"{city}_r{row}_c0" for city in ("paris", "rennes") for row in (0, 12)]
    assert stores["s2"].location_ids() == stores["labels"].location_ids() == ids
    assert (stores["s2"].num_seasons, stores["labels"].num_seasons, stores["labels"].meta.legend) == (2, 2, "NoL")
    whole = oscd.read_city(*oscd.list_cities(tmp_path / "raw", ["rennes"]))["s2"]
    for date in (0, 1):
        np.testing.assert_array_equal(stores["labels"].read(3, date), made["rennes", date + 1][12:])
        expected = stretched(whole[date][4, 12:].tolist(), S2.mean[4], S2.std[4])
        np.testing.assert_array_equal(stores["s2"].read(3, date)[4], expected)
    before = contents(tmp_path / "out")
    capsys.readouterr()
    write_change_pretraining(tmp_path, tmp_path / "dw")
    assert (
        capsys.readouterr().out
        == f"{tmp_path / 'out'}: finished already, left as it is; changed files want another --out\n"
    )
    shutil.copytree(tmp_path / "dw", tmp_path / "corrected")
    for labels, options, message in (
        ("dw", {"train_cities": ("rennes",)}, "cities paris rennes, .*not .*cities rennes, "),
        ("dw", {"limit": 2}, "not .*, first 2'"),
        ("dw", {"stride": 30}, "not .*tiles of 48 px every 30'"),
        ("corrected", {}, "labels dw, .*not 'OSCD with labels corrected, "),
    ):
        with pytest.raises(ValueError, match=f"finished with source .*{message}"):
            write_change_pretraining(tmp_path, tmp_path / labels, **options)
    assert contents(tmp_path / "out") == before


def test_test_cities_stay_out_of_pretraining(tmp_path):
    """The development split by default: none of its four test cities is even looked for."""
    write_oscd(tmp_path / "raw", ["pisa"])
    with pytest.raises(ValueError, match="10 of 10 locations are incomplete: location aguasclaras") as error:
        write_change_pretraining(tmp_path, tmp_path / "dw", train_cities=(), tile_size=264)
    assert "pisa" not in str(error.value)
    with pytest.raises(ValueError, match="two different names"):
        write_change_pretraining(tmp_path, tmp_path / "dw", data_name_label=NAMES["s2"])


def test_a_real_city_as_change_and_as_pretraining_set(real, tmp_path):
    (tmp_path / "raw").symlink_to(real / "oscd")
    chosen = {"train_cities": ("bercy",), "tile_size": 128}
    out = write_change(tmp_path, test_cities=("rennes",), **chosen)
    labels = LmdbReader(out / "train" / "labels.lmdb")
    assert labels.location_ids()[:4] == ["bercy_r0_c0", "bercy_r0_c128", "bercy_r0_c232", "bercy_r128_c0"]
    assert len(labels) == 4 * 3
    with rasterio.open(next((real / "oscd").glob("*Labels/rennes/cm/cm.png"))) as dataset:
        mask = dataset.read(1) > 127
    np.testing.assert_array_equal(LmdbReader(out / "test" / "labels.lmdb").read(0, 0), mask)
    stores = write_change_pretraining(tmp_path, real / "oscd_dw", train_cities=("bercy",), tile_size=264)
    assert [stores["s2"].read(index, 1).shape for index in range(4)] == [(13, 264, 264)] * 4
    with rasterio.open(real / "oscd_dw" / "bercy_2.tif") as dataset:
        np.testing.assert_array_equal(stores["labels"].read(3, 1), dataset.read(1)[-264:, -264:])


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("write_downstream_lmdb", "--band_order"),
        ("write_oscd_lmdb", "--test_cities"),
        ("write_oscd_pretrain_lmdb", "--labels_path"),
    ],
)
def test_the_command_lines_of_downstream_sets(script, flag, tmp_path):
    shown = command(script, "--help")
    assert shown.returncode == 0
    assert flag in shown.stdout
    extra = {"write_downstream_lmdb": ("--dataset", "NYC"), "write_oscd_pretrain_lmdb": ("--labels_path", "x")}
    bad = command(script, "--data_path", tmp_path / "none", "--out", tmp_path / "out", *extra.get(script, ()))
    assert (bad.returncode, bad.stderr.count("\n"), bad.stderr[:7]) == (2, 1, "error: ")


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
