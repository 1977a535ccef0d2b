"""Releases: folders that other packages load, bound to their input; sums; the way back to the published layout."""

import argparse
import json
import math
import runpy
import shutil

import pytest
import torch
from checkpoints import save_checkpoint, settings_of
from conftest import REPOSITORY, load_script

from cromss.config import read
from cromss.legends import DW
from cromss.models import build_segmenter
from cromss.models.release import released_encoder
from cromss.models.release_check import check_release, write_sums
from cromss.models.weight_files import open_checkpoint, told_statistics
from cromss.models.weights import WeightsError, load_encoder
from cromss.sensors import S1, S2
from cromss.settings.release import ReleaseSettings, WeightsSettings
from cromss.statistics import with_statistics
from cromss.training.model_card import loading_lines
from cromss.training.pretrained import open_pretrained
from cromss.training.pretrainer_files import pretrainer_in, to_published_file
from cromss.training.release import release

TWIN = "--input_type s12 --fusion_type mid --model_type resnet18"
STATISTICS = {
    "s1": {"bands": list(S1.bands), "mean": [-11.5, -18.5], "std": [4.5, 5.5]},
    "s2": {"bands": list(S2.bands), "mean": list(range(1000, 2300, 100)), "std": list(range(500, 1800, 100))},
}
BANDS = {"s1": list(S1.bands), "s2": list(S2.bands)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    told = {"encoder_name": "resnet18", "bands": BANDS, "statistics": STATISTICS, "classes": list(DW.classes)}
    return save_checkpoint(path, TWIN, seed=3, **told)


@pytest.fixture(scope="module")
def released(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "release"
    scores = folder.parent / "tables.md"
    scores.write_text("| mIoU |\n|---|\n| 40.2 |\n")
    release(ReleaseSettings(checkpoint, folder, title="Small twins", data="Synthetic tiles.", scores=scores))
    return folder


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "release")


def images(bands, side=64):
    return torch.rand(2, bands, side, side, generator=torch.Generator().manual_seed(0))


def test_a_release_holds_what_its_help_says(released):
    files = sorted(path.relative_to(released).as_posix() for path in released.rglob("*") if path.is_file())
    folder = ["README.md", "config.json", "model.safetensors"]
    assert files == sorted(
        [
            *("README.md", "SHA256SUMS", "pretrainer.safetensors", "torchgeo/s1.pth", "torchgeo/s2.pth"),
            *(f"{modality}/{name}" for modality in ("s1", "s2") for name in folder),
        ]
    )
    assert [path.name for path in check_release(released)] == ["s1", "s2"]


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_every_package_gets_the_features_of_the_checkpoint(checkpoint, released, modality, tmp_path, monkeypatch):
    """The stem too: it would be drawn anew if `first_conv` were named."""
    monkeypatch.chdir(released)
    own = open_pretrained(str(checkpoint), "checkpoint").network().encoders[modality]
    x = images(len(BANDS[modality]))
    with torch.no_grad():
        expected = own(x)
    seen = []
    for line in loading_lines(released_encoder(checkpoint, modality)):
        seen.append(line.package)
        if line.package == "torchgeo":  # loads through segmentation_models_pytorch, and is no package of the tests
            continue
        script = tmp_path / f"{line.package}_line.py"
        script.write_text(line.code)
        names = runpy.run_path(str(script))
        model = names.get("encoder") or names["model"].encoder
        with torch.no_grad():
            found = model.eval()(x) if line.package != "timm" else [model.eval().forward_features(x)]
        torch.testing.assert_close(found[-1], expected[-1], rtol=0, atol=1e-6)
    assert seen == ["timm", "timm", "segmentation_models_pytorch", "torchgeo", "cromss"]


def test_the_input_is_bound_to_the_weights(released):
    config = json.loads((released / "s2" / "config.json").read_text())
    assert config["pretrained_cfg"]["first_conv"] is None
    assert config["pretrained_cfg"]["input_size"][0] == config["model_args"]["in_chans"] == 13
    told = config["cromss"]
    assert (told["bands"], told["unit"]) == (list(S2.bands), "DN")
    assert (told["mean"], told["std"]) == (STATISTICS["s2"]["mean"], STATISTICS["s2"]["std"])
    segmenter = build_segmenter("unet", "resnet18", in_channels=13, num_classes=4)
    report = load_encoder(segmenter.encoder, released / "s2" / "model.safetensors", "s2")
    assert report.num_loaded == report.num_expected == 120
    assert report.bands == S2.bands
    assert report.statistics["s2"]["mean"] == STATISTICS["s2"]["mean"]


def test_the_card_says_what_a_user_needs(released):
    text = (released / "README.md").read_text()
    for word in ("license: mit", "Small twins", "Synthetic tiles.", "middle fusion", "water, trees", "| mIoU |"):
        assert word in text
    assert "| VV | -11.5 | 4.5 |" in text
    assert 'timm.create_model("local-dir:s2", pretrained=True)' in text
    assert 'timm.create_model("local-dir:.", pretrained=True)' in (released / "s1" / "README.md").read_text()


def test_the_whole_network_of_a_release_is_that_of_the_checkpoint(checkpoint, released):
    ours, theirs = (open_pretrained(str(p), "x") for p in (checkpoint, released / "pretrainer.safetensors"))
    a, b = ours.network().state_dict(), theirs.network().state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert ours.settings == theirs.settings


def published_state(reference, fusion, bands):
    """Names and shapes of the published code, with numbers that differ from each other and from place to place."""
    shapes = json.loads((reference / "checkpoint_keys.json").read_text())[f"{fusion}2_resnet18_13b"]["keys"]
    state, start = {}, 0
    for name, shape in shapes.items():
        size = [bands if side == 13 else side for side in shape]
        values = (torch.arange(start, start + math.prod(size)) % 2**24).reshape(size)
        state[name] = values if name.endswith("num_batches_tracked") else values.float()
        start += math.prod(size)
    return state


def test_published_checkpoints_become_releases_and_come_back(tmp_path, reference):
    """Of late fusion here; `tests/test_published_names.py` has both."""
    bands = 9
    state = published_state(reference, "late", bands)
    settings = argparse.Namespace(n_channels=bands)
    torch.save({"state_dict": state, "hyper_parameters": {"args": settings}}, tmp_path / "published.ckpt")
    release(ReleaseSettings(tmp_path / "published.ckpt", tmp_path / "release"))
    count = to_published_file(tmp_path / "release" / "pretrainer.safetensors", tmp_path / "back" / "again.ckpt")
    back = torch.load(tmp_path / "back" / "again.ckpt", weights_only=True)["state_dict"]
    assert count == len(state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    config = json.loads((tmp_path / "release" / "s2" / "config.json").read_text())
    assert (config["architecture"], len(config["cromss"]["bands"])) == ("resnet18", bands)
    card = told_statistics(open_checkpoint(tmp_path / "release" / "s2" / "model.safetensors"))["s2"]
    assert with_statistics(S2, card, "card") == S2


def test_a_vit_is_released_with_its_grid(tmp_path, monkeypatch, capsys):
    arguments = "--input_type s12 --model_type vit_tiny_patch16_224 --optimizer adamw"
    path = save_checkpoint(tmp_path / "vit.ckpt", arguments, encoder_name="vit_tiny_patch16_224", bands=BANDS)
    release(ReleaseSettings(path, tmp_path / "release"))
    monkeypatch.chdir(tmp_path / "release")
    names = {}
    for line in loading_lines(released_encoder(path, "s1")):
        (tmp_path / "line.py").write_text(line.code)
        names[line.package, "checkpoint_path" in line.code] = runpy.run_path(str(tmp_path / "line.py"))
    assert names.keys() == {("timm", False), ("timm", True), ("cromss", False)}
    assert "interpolated" not in capsys.readouterr().out
    models = [names["timm", bare]["encoder"].eval() for bare in (False, True)]
    own = open_pretrained(str(path), "x").network().encoders["s1"].vit.eval()
    x = images(2, settings_of(arguments).data.crop_size)
    with torch.no_grad():
        for model in models:
            torch.testing.assert_close(model.forward_features(x), own.forward_features(x), rtol=0, atol=1e-6)


def flip(folder):
    path = folder / "s1" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (flip, r"s1/model\.safetensors: changed since the release was made; get it anew"),
        (lambda folder: (folder / "s2" / "config.json").unlink(), r"s2/config\.json: missing; get the release anew"),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), r"extra\.bin: not in SHA256SUMS; remove it"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS: cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text("no sums"), "SHA256SUMS: cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text("0  ../x\n"), r"\.\./x lies outside of the release"),
    ],
)
def test_a_harmed_release_is_refused_in_one_line(copy, harm, line):
    harm(copy)
    with pytest.raises(WeightsError, match=line) as error:
        check_release(copy)
    assert "\n" not in str(error.value)


