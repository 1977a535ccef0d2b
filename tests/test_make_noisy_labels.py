"""The script that makes noisy masks: what is kept of a map, resuming, chance by path, bad input, real maps."""

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, load_script
from rasters import BOX, write_tiff

from cromss.legend_files import read_legend
from cromss.noise_rules import coarsen
from cromss.scenes import read_labels

script = load_script("make_noisy_labels")
draw_masks = script.draw_masks

LEGEND = (
    "classes: {other: b4aaa0, trees: 1b6b3a, built: c4281b}\ncodes: {41: trees, 21: other, 23: built}\nignored: [0]\n"
)
CHANCE = LEGEND + "rules:\n- shift_borders: 1.5\n- confuse: {matrix: m.csv, patch: 2}\n"
TABLE = "true,other,trees,built\nother,0.8,0.1,0.1\ntrees,0.2,0.7,0.1\nbuilt,0,0.5,0.5\n"
CODES, IDS = np.array([41, 21, 23, 0], np.uint8), np.array([1, 0, 2, 255], np.uint8)


def draw(*key: int) -> np.ndarray:
    """Indices into CODES, in patches."""
    small = np.random.default_rng(key).choice(4, (6, 7), p=[0.4, 0.3, 0.2, 0.1])
    return small.repeat(4, axis=0).repeat(3, axis=1)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr(script, "draw_masks", lambda *_: None)


@pytest.fixture
def maps(tmp_path) -> Path:
    """Three maps in folders of their own; the second knows no place."""
    for number, name in enumerate("abc"):
        write_tiff(tmp_path / "maps" / name / "nlcd.tif", CODES[draw(number)], box=None if name == "b" else BOX)
    (tmp_path / "rules.yaml").write_text(LEGEND)
    (tmp_path / "chance.yaml").write_text(CHANCE)
    (tmp_path / "m.csv").write_text(TABLE)
    return tmp_path / "maps"


def make(maps: Path, out: str = "out", rules: str = "rules", pattern: str = "*/nlcd.tif", **options) -> Path:
    root = maps.parent
    settings = script.NoisyLabels(maps, pattern, root / f"{rules}.yaml", root / out, **{"workers": 2, **options})
    script.main(settings)
    return root / out


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def masks(out: Path) -> dict[str, np.ndarray]:
    return {path.parent.name: pixels(path) for path in sorted(out.rglob("noisy.tif"))}


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# what comes out


def test_codes_become_class_ids(maps, capsys):
    found = masks(make(maps))
    assert list(found) == ["a", "b", "c"]
    for number, mask in enumerate(found.values()):
        np.testing.assert_array_equal(mask, IDS[draw(number)])
    everything = np.concatenate([IDS[draw(number)].ravel() for number in range(3)])
    said = capsys.readouterr().out
    assert "3 masks in" in said
    for class_id, name in ((0, "other"), (1, "trees"), (2, "built"), (255, "unknown")):
        assert f"{name:20s} {100 * (everything == class_id).mean():6.2f} %" in said


def test_masks_lie_where_their_sources_lie(maps):
    out = make(maps)
    for name in "abc":
        with rasterio.open(maps / name / "nlcd.tif") as source, rasterio.open(out / name / "noisy.tif") as mask:
            assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
            assert (mask.count, mask.dtypes, mask.nodata) == (1, ("uint8",), 255)
            assert mask.compression.value == "DEFLATE"
            assert [mask.colormap(1)[i] for i in range(3)] == [
                (0xB4, 0xAA, 0xA0, 255),
                (0x1B, 0x6B, 0x3A, 255),
                (0xC4, 0x28, 0x1B, 255),
            ]
            assert {**mask.tags(1)} == {"CLASS_0": "other", "CLASS_1": "trees", "CLASS_2": "built"}
            assert mask.tags()["LEGEND"] == "rules"


