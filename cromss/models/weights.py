"""Encoder and decoder weights from anybody's file: look inside, load strictly, all or nothing.

A file is a table of tensors behind some prefix. The encoder's stem (its first convolution) is looked
up by name, whatever stands before it is the prefix, and every tensor of the encoder must be found
behind it with its own shape. A decoder stands beside its encoder.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cromss.models.segmenter import Segmenter
from cromss.models.sources import FILE_SOURCES, SOURCES, source_of
from cromss.models.stems import Stem, find_stems, listed
from cromss.models.weight_files import (
    WeightsError,
    open_checkpoint,
    read_state_dict,
    tensors_in,
    told_bands,
    told_normalization,
)
from cromss.sensors import canonical_band

LOAD_TAGS = ("encoder", "de1", "de2", "de3", "de4", "wocls", "all")
"""What `load_segmenter` loads: the encoder, with the first decoder blocks, the whole decoder, or also the head."""

_ENCODER_IN_PREFIX = re.compile(r"((encoder\.)?encoders\.\w+|encoder\w*)\.(model\.)?$")

_ADVICE = {
    "encoder": "--model_type must be the encoder of these weights",
    "decoder": "--weight_load_tag encoder needs none",
    "segmentation_head": "--weight_load_tag wocls needs none",
}


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file holds, and what was loaded of it.

    Attributes:
        path: The file.
        sha256: First 12 hex digits of its SHA-256.
        num_tensors: Tensors in the file.
        stems: Encoders found (ResNet stems when only inspected).
        layout: Its layout, one of `LAYOUTS`; `"unknown"` where no stem tells.
        source: Whose weights they are, a name in `SOURCES`: as told, else by the layout.
        prefix: Prefix of the encoder loaded; when only inspected, of the only one found, else `None`.
        in_channels: Number of bands of that encoder, or `None`.
        modality: Modality of that encoder, as the file tells or as asked for, or `None`.
        num_loaded: Tensors loaded; 0 when only inspected.
        num_expected: Tensors wanted. Old files lack BatchNorm's step counters, then set to 0; nothing
            else may be missing.
        parts: Part of the network -> tensors loaded into it.
        bands: Names of that encoder's bands in order, where the checkpoint tells them (ours do).
        normalization: Modality -> name, where the checkpoint tells how its input was normalised (ours of
            transfer do).
    """

    path: Path
    sha256: str
    num_tensors: int
    stems: tuple[Stem, ...]
    layout: str = "unknown"
    source: str = "bare"
    prefix: str | None = None
    in_channels: int | None = None
    modality: str | None = None
    num_loaded: int = 0
    num_expected: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    bands: tuple[str, ...] | None = None
    normalization: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        whose = self.layout if self.layout == self.source else f"{self.source} ({self.layout})"
        head = f"{self.path} (sha256 {self.sha256}), {whose}: "
        if not self.num_loaded:
            return head + f"{self.num_tensors} tensors, encoders: {listed(self.stems)}"
        parts = ", ".join(f"{part} {count}" for part, count in self.parts.items())
        origin = f"{self.prefix or '(no prefix)'}, {self.modality or 'unknown sensor'}, {self.in_channels} bands"
        return head + f"{self.num_loaded}/{self.num_expected} tensors ({parts}) from {origin}"


def inspect(path: str | Path) -> WeightsReport:
    """Say which ResNet encoders a weights file holds.

    Raises:
        WeightsError: The file is missing, damaged, or holds code.
    """
    state_dict = read_state_dict(path)
    stems = find_stems(state_dict)
    return WeightsReport(Path(path), _sha256(path), len(state_dict), stems, **_origin(stems))


