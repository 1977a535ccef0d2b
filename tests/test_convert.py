"""What a weights file of anyone's expects of its input, and its way into a release that other tools load."""

import json

import numpy as np
import pytest
import timm
import torch
from conftest import REPOSITORY, load_script
from foreign import bare, behind, decur, dino, holds, late, mid, moco, satlas, save, tensors
from safetensors.torch import load_file

from cromss.config import read
from cromss.expected_input import STEPS, expected_input
from cromss.models import build_segmenter
from cromss.models.found_encoders import found_encoders
from cromss.models.release_check import check_release, read_encoder
from cromss.models.weights import WeightsError, load_encoder
from cromss.normalization import NORMALIZATIONS, STANDARD
from cromss.sensors import MODALITIES, ORTHO, S1, S2, S2_SUBSETS
from cromss.settings.release import WeightsSettings
from cromss.training.model_card import loading_lines
from cromss.training.release import to_release, verify

pytestmark = pytest.mark.usefixtures("one_thread")

# file: how it is made, its bands, source asked for | by modality: bands, unit, normalisation, mean of the first band
INPUTS = {
    "moco": (moco, 13, "auto", {"s2": (S2.bands, "DN", "reflectance", None)}),
    "moco-s1": (moco, 2, "auto", {"s1": (S1.bands, "dB", "standard", -12.59)}),
    "dino": (dino, 13, "auto", {"s2": (S2.bands, "DN", "reflectance", None)}),
    "decur": (
        *(decur, 13, "auto"),
        {"s1": (S1.bands, "dB", "standard", -12.59), "s2": (S2.bands, "DN", "reflectance", None)},
    ),
    "satlas": (satlas, 9, "auto", {"s2": (S2_SUBSETS[92], "DN", "satlas", None)}),
    "softcon": (bare, 13, "softcon", {"s2": (S2.bands, "DN", "standard", 1612.9)}),
    "imagenet": (bare, 3, "imagenet", {"s2": (S2_SUBSETS[3], "DN", "imagenet", 0.485)}),
    "cromss-mid": (
        *(mid, 9, "auto"),
        {
            "s1": (S1.bands, "dB", "common", -12.54847273),
            "s2": (S2_SUBSETS[9], "DN", "common", 1390.78157673),
        },
    ),
    "cromss-late": (
        *(late, 13, "auto"),
        {
            "s1": (S1.bands, "dB", "common", -12.54847273),
            "s2": (S2.bands, "DN", "common", 1605.57504906),
        },
    ),
}


@pytest.mark.parametrize(("make", "bands", "source", "wanted"), INPUTS.values(), ids=INPUTS)
def test_inspection_says_what_an_encoder_expects(tmp_path, make, bands, source, wanted):
    path = save(make(bands), tmp_path / "w.pt")
    found = {e.modality: e for e in found_encoders(path, source=source) if "encoder_k" not in e.stem.prefix}
    assert found.keys() == wanted.keys()
    for modality, (names, unit, normalization, first) in wanted.items():
        encoder = found[modality]
        assert (encoder.architecture, encoder.num_matched) == ("resnet18", 120)
        told = encoder.expected
        assert (told.bands, told.unit, told.normalization) == (names, unit, normalization)
        assert (told.mean[0] if told.mean else None) == first
        assert len(told.mean) == len(told.std) == (len(names) if first else 0)
        assert f"bands {' '.join(names)}, {unit}, {normalization} normalization" in str(encoder)


def test_what_is_told_of_statistics_names_no_file(tmp_path):
    told = {"mean": [1.0] * 13, "std": [2.0] * 13}
    for source, wanted in ({}, "the set it was trained on"), ({"source": "my tiles"}, "my tiles"):
        card = {"normalization": {"s2": "common"}, "statistics": {"s2": told | source}}
        path = save({"state_dict": bare(13), "cromss": card}, tmp_path / "w.pt")
        (found,) = found_encoders(path)
        assert (found.sensor.source, found.expected.mean) == (wanted, (1.0,) * 13)