def test_a_forged_release_is_refused_by_what_timm_makes_of_it(copy):
    path = copy / "s2" / "config.json"
    config = json.loads(path.read_text())
    config["architecture"] = "resnet34"
    path.write_text(json.dumps(config))
    write_sums(copy)
    with pytest.raises(WeightsError, match=r"s2: timm .* cannot load it"):
        check_release(copy)


def test_an_interrupted_release_leaves_nothing_that_looks_whole(checkpoint, tmp_path, monkeypatch):
    settings = ReleaseSettings(checkpoint, tmp_path / "release")
    with monkeypatch.context() as patched:
        patched.setattr("cromss.training.release.write_sums", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            release(settings)
    assert not (tmp_path / "release").exists()
    release(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
    assert len(check_release(tmp_path / "release")) == 2


def test_what_cannot_be_released_is_refused_in_one_line(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*full: is there already; choose an empty folder"):
        release(ReleaseSettings(checkpoint, tmp_path / "full"))
    torch.save({"state_dict": {"model.x": torch.ones(1)}, "cromss": {"encoder_name": "resnet18"}}, tmp_path / "t.ckpt")
    with pytest.raises(WeightsError, match=r"t\.ckpt: not a checkpoint of pretraining"):
        release(ReleaseSettings(tmp_path / "t.ckpt", tmp_path / "out"))
    torch.save({"state_dict": {"layer.weight": torch.ones(1)}}, tmp_path / "bare.ckpt")
    with pytest.raises(WeightsError, match=r"bare\.ckpt: "):
        release(ReleaseSettings(tmp_path / "bare.ckpt", tmp_path / "out"))
    with pytest.raises(ValueError, match=r"--checkpoint .*full: no checkpoint in this folder"):
        release(ReleaseSettings(tmp_path / "full", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--out None: must be given with convert, and only there"):
        read(WeightsSettings, ["convert", "a.ckpt"])


def test_the_tool_inspects_converts_and_verifies(released, tmp_path, capsys, monkeypatch):
    tool = load_script("weights", REPOSITORY / "train_scripts")
    tool.main(WeightsSettings("inspect", released / "s2" / "model.safetensors"))
    assert "(64, 13, 7, 7) [s2]" in capsys.readouterr().out
    tool.main(WeightsSettings("convert", released / "pretrainer.safetensors", tmp_path / "p.ckpt"))
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'p.ckpt'}: ")
    run = []
    monkeypatch.setattr(
        "cromss.training.release._run", lambda line, folder: run.append(line.package) or "its line runs"
    )
    tool.main(WeightsSettings("verify", released))
    said = capsys.readouterr().out
    assert "every sum holds; timm loads every tensor of s1, s2" in said
    assert run == ["timm", "timm", "segmentation_models_pytorch", "torchgeo", "cromss"] * 2


def test_the_card_of_a_checkpoint_says_what_is_in_it(checkpoint):
    tensors, card = pretrainer_in(checkpoint)
    assert card["fusion"] == "mid"
    assert not [name for name in tensors if not name.startswith("model.")]