def load_encoder(
    encoder: nn.Module, path: str | Path, modality: str | None = None, source: str = "auto"
) -> WeightsReport:
    """Load an encoder from a checkpoint of any known layout, every tensor or none.

    Classification layers and whatever else lies in the file are left out; the encoder's own parts
    must match exactly, in names and shapes.

    Args:
        encoder: The encoder of a segmenter or pretrainer; its band count chooses among the encoders
            of the file.
        path: A PyTorch checkpoint or a `.safetensors` file.
        modality: `"s1"`, `"s2"` or `"common"` where the band count alone does not decide.
        source: Whose weights they are, a name in `FILE_SOURCES`; `"auto"` goes by the layout.

    Returns:
        What was loaded.

    Raises:
        WeightsError: The file is missing, damaged, or holds code; no encoder in it fits, or more
            than one does; the depth differs. The encoder is then unchanged.
    """
    return _load(path, encoder, {}, modality, source)


def load_segmenter(
    segmenter: Segmenter, path: str | Path, modality: str | None = None, tag: str = "encoder", source: str = "auto"
) -> WeightsReport:
    """Load an encoder of a segmenter and, of a U-Net, what the tag says beside it; every tensor or none.

    Middle fusion has one decoder for all modalities, late fusion that of the encoder loaded.

    Args:
        segmenter: Encoder, decoder and head to fill.
        path: A checkpoint of this package or a published CromSS one; any other where the tag is `"encoder"`.
        modality: As in `load_encoder`; of twins, the encoder to load.
        tag: One of `LOAD_TAGS`.
        source: As in `load_encoder`.

    Returns:
        What was loaded, by part.

    Raises:
        WeightsError: As in `load_encoder`; also a decoder or head asked for that is not there, differs, or
            belongs to another architecture than U-Net. The segmenter is then unchanged.
    """
    if tag not in LOAD_TAGS:
        raise WeightsError(f"tag {tag!r}: choose one of {', '.join(LOAD_TAGS)}")
    if tag != "encoder" and segmenter.architecture != "unet":
        raise WeightsError(f"tag {tag!r}: only unet has the decoder of these weights, not {segmenter.architecture}")
    encoders = segmenter.encoders
    if "images" not in encoders and modality not in encoders:
        raise WeightsError(f"modality {modality!r}: this model has encoders for {', '.join(encoders)}, name one")
    encoder = encoders[modality] if modality in encoders else encoders["images"]
    return _load(path, encoder, _beside(segmenter.network, tag), modality, source)


def check_bands(report: WeightsReport, bands: Sequence[str]) -> None:
    """Refuse weights that were trained on other bands, or on another order of them, than are fed.

    Raises:
        WeightsError: The file tells its bands, or its source has fixed ones, and they differ.
    """
    trained = report.bands or SOURCES[report.source].bands.get(report.in_channels)
    if trained is not None and tuple(map(canonical_band, trained)) != tuple(map(canonical_band, bands)):
        raise WeightsError(f"{report.path}: trained on bands {' '.join(trained)}, but {' '.join(bands)} are fed")


def _beside(network: nn.Module, tag: str) -> dict[str, nn.Module]:
    """What a tag asks for beside the encoder, by name."""
    if tag == "encoder":
        return {}
    if tag.startswith("de"):
        blocks, count = network.decoder.blocks, int(tag[2:])
        if count > len(blocks):
            raise WeightsError(f"tag {tag!r}: this decoder has {len(blocks)} blocks")
        return {f"decoder.blocks.{i}": blocks[i] for i in range(count)}
    whole = {"decoder": network.decoder}
    return whole | {"segmentation_head": network.segmentation_head} if tag == "all" else whole


def _load(
    path: str | Path, encoder: nn.Module, beside: Mapping[str, nn.Module], modality: str | None, source: str
) -> WeightsReport:
    if source not in ("auto", *FILE_SOURCES):
        raise WeightsError(f"source {source!r}: choose one of auto, {', '.join(FILE_SOURCES)}")
    content = open_checkpoint(Path(path))
    state_dict = tensors_in(content, path)
    stem_name, stem = next((name, tensor) for name, tensor in _own_names(encoder).items() if tensor.ndim == 4)
    stems = find_stems(state_dict, stem_name, tuple(stem.shape[2:]))
    chosen = _choose(path, stems, stem.shape[1], modality, source)
    parts = {"encoder": (encoder, chosen.prefix)}
    for part, module in beside.items():
        parts[part] = (module, _ENCODER_IN_PREFIX.sub("", chosen.prefix) + part + ".")
    found = {part: _strict(path, state_dict, prefix, part, module, stems) for part, (module, prefix) in parts.items()}
    for part, (module, _) in parts.items():
        _fill(module, found[part])
    sensor = chosen.modality or modality
    origin = _origin((chosen,)) | {"modality": sensor} | ({} if source == "auto" else {"source": source})
    return WeightsReport(
        Path(path),
        _sha256(path),
        len(state_dict),
        stems,
        **origin,
        num_loaded=sum(map(len, found.values())),
        num_expected=sum(len(module.state_dict()) for module, _ in parts.values()),
        parts={part: len(tensors) for part, tensors in found.items()},
        bands=told_bands(content, sensor, chosen.shape[1]),
        normalization=told_normalization(content),
    )


