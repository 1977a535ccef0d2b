"""From two runs to figures, tables and a page."""

import csv
import math
import re
import shutil

import numpy as np
import pytest
import torch
from checkpoints import SMALL, save_checkpoint, settings_of
from PIL import Image
from sets import COUNT, NAMES, SEASONS, SIZE, season_arrays, write_ours

from cromss.config import parse, to_flat
from cromss.datamodule import hold_out
from cromss.settings import SingleModalSettings
from cromss.settings.analysis import AnalysisSettings
from cromss.store.repair import exclude
from cromss.training import pretrain
from cromss.training.analysis import analyse
from cromss.training.pretrained import open_pretrained

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

S2 = "--input_type s2"
TENSOR = {"model.x": torch.zeros(3)}
IDS = [f"{index:07d}" for index in range(COUNT)]


@pytest.fixture(scope="module")
def arrays():
    arrays = season_arrays()
    rng = np.random.default_rng(1)
    arrays["exact"] = np.where(rng.random(arrays["labels"].shape) < 0.1, 255, arrays["labels"]).astype(np.uint8)
    arrays["ortho"] = arrays["s2"][:, :, :4]
    return arrays


@pytest.fixture(scope="module")
def data(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_ours(folder, arrays, NAMES | {"ortho": "orthophotos.lmdb", "exact": "exact_labels.lmdb"})
    return folder


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """Checkpoints of a noisy and an exact run on Sentinel-2."""
    folder = tmp_path_factory.mktemp("runs")
    noisy = save_checkpoint(folder / "noisy" / "checkpoints" / "x.ckpt", S2, 0, data)
    exact = save_checkpoint(folder / "exact" / "checkpoints" / "x.ckpt", f"{S2} --experiment gt_labels", 1, data)
    return noisy, exact


def analysed(noisy, exact, out="", **options):
    options = {"num_pictures": 0, "accelerator": "cpu"} | options
    return analyse(AnalysisSettings(str(noisy), str(exact), str(out), **options))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def page(pair):
    return analysed(*pair, num_pictures=1, num_tiles=3)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take long: those of `page` are drawn, for it comes first."""
    for name in ("fisher_figure", "weights_figure"):
        monkeypatch.setattr(f"cromss.training.analysis.{name}", lambda scores: np.zeros((1, 1, 3), np.uint8))


def test_everything_is_written(pair, page):
    folder = page.path.parent
    assert folder.parent == pair[0].parents[1] / "analysis"
    held = sorted(hold_out(IDS, 0.5, 42)[1])
    pictures = {f"principal_0_{IDS[index]}.png" for index in held[:1]}
    names = {"analysis.md", "fisher.csv", "weights.csv", "fisher.png", "weights.png"} | pictures
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.verify()
    text = page.path.read_text()
    assert all(sentence in text for sentence in page.finding)
    assert all(f"({name})" in text for name in {"fisher.png", "weights.png"} | pictures)
    assert "experiment ns_labels | gt_labels\n" in text
    assert f"3 of {SIZE} x {SIZE} pixels" in text
    assert str(pair[0]) in text
    assert str(pair[1]) in text


def test_tables_hold_all_layers(page):
    rows, weights = (table(page.path.with_name(name)) for name in ("fisher.csv", "weights.csv"))
    assert [row["layer"] for row in rows] == [row["layer"] for row in weights] == [s.name for s in page.scores]
    assert len(rows) == 26
    assert rows[0]["layer"] == "encoder.model.conv1.0"
    for row in rows:
        assert float(row["noisy_over_exact"]) == pytest.approx(float(row["noisy"]) / float(row["exact"]))


def naive_ratio(x, k):
    groups = [x[k == c] for c in np.unique(k[k != 255])]
    mean = np.concatenate(groups).mean(0)
    between = sum(len(g) * ((g.mean(0) - mean) ** 2).sum() for g in groups)
    return between / sum(((g - g.mean(0)) ** 2).sum() for g in groups)


def test_the_last_ratio_is_that_of_the_logits_on_held_out_tiles(pair, page, arrays):
    held = hold_out(IDS, 0.5, 42)[1][:3]
    images = torch.tensor(np.stack([arrays["s2"][i, i % SEASONS] for i in held])) / 255
    labels = np.stack([arrays["exact"][i, i % SEASONS] for i in held]).ravel()
    for path, name in zip(pair, ("noisy", "exact")):
        with torch.no_grad():
            logits = open_pretrained(str(path), name).network()(s2=images)["s2"]
        ratio = naive_ratio(logits.double().movedim(1, -1).reshape(-1, 9).numpy(), labels)
        assert getattr(page.scores[-1], name) == pytest.approx(ratio, rel=1e-4)


def test_divergences_are_those_of_the_kernels(pair, page):
    states = [torch.load(path, weights_only=True)["state_dict"] for path in pair]
    row = next(row for row in table(page.path.with_name("weights.csv")) if row["layer"] == "decoder.blocks.1.conv2.0")
    p, q = (state["model.networks.s2.decoder.blocks.1.conv2.0.weight"].double().numpy() for state in states)
    closed = np.log(q.std() / p.std()) + (p.var() + (p.mean() - q.mean()) ** 2) / (2 * q.var()) - 0.5
    assert float(row["gaussian"]) == pytest.approx(closed, rel=1e-6)
    assert int(row["num_weights"]) == p.size


def test_the_size_of_batches_does_not_matter(pair, tmp_path):
    one, all_at_once = (analysed(*pair, tmp_path / str(size), batch_size=size, num_tiles=3) for size in (1, 3))
    for a, b in zip(one.scores, all_at_once.scores, strict=True):
        assert (a.noisy, a.exact) == pytest.approx((b.noisy, b.exact), rel=1e-4)


def test_a_network_beside_itself_is_unharmed(pair, tmp_path):
    page = analysed(pair[0], pair[0], tmp_path)
    assert all(score.ratio == 1 and score.weights[:2] == (0, 0) for score in page.scores)
    assert "no harm to place" in page.finding[0]
    assert "it loses 0 %" in page.finding[1]


@pytest.fixture(scope="module")
def twins(data, tmp_path_factory):
    folder, arguments = tmp_path_factory.mktemp("twins"), "--input_type s12 --fusion_type mid --use_common_feature"
    return [save_checkpoint(folder / f"{seed}.ckpt", arguments, seed, data) for seed in (0, 1)]


@pytest.mark.parametrize(("branch", "bands"), [("s1", 2), ("", 13), ("common", 15)])
def test_branches_of_twins(twins, tmp_path, branch, bands):
    page = analysed(*twins, tmp_path, branch=branch, num_tiles=1)
    assert f"branch {branch or 's2'}," in page.path.read_text()
    assert page.scores[0].num_weights == 16 * 9 * bands


def test_orthophotos(data, tmp_path):
    path = save_checkpoint(tmp_path / "x.ckpt", "--input_type ortho", 0, data)
    assert "branch ortho," in analysed(path, path, tmp_path, num_tiles=1).path.read_text()


def test_settings_that_say_nothing_about_the_networks_are_left_aside(data, pair, tmp_path):
    flat = {"data_path": str(data), "grad_checkpointing": True, "compile": True, "num_workers": 3}
    path = save_checkpoint(tmp_path / "x.ckpt", S2, settings=to_flat(settings_of(S2)) | flat)
    text = analysed(pair[0], path, tmp_path, num_tiles=1).path.read_text()
    assert "(noisy | exact)" in text
    assert not {"grad_checkpointing", "compile", "num_workers"} & set(text.replace("*", " ").split())


@pytest.mark.parametrize(("crop", "side"), [(50, 32), (80, 64), (20, 32)])
def test_tiles_are_crops_that_the_encoder_divides(data, tmp_path, crop, side):
    flat = to_flat(settings_of(S2)) | {"crop_size": crop, "data_path": str(data)}
    path = save_checkpoint(tmp_path / "x.ckpt", S2, settings=flat)
    assert f"of {side} x {side} pixels" in analysed(path, path, tmp_path, num_tiles=2).path.read_text()


def refused(words, *arguments, **options):
    with pytest.raises(ValueError, match=words) as error:
        analysed(*arguments, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ("--input_type s1", "input_type: s2 and s1"),
        ("--input_type s12", "input_type: s2 and s12"),
        (f"{S2} --n_channels 12", "n_channels: 13 and 12"),
        (f"{S2} --n_classes 4", "n_classes: 9 and 4"),
        (f"{S2} --model_type resnet18", "model_type: tu-test_resnet and resnet18"),
    ],
)
def test_networks_of_other_kinds_are_refused(pair, tmp_path, other, differing):
    path = save_checkpoint(tmp_path / "x.ckpt", other, state_dict=TENSOR)
    refused(f"^--noisy {pair[0]} and --exact {path} differ in {differing};", pair[0], path, tmp_path)


def test_other_fusions_and_classes_are_refused(tmp_path):
    late, mid = (f"--input_type s12 --fusion_type {fusion}" for fusion in ("late", "mid"))
    twins = [save_checkpoint(tmp_path / "x.ckpt", late, state_dict=TENSOR)]
    twins += [save_checkpoint(tmp_path / "y.ckpt", mid, state_dict=TENSOR)]
    refused("differ in fusion_type: late and mid;", *twins, tmp_path)
    named = [save_checkpoint(tmp_path / f"{name}.ckpt", classes=[name, "b"], state_dict=TENSOR) for name in "ac"]
    refused(re.escape("differ in classes: ['a', 'b'] and ['c', 'b'];"), *named, tmp_path)


@pytest.mark.parametrize("branch", ["s1", "common", "s3"])
def test_a_missing_branch_is_refused(pair, tmp_path, branch):
    refused(f"^--branch {branch}: must be one of s2, the branches", *pair, tmp_path, branch=branch)


@pytest.mark.parametrize("wrong", ["nothing.ckpt", "."])
def test_runs_that_are_none_are_refused(pair, tmp_path, wrong):
    refused(f"^--noisy {tmp_path}", tmp_path / wrong, pair[1], tmp_path)
    refused(f"^--exact {tmp_path}", pair[0], tmp_path / wrong, tmp_path)


def write_masks(folder, arrays, exact=None):
    kept = {name: arrays[name] for name in NAMES}
    write_ours(folder, kept, NAMES)
    if exact is not None:
        write_ours(folder, {"exact": exact}, {"exact": "exact_labels.lmdb"})
    return str(folder)


def test_without_exact_labels_there_is_nothing_to_say(pair, arrays, tmp_path):
    refused("exact_labels.lmdb", *pair, tmp_path, data_path=write_masks(tmp_path / "set", arrays))
    refused("nowhere/0k_251k_uint8_s2c.lmdb", *pair, tmp_path, data_path=str(tmp_path / "nowhere"))


def test_a_set_that_has_moved_is_asked_for(tmp_path):
    path = save_checkpoint(tmp_path / "x.ckpt", S2, 0, "/nowhere")
    refused(f"^--noisy {path}: its set was in /nowhere, which is not there; say --data_path$", path, path, tmp_path)


@pytest.mark.parametrize(("value", "present"), [(255, 0), (3, 1)])
def test_fewer_than_two_classes_are_refused(pair, arrays, tmp_path, value, present):
    exact = np.full_like(arrays["exact"], value)
    place = write_masks(tmp_path / "set", arrays, exact)
    refused(rf"exact_labels.lmdb: {present} class\(es\) on the 4 tiles", *pair, tmp_path, data_path=place)


def split(folder, data, share, seed):
    """A run that held out such a share under such a seed."""
    flat = to_flat(settings_of(S2)) | {"validation": share, "seed": seed, "data_path": str(data)}
    return save_checkpoint(folder / f"{seed}.ckpt", S2, settings=flat)


def test_only_tiles_that_both_held_out_are_looked_at(pair, data, tmp_path):
    held = {seed: set(hold_out(IDS, 0.5, seed)[1]) for seed in (1, 42)}
    both = held[1] & held[42]
    assert 0 < len(both) < 4
    other = split(tmp_path, data, 0.5, 1)
    assert f"tiles: {len(both)} of" in analysed(pair[0], other, tmp_path).path.read_text()
    seeds = [seed for seed in range(20) if hold_out(IDS, 0.1, seed)[1][0] != hold_out(IDS, 0.1, 0)[1][0]]
    lone = [split(tmp_path, data, 0.1, seed) for seed in (0, seeds[0])]
    refused("no location was held out by both; train them with the same --seed", *lone, tmp_path)


def test_locations_left_out_of_use_are_not_looked_at(pair, data, arrays, tmp_path):
    shutil.copytree(data, tmp_path / "set")
    held = hold_out(IDS, 0.5, 42)[1]
    exclude(tmp_path / "set" / NAMES["s2"], {held[0]: "damaged"})
    exclude(tmp_path / "set" / "exact_labels.lmdb", {held[2]: "gone"}, drop=True)
    page = analysed(*pair, tmp_path / "out", data_path=str(tmp_path / "set"))
    assert f"tiles: {len(held) - 2} of" in page.path.read_text()
    used = [held[1], *held[3:]]
    images = torch.tensor(np.stack([arrays["s2"][i, i % SEASONS] for i in used])) / 255
    labels = np.stack([arrays["exact"][i, i % SEASONS] for i in used]).ravel()
    with torch.no_grad():
        logits = open_pretrained(str(pair[0]), "noisy").network()(s2=images)["s2"]
    ratio = naive_ratio(logits.double().movedim(1, -1).reshape(-1, 9).numpy(), labels)
    assert page.scores[-1].noisy == pytest.approx(ratio, rel=1e-4)


def test_swapped_runs_are_refused(pair, tmp_path):
    refused("learned exact labels and --exact .* noisy ones; swap them", *pair[::-1], tmp_path)


def test_a_set_that_has_changed_is_refused(data, pair, tmp_path):
    content = torch.load(pair[0], weights_only=True)
    content["cromss"]["locations"] = "of another set"
    torch.save(content, tmp_path / "other.ckpt")
    refused("was trained on other locations", tmp_path / "other.ckpt", pair[1], tmp_path / "out")


def test_an_out_that_is_a_file_is_refused_first(pair, tmp_path):
    (tmp_path / "out").touch()
    refused("--out .*out: is a file", *pair, tmp_path / "out")


def test_features_of_chance_are_told(page):
    assert all(0 <= float(row["chance"]) < math.inf for row in table(page.path.with_name("fisher.csv")))


def test_real_runs_go_in_as_folders(data, tmp_path):
    for experiment in ("ns_labels", "gt_labels"):
        words = (
            f"{SMALL} --input_type s2 --epochs 1 --limit_batches 1 --batch_size 4 --accelerator cpu --name {experiment}"
        )
        place = ["--data_path", str(data), "--save_dir", str(tmp_path), "--experiment", experiment]
        pretrain(parse(SingleModalSettings, [*words.split(), *place]))
    page = analysed(tmp_path / "ns_labels", tmp_path / "gt_labels", num_tiles=2)
    assert page.path == tmp_path / "ns_labels" / "analysis" / "gt_labels" / "analysis.md"
    assert open_pretrained(str(tmp_path / "ns_labels"), "noisy").locations
    assert "1 epochs" in page.path.read_text()
    assert not any(math.isnan(score.weights.gaussian) for score in page.scores)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_tiles": 0},
        {"num_pictures": -1},
        {"batch_size": 0},
    ],
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"^--num_|^--batch_size"):
        AnalysisSettings("a", "b", **arguments)
