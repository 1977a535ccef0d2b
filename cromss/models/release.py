"""Encoders released as folders that timm and segmentation_models_pytorch load in one line, with their input.

A folder holds `config.json`, `model.safetensors` and `README.md`, as the `local-dir:` of timm wants it. `first_conv` is
null, or older versions of timm would start the first layer anew for other than three bands.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cromss.encoder_names import OWN_FAMILIES, family, is_vit
from cromss.expected_input import ExpectedInput, expected_input
from cromss.models.found_encoders import RESNETS, FoundEncoder, found_encoders
from cromss.models.sources import SOURCES
from cromss.models.stems import Stem
from cromss.models.strict_loading import Undrawn
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint
from cromss.models.weights import load_encoder
from cromss.normalization import WITH_STATISTICS
from cromss.sensors import MODALITIES

CONFIG_NAME, TENSORS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
PRETRAINER_NAME, BARE_FOLDER = "pretrainer.safetensors", "torchgeo"
"""The whole network, and the folder of the encoders' bare tensors."""

RELEASABLE = "ResNets with a 7 x 7 first layer, such as resnet50 or tu-resnet50d of timm, and plain ViTs of timm"
"""Encoders that other packages have by the same names."""


@dataclass(frozen=True)
class ReleasedEncoder:
    """An encoder ready to be written.

    Attributes:
        modality: `"s1"`, `"s2"` or `"ortho"`.
        architecture: Its name in timm.
        model_args: What `timm.create_model` is given beside.
        bands: Names of the input bands, in order.
        statistics: `mean` and `std` by band, and their `source`.
        model: The encoder as timm has it, without classifier, in evaluation mode.
        sha256: First digits of the checkpoint's SHA-256.
        normalization: What it was trained with, a name in `cromss.normalization.NORMALIZATIONS`.
        origin: Whose weights they are, in words.
    """

    modality: str
    architecture: str
    model_args: Mapping[str, Any]
    bands: tuple[str, ...]
    statistics: Mapping[str, Any]
    model: nn.Module
    sha256: str
    normalization: str = "common"
    origin: str = ""

    @property
    def expected(self) -> ExpectedInput:
        """What it expects of its input."""
        sensor = MODALITIES[self.modality]
        if self.normalization not in WITH_STATISTICS:
            return expected_input(self.normalization, sensor, self.bands)
        own = {name: tuple(self.statistics[name]) for name in ("mean", "std")}
        return replace(expected_input(self.normalization, sensor, self.bands), **own)

    @property
    def card(self) -> dict[str, Any]:
        """What our own loader is told beside the tensors."""
        sensor, statistics = MODALITIES[self.modality], {"source": self.statistics["source"]}
        for name in ("mean", "std"):  # of all bands, as sensors have them
            fed = dict(zip(self.bands, self.statistics[name]))
            statistics[name] = [fed.get(band, own) for band, own in zip(sensor.bands, getattr(sensor, name))]
        statistics["bands"] = list(sensor.bands)
        return {
            "bands": {self.modality: list(self.bands)},
            "normalization": {self.modality: self.normalization},
            "statistics": {self.modality: statistics},
        }

    @property
    def config(self) -> dict[str, Any]:
        """Contents of `config.json`: timm's, and under `cromss` what the input must be."""
        expected, side = self.expected, self.model_args.get("img_size", 224)
        count = len(self.bands)
        return {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.model.num_features,
            "model_args": dict(self.model_args),
            "pretrained_cfg": {
                "input_size": [count, side, side],
                "fixed_input_size": False,
                "num_classes": 0,
                "first_conv": None,
                "classifier": None,
                "mean": [0.0] * count,
                "std": [1.0] * count,
                "interpolation": "bicubic",
            },
            "cromss": {
                "modality": self.modality,
                "bands": list(self.bands),
                "unit": expected.unit,
                "normalization": f"{expected.normalization}: {expected.steps}",
                "mean": list(expected.mean),
                "std": list(expected.std),
                "statistics": self.statistics["source"],
                "origin": self.origin,
                "checkpoint_sha256": self.sha256,
            },
        }