def test_four_bands_of_orthophotos_are_known_in_our_own_files_alone(tmp_path):
    path = save(behind("model.networks.ortho.encoder.", 4), tmp_path / "own.pt")
    assert found_encoders(path)[0].expected.bands == ORTHO.bands
    path = save(behind("module.encoder_q.", 4), tmp_path / "moco.pt")
    assert "4 bands of ortho, which the file does not name" in found_encoders(path, "ortho")[0].problem


def test_the_tool_prints_it(tmp_path, capsys):
    path = save(bare(13, "resnet50"), tmp_path / "w.pt")
    tool = load_script("weights", REPOSITORY / "train_scripts")
    tool.main(WeightsSettings("inspect", path))
    head, line = capsys.readouterr().out.splitlines()
    assert "(sha256 " in head
    assert "bare: 320 tensors" in head
    assert line.startswith("  (no prefix): s2, bare, 318/318 tensors of resnet50; input: the file does not tell whose")
    assert "name the --source (cromss, moco" in line
    tool.main(WeightsSettings("inspect", path, source="softcon"))
    assert "(value - mean) / std; mean 1612.9 1397.6" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_steps_in_words_are_what_the_normalisation_does(name):
    """The words, done by hand in NumPy with the numbers told, beside the function."""
    sensor, bands = S2, S2_SUBSETS[{"imagenet": 3, "dofa": 92, "satlas": 92}.get(name, 13)]
    values = np.random.default_rng(0).uniform(0, 9000, (len(bands), 4, 4))
    told = expected_input(name, sensor, bands)
    mean, std = (np.array(v or [0.0] * len(bands))[:, None, None] for v in (told.mean, told.std))
    red_green_blue = np.isin(bands, S2_SUBSETS[3])[:, None, None]
    as_satlas = np.clip(values / np.where(red_green_blue, 3558, 8160), 0, 1)
    clipped = np.clip(values, mean - 2 * std, mean + 2 * std)
    if name in ("common", "satmae"):
        wanted = np.floor((clipped - (mean - 2 * std)) / (4 * std) * 255 + 1e-9)
    else:
        wanted = {
            "zscore": lambda: (clipped - mean) / std,
            "reflectance": lambda: np.clip(values / 10000, 0, 1),
            "standard": lambda: (values - mean) / std,
            "satlas": lambda: as_satlas,
            "imagenet": lambda: (np.clip(values / 3558, 0, 1) - mean) / std,
            "dofa": lambda: (255 * as_satlas - mean) / std,
        }[name]()
    np.testing.assert_allclose(NORMALIZATIONS[name](values, sensor, bands), wanted, atol=1e-4)
    assert told.steps == STEPS[name]


def test_statistics_of_other_sensors():
    assert expected_input("standard", S1, ("VH",)).mean == (STANDARD["s1"][0][1],)
    assert "1 and 99 percentiles" in expected_input("zscore", S1, S1.bands).steps
    assert expected_input("common", ORTHO, ("R", "G")).unit == "8 bit"
    with pytest.raises(ValueError, match="dofa normalization: no statistics of B1"):
        expected_input("dofa", S2, ("B1",))


@pytest.mark.parametrize(
    ("make", "bands", "source", "modalities"),
    [(moco, 13, "auto", ["s2"]), (decur, 13, "auto", ["s1", "s2"])],
    ids=["moco", "decur"],
)
def test_weights_of_others_become_a_release(tmp_path, make, bands, source, modalities):
    path, out = save(make(bands), tmp_path / "w.pt"), tmp_path / "release"
    to_release(WeightsSettings("convert", path, out, source=source))
    assert [folder.name for folder in check_release(out)] == modalities
    for modality in modalities:
        count = len(MODALITIES[modality].bands)
        assert holds(timm.create_model(f"local-dir:{out / modality}", pretrained=True), tensors(count))
        told = found_encoders(path, source=source)
        expected = next(e.expected for e in told if e.modality == modality)
        config = json.loads((out / modality / "config.json").read_text())
        assert config["pretrained_cfg"]["first_conv"] is None
        assert config["cromss"]["normalization"] == f"{expected.normalization}: {expected.steps}"
        assert config["cromss"]["mean"] == list(expected.mean)
        segmenter = build_segmenter("unet", "resnet18", in_channels=count, num_classes=4)
        report = load_encoder(segmenter.encoder, out / modality / "model.safetensors", modality)
        assert report.normalization == {modality: expected.normalization}
        assert report.bands == MODALITIES[modality].bands


