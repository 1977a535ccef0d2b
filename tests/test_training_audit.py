"""The label audit from a checkpoint and stores to files, and what it refuses."""

import csv
import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
import torch
from checkpoints import save_checkpoint
from conftest import REPOSITORY, load_script
from PIL import Image
from rasters import write_tiff
from sets import BANDS, COUNT, NAMES, SEASONS, SIZE, season_arrays, write_ours

from cromss.aligned_stores import SCENES_NAME
from cromss.legends import NOL
from cromss.panels import panel
from cromss.settings.audit import AuditSettings
from cromss.store import LmdbWriter, StoreMeta
from cromss.store.repair import exclude
from cromss.training.audit import audit
from cromss.training.pretrained import open_pretrained

pytestmark = [
    pytest.mark.usefixtures("one_thread", "narrow"),
]

TWIN = "--input_type s12 --fusion_type mid"
EXACT = {"exact": "exact_labels.lmdb"}
IDS = [f"{index:07d}" for index in range(COUNT)]


@pytest.fixture(scope="module")
def arrays():
    """Labels of which a tenth is wrong and a tenth ignored; exact ones of which a tenth is unknown."""
    arrays, rng = season_arrays(), np.random.default_rng(1)
    exact = arrays["labels"]
    drawn = rng.random(exact.shape)
    noisy = np.where(drawn < 0.1, rng.integers(0, 9, exact.shape), exact)
    arrays["labels"] = np.where(drawn > 0.9, 255, noisy).astype(np.uint8)
    arrays["exact"] = np.where(rng.random(exact.shape) < 0.1, 255, exact).astype(np.uint8)
    return arrays