def save_tensors(tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any], path: Path) -> None:
    """Write tensors and a card of plain values, which `open_checkpoint` reads back together."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, {"format": "pt", CARD_KEY: json.dumps(card)})
    path.chmod(0o644)  # it would be for its owner alone


def released_encoder(checkpoint: str | Path, modality: str) -> ReleasedEncoder:
    """An encoder of a checkpoint of ours, or of a published one of CromSS, as timm has it.

    Raises:
        WeightsError: No such encoder in it, or timm has none of these names and shapes.
    """
    path = Path(checkpoint)
    card = _card(path)
    told = card.get("encoder_name") or card.get("settings", {}).get("model_type")
    found = [encoder for encoder in found_encoders(path) if encoder.stem.modality == modality]
    if told and not found:
        raise WeightsError(f"{path}: {told} cannot be released, only {RELEASABLE}")
    if len(found) != 1:
        raise WeightsError(f"{path}: {len(found)} encoders of {modality} in it, one is wanted")
    name = str(told or found[0].architecture or RESNETS[0])
    architecture, model_args = _in_timm(path, name, found[0].stem, card)
    return _loaded(path, replace(found[0], architecture=architecture, model_args=model_args))


def foreign_encoder(path: Path, found: FoundEncoder, source: str) -> ReleasedEncoder:
    """An encoder that was found in a file of anyone's, as timm has it.

    Raises:
        WeightsError: timm has no such network, it is not known what the encoder expects, or it does not load.
    """
    if not found.architecture:
        name = f"{path}: {found.stem.prefix or '(no prefix)'}"
        raise WeightsError(f"{name}: no ResNet or plain ViT that timm has; such encoders cannot be converted")
    return replace(_loaded(path, found, source), origin=f"{found.source} ({SOURCES[found.source].reference})")


def write_encoder(encoder: ReleasedEncoder, folder: Path, card: str) -> None:
    """Write an encoder, its `config.json` and its `README.md`, file after file: for a folder nobody reads yet.

    Args:
        encoder: What to write.
        folder: Where; made if it is not there.
        card: Text of its `README.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = encoder.config
    save_tensors(encoder.model.state_dict(), encoder.card, folder / TENSORS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def _loaded(path: Path, found: FoundEncoder, source: str = "auto") -> ReleasedEncoder:
    """The network of timm that was found, with the tensors of the file and the input they expect."""
    if found.expected is None:
        raise WeightsError(f"{path}: {found.stem.prefix or '(no prefix)'}: {found.problem}")
    with Undrawn():
        model = timm.create_model(found.architecture, pretrained=False, **found.model_args)
    report = load_encoder(model, path, found.modality, source)
    expected, sensor = found.expected, found.sensor
    told = expected if expected.normalization in WITH_STATISTICS else expected_input("common", sensor, expected.bands)
    return ReleasedEncoder(
        found.modality,
        found.architecture,
        found.model_args,
        expected.bands,
        {"mean": list(told.mean), "std": list(told.std), "source": sensor.source},
        model.eval(),
        report.sha256,
        expected.normalization,
    )


def _card(path: Path) -> Mapping[str, Any]:
    content = open_checkpoint(path)
    card = content.get(CARD_KEY) if isinstance(content, Mapping) else None
    return card if isinstance(card, Mapping) else {}


def _in_timm(path: Path, name: str, stem: Stem, card: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which timm builds an encoder."""
    architecture = name.removeprefix("tu-")
    if family(name) in OWN_FAMILIES or not timm.is_model(architecture):
        raise WeightsError(f"{path}: {name} cannot be released, only {RELEASABLE}")
    model_args: dict[str, Any] = {"in_chans": stem.shape[1], "num_classes": 0}
    if is_vit(name):
        settings = card.get("settings", {})
        side = settings.get("image_size") or settings.get("crop_size")
        if not side:
            raise WeightsError(f"{path}: crop_size is not on its card, so the grid of the ViT is not known")
        model_args |= {"patch_size": stem.shape[-1], "img_size": int(side)}
    return architecture, model_args