def test_maps_without_a_place_make_no_noise_on_the_terminal(maps, capfd):
    with warnings.catch_warnings(action="error"):
        make(maps, pattern="b/*.tif")
    assert "Warning" not in capfd.readouterr().err


def test_the_legend_beside_the_masks_reads_them(maps):
    out = make(maps)
    legend = read_legend(str(out / "legend.yaml"), "label_codes")
    assert (legend.classes, legend.colours) == (("other", "trees", "built"), ("b4aaa0", "1b6b3a", "c4281b"))
    assert legend.name == "rules"
    np.testing.assert_array_equal(read_labels(out / "a" / "noisy.tif", legend), IDS[draw(0)])


def test_masks_may_have_the_names_of_their_sources(maps):
    source = maps / "a" / "nlcd.tif"
    source.rename(source.with_suffix(".TIFF"))
    out = make(maps, out_name="", pattern="*/nlcd.*")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.tif")) == [f"{n}/nlcd.tif" for n in "abc"]


def test_rules_are_applied(maps):
    (maps.parent / "blocks.yaml").write_text(LEGEND + "rules: [{coarsen: 5}]")
    for number, mask in enumerate(masks(make(maps, rules="blocks")).values()):
        np.testing.assert_array_equal(mask, coarsen(IDS[draw(number)], 5))


@pytest.mark.parametrize(("rules", "rows"), [("rules", 1), ("chance", 2)])
def test_the_picture_shows_sources_where_they_differ(maps, monkeypatch, rules, rows):
    monkeypatch.setattr(script, "draw_masks", draw_masks)
    with rasterio.open(make(maps, rules=rules) / "masks.png") as picture:
        assert picture.count >= 3
        assert picture.shape == (int(100 * (2.2 * rows + 0.9)), 685)


# chance


def test_chance_is_a_function_of_seed_and_path(maps):
    first = masks(make(maps, "one", "chance", workers=1))
    four = masks(make(maps, "four", "chance", workers=4))
    alone = masks(make(maps, "alone", "chance", pattern="b/nlcd.tif"))
    for name, mask in first.items():
        np.testing.assert_array_equal(four[name], mask)
        np.testing.assert_array_equal(mask == 255, IDS[draw("abc".index(name))] == 255)
    np.testing.assert_array_equal(alone["b"], first["b"])
    assert (masks(make(maps, "seed", "chance", seed=1))["b"] != first["b"]).any()


def test_equal_maps_in_other_places_get_other_noise(maps):
    for name in "de":
        write_tiff(maps / name / "nlcd.tif", np.full((40, 40), 41, np.uint8), box=BOX)
    found = masks(make(maps, rules="chance"))
    assert (found["d"] != found["e"]).any()


# going on


def test_masks_that_are_there_are_kept(maps, capsys):
    out = make(maps, rules="chance")
    before = content(out)
    (out / "b" / "noisy.tif").unlink()
    make(maps, rules="chance")
    assert "3 maps, 2 masks there already" in capsys.readouterr().out
    after = content(out)
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert all(after[f"{name}/noisy.tif"] == before[f"{name}/noisy.tif"] for name in "ac")


def test_comments_and_maps_may_be_added(maps):
    make(maps, rules="chance")
    (maps.parent / "chance.yaml").write_text("# noise\n" + CHANCE)
    write_tiff(maps / "d" / "nlcd.tif", CODES[draw(3)])
    assert len(masks(make(maps, rules="chance"))) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": "rules"}, "masks made with other rules"),
        ({"seed": 1, "dry_run": True}, "masks made with other seed 0"),
        ({"pattern": "**/nlcd.tif"}, r"masks made with other pattern \*/nlcd.tif"),
        ({"matrix": TABLE.replace("0.5,0.5", "0.6,0.4")}, "masks made with other rules"),
        ({"text": CHANCE.replace("41: trees", "41: built")}, "masks made with other rules"),
        ({"text": CHANCE.replace("1.5", "1.6")}, "masks made with other rules"),
    ],
    ids=["file", "seed", "pattern", "table", "codes", "rule"],
)
def test_other_settings_are_refused(maps, change, message):
    out = make(maps, rules="chance")
    before = content(out)
    options = {"rules": "chance", **change}
    (maps.parent / "m.csv").write_text(options.pop("matrix", TABLE))
    (maps.parent / "chance.yaml").write_text(options.pop("text", CHANCE))
    with pytest.raises(ValueError, match=message) as error:
        make(maps, **options)
    assert "\n" not in str(error.value)
    assert content(out) == before


