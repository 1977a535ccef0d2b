"""The writer of pretraining sets beyond SSL4EO-S12: orthophotos, noisy and exact labels, legends of one's own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from conftest import REPOSITORY, load_script
from rasters import fake_dn, write_nyc, write_tiff

from cromss.config import parse, read
from cromss.legend_files import NAMED
from cromss.settings.pretraining_set import PretrainSet
from cromss.store import LmdbReader, LmdbWriter
from cromss.synthetic import write_nyc as draw_nyc

RGBN = ("R", "G", "B", "NIR")
NAMES = {"ortho": "orthophotos.lmdb", "labels": "dw_labels.lmdb", "exact": "exact_labels.lmdb"}
TILES = ("tile_2", "tile_3", "tile_10")
MERGED = {0: 255, 1: 1, 2: 0, 3: 0, 4: 0, 5: 2, 6: 3, 7: 0, 8: 0}
RULES = REPOSITORY / "data_prepare" / "rules"

script = load_script("write_pretrain_lmdb")


def write(root: Path, out: Path, **options) -> Path:
    script.main(PretrainSet(root, out, **{"layout": "nyc", "band_order": RGBN, "workers": 2, **options}))
    return out


def readers(out: Path) -> dict[str, LmdbReader]:
    return {modality: LmdbReader(out / name, modality) for modality, name in NAMES.items()}


def contents(out: Path) -> dict:
    """Ids and values of all three stores, and the ledgers."""
    values = {m: [(s.location_id(i), s.read(i, 0).tobytes()) for i in range(len(s))] for m, s in readers(out).items()}
    return values | {name: (out / name).read_text() for name in ("skipped.csv", "scenes.csv", "s2_offsets.csv")}


def files(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def finished(out: Path) -> list[str]:
    return [path.name for path in sorted(out.glob("*.lmdb"))]


@pytest.fixture
def made(tmp_path) -> dict[str, tuple]:
    """A small city under `raw`; id -> image (NIR, R, G, B), exact codes, noisy codes."""
    exact = write_nyc(tmp_path / "raw", TILES, order=RGBN)
    rng, made = np.random.default_rng(1), {}
    for name in TILES:
        noisy = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (9, 9))
        write_tiff(tmp_path / "raw" / "train" / "noisy" / f"{name}.tif", noisy)
        made[name] = (*exact["train", name], noisy)
    return made


def test_a_city_end_to_end(made, tmp_path, capsys):
    stores = readers(write(tmp_path / "raw", tmp_path / "out"))
    assert {tuple(store.location_ids()) for store in stores.values()} == {TILES}
    for index, (image, exact, noisy) in enumerate(made.values()):
        np.testing.assert_array_equal(stores["ortho"].read(index, 0), image)
        np.testing.assert_array_equal(stores["labels"].read(index, 0), noisy)
        np.testing.assert_array_equal(stores["exact"].read(index, 0), np.vectorize(MERGED.get)(exact))
    ortho, noisy, exact = (store.meta for store in stores.values())
    assert (ortho.bands, ortho.dtype, ortho.unit, ortho.classes) == (("NIR", "R", "G", "B"), "uint8", "8 bit", ())
    for meta in (noisy, exact):
        assert (meta.legend, meta.classes) == ("NYC_LIDAR", ("background", "trees", "buildings", "roads"))
        assert len(meta.colours) == 4
    printed = capsys.readouterr().out
    assert "3 locations x 1 seasons (ortho, labels, exact)" in printed
    assert "written: 3 locations" in printed


def test_a_city_drawn_by_ourselves_needs_no_flag(tmp_path):
    draw_nyc(tmp_path / "raw", 2, 1, size=40, progress=False)
    write(tmp_path / "raw", tmp_path / "out", band_order=())
    stores = readers(tmp_path / "out")
    assert {len(store) for store in stores.values()} == {2}
    agreement = np.mean([stores["labels"].read(i, 0) == stores["exact"].read(i, 0) for i in range(2)])
    assert 0.4 < agreement < 0.95


def test_a_finished_set_is_left_as_it_is(made, tmp_path, capsys):
    out = write(tmp_path / "raw", tmp_path / "out")
    before = files(out)
    capsys.readouterr()
    write(tmp_path / "raw", out)
    write(tmp_path / "raw", out, dry_run=True)
    assert capsys.readouterr().out == f"{out}: finished already, left as it is; changed files want another --out\n" * 2
    assert files(out) == before


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"limit": 2}, {}, r"orthophotos\.lmdb: finished with source 'nyc layout, bands from R G B NIR, first 2', not"),
        ({}, {"limit": 3}, "bands from R G B NIR', not .*, first 3'"),
        ({}, {"band_order": RGBN[::-1]}, "bands from R G B NIR', not .*bands from NIR B G R'"),
        ({"modalities": ("labels", "exact"), "band_order": ()}, {}, "holds other locations than the stores beside it"),
    ],
    ids=["no limit", "a limit", "order", "another modality"],
)
def test_a_finished_set_of_other_settings_is_refused(made, tmp_path, first, second, message):
    out = write(tmp_path / "raw", tmp_path / "out", **first)
    before = {path: content for path, content in files(out).items() if path.parent.name in NAMES.values()}
    with pytest.raises(ValueError, match=message) as error:
        write(tmp_path / "raw", out, **second)
    assert "\n" not in str(error.value)
    assert before.items() <= files(out).items()


def test_tiles_of_another_label_folder_or_pattern_are_another_set(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_tiff(tmp_path / "raw" / "p1" / name, np.array([[0, 8]], np.uint8))
    options = {"layout": "tiles", "modalities": ("labels",), "band_order": (), "label_pattern": "a.tif"}
    write(tmp_path / "raw", tmp_path / "out", **options)
    for changed, message in (
        ({"label_pattern": "b.tif"}, r"finished with source 'tiles layout, a\.tif', not 'tiles layout, b\.tif'"),
        ({"labels_path": tmp_path / "raw"}, r"not 'tiles layout, a\.tif, from raw'"),
        ({"label_codes": "OSM"}, "finished with legend 'NoL', not 'OSM'"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "raw", tmp_path / "out", **options | changed)


@pytest.mark.parametrize("kept", [(0, 0, 0), (2, 1, 2), (1, 2, 2), (2, 2, 0)])
def test_a_run_that_was_killed_goes_on_with_three_stores(made, tmp_path, monkeypatch, kept):
    write(tmp_path / "raw", tmp_path / "whole")
    prepare, seen = script.prepare_location, []

    def killed(location, **options):
        if location.id == TILES[-1]:
            raise KeyboardInterrupt
        return prepare(location, **options)

    def counted(location, **options):
        seen.append(location.id)
        return prepare(location, **options)

    monkeypatch.setattr(script, "prepare_location", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "raw", tmp_path / "out")
    for store, count in zip(readers(tmp_path / "whole").values(), kept):
        with LmdbWriter(tmp_path / "out" / NAMES[store.meta.modality], store.meta) as writer:
            assert writer.location_ids == list(TILES[:2])
            writer.truncate(count)
    assert finished(tmp_path / "out") == []
    monkeypatch.setattr(script, "prepare_location", counted)
    write(tmp_path / "raw", tmp_path / "out")
    assert sorted(seen) == sorted(TILES[min(kept) :])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def part(root: Path, folder: str) -> Path:
    return root / "train" / folder / "tile_3.tif"


def lose_noisy(root):
    part(root, "noisy").unlink()


def lose_exact(root):
    part(root, "label").unlink()


def lose_image(root):
    part(root, "image").unlink()


def use_foreign_noise(root):
    write_tiff(part(root, "noisy"), np.full((9, 9), 4, np.uint8))


def use_foreign_truth(root):
    write_tiff(part(root, "label"), np.full((9, 9), 9, np.uint8))


def use_another_size(root):
    write_tiff(part(root, "noisy"), np.ones((9, 8), np.uint8))


def use_another_exact_size(root):
    write_tiff(part(root, "label"), np.ones((8, 9), np.uint8))


def lose_a_band(root):
    write_tiff(part(root, "image"), np.arange(243, dtype=np.uint8).reshape(3, 9, 9))


def describe_otherwise(root):
    write_tiff(part(root, "image"), np.arange(324).reshape(4, 9, 9).astype(np.uint8), ("NIR", "R", "G", "B"))


def scale(root):
    write_tiff(part(root, "image"), np.random.default_rng(0).uniform(0, 1, (4, 9, 9)).astype(np.float32))


def cut_off(root):
    path = part(root, "label")
    path.write_bytes(path.read_bytes()[:-60])


def use_fractions(root):
    write_tiff(part(root, "noisy"), np.full((9, 9), 0.5, np.float32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose_noisy, "1 of 3 locations are incomplete: location tile_3: no labels scenes"),
        (lose_exact, "1 of 3 locations are incomplete: location tile_3: no exact scenes"),
        (lose_image, "1 of 3 locations are incomplete: location tile_3: no ortho scenes"),
        (use_foreign_noise, r"noisy/tile_3\.tif: label codes outside the NYC_LIDAR legend: 4"),
        (use_foreign_truth, r"label/tile_3\.tif: label codes outside the NYC_MERGED legend: 9"),
        (use_another_size, "location tile_3: sizes differ .*labels 9x8"),
        (use_another_exact_size, "location tile_3: sizes differ .*exact 8x9"),
        (lose_a_band, r"image/tile_3\.tif: 3 bands where 4 are wanted"),
        (describe_otherwise, r"image/tile_3\.tif: bands are NIR R G B, wanted in the order R G B NIR"),
        (scale, r"image/tile_3\.tif: .*looks scaled to 0\.\.1"),
        (cut_off, r"label/tile_3\.tif: cannot be read"),
        (use_fractions, r"noisy/tile_3\.tif: label codes must be whole numbers"),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_a_tile_bad_in_one_modality_is_left_out_of_all(made, tmp_path, spoil, message):
    spoil(tmp_path / "raw")
    with pytest.raises(ValueError, match=message) as error:
        write(tmp_path / "raw", tmp_path / "out")
    assert "--on_error skip" in str(error.value)
    assert "\n" not in str(error.value)
    assert not finished(tmp_path / "out")
    out = write(tmp_path / "raw", tmp_path / "out", on_error="skip")
    assert {tuple(store.location_ids()) for store in readers(out).values()} == {("tile_2", "tile_10")}
    header, line = (out / "skipped.csv").read_text().splitlines()
    assert (header, line[:7]) == ("id,reason", "tile_3,")


@pytest.mark.parametrize("first", [False, True])
def test_a_location_of_ambiguous_files_stops_or_is_skipped(tmp_path, first):
    rng, bad = np.random.default_rng(3), "p1" if first else "p3"
    for name in ("p1", "p2", "p3"):
        write_tiff(tmp_path / "tiles" / name / "S2.tif", fake_dn(rng))
        write_tiff(tmp_path / "own" / "s2" / name / "20200101.tif", fake_dn(rng))
    write_tiff(tmp_path / "tiles" / bad / "S2_old.tif", fake_dn(rng))
    write_tiff(tmp_path / "own" / "s2" / bad / "old.tif", fake_dn(rng))
    legend_file(tmp_path / "own" / "legend.yaml")
    for layout, message in (("tiles", "S2_old.tif all match 'S2*.tif'"), ("own", "old.tif: no date YYYYMMDD")):
        options = {"layout": layout, "modalities": ("s2",), "band_order": ()}
        with pytest.raises(ValueError, match=f"1 of 3 locations are incomplete: .*{re.escape(message)}"):
            write(tmp_path / layout, tmp_path / f"{layout}_lmdb", **options)
        out = write(tmp_path / layout, tmp_path / f"{layout}_lmdb", on_error="skip", **options)
        (store,) = map(LmdbReader, out.glob("*.lmdb"))
        assert store.location_ids() == [name for name in ("p1", "p2", "p3") if name != bad]
        assert message in (out / "skipped.csv").read_text()


def legend_file(path: Path, classes=("other", "trees"), codes=((41, "trees"), (21, "other"))) -> str:
    lines = [f"  {name}: '{i:06d}'" for i, name in enumerate(classes)]
    path.write_text("\n".join(["classes:", *lines, "codes:", *(f"  {code}: {name}" for code, name in codes)]))
    return str(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"num_seasons": 2}, "3 of 3 locations are incomplete: location tile_2: 1 ortho scenes, wanted 2"),
        ({"num_seasons": 0}, "--num_seasons 0: must be at least 1"),
        ({"band_order": ()}, "say --band_order R G B NIR or --band_order NIR R G B"),
        ({"band_order": ("R", "G", "B")}, "--band_order R G B: must be NIR R G B in any order"),
        ({"band_order": ("R", "R", "G", "B")}, "--band_order R R G B: must be NIR R G B in any order"),
        ({"layout": "tiles", "band_order": ()}, "2 of 2 locations are incomplete: location test: no s1 scenes"),
        ({"layout": "tiles"}, "--band_order R G B NIR: must be left out where --modalities are s1 s2 labels; it is"),
        ({"layout": "ssl4eo"}, "--band_order R G B NIR: must be left out where --modalities are s1 s2 labels"),
        ({"layout": "ssl4eo", "band_order": ()}, "raw/s1: no such folder"),
        ({"modalities": ("s2",)}, "--modalities s2: must be some of ortho labels exact, each once, with --layout nyc"),
        ({"modalities": ("ortho", "ortho")}, "--modalities ortho ortho: must be some of ortho labels exact, each once"),
        (
            {"layout": "ssl4eo", "modalities": ("s2", "exact")},
            "--modalities s2 exact: must be some of s1 s2 labels, each once, with --layout ssl4eo",
        ),
        ({"ids_csv": Path("a.csv")}, "--ids_csv a.csv: must be left out with --layout nyc; it is for ssl4eo"),
        ({"size": 128}, "--size 128: must be left out with --layout nyc; it is for ssl4eo"),
        ({"s2_dir": "x"}, "--s2_dir x: must be left out with --layout nyc; it is for ssl4eo"),
        ({"label_dir": "x"}, "--label_dir x: must be left out with --layout nyc; it is for ssl4eo"),
        ({"label_pattern": "x"}, "--label_pattern x: must be left out with --layout nyc; it is for tiles"),
        ({"ortho_pattern": "x"}, "--ortho_pattern x: must be left out with --layout nyc; it is for tiles"),
        ({"exact_pattern": "x"}, "--exact_pattern x: must be left out with --layout nyc; it is for tiles"),
        ({"labels_path": Path("x")}, "--labels_path x: must be left out with --layout nyc; it is for tiles"),
        ({"exact_path": Path("x")}, "--exact_path x: must be left out with --layout nyc; it is for tiles"),
        ({"s2_offset": "1000"}, "--s2_offset 1000: must be left out where --modalities are ortho labels exact"),
        ({"s2_offset_ids": ("a=0",)}, "--s2_offset_ids a=0: must be left out where .*; it is for s2"),
        ({"data_name_s1": "x"}, "--data_name_s1 x: must be left out where .*; it is for s1"),
        (
            {"modalities": ("ortho", "labels"), "exact_codes": "NYC"},
            "--exact_codes NYC: must be left out where .*exact",
        ),
        (
            {"modalities": ("ortho",), "label_codes": "NYC"},
            "--label_codes NYC: must be left out where .*it is for labels",
        ),
        ({"data_name_gt": "dw_labels.lmdb"}, "--data_name_. orthophotos.lmdb dw_labels.lmdb dw_labels.lmdb: must be"),
        ({"data_name_gt": ""}, "--data_name_. .*: must be different names in --out"),
        ({"data_name_ortho": "../x.lmdb"}, "--data_name_. ../x.lmdb .*: must be different names in --out"),
        ({"label_codes": "DWW"}, r"--label_codes DWW: neither a legend \(NoL, .*\) nor a file"),
        ({"exact_codes": "DWW"}, r"--exact_codes DWW: neither a legend \(NoL, .*\) nor a file"),
        (
            {"exact_codes": "NYC"},
            "--exact_codes NYC: its classes are trees, grass/shrubs, .*, where --label_codes NYC_LIDAR has background, "
            "trees, buildings, roads; both must have the same",
        ),
        ({"label_codes": "NoL"}, "--exact_codes NYC_MERGED: its classes are background, .* NoL has water"),
        ({"data_path": "none"}, "none/train/image: no such folder"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, dict) else None,
)
def test_bad_flags_write_nothing(made, tmp_path, options, message):
    root = tmp_path / options.pop("data_path", "raw")
    with pytest.raises(ValueError, match=message) as error:
        write(root, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["image", "noisy", "label"])
def test_a_missing_folder_is_named(made, tmp_path, folder):
    (tmp_path / "raw" / "train" / folder).rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"raw/train/{folder}: no such folder"):
        write(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["", "/tmp/*.tif"])
def test_patterns_are_of_files_in_a_folder(tmp_path, pattern):
    with pytest.raises(ValueError, match=f"--s2_pattern {pattern.replace('*', '.')}: must be a pattern of files"):
        PretrainSet(tmp_path, tmp_path, layout="tiles", s2_pattern=pattern)


def test_limit_and_dry_run(made, tmp_path, capsys):
    write(tmp_path / "raw", tmp_path / "out", limit=2, dry_run=True)
    assert "2 locations x 1 seasons (ortho, labels, exact)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    write(tmp_path / "raw", tmp_path / "out", limit=2)
    assert {tuple(store.location_ids()) for store in readers(tmp_path / "out").values()} == {TILES[:2]}


def test_photos_without_exact_labels(made, tmp_path):
    lose_exact(tmp_path / "raw")
    out = write(tmp_path / "raw", tmp_path / "out", modalities=("ortho", "labels"))
    assert finished(out) == ["dw_labels.lmdb", "orthophotos.lmdb"]
    assert len(LmdbReader(out / "orthophotos.lmdb")) == 3


def test_tiles_of_ones_own_with_labels_of_ones_own(tmp_path):
    """Images, noisy and exact labels in three folders, codes in two files; ids match as numbers."""
    rng, codes = np.random.default_rng(2), np.array([41, 21, 255], np.uint8)
    made = {}
    for number in (2, 10):
        image, noisy = rng.integers(0, 256, (4, 7, 6), np.uint8), rng.choice(codes, (7, 6))
        exact = rng.integers(0, 2, (7, 6), np.uint8)
        write_tiff(tmp_path / "raw" / f"{number:04d}" / "ortho_2014.tif", image, ("NIR", "R", "G", "B"))
        write_tiff(tmp_path / "noisy" / str(number) / "labels.tif", noisy)
        write_tiff(tmp_path / "cover" / f"{number:03d}" / "exact.tif", exact)
        made[number] = image, np.select([noisy == 41, noisy == 21], [1, 0], 255), 1 - exact
    legends = {
        "label_codes": legend_file(tmp_path / "nlcd.yaml"),
        "exact_codes": legend_file(tmp_path / "cover.yaml", codes=((0, "trees"), (1, "other"))),
    }
    folders = {"labels_path": tmp_path / "noisy", "exact_path": tmp_path / "cover", "label_pattern": "labels.tif"}
    options = {"layout": "tiles", "modalities": tuple(NAMES), "band_order": ()}
    stores = readers(write(tmp_path / "raw", tmp_path / "out", **options, **folders, **legends))
    assert {tuple(store.location_ids()) for store in stores.values()} == {("0002", "0010")}
    for index, arrays in enumerate(made.values()):
        for store, expected in zip(stores.values(), arrays):
            np.testing.assert_array_equal(store.read(index, 0), expected)
    assert [store.meta.legend for store in stores.values()] == ["", "nlcd", "cover"]
    assert stores["labels"].meta.classes == stores["exact"].meta.classes == ("other", "trees")
    assert stores["exact"].meta.colours == ("000000", "000001")
    (tmp_path / "noisy" / "2").rename(tmp_path / "noisy" / "3")
    with pytest.raises(ValueError, match="2 of 3 locations are incomplete: location 0002: no labels scenes"):
        write(tmp_path / "raw", tmp_path / "again", **options, **folders, **legends)
    legends["exact_codes"] = legend_file(tmp_path / "cover.yaml", ("trees", "other"))
    with pytest.raises(ValueError, match=r"its classes are trees, other, where .*nlcd\.yaml has other, trees; both"):
        write(tmp_path / "raw", tmp_path / "again", **options, **folders, **legends)


@pytest.mark.parametrize("killed", [False, True], ids=["finished", "killed"])
def test_codes_of_another_meaning_are_another_set(tmp_path, killed):
    """A set that is there, or half there, is not left or gone on with after its codes were changed."""
    for name, code in (("p1", 41), ("p2", 99 if killed else 21)):
        write_tiff(tmp_path / "raw" / name / "a.tif", np.array([[41, 21, code]], np.uint8))
    options = {"layout": "tiles", "modalities": ("labels",), "band_order": (), "label_pattern": "a.tif"}
    options["label_codes"] = legend_file(tmp_path / "mine.yaml")
    if killed:
        with pytest.raises(ValueError, match=r"label codes outside the mine\.yaml legend: 99"):
            write(tmp_path / "raw", tmp_path / "out", **options)
        write_tiff(tmp_path / "raw" / "p2" / "a.tif", np.array([[41, 21, 21]], np.uint8))
    else:
        write(tmp_path / "raw", tmp_path / "out", **options)
    before = files(tmp_path / "out")
    legend_file(tmp_path / "mine.yaml", codes=((21, "trees"), (41, "other")))
    with pytest.raises(ValueError, match=r"codes [0-9a-f]{8}'.* not .*codes [0-9a-f]{8}'") as error:
        write(tmp_path / "raw", tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert {path: text for path, text in files(tmp_path / "out").items() if path in before} == before
    legend_file(tmp_path / "mine.yaml")
    write(tmp_path / "raw", tmp_path / "out", **options)
    store = LmdbReader(tmp_path / "out" / NAMES["labels"])
    assert [store.read(i, 0).tolist() for i in range(2)] == [[[1, 0, 1]], [[1, 0, 0]]]


def test_exact_labels_of_tiles_follow_the_noisy_legend(tmp_path):
    for name, codes in (("DW.tif", [[1, 9, 0]]), ("exact.tif", [[10, 2, 3]])):
        write_tiff(tmp_path / "raw" / "a" / name, np.array(codes, np.uint8))
    options = {"layout": "tiles", "modalities": ("labels", "exact"), "band_order": (), "label_codes": "DW"}
    out = write(tmp_path / "raw", tmp_path / "out", **options)
    noisy, exact = (LmdbReader(out / NAMES[modality]) for modality in ("labels", "exact"))
    assert (noisy.read(0, 0).tolist(), exact.read(0, 0).tolist()) == ([[0, 8, 255]], [[255, 1, 2]])
    assert noisy.meta.legend == exact.meta.legend == "DW"


def test_exact_labels_alone_need_no_noisy_ones(tmp_path):
    write_tiff(tmp_path / "raw" / "a" / "exact.tif", np.array([[41, 21]], np.uint8))
    options = {"layout": "tiles", "modalities": ("exact",), "band_order": ()}
    write(tmp_path / "raw", tmp_path / "out", **options, exact_codes=legend_file(tmp_path / "own.yaml"))
    assert LmdbReader(tmp_path / "out" / NAMES["exact"]).read(0, 0).tolist() == [[1, 0]]


def test_sentinel_and_orthophotos_go_together(tmp_path):
    """Tiles of one size with several images; each is stored in its own way."""
    rng = np.random.default_rng(3)
    dn, photo = fake_dn(rng, 8), rng.integers(0, 256, (4, 8, 8), np.uint8)
    write_tiff(tmp_path / "raw" / "a" / "S2.tif", dn)
    write_tiff(tmp_path / "raw" / "a" / "ortho.tif", photo, ("NIR", "R", "G", "B"))
    out = write(tmp_path / "raw", tmp_path / "out", layout="tiles", modalities=("s2", "ortho"), band_order=())
    s2, ortho = LmdbReader(out / "0k_251k_uint8_s2c.lmdb"), LmdbReader(out / NAMES["ortho"])
    assert (s2.meta.unit, ortho.meta.unit) == ("uint8 of mean +- 2 std", "8 bit")
    assert (s2.meta.source, ortho.meta.source) == ("tiles layout, S2*.tif, s2_offset auto", "tiles layout, ortho*.tif")
    np.testing.assert_array_equal(ortho.read(0, 0), photo)


NAIP = {
    "layout": "tiles",
    "modalities": tuple(NAMES),
    "ortho_pattern": "naip_new.tif",
    "label_pattern": "nlcd.tif",
    "exact_pattern": "landcover.tif",
    "label_codes": str(RULES / "nlcd.yaml"),
    "exact_codes": str(RULES / "landcover.yaml"),
}


def raw(root: Path, name: str, file: str) -> np.ndarray:
    with rasterio.open(root / "naip" / name / f"{file}.tif") as dataset:
        return dataset.read()


def test_real_tiles_with_nlcd_and_land_cover(real, tmp_path):
    with pytest.raises(ValueError, match=r"naip_new\.tif: bands are R G B NIR by their colour .*say --band_order"):
        write(real / "naip", tmp_path / "out", **NAIP | {"band_order": ()})
    assert not (tmp_path / "out").exists()
    stores = readers(write(real / "naip", tmp_path / "out", **NAIP))
    assert {len(store) for store in stores.values()} == {10}
    for index, name in enumerate(stores["ortho"].location_ids()):
        r, g, b, nir = raw(real, name, "naip_new")
        np.testing.assert_array_equal(stores["ortho"].read(index, 0), [nir, r, g, b])
        nlcd, cover = raw(real, name, "nlcd")[0], raw(real, name, "landcover")[0]
        noisy, exact = stores["labels"].read(index, 0), stores["exact"].read(index, 0)
        np.testing.assert_array_equal(noisy == 1, (nlcd >= 41) & (nlcd <= 43))
        np.testing.assert_array_equal(noisy == 2, (nlcd >= 22) & (nlcd <= 24))
        np.testing.assert_array_equal(exact == 1, cover == 2)
        np.testing.assert_array_equal(exact == 2, cover >= 5)
        assert max(noisy.max(), exact.max()) <= 2


def test_real_tiles_of_no_sentinel_are_refused(real, tmp_path):
    with pytest.raises(ValueError, match=r"10 of 10 locations are incomplete: .*no s1 scenes"):
        write(real / "naip", tmp_path / "out", layout="tiles", band_order=())
    labels = {"layout": "tiles", "modalities": ("labels",), "label_pattern": "nlcd.tif", "band_order": ()}
    with pytest.raises(ValueError, match=r"nlcd\.tif: label codes outside the NoL legend: 21"):
        write(real / "naip", tmp_path / "out", **labels)


def test_the_shown_commands_fit_the_configurations():
    commands = [line.split() for line in script.__doc__.replace("\\\n", " ").splitlines() if line.startswith("python")]
    shown = {settings.layout: settings for settings in (read(PretrainSet, words[2:]) for words in commands)}
    assert shown.keys() == {"ssl4eo", "nyc", "tiles", "own", "zarr"}
    config = yaml.safe_load((REPOSITORY / "train_scripts" / "configs" / "nyc.yaml").read_text())
    assert shown["nyc"].stores["labels"] == config["data_name_label"]


def test_the_help_names_every_legend(capsys):
    with pytest.raises(SystemExit):
        read(PretrainSet, ["--help"])
    words = re.findall(r"\w+", capsys.readouterr().out)
    assert set(NAMED) <= set(words)


def test_the_command_line(made, tmp_path):
    given = ["--data_path", "a", "--out", "b", "--layout", "nyc", "--modalities", "ortho", "exact"]
    settings = parse(PretrainSet, given)
    assert settings.written == ("ortho", "exact")
    line = [sys.executable, str(REPOSITORY / "data_prepare" / "write_pretrain_lmdb.py"), "--data_path"]
    flags = [str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--layout", "nyc", "--band_order", *RGBN]
    for said in ("written: 3 locations", "finished already, left as it is"):
        result = subprocess.run([*line, *flags], capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr.replace("\r", "\n").count("Warning")) == (0, 0), result.stderr
        assert said in result.stdout
    result = subprocess.run([*line, *flags, "--size", "9"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    said = "error: --size 9: must be left out with --layout nyc; it is for ssl4eo or zarr (see --help)\n"
    assert result.stderr == said
