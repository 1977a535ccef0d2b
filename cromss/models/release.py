"""Encoders released as folders that timm and segmentation_models_pytorch load in one line, with their input.

A folder holds `config.json`, `model.safetensors` and `README.md`, as the `local-dir:` of timm wants it. `first_conv` is
null, or older versions of timm would start the first layer anew for other than three bands.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cromss.encoder_names import OWN_FAMILIES, family, is_vit
from cromss.expected_input import ExpectedInput, expected_input
from cromss.models.found_encoders import FoundEncoder
from cromss.models.sources import SOURCES
from cromss.models.stems import Stem
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint
from cromss.models.weights import inspect, load_encoder
from cromss.normalization import WITH_STATISTICS
from cromss.sensors import MODALITIES, S2_SUBSETS
from cromss.statistics import with_statistics

CONFIG_NAME, TENSORS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
PRETRAINER_NAME, BARE_FOLDER = "pretrainer.safetensors", "torchgeo"
"""The whole network, and the folder of the encoders' bare tensors."""

RELEASABLE = "ResNets with a 7 x 7 first layer, such as resnet50 or tu-resnet50d of timm, and plain ViTs of timm"
"""Encoders that other packages have by the same names."""

_RESNETS = ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152")
"""Tried where a checkpoint does not tell its encoder, as the published ones."""


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
    stems = [stem for stem in inspect(path).stems if stem.modality == modality]
    if told and not stems:
        raise WeightsError(f"{path}: {told} cannot be released, only {RELEASABLE}")
    if len(stems) != 1:
        raise WeightsError(f"{path}: {len(stems)} encoders of {modality} in it, one is wanted")
    problems = []
    for name in (told,) if told else _RESNETS:
        architecture, model_args = _in_timm(path, str(name), stems[0], card)
        model = timm.create_model(architecture, pretrained=False, **model_args)
        try:
            report = load_encoder(model, path, modality)
        except WeightsError as error:
            problems.append(str(error))
            continue
        bands = report.bands or _bands(path, modality, stems[0].shape[1])
        return ReleasedEncoder(
            modality, architecture, model_args, bands, _statistics(report, modality, bands), model.eval(), report.sha256
        )
    raise WeightsError(problems[0])


def foreign_encoder(path: Path, found: FoundEncoder, source: str) -> ReleasedEncoder:
    """An encoder that was found in a file of anyone's, as timm has it.

    Raises:
        WeightsError: timm has no such network, it is not known what the encoder expects, or it does not load.
    """
    name = f"{path}: {found.stem.prefix or '(no prefix)'}"
    if not found.architecture:
        raise WeightsError(f"{name}: no ResNet or plain ViT that timm has; such encoders cannot be converted")
    if found.expected is None:
        raise WeightsError(f"{name}: {found.problem}")
    model = timm.create_model(found.architecture, pretrained=False, **found.model_args)
    report = load_encoder(model, path, found.modality, source)
    expected, sensor, reference = found.expected, found.sensor, SOURCES[found.source].reference
    told = expected if expected.normalization in WITH_STATISTICS else expected_input("common", sensor, expected.bands)
    statistics = {"mean": list(told.mean), "std": list(told.std), "source": sensor.source}
    return ReleasedEncoder(
        found.modality,
        found.architecture,
        found.model_args,
        expected.bands,
        statistics,
        model.eval(),
        report.sha256,
        expected.normalization,
        f"{found.source} ({reference})",
    )


def write_encoder(encoder: ReleasedEncoder, folder: Path, card: str) -> None:
    """Write a folder; its files are replaced whole.

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


def _card(path: Path) -> Mapping[str, Any]:
    content = open_checkpoint(path)
    card = content.get("cromss") if isinstance(content, Mapping) else None
    return card if isinstance(card, Mapping) else {}


def _in_timm(path: Path, name: str, stem: Stem, card: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which timm builds an encoder."""
    architecture = name.removeprefix("tu-")
    if family(name) in OWN_FAMILIES or not timm.is_model(architecture):
        raise WeightsError(f"{path}: {name} cannot be released, only {RELEASABLE}")
    model_args: dict[str, Any] = {"in_chans": stem.shape[1], "num_classes": 0}
    if is_vit(name):
        settings = card.get("settings", {})
        patch = stem.shape[-1]
        model_args |= {"patch_size": patch, "img_size": int(settings.get("image_size") or settings["crop_size"])}
    return architecture, model_args


def _bands(path: Path, modality: str, count: int) -> tuple[str, ...]:
    """Bands of a checkpoint that does not name them, by their number."""
    known = {len(MODALITIES[modality].bands): MODALITIES[modality].bands}
    if modality == "s2":
        known |= S2_SUBSETS
    if count not in known:
        raise WeightsError(f"{path}: {count} bands of {modality}, which the file does not name")
    return tuple(known[count])


def _statistics(report: Any, modality: str, bands: Sequence[str]) -> dict[str, Any]:
    """Mean and standard deviation of the bands fed: those of the checkpoint's card, else the built-in ones."""
    told = report.statistics.get(modality, {})
    sensor = with_statistics(MODALITIES[modality], told, str(told.get("source") or "the set it was trained on"))
    places = sensor.indices(tuple(bands))
    return {name: [getattr(sensor, name)[i] for i in places] for name in ("mean", "std")} | {"source": sensor.source}