def test_another_order_of_classes_is_refused(maps):
    out = make(maps)
    before = content(out)
    reordered = LEGEND.replace("other: b4aaa0, trees: 1b6b3a", "trees: 1b6b3a, other: b4aaa0")
    (maps.parent / "rules.yaml").write_text(reordered)
    with pytest.raises(ValueError, match="masks made with other rules"):
        make(maps)
    assert content(out) == before


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_masks_of_other_maps_are_refused(maps, on_error):
    out = make(maps)
    before = content(out)
    others = maps.parent / "others"
    for name in "abcd":
        pixels = CODES[draw(9)] if name in "cd" else CODES[draw("ab".index(name))]
        write_tiff(others / name / "nlcd.tif", pixels, box=None if name == "b" else BOX)
    with pytest.raises(ValueError, match=r"out/c/noisy.tif: not made from .*others/c/nlcd.tif; remove it, or") as error:
        make(others, on_error=on_error)
    assert "\n" not in str(error.value)
    assert content(out) == before
    (out / "c" / "noisy.tif").unlink()
    np.testing.assert_array_equal(masks(make(others))["c"], IDS[draw(9)])


def test_maps_may_be_moved(maps):
    out = make(maps)
    before = content(out)
    after = content(make(maps.rename(maps.parent / "moved")))
    assert all(after[name] == before[name] for name in before if name.endswith(".tif"))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_unreadable_records_are_refused(maps, text):
    out = make(maps)
    (out / "noisy_labels.json").write_text(text)
    with pytest.raises(ValueError, match=r"noisy_labels.json: not readable"):
        make(maps)


@pytest.mark.parametrize("name", ["legend.yaml", "masks.png", "skipped.csv", "b/noisy.tif"])
def test_files_of_others_are_not_touched(maps, name):
    path = maps.parent / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: is there without"):
        make(maps)
    assert path.read_text() == "mine"


def test_a_dry_run_writes_nothing(maps, capsys):
    out = make(maps, rules="chance", dry_run=True)
    assert not out.exists()
    assert "3 maps, 0 masks there already" in capsys.readouterr().out


def test_nothing_half_written_is_left(maps, monkeypatch):
    class Full:
        def __init__(self, path, *_, **__):
            Path(path).write_bytes(b"II*\0half")
            raise OSError(28, "No space left on device")

    opened = rasterio.open
    monkeypatch.setattr(script.rasterio, "open", lambda *a, **k: (Full if "w" in a else opened)(*a, **k))
    with pytest.raises(OSError, match="No space"):
        make(maps)
    monkeypatch.undo()
    assert not masks(maps.parent / "out")
    assert len(masks(make(maps))) == 3
    assert not list((maps.parent / "out").rglob("*.partial"))


# masks among maps


def test_out_inside_the_maps_is_no_source(maps):
    for _ in range(2):
        out = make(maps, "maps/made", pattern="**/*.tif")
        assert list(masks(out)) == ["a", "b", "c"]
        assert len(list(out.rglob("*.tif"))) == 3


def test_masks_may_lie_beside_their_sources(maps):
    for _ in range(2):
        assert list(masks(make(maps, "maps", pattern="*/*.tif"))) == ["a", "b", "c"]
    np.testing.assert_array_equal(pixels(maps / "a" / "nlcd.tif"), CODES[draw(0)])