@pytest.fixture(scope="module")
def data(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_ours(folder, arrays, NAMES | EXACT)
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "twin" / "checkpoints"
    return save_checkpoint(folder / "x.ckpt", TWIN, 0, data)


def audited(checkpoint, **options):
    return audit(AuditSettings(str(checkpoint), **({"num_worst": 1, "accelerator": "cpu"} | options)))


@pytest.fixture(scope="module")
def result(checkpoint):
    return audited(checkpoint, threshold=0.9)


@pytest.fixture(scope="module")
def small(arrays, tmp_path_factory):
    """One season of the first two locations, without exact labels."""
    folder = tmp_path_factory.mktemp("small")
    write_ours(folder, {name: arrays[name][:2, :1] for name in NAMES}, NAMES)
    return folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Pictures take long: that of `result` is drawn, for it comes first."""
    monkeypatch.setattr("cromss.training.audit_sheet.panel", lambda *_, **__: np.zeros((1, 1, 3), np.uint8))


@pytest.fixture(scope="module")
def predicted(checkpoint, arrays):
    """Probabilities of both modalities, `(N, T, K, H, W)` each."""
    network = open_pretrained(str(checkpoint), "checkpoint").network()
    images = {m: torch.tensor(arrays[m]).flatten(0, 1) / 255 for m in ("s1", "s2")}
    with torch.no_grad():
        logits = network(**images)
    return {m: logits[m].softmax(1).double().numpy().reshape(COUNT, SEASONS, 9, SIZE, SIZE) for m in images}


def doubt_of(probs, labels):
    index = np.where(labels == 255, 0, labels)[:, :, None].astype(int)
    return 1 - np.take_along_axis(probs, index, 2)[:, :, 0]


@pytest.fixture(scope="module")
def score(predicted, arrays):
    return np.sqrt(doubt_of(predicted["s1"], arrays["labels"]) * doubt_of(predicted["s2"], arrays["labels"]))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_everything_is_written_and_nothing_else(result, checkpoint):
    assert result.out == checkpoint.parents[1] / "audit"
    names = {"audit.csv", "classes.csv", "confusion.csv", "audit.json", "worst.png", "maps"}
    assert {path.name for path in result.out.iterdir()} == names
    maps = {f"{name}_{season}.tif" for name in IDS for season in range(SEASONS)}
    assert {path.name for path in (result.out / "maps").iterdir()} == maps
    with Image.open(result.out / "worst.png") as image:
        assert image.size[0] > 5 * image.size[1] / 3


def test_maps_hold_percent(result, arrays, score):
    for index, season in ((0, 0), (5, 2)):
        with rasterio.open(result.out / "maps" / f"{IDS[index]}_{season}.tif") as file:
            assert (file.nodata, file.dtypes) == (255, ("uint8",))
            found = file.read(1)
        ignored = arrays["labels"][index, season] == 255
        assert (found[ignored] == 255).all()
        assert np.abs(found - 100 * score[index, season])[~ignored].max() <= 0.51


def test_tiles_are_ranked(result, arrays, score):
    rows = table(result.out / "audit.csv")
    means = [float(row["suspicion"]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert len(rows) == COUNT * SEASONS
    for row in rows:
        index, season = IDS.index(row["id"]), int(row["season"])
        labels, values = arrays["labels"][index, season], score[index, season]
        assert float(row["suspicion"]) == pytest.approx(values[labels != 255].mean(), abs=1e-4)
        suspected = labels[(labels != 255) & (values >= 0.9)]
        share = 100 * len(suspected) / (labels != 255).sum()
        assert float(row["suspected_percent"]) == pytest.approx(share, abs=0.1)
        assert row["most_suspected"] == (NOL.classes[np.bincount(suspected).argmax()] if len(suspected) else "")
        assert (result.out / row["map"]).is_file()


def test_classes_and_confusion_are_told_by_name(result, arrays):
    rows = table(result.out / "classes.csv")
    assert {row["class"] for row in rows} == set(NOL.classes)
    shares = [float(row["suspected_percent"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    for row in rows:
        assert int(row["pixels"]) == (arrays["labels"] == NOL.classes.index(row["class"])).sum()
    for row, name in zip(table(result.out / "confusion.csv"), NOL.classes, strict=True):
        assert row[r"noisy \ estimated"] == name
        if int(row["confident_pixels"]):
            assert sum(float(row[other]) for other in NOL.classes) == pytest.approx(100, abs=0.1)


def naive_auc(values, wrong):
    """Area under the curve from the ranks of a sort, ties sharing theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    num_wrong, num_right = wrong.sum(), (~wrong).sum()
    return (ranks[wrong].sum() - num_wrong * (num_wrong + 1) / 2) / (num_wrong * num_right)


def test_scores_are_those_against_exact_labels(result, arrays, predicted, score):
    labels, exact = arrays["labels"], arrays["exact"]
    known = (labels != 255) & (exact != 255)
    wrong = (labels != exact)[known]
    found = json.loads((result.out / "audit.json").read_text())["exact"]
    assert (found["compared_pixels"], found["wrong_pixels"]) == (known.sum(), wrong.sum())
    mean = (predicted["s1"] + predicted["s2"]) / 2
    wanted = {m: doubt_of(predicted[m], labels) for m in ("s1", "s2")}
    wanted |= {"both": score, "entropy": -(mean * np.log(mean)).sum(2) / np.log(9)}
    for name, values in wanted.items():
        scores, ordered = found["scores"][name], wrong[np.argsort(-values[known])]
        assert scores["auc"] == pytest.approx(naive_auc(values[known], wrong), abs=1e-3)
        for percent in (1, 5):
            top = ordered[: round(percent * len(ordered) / 100)]
            assert scores[f"precision_at_{percent}_percent"] == pytest.approx(top.mean(), abs=0.02)
    said = "\n".join(result.told)
    assert f"{100 * found['scores']['both']['auc']:.1f} %" in said
    assert all(f"{title} " in said for title in ("both modalities", "S1 alone", "S2 alone", "entropy alone"))


def test_without_exact_labels_nothing_is_said_of_them(small, checkpoint, tmp_path):
    result = audited(checkpoint, data_path=str(small), out=str(tmp_path / "out"))
    assert "exact" not in result.summary
    assert "no exact labels" in result.told[-1]


@pytest.mark.parametrize("kind", ["--input_type s12 --fusion_type late", f"{TWIN} --use_common_feature"])
def test_twins_of_all_kinds(small, tmp_path, kind):
    path = save_checkpoint(tmp_path / "x.ckpt", kind, 0, small)
    assert audited(path).out == tmp_path / "audit"


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_a_run_of_one_modality_is_asked_alone(arrays, tmp_path, modality):
    cut = {name: arrays[name][:2, :1] for name in NAMES | EXACT}
    write_ours(tmp_path / "set", cut, NAMES | EXACT)
    path = save_checkpoint(tmp_path / "x.ckpt", f"--input_type {modality}", 0, tmp_path / "set")
    result = audited(path)
    with torch.no_grad():
        images = torch.tensor(cut[modality][:, 0]) / 255
        probs = open_pretrained(str(path), "checkpoint").network()(**{modality: images})[modality].softmax(1)
    doubt, labels = doubt_of(probs.double().numpy()[:, None], cut["labels"]), cut["labels"]
    for row in table(result.out / "audit.csv"):
        index = IDS.index(row["id"])
        assert float(row["suspicion"]) == pytest.approx(doubt[index][labels[index] != 255].mean(), abs=1e-4)
    assert list(result.summary["exact"]["scores"]) == [modality, "entropy"]
    assert [line.split("  ")[0] for line in result.told[-2:]] == [f"{modality.upper()} alone", "entropy alone"]


def test_maps_lie_on_the_raw_labels(checkpoint, arrays, score, tmp_path):
    """Two tiles of a raw file, and a location that the ledger does not name."""
    cut = {name: arrays[name][:3, :1] for name in NAMES}
    write_ours(tmp_path / "set", cut, NAMES, ids=["a_r0_c0", "a_r0_c64", "b"])
    (tmp_path / "set" / SCENES_NAME).write_text("id,season,modality,scene\na,0,labels,raw/a_1.tif\n")
    write_tiff(tmp_path / "raw" / "a_1.tif", np.zeros((SIZE, 2 * SIZE), np.uint8), box=(10, 50, 11.28, 50.64))
    places = {"data_path": str(tmp_path / "set"), "labels_path": str(tmp_path / "raw")}
    result = audited(checkpoint, out=str(tmp_path / "out"), **places)
    with rasterio.open(result.out / "maps" / "a_r0_c64_0.tif") as file:
        assert file.crs.to_epsg() == 4326
        assert file.bounds == pytest.approx((10.64, 50, 11.28, 50.64))
        known = arrays["labels"][1, 0] != 255
        assert np.abs(file.read(1) - 100 * score[1, 0])[known].max() <= 0.51
    with rasterio.open(result.out / "maps" / "b_0.tif") as file:
        assert file.crs is None
    told = result.told[1]
    assert "maps: 1 of 3 are on the pixels of the stores, as b_0.tif: no raw label file with a CRS" in told
    assert told.endswith(f"in {tmp_path / 'raw'} (scenes.csv beside the stores names none)")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = audited(checkpoint, out=str(tmp_path / "out"), **places | {"labels_path": str(tmp_path / "elsewhere")})
    looked = ", ".join(str(tmp_path / "elsewhere" / name) for name in ("a/raw/a_1.tif", "raw/a_1.tif"))
    assert elsewhere.told[1].endswith(f"(looked for: {looked})")
    refused("^--labels_path .*: no such folder", checkpoint, **places | {"labels_path": str(tmp_path / "none")})


SHOWN = ["Sentinel-2", "Sentinel-1 (VV, VH, VV - VH)", "noisy label", "prediction", "suspicion"]


@pytest.mark.parametrize(("exact", "titles"), [({}, SHOWN), (EXACT, [*SHOWN[:4], "exact label", SHOWN[4]])])
def test_the_sheet_says_what_it_shows(checkpoint, arrays, tmp_path, monkeypatch, exact, titles):
    monkeypatch.setattr("cromss.training.audit_sheet.panel", draw := Mock(wraps=panel))
    write_ours(tmp_path / "set", {name: arrays[name][:2, :2] for name in NAMES | exact}, NAMES | exact)
    result = audited(checkpoint, data_path=str(tmp_path / "set"), out=str(tmp_path / "out"), num_worst=2)
    (rows, legend, title, names, masks, scale), _ = draw.call_args
    assert [list(row) for row in rows] == [titles] * 2
    first = table(result.out / "audit.csv")[0]
    assert names[0].splitlines()[:2] == [
        f"{first['id']}, season {first['season']}",
        f"mean suspicion {float(first['suspicion']):.2f}",
    ]
    assert len({name.splitlines()[0].partition(",")[0] for name in names}) == 2
    index, season = IDS.index(first["id"]), int(first["season"])
    assert np.array_equal(masks[0], arrays["labels"][index, season])
    with rasterio.open(result.out / first["map"]) as file:
        shown = np.nan_to_num(100 * rows[0]["suspicion"], nan=255)
        assert np.abs(shown - file.read(1)).max() <= 0.51
    assert (legend, title) == (NOL, "Tiles with the most suspicious labels")
    assert scale.startswith("suspicion: 0 ")


def test_the_sheet_shows_other_places_before_neighbours(checkpoint, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.training.audit.draw_sheet", draw := Mock(return_value=np.zeros((1, 1, 3), np.uint8)))
    cut = {name: arrays[name][:5, :1] for name in NAMES}
    write_ours(tmp_path / "set", cut, NAMES, ids=["a_r0_c0", "a_r0_c64", "a_r64_c0", "b_r0_c0", "b_r0_c64"])
    result = audited(checkpoint, data_path=str(tmp_path / "set"), out=str(tmp_path / "out"), num_worst=4)
    shown = [worst.name.partition(",")[0] for worst in draw.call_args[0][1]]
    ranked = [row["id"] for row in table(result.out / "audit.csv")]
    by_place = {place: [name for name in ranked if name.startswith(place)] for place in "ab"}
    assert shown[:2] == sorted((by_place["a"][0], by_place["b"][0]), key=ranked.index)
    assert shown[2:] == sorted((by_place["a"][1], by_place["b"][1]), key=ranked.index)


def test_tiles_of_any_size_and_ids_with_slashes(checkpoint, arrays, tmp_path):
    cut = {name: [arrays[name][0, :1, ..., :40, :56], arrays[name][1, :1]] for name in NAMES}
    write_ours(tmp_path / "set", cut, NAMES, ids=["a/b", "a%2Fb"])
    result = audited(checkpoint, data_path=str(tmp_path / "set"), out=str(tmp_path / "out"))
    assert sorted(row["map"] for row in table(result.out / "audit.csv")) == ["maps/a%252Fb_0.tif", "maps/a%2Fb_0.tif"]
    with rasterio.open(result.out / "maps" / "a%2Fb_0.tif") as file:
        assert file.shape == (40, 56)


def test_locations_left_out_are_not_looked_at(small, checkpoint, tmp_path, capsys):
    home = shutil.copytree(small, tmp_path / "set")
    exclude(home / NAMES["s1"], {1: "damaged"})
    result = audited(checkpoint, data_path=str(home), out=str(tmp_path / "out"))
    assert {row["id"] for row in table(result.out / "audit.csv")} == {IDS[0]}
    assert "1 of 2 locations are left out of use" in capsys.readouterr().out


def test_what_fails_on_the_way_leaves_whole_files_alone(checkpoint, arrays, tmp_path):
    cut = {name: arrays[name][:2, :1].copy() for name in NAMES}
    cut["labels"][1, 0, 0, 0] = 77
    write_ours(tmp_path / "set", cut, NAMES)
    refused("0000001: labels .77.", checkpoint, data_path=str(tmp_path / "set"), out=str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["maps"]
    names = {path.name for path in (tmp_path / "out" / "maps").iterdir()}
    assert names == {f"{IDS[0]}_0.tif"}


def test_a_folder_never_mixes_two_audits(checkpoint, small, arrays, tmp_path, monkeypatch):
    out = tmp_path / "out"
    result = audited(checkpoint, data_path=str(small), out=str(out))
    assert json.loads((out / "audit.json").read_text())["labels"] == str(small / NAMES["labels"])
    write_ours(tmp_path / "set", {name: arrays[name][:1, :1] for name in NAMES}, NAMES)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    options = {"data_path": str(tmp_path / "set"), "out": str(out)}
    refused(f"^--out {out}: .*maps/{IDS[1]}_0.tif is no map of this set; choose another", checkpoint, **options)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    monkeypatch.setattr("cromss.training.audit.draw_sheet", Mock(side_effect=ValueError("stopped")))
    refused("stopped", checkpoint, data_path=str(small), out=str(out))
    assert (out / "audit.csv").exists()
    assert not (out / "audit.json").exists()
    assert result.out == out


def test_the_script_prints_the_table(checkpoint, arrays, tmp_path, capsys):
    write_ours(tmp_path / "set", {name: arrays[name][:1] for name in NAMES | EXACT}, NAMES | EXACT)
    script = load_script("audit_labels", REPOSITORY / "train_scripts")
    script.main(AuditSettings(str(checkpoint), str(tmp_path / "set"), str(tmp_path / "out"), accelerator="cpu"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"written: {tmp_path / 'out'}"
    assert lines[-5].startswith("both modalities ")


def refused(words, *arguments, **options):
    with pytest.raises(ValueError, match=words) as error:
        audited(*arguments, **options)
    assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    refused(f"^--checkpoint {tmp_path}: no checkpoint", tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    refused("^--checkpoint .*x.ckpt: not a checkpoint of pretraining", tmp_path / "x.ckpt")


def test_an_out_that_is_a_file_is_refused(checkpoint, tmp_path):
    (tmp_path / "out").touch()
    refused("^--out .*out: is a file", checkpoint, out=str(tmp_path / "out"))


def test_sets_that_have_moved_or_lack_a_modality_are_refused(small, checkpoint, tmp_path):
    path = save_checkpoint(tmp_path / "x.ckpt", TWIN, 0, "/nowhere")
    refused("its set was in /nowhere, which is not there; say --data_path$", path)
    home = shutil.copytree(small, tmp_path / "set")
    shutil.rmtree(home / NAMES["s1"])
    refused(NAMES["s1"], checkpoint, data_path=str(home))


def test_stores_of_other_bands_are_refused(tmp_path, monkeypatch, arrays, checkpoint):
    monkeypatch.setitem(BANDS, "s2", ("B2", "B3", "B4"))
    cut = {name: arrays[name][:1, :1] for name in NAMES}
    write_ours(tmp_path / "set", cut | {"s2": cut["s2"][:, :, :3]}, NAMES)
    refused("s2 store has bands B2 B3 B4, but .* is wanted too", checkpoint, data_path=str(tmp_path / "set"))


def test_other_classes_are_refused(tmp_path, checkpoint, arrays):
    content = torch.load(checkpoint, weights_only=True)
    content["cromss"]["classes"] = [f"c{k}" for k in range(9)]
    torch.save(content, tmp_path / "x.ckpt")
    home = tmp_path / "set"
    write_ours(home, arrays, {name: NAMES[name] for name in ("s1", "s2")})
    with LmdbWriter(home / NAMES["labels"], StoreMeta("labels", (), "uint8", SEASONS, "class id", "NoL")) as writer:
        for name, labels in zip(IDS, arrays["labels"]):
            writer.write(name, list(labels))
        writer.finish()
    refused("has the classes c0, c1, .*; those of .* are water, trees", tmp_path / "x.ckpt", data_path=str(home))


def test_labels_without_a_class_are_refused(checkpoint, arrays, tmp_path):
    nothing = {name: arrays[name][:1, :1] for name in NAMES}
    write_ours(tmp_path / "set", nothing | {"labels": np.full_like(nothing["labels"], 255)}, NAMES)
    refused("no pixel of the 1 locations", checkpoint, data_path=str(tmp_path / "set"), out=str(tmp_path / "out"))


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1.1}, {"num_worst": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^--{next(iter(options))}"):
        AuditSettings("a", **options)
