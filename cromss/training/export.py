"""Trained networks as ONNX files that tell what they are fed and what they answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from cromss import __version__
from cromss.expected_input import expected_input
from cromss.mapping.predictor import Predictor, open_trained
from cromss.models.fusion import Pretrainer
from cromss.models.onnx_export import AnySize, require_packages, write_onnx
from cromss.settings.common import require
from cromss.settings.export import ExportSettings


@dataclass(frozen=True)
class Export:
    """An exported network.

    Attributes:
        path: The file.
        told: Its metadata.
        difference: Largest difference of a logit from PyTorch's.
    """

    path: Path
    told: dict[str, str]
    difference: float


def export(settings: ExportSettings) -> Export:
    """Write a trained network as ONNX.

    Raises:
        ValueError: A package is missing, no such checkpoint, a size or modality that the network does not take, or
            the file does not say what PyTorch does.
    """
    require_packages()
    predictor = open_trained(settings.model, "model")
    branch = _branch(predictor, settings.modality)
    predictor = predictor.fed_with([branch] if branch else predictor.bands)
    network = AnySize(predictor.network, branch).eval()
    _check_size(settings.size, network)
    channels = predictor.num_dates * sum(map(len, predictor.bands.values()))
    told = metadata(predictor, settings.size, network.least)
    return Export(settings.out, told, write_onnx(network, channels, settings.size, told, settings.out))


def metadata(predictor: Predictor, size: int, least: int) -> dict[str, str]:
    """What a file tells of itself: names -> text, or JSON where there is more than one value."""
    inputs = {
        modality: expected_input(predictor.normalizations[modality], predictor.sensors[modality], bands)
        for modality, bands in predictor.bands.items()
    }
    stacked = " then ".join(f"{modality} {' '.join(entry.bands)}" for modality, entry in inputs.items())
    dates = f", {predictor.num_dates} dates one after the other" if predictor.num_dates > 1 else ""
    answer = "it is positive where change is seen" if predictor.num_dates > 1 else "that of the class is the largest"
    shape = f"{size} x {size} pixels" if size else f"any height and width from {least} pixels"
    normalised = {modality: entry.as_plain() for modality, entry in inputs.items()}
    return {
        "made_by": f"cromss {__version__}",
        "checkpoint": Path(predictor.name.removeprefix("--model ")).name,
        "input": f"images: float32 (batch, bands, height, width), normalised, bands {stacked}{dates}",
        "output": f"logits: float32 (batch, logits, height, width); {answer}",
        "size": shape,
        "modality": " ".join(inputs),
        "bands": json.dumps({modality: list(entry.bands) for modality, entry in inputs.items()}),
        "unit": json.dumps({modality: entry.unit for modality, entry in inputs.items()}),
        "normalization": json.dumps(normalised),
        "classes": json.dumps(list(predictor.legend.classes)),
        "colours": json.dumps(list(predictor.legend.colours)),
    }


def _branch(predictor: Predictor, asked: str) -> str:
    """Branch of a pretrainer to write; nothing of a segmenter, which takes all of its modalities."""
    taken = list(predictor.bands)
    if not isinstance(predictor.network, Pretrainer):
        wanted = f"left out: {predictor.name} takes {' and '.join(taken)}, stacked"
        require(not asked, "modality", asked, wanted)
        return ""
    named = asked or (taken[0] if len(taken) == 1 else "")
    require(named in taken, "modality", asked, f"one of {', '.join(taken)}: {predictor.name} has a branch for each")
    return named


def _check_size(size: int, network: AnySize) -> None:
    wanted = "one size, such as 256: ONNX has this head (pspnet, upernet, segmenter) for one only"
    require(bool(size) or not network.one_size, "size", size, wanted)
    require(not size or size >= network.least, "size", size, f"at least {network.least}")