def test_masks_never_replace_maps(maps):
    before = content(maps)
    with pytest.raises(ValueError, match=r"a mask would replace the map .*maps/a/nlcd.tif"):
        make(maps, "maps", out_name="")
    with pytest.raises(ValueError, match=r"no map in .* matches; all 3 lie in --out or are named --out_name nlcd.tif"):
        make(maps, "maps", out_name="nlcd.tif")
    assert content(maps) == before


def test_masks_never_replace_maps_of_another_folder(maps):
    write_tiff(maps / "a" / "a" / "nlcd.tif", CODES[draw(0)])
    before = content(maps)
    with pytest.raises(ValueError, match=r"a mask would replace the map .*maps/a/nlcd.tif"):
        script.main(script.NoisyLabels(maps / "a", "**/nlcd.tif", maps.parent / "rules.yaml", maps, out_name=""))
    assert content(maps) == before


def test_two_maps_never_make_one_mask(maps):
    write_tiff(maps / "a" / "a.tif", CODES[draw(0)])
    with pytest.raises(ValueError, match=r"a/a.tif and a/nlcd.tif both become .*a/noisy.tif"):
        make(maps, pattern="*/*.tif")
    assert len(list(make(maps, pattern="*/*.tif", out_name="").rglob("*.tif"))) == 4


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "*/none.tif"}, r"--pattern \*/none.tif: no map in"),
        ({"pattern": ""}, "--pattern '': wanted a pattern"),
        ({"pattern": "../*/*.tif"}, "--pattern '../"),
        ({"pattern": "/*/nlcd.tif"}, "--pattern '/"),
        ({"out_name": "x/noisy.tif"}, "--out_name x/noisy.tif: wanted a file name"),
        ({"out_name": "noisy.png"}, "--out_name noisy.png"),
        ({"out_name": ".tif"}, "--out_name .tif"),
        ({"seed": -1}, "--seed -1"),
        ({"workers": 0}, "--workers 0"),
        ({"rules": "none"}, "--rules .*none.yaml"),
        ({"rules": "bad"}, "--rules .*bad.yaml: rule 1: coarsen"),
    ],
)
def test_bad_settings_are_refused(maps, options, message):
    (maps.parent / "bad.yaml").write_text(LEGEND + "rules: [{coarsen: none}]")
    with pytest.raises(ValueError, match=message):
        make(maps, **options)
    assert not (maps.parent / "out").exists()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--data_path .*nowhere: no such folder"):
        script.main(script.NoisyLabels(tmp_path / "nowhere", "*.tif", tmp_path / "r.yaml", tmp_path / "out"))


def unknown_code(path: Path) -> None:
    write_tiff(path, np.full((9, 9), 52, np.uint8))


def truncated(path: Path) -> None:
    write_tiff(path, np.random.default_rng(0).choice(CODES, (200, 200)))
    path.write_bytes(path.read_bytes()[:4000])


def no_tiff(path: Path) -> None:
    path.write_text("II*")


def many_bands(path: Path) -> None:
    write_tiff(path, np.full((3, 9, 9), 41, np.uint8))


def fractions(path: Path) -> None:
    write_tiff(path, np.full((9, 9), 41.5, np.float32))


