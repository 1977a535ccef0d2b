"""Releases that must not be written, files that must not be touched, and releases that must not be trusted."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import save_checkpoint, state_dict_of
from foreign import behind, save, single
from safetensors.torch import save_file

from cromss.models.release_check import check_release, read_encoder, write_sums
from cromss.models.weight_files import WeightsError, open_checkpoint
from cromss.sensors import S1
from cromss.settings.release import ReleaseSettings, WeightsSettings
from cromss.training import release as releasing
from cromss.training.model_card import LoadingLine
from cromss.training.pretrainer_files import pretrainer_in, to_published_file
from cromss.training.release import release, to_release, verify

pytestmark = pytest.mark.usefixtures("one_thread")

TWIN = "--input_type s12 --fusion_type mid"
RADAR = "--input_type s1 --model_type resnet18 --save_dir /secret/runs --init_s1 /secret/start.pth"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    return save_checkpoint(path, RADAR, data="/secret/data", fusion="single", bands={"s1": list(S1.bands)})


@pytest.fixture(scope="module")
def released(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("released") / "release"
    release(ReleaseSettings(checkpoint, out))
    return out


@pytest.fixture
def copy(released, tmp_path):
    """A copy whose files may be replaced, but not written into."""
    return shutil.copytree(released, tmp_path / "release", copy_function=os.link)


def refused(work, line, tmp_path):
    """What is said is one line that names a path or flag, and no file is made."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=line) as error:
        work()
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def with_tensor(name, value):
    state = dict(state_dict_of(TWIN, 0))
    return state | {name: torch.full_like(state[name], value)}


CARDS = {
    "fusion": ({"fusion": "x"}, "fusion on its card: x, but its settings say mid"),
    "no bands": ({"bands": {}}, r"bands on its card: \{\}, but its settings say \{'s1'"),
    "other bands": ({"bands": {"s1": ["VV", "VH"], "s2": ["X0"]}}, "bands on its card: .*X0"),
    "settings": ({"settings": ["x"]}, r"settings on its card: \['x'\], not a mapping"),
    "setting": ({"settings": {"input_type": "s12", "crop_size": "many"}}, "on its card, .*crop_size"),
    "no std": ({"statistics": {"s1": {"mean": [0, 0]}}}, "statistics of s1: not mean and std of the bands VV VH"),
    "one band": ({"statistics": {"s1": {"mean": [0], "std": [1]}}}, "s1: mean: 2 finite numbers are wanted"),
    "no sensor": ({"statistics": {"s3": {}}}, "on its card, statistics: .*not one entry a modality"),
    "classes": ({"classes": ["water"]}, r"classes on its card: \['water'\], not 9 names"),
    "damaged": (
        {"state_dict": with_tensor("model.segmentation_head.0.weight", float("nan"))},
        r"its weights are damaged \(segmentation_head\.0\.weight holds NaN",
    ),
    "no decoder": (
        {"state_dict": {name: tensor for name, tensor in state_dict_of(TWIN, 0).items() if "encoders." in name}},
        r"its weights do not fit its settings \(Missing key.*decoder",
    ),
    "encoder": ({}, "tu-test_resnet cannot be released, only ResNets with a 7 x 7 first layer"),
}


@pytest.mark.parametrize(("changes", "line"), CARDS.values(), ids=CARDS)
def test_a_checkpoint_that_contradicts_itself_is_not_released(tmp_path, changes, line):
    path = save_checkpoint(tmp_path / "a.ckpt", TWIN, **changes)
    refused(lambda: release(ReleaseSettings(path, tmp_path / "new" / "out")), rf"a\.ckpt: .*{line}", tmp_path)


def test_a_published_network_without_a_head_is_released_as_encoders(tmp_path):
    path = save(single(), tmp_path / "p.ckpt")
    refused(lambda: pretrainer_in(path), r"p\.ckpt: no segmentation_head in it; weights\.py convert --source", tmp_path)
    to_release(WeightsSettings("convert", path, tmp_path / "out", source="cromss"))
    assert read_encoder(tmp_path / "out" / "s2").normalization == "common"