def test_a_converted_release_is_verified(tmp_path, monkeypatch):
    to_release(WeightsSettings("convert", save(satlas(), tmp_path / "w.pt"), tmp_path / "release"))
    run = []
    monkeypatch.setattr("cromss.training.release._run", lambda line, folder: run.append(line.code) or "its line runs")
    assert "timm loads every tensor of s2" in verify(tmp_path / "release")[0]
    assert run == [line.code for line in loading_lines(read_encoder(tmp_path / "release" / "s2"))]
    assert '"tu-resnet18", in_channels=9' in run[-1]
    told = found_encoders(tmp_path / "release" / "s2" / "model.safetensors")[0]
    assert (told.expected.normalization, told.expected.bands) == ("satlas", S2_SUBSETS[92])
    card = (tmp_path / "release" / "README.md").read_text()
    assert "Licence: that of the weights converted." in card
    assert "satlas (arXiv 2211.15660)" in card


def vit(bands=13, depth=12, patch=16):
    model = timm.create_model("vit_tiny_patch16_224", in_chans=bands, num_classes=0, img_size=64, patch_size=patch)
    return {"model": {**model.state_dict(), "decoder_pos_embed": torch.zeros(1, 17, 8)}}


def test_a_vit_becomes_a_release_with_its_grid(tmp_path):
    content = vit()
    path = save(content, tmp_path / "mae.pth")
    to_release(WeightsSettings("convert", path, tmp_path / "release"))
    model = timm.create_model(f"local-dir:{tmp_path / 'release' / 's2'}", pretrained=True)
    assert model.patch_embed.grid_size == (4, 4)
    saved = load_file(tmp_path / "release" / "s2" / "model.safetensors")
    assert saved.keys() == content["model"].keys() - {"decoder_pos_embed"}
    assert all(torch.equal(saved[name], tensor) for name, tensor in content["model"].items() if name in saved)
    assert "s2, mae, 150/150 tensors of vit_tiny_patch16_224" in str(found_encoders(path)[0])


def without_a_scale(bands=13):
    return {name: value for name, value in bare(bands).items() if name != "layer4.1.bn2.weight"}


@pytest.mark.parametrize(
    ("content", "flags", "line"),
    [
        (bare(13), "", r"\(no prefix\): the file does not tell whose weights these are; name the --source \(cromss"),
        (bare(4), "--source moco", "the file does not tell the sensor; name its --modality"),
        (bare(4), "--source moco --modality s2", "4 bands of s2, which the file does not name"),
        (bare(13), "--source imagnet", "source 'imagnet': choose one of auto, cromss, moco"),
        (bare(2), "--source satlas", "satlas weights have none for s1, only for s2"),
        (without_a_scale(), "--source moco", "no ResNet or plain ViT that timm has; such encoders cannot be converted"),
        ({"a.weight": torch.ones(1)}, "", "no ResNet or ViT in it"),
    ],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, content, flags, line):
    path = save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=f"w.pt: .*{line}|^{line}") as error:
        to_release(read(WeightsSettings, ["convert", str(path), "--out", str(tmp_path / "out"), *flags.split()]))
    assert "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.pt"]


def test_the_normalisation_can_be_told(tmp_path):
    path = save(bare(3), tmp_path / "w.pt")
    flags = ["--source", "bare", "--modality", "s2", "--normalization", "imagenet"]
    to_release(read(WeightsSettings, ["convert", str(path), "--out", str(tmp_path / "out"), *flags]))
    assert json.loads((tmp_path / "out" / "s2" / "config.json").read_text())["cromss"]["mean"] == [0.485, 0.456, 0.406]
