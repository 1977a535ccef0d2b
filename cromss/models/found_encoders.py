"""The encoders in a weights file of anyone's: which network of timm each fills, and what it expects of its input."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from cromss.expected_input import ExpectedInput, expected_input
from cromss.models.sources import FILE_SOURCES, SOURCES, native_normalization, source_of
from cromss.models.stems import Stem, find_stems
from cromss.models.strict_loading import Undrawn, pick
from cromss.models.weight_files import (
    CARD_KEY,
    WeightsError,
    open_checkpoint,
    tensors_in,
    told_bands,
    told_normalization,
    told_statistics,
)
from cromss.sensors import MODALITIES, ORTHO, S1, S2, S2_SUBSETS, Modality
from cromss.statistics import with_statistics

RESNETS = ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152")
"""Tried where a checkpoint does not tell its encoder."""

_VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""Width and depth -> size in timm's names."""


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder in a file.

    Attributes:
        stem: Where it is, and its first layer.
        modality: `"s1"`, `"s2"`, `"ortho"`, `"common"`, or `None` where nothing tells.
        source: Whose weights these are, a name in `SOURCES`.
        architecture: The network of timm that it fills whole; empty if there is none.
        model_args: What `timm.create_model` is given beside.
        num_matched: Tensors that it fills there.
        sensor: The sensor, with the statistics that the file tells; `None` where the modality is unknown.
        expected: What it expects of its input; `None` where that is not known.
        problem: Why not.
    """

    stem: Stem
    modality: str | None
    source: str
    architecture: str
    model_args: Mapping[str, Any]
    num_matched: int
    sensor: Modality | None
    expected: ExpectedInput | None
    problem: str = ""

    def __str__(self) -> str:
        fits = f"{self.num_matched}/{self.num_matched} tensors of {self.architecture}" if self.architecture else ""
        head = f"{self.stem.prefix or '(no prefix)'}: {self.modality or 'unknown sensor'}, {self.source}"
        return f"{head}, {fits or f'{self.stem.kind}, no network of timm'}; input: {self.expected or self.problem}"


def found_encoders(
    path: str | Path, modality: str | None = None, source: str = "auto", normalization: str = ""
) -> list[FoundEncoder]:
    """All encoders in a file.

    Args:
        path: The file.
        modality: Theirs, where neither names nor the number of bands tell.
        source: Whose weights they are, a name in `FILE_SOURCES`; `"auto"` goes by the layout.
        normalization: What they were trained with, where neither file nor source tells.

    Raises:
        WeightsError: The file is missing, damaged, or holds code; no such source.
    """
    if source not in ("auto", *FILE_SOURCES):
        raise WeightsError(f"source {source!r}: choose one of auto, {', '.join(FILE_SOURCES)}")
    content = open_checkpoint(Path(path))
    state_dict = tensors_in(content, path)
    return [_found(content, state_dict, stem, modality, source, normalization) for stem in find_stems(state_dict)]


def _found(
    content: object,
    state_dict: Mapping[str, torch.Tensor],
    stem: Stem,
    modality: str | None,
    source: str,
    asked: str,
) -> FoundEncoder:
    count = stem.shape[1]
    whose = source if source != "auto" else source_of(stem.layout, count, stem.kind)
    sensor_name = stem.modality or modality or (S2.name if count in SOURCES[whose].bands else None)
    architecture, model_args, matched = _network_of(content, state_dict, stem)
    sensor = expected = None
    problem = "the file does not tell the sensor; name its --modality"
    if sensor_name == "common":
        problem = "both sensors stacked, each as for its own encoder"
    elif sensor_name is not None:
        try:
            told = told_statistics(content).get(sensor_name, {})
            told_by = str(told.get("source") or "the set it was trained on")
            sensor = with_statistics(MODALITIES[sensor_name], told, told_by)
            bands = _bands(content, whose, sensor_name, count)
            name = asked or told_normalization(content).get(sensor_name) or native_normalization(whose, sensor_name)
            expected = expected_input(name, sensor, bands)
        except ValueError as error:
            problem = str(error).removeprefix("--normalization native: ").split(", or choose")[0]
            problem = problem.replace("--weight_source", "--source")
    return FoundEncoder(stem, sensor_name, whose, architecture, model_args, matched, sensor, expected, problem)


def _bands(content: object, source: str, modality: str, count: int | None) -> tuple[str, ...]:
    """Names of an encoder's bands: as the file tells them, as its source has them, or by their number."""
    fixed = SOURCES[source].bands.get(count)
    named = told_bands(content, modality, count) or fixed or _by_number(source, modality, count)
    if named is None and count is None:
        return tuple(MODALITIES[modality].bands)
    if named is None or not set(named) <= set(MODALITIES[modality].bands):
        raise ValueError(f"{count} bands of {modality}, which the file does not name")
    return tuple(named)


def _by_number(source: str, modality: str, count: int | None) -> tuple[str, ...] | None:
    """Bands that their number tells; those of orthophotos in our files alone, for others may order them otherwise."""
    known = {S1.name: [S1.bands], S2.name: [bands for number, bands in S2_SUBSETS.items() if number != 92]}
    known |= {ORTHO.name: [ORTHO.bands]} if source == "cromss" else {}
    return next((bands for bands in known.get(modality, ()) if len(bands) == count), None)


def _network_of(content: object, state_dict: Mapping[str, torch.Tensor], stem: Stem) -> tuple[str, dict[str, Any], int]:
    """Name and arguments of the network of timm that an encoder fills whole, and its number of tensors."""
    for name, model_args in _candidates(content, state_dict, stem):
        with torch.device("meta"), Undrawn():
            model = timm.create_model(name, pretrained=False, **model_args)
        found, problems = pick(state_dict, stem.prefix, model)
        if not problems:
            return name, model_args, len(found)
    return "", {}, 0


def _candidates(
    content: object, state_dict: Mapping[str, torch.Tensor], stem: Stem
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of networks of timm that may fit."""
    model_args: dict[str, Any] = {"in_chans": stem.shape[1], "num_classes": 0}
    if stem.kind == "resnet":
        card = content.get(CARD_KEY) if isinstance(content, Mapping) else None
        told = str(card.get("encoder_name", "")).removeprefix("tu-") if isinstance(card, Mapping) else ""
        names = [name for name in (told, *RESNETS) if name and timm.is_model(name)]
        yield from ((name, model_args) for name in dict.fromkeys(names))
    positions = state_dict.get(stem.prefix + "pos_embed")
    size = _VITS.get((stem.shape[0], stem.depth))
    if stem.kind == "vit" and size and positions is not None and positions.ndim == 3:
        patch = stem.shape[-1]
        side = patch * math.isqrt(max(positions.shape[1] - 1, 0))
        yield f"vit_{size}_patch16_224", model_args | {"patch_size": patch, "img_size": side}