BAD = {
    unknown_code: "label codes outside the rules.yaml legend: 52",
    truncated: "truncated or not a GeoTIFF",
    no_tiff: "truncated or not a GeoTIFF",
    many_bands: "3 bands where 1",
    fractions: "whole numbers",
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_bad_maps_stop_or_are_skipped(maps, spoil, reason, capsys):
    spoil(maps / "b" / "nlcd.tif")
    with pytest.raises(ValueError, match=rf"b/nlcd.tif: .*{reason}.*--on_error skip"):
        make(maps)
    out = make(maps, on_error="skip")
    assert list(masks(out)) == ["a", "c"]
    with (out / "skipped.csv").open(newline="") as file:
        header, (source, why) = csv.reader(file)
    assert (header, source) == (["source", "reason"], "b/nlcd.tif")
    assert reason in why
    assert "skipped: 1 maps" in (said := capsys.readouterr().out)
    assert reason in said
    (maps / "b" / "nlcd.tif").unlink()
    write_tiff(maps / "b" / "nlcd.tif", CODES[draw(1)])
    assert list(masks(make(maps, on_error="skip"))) == ["a", "b", "c"]
    assert (out / "skipped.csv").read_text().split() == ["source,reason"]


def test_nothing_but_bad_maps_is_an_error(maps):
    for name in "abc":
        unknown_code(maps / name / "nlcd.tif")
    with pytest.raises(ValueError, match=r"skipped.csv: all 3 maps were skipped"):
        make(maps, on_error="skip")


def test_a_spoilt_mask_is_named(maps):
    out = make(maps)
    (out / "c" / "noisy.tif").write_text("II*")
    with pytest.raises(ValueError, match=r"out/c/noisy.tif: cannot be read"):
        make(maps)
    (out / "c" / "noisy.tif").write_text("")
    with pytest.raises(ValueError, match=r"out/c/noisy.tif: is empty; remove it"):
        make(maps)


def test_classes_that_a_map_declares_nodata_are_refused(maps):
    pixels = np.full((9, 9), 41, np.uint8)
    write_tiff(maps / "b" / "nlcd.tif", pixels, nodata=41)
    wanted = "declares nodata 41, which the codes map to trees: put 41 under ignored, or clear the tag"
    with pytest.raises(ValueError, match=f"b/nlcd.tif: {wanted}"):
        make(maps)
    write_tiff(maps / "b" / "nlcd.tif", pixels, nodata=0)
    assert (masks(make(maps))["b"] == 1).all()


@pytest.mark.parametrize("rule", ["coarsen: 25", "translate: [24, 0]", "translate: [0, -21]"])
def test_rules_beyond_a_mask_name_the_map(maps, rule):
    (maps.parent / "far.yaml").write_text(LEGEND + f"rules: [{{{rule}}}]")
    with pytest.raises(ValueError, match=r"a/nlcd.tif: \w+ .*: wanted .* of the mask, 24 x 21"):
        make(maps, rules="far")


def test_out_is_no_file_and_rules_are_no_name(maps):
    (maps.parent / "h.sh").write_text("")
    with pytest.raises(ValueError, match=r"h\.sh: is a file; a folder is wanted"):
        make(maps, "h.sh")
    with pytest.raises(ValueError, match="--rules NoL: a legend; wanted is a YAML file"):
        script.main(script.NoisyLabels(maps, "*/nlcd.tif", Path("NoL"), maps.parent / "out"))


# the command, and real maps


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, str(REPOSITORY / "data_prepare" / "make_noisy_labels.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_the_command_line(maps):
    flags = ["--data_path", maps, "--pattern", "*/nlcd.tif", "--out", maps.parent / "out"]
    refused = command(*flags, "--rules", maps.parent / "none.yaml")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --rules ")
    assert refused.stderr.count("\n") == 1
    done = command(*flags, "--rules", maps.parent / "chance.yaml", "--seed", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((maps.parent / "out" / "noisy_labels.json").read_text())["seed"] == 3


def test_real_nlcd_maps_equal_a_recount(real, tmp_path):
    rules = REPOSITORY / "data_prepare" / "rules" / "nlcd.yaml"
    script.main(script.NoisyLabels(real / "naip", "*/nlcd.tif", rules, tmp_path / "out"))
    sources = sorted((real / "naip").glob("*/nlcd.tif"))
    assert len(sources) == len(masks(tmp_path / "out")) == 10
    for source in sources:
        codes = pixels(source)
        wanted = np.where(np.isin(codes, [22, 23, 24]), 2, np.isin(codes, [41, 42, 43, 90]))
        with rasterio.open(tmp_path / "out" / source.parent.name / "noisy.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), wanted)
            assert mask.crs is None