def _choose(path: str | Path, stems: tuple[Stem, ...], bands: int, modality: str | None, source: str) -> Stem:
    fitting = [
        stem
        for stem in stems
        if stem.shape[1] == bands
        and (modality is None or stem.modality in (None, modality))
        and (source == "auto" or stem.layout in SOURCES[source].accepted)
    ]
    fitting = [stem for stem in fitting if "encoder_q" in stem.prefix or "teacher" in stem.prefix] or fitting
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{bands} bands" + (f" of {modality}" if modality else "") + (f" in {source}" if source != "auto" else "")
    problem = f"more than one encoder takes {wanted}, name the modality" if fitting else f"no encoder takes {wanted}"
    raise WeightsError(f"{path}: {problem}; found {listed(stems)}")


def _own_names(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's tensors by the names foreign files use: timm's wrapper adds `model.` to all of them."""
    tensors = module.state_dict()
    wrapped = all(name.startswith("model.") for name in tensors)
    return {name.removeprefix("model.") if wrapped else name: tensor for name, tensor in tensors.items()}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _strict(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    prefix: str,
    part: str,
    module: nn.Module,
    stems: tuple[Stem, ...],
) -> dict[str, torch.Tensor]:
    """A part's tensors from the file, by the part's own names; all of them, or an error."""
    own = _own_names(module)
    first_names = {name.split(".")[0] for name in own}
    behind = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in behind.items() if name.split(".")[0] in first_names}
    problems = [problem for name, tensor in own.items() if (problem := _misfit(name, tensor, found.get(name)))]
    problems += [f"{name} has no place in it" for name in found if name not in own]
    if problems:
        raise WeightsError(
            f"{path}: {prefix or '(no prefix)'} is not this {part}, {len(problems)} of its tensors do not fit: "
            f"{'; '.join(problems[:3])}; {_ADVICE[part.split('.')[0]]}; found {listed(stems)}"
        )
    return found


def _misfit(name: str, own: torch.Tensor, found: torch.Tensor | None) -> str | None:
    """What keeps a tensor of the file from its place in the network, if anything does."""
    if found is None:
        return None if _is_counter(name) else f"{name} is missing"
    if found.shape != own.shape:
        return f"{name} is {tuple(found.shape)}, not {tuple(own.shape)}"
    if own.is_floating_point() and not found.is_floating_point():
        return f"{name} is {found.dtype}, not {own.dtype}"
    return None if torch.isfinite(found).all() else f"{name} holds NaN or infinity"


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors by foreign names; step counters that are not among them become 0."""
    own = _own_names(module)
    counters = {name: torch.zeros_like(tensor) for name, tensor in own.items() if _is_counter(name)}
    full_names = dict(zip(own, module.state_dict()))
    module.load_state_dict({full_names[name]: tensor for name, tensor in (counters | tensors).items()})


def _origin(stems: tuple[Stem, ...]) -> dict[str, str | int | None]:
    """Fields of a report that the encoders in a file tell."""
    layouts = {stem.layout for stem in stems}
    layout = layouts.pop() if len(layouts) == 1 else "unknown"
    told = {"layout": layout, "source": source_of(layout)}
    if len(stems) != 1:
        return told
    return told | {"prefix": stems[0].prefix, "in_channels": stems[0].shape[1], "modality": stems[0].modality}


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