def test_the_sensor_that_is_in_a_file_twice_is_named(tmp_path):
    keys = behind("module.backbone_1.", 2) | behind("module.backbone_2.", 13) | behind("backbone.resnet.", 9)
    path = save({"model": keys}, tmp_path / "two.pth")
    line = r"two\.pth: more than one encoder of s2 in it: module\.backbone_1\."
    refused(lambda: to_release(WeightsSettings("convert", path, tmp_path / "out")), line, tmp_path)


def test_targets_and_scores_that_cannot_be_are_named(tmp_path):
    path = save_checkpoint(tmp_path / "a.ckpt", TWIN)
    content = path.read_bytes()
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    for out, line in (
        ("a.ckpt", r"--out .*a\.ckpt: is the file to convert; choose another"),
        ("folder.ckpt", r"--out .*folder\.ckpt: is a folder; a file is wanted"),
        ("binary.md", r"--out .*binary\.md: is there already; choose another"),
        ("a.ckpt/x/b.ckpt", r"--out .*b\.ckpt: .*a\.ckpt is a file, not a folder"),
    ):
        refused(lambda out=out: to_published_file(path, tmp_path / out), line, tmp_path)
    refused(lambda: release(ReleaseSettings(path, path / "x")), r"--out .*: .*a\.ckpt is a file", tmp_path)
    for scores, line in (("none.md", "No such file or directory"), ("binary.md", "no text in UTF-8")):
        settings = ReleaseSettings(path, tmp_path / "out", scores=tmp_path / scores)
        refused(lambda settings=settings: release(settings), rf"--scores .*{scores}: cannot be read \({line}", tmp_path)
    assert path.read_bytes() == content
    assert to_published_file(path, tmp_path / "p.ckpt") == len(open_checkpoint(tmp_path / "p.ckpt")["state_dict"])


def test_what_fails_its_check_is_not_kept_nor_what_others_left_taken(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").touch()
    monkeypatch.setattr(releasing, "loading_lines", lambda encoder: [LoadingLine("yaml", "import yaml\nyaml.nothing")])
    settings = ReleaseSettings(checkpoint, tmp_path / "out", verify=True)
    refused(lambda: release(settings), r"/out: yaml does not load it .*; nothing was released$", tmp_path)


def test_settings_are_published_without_the_machine_they_ran_on(released):
    card = (released / "README.md").read_text()
    for row in ("| crop_size | 64 |", "| optimizer | adam |", "| init_s1 | start.pth |", "| label_smoothing | False |"):
        assert row in card
    card = open_checkpoint(released / "pretrainer.safetensors")["cromss"]
    assert card["settings"].keys() & {"data_path", "save_dir", "name", "resume"} == set()
    assert not [path for path in released.rglob("*") if path.is_file() and b"/secret" in path.read_bytes()]


def test_no_module_of_a_release_is_run_and_no_line_runs_for_ever(tmp_path, monkeypatch):
    inside = tmp_path / "release"
    inside.mkdir()
    (inside / "yaml.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)
    for paths in ("", ".", os.pathsep):
        monkeypatch.setenv("PYTHONPATH", paths)
        assert releasing._run(LoadingLine("yaml", "import yaml\nyaml.safe_load"), inside) == "its line runs"
    monkeypatch.setattr(releasing, "PATIENCE_S", 0.1)
    with pytest.raises(WeightsError, match=r"release: yaml has not loaded it after 0\.1 s: import time; time\.sleep"):
        releasing._run(LoadingLine("yaml", "import time\ntime.sleep(60)"), inside)


def config_with(**changes):
    """A harm: entries of config.json by dotted keys."""

    def harm(folder):
        path = folder / "s1" / "config.json"
        config = json.loads(path.read_text())
        for key, value in changes.items():
            *above, last = key.split("__")
            inner = config
            for name in above:
                inner = inner[name]
            inner[last] = value
        replace_by(path, json.dumps(config).encode())

    return harm


def replace_by(path, content):
    path.unlink()
    path.write_bytes(content)


def link_out(folder):
    path = folder / "s1" / "README.md"
    path.rename(folder.parent / "README.md")
    path.symlink_to(folder.parent / "README.md")


def other_bare(folder):
    path = folder / "torchgeo" / "s1.pth"
    content = torch.load(path, weights_only=True)
    path.unlink()
    torch.save(content | {"bn1.bias": content["bn1.bias"] + 1}, path)


def other_network(change):
    """A harm: tensors and card of the whole network, changed."""

    def harm(folder):
        path = folder / "pretrainer.safetensors"
        tensors, card = open_checkpoint(path).values()
        change(tensors, card)
        path.unlink()
        save_file(tensors, path, {"format": "pt", "cromss": json.dumps(card)})

    return harm


def move_a_bias(tensors, card):
    name = next(name for name in tensors if name.endswith("encoder.bn1.bias"))
    tensors[name] = tensors[name] + 1


def lose_the_head(tensors, card):
    del tensors[next(name for name in tensors if "segmentation_head" in name)]


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


HARMS = {
    "empty": (empty, "release: no encoder in it; a folder that release.py wrote is wanted"),
    "no folder": (lambda folder: shutil.rmtree(folder / "s1"), r"s1/README\.md: missing; get the release anew"),
    "no bare": (lambda folder: shutil.rmtree(folder / "torchgeo"), r"torchgeo/s1\.pth: missing"),
    "no part": (lambda folder: (folder / "timm.py").touch(), r"timm\.py: no part of a release"),
    "link": (link_out, r"s1/README\.md: a link that leads out of the release"),
    "bare": (other_bare, r"torchgeo/s1\.pth: other tensors than in .*s1/model\.safetensors"),
    "network": (other_network(move_a_bias), r"pretrainer\.safetensors: another encoder than in .*s1 \(bn1\.bias\)"),
    "network's bands": (
        other_network(lambda tensors, card: card.update(bands={"s1": ["VH", "VV"]})),
        r"pretrainer\.safetensors: bands on its card: .*VH.*, but its settings say",
    ),
    "network's statistics": (
        other_network(lambda tensors, card: card.update(statistics={"s1": {"mean": [-9, -9], "std": [4, 4]}})),
        r"pretrainer\.safetensors: another encoder than in .*s1 \(cromss\.mean is \[-9",
    ),
    "no head": (other_network(lose_the_head), r"pretrainer\.safetensors: its weights do not fit its settings"),
    "bands": (
        config_with(cromss__bands=["VH", "VV"]),
        r"s1/model\.safetensors: bound to another input than .*bands\.s1",
    ),
    "mean": (
        config_with(cromss__mean=[-5, -18]),
        r"s1/model\.safetensors: bound to another input .*statistics\.s1\.mean",
    ),
    "unknown band": (config_with(cromss__bands=["VV", "X0"]), "Sentinel-1 has no band 'X0'"),
    "sensor": (config_with(cromss__modality="s3"), "no 's3'"),
    "start": (
        config_with(pretrained_cfg__first_conv="conv1"),
        r"s1/config\.json: .*pretrained_cfg\.first_conv is conv1, not None",
    ),
    "argument": (config_with(model_args__foo=1), "model_args: unknown foo"),
    "name": (config_with(architecture=5), "architecture 5: no network of timm"),
    "no mapping": (lambda folder: replace_by(folder / "s1" / "config.json", b"[]"), r"s1/config\.json: .*no mapping"),
}


@pytest.mark.parametrize(("harm", "line"), HARMS.values(), ids=HARMS)
def test_a_release_with_new_sums_is_refused_all_the_same(copy, tmp_path, harm, line):
    harm(copy)
    (copy / "SHA256SUMS").unlink(missing_ok=True)
    write_sums(copy)
    refused(lambda: verify(copy), line, tmp_path)


def test_what_a_hub_or_the_owner_adds_is_no_part_of_a_release(copy):
    sums = (copy / "SHA256SUMS").read_text()
    hub = ".gitattributes", ".cache/huggingface/download/s1/config.json.metadata"
    for name in (*hub, ".git/HEAD", ".git/lfs/objects/s3/oid", "LICENSE", "LICENSE.md"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("s3")
    assert [path.name for path in check_release(copy)] == ["s1"]
    (copy / "SHA256SUMS").unlink()
    write_sums(copy)
    assert (copy / "SHA256SUMS").read_text() == sums
    (copy / ".gitmodules").touch()
    with pytest.raises(WeightsError, match=r"\.gitmodules: not in SHA256SUMS; remove it"):
        check_release(copy)
    (copy / ".gitmodules").unlink()
    (copy / "s1" / ".gitattributes").touch()
    with pytest.raises(WeightsError, match=r"s1/\.gitattributes: not in SHA256SUMS; remove it"):
        check_release(copy)
