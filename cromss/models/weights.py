"""Encoder and decoder weights from anybody's file: look inside, load strictly, all or nothing.

A file is a table of tensors behind some prefix. The encoder's stem (its first layer) is looked up by
name, whatever stands before it is the prefix, and every tensor of the encoder must be found behind it
with its own shape; only the position embeddings of a ViT are interpolated to its grid. A decoder stands
beside its encoder.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cromss.models.dofa import Dofa
from cromss.models.position_interpolation import fit_positions
from cromss.models.scalemae import ScaleMAE
from cromss.models.segmenter import Segmenter
from cromss.models.sources import FILE_SOURCES, SOURCES, source_of
from cromss.models.stems import VIT_STEMS, Stem, find_stems, first_convolution, listed
from cromss.models.strict_loading import damages, fill, own_names, pick
from cromss.models.vit import backbone
from cromss.models.weight_files import (
    WeightsError,
    open_checkpoint,
    read_state_dict,
    tensors_in,
    told_bands,
    told_normalization,
    told_statistics,
)
from cromss.models.weights_report import WeightsReport
from cromss.sensors import ORTHO, S2_SUBSETS, canonical_band

LOAD_TAGS = ("encoder", "de1", "de2", "de3", "de4", "wocls", "all")
"""What `load_segmenter` loads: the encoder, with the first decoder blocks, the whole decoder, or also the head."""

_ENCODER_IN_PREFIX = re.compile(r"((encoder\.)?encoders\.\w+|encoder\w*)\.(model\.)?$")
_TRUE_COLOUR = dict(zip(ORTHO.bands[1:], S2_SUBSETS[3]))

_FINAL_NORM = ("norm.weight", "norm.bias")
_NO_FINAL_NORM = "final norm not in the file: it starts as 1 and 0"
_KERNEL_ORDER = "kernels read as (C, k, k, D): files from before 2024-06 have another order and look the same"

_ADVICE = {
    "encoder": "--model_type must be the encoder of these weights (ENCODER of ft_scripts)",
    "decoder": "--weight_load_tag encoder needs none",
    "segmentation_head": "--weight_load_tag wocls needs none",
}
_DAMAGED = "the file is damaged, save it anew in finite floating-point numbers"


def inspect(path: str | Path) -> WeightsReport:
    """Say which encoders a weights file holds: ResNets and ViTs.

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
    must match exactly, in names and shapes. Position embeddings of another grid are interpolated.

    Args:
        encoder: The encoder of a segmenter or pretrainer, or a ViT; its kind and band count choose among
            the encoders of the file.
        path: A PyTorch checkpoint or a `.safetensors` file.
        modality: `"s1"`, `"s2"` or `"common"` where the band count alone does not decide.
        source: Whose weights they are, a name in `FILE_SOURCES`; `"auto"` goes by the layout.

    Returns:
        What was loaded.

    Raises:
        WeightsError: The file is missing, damaged, or holds code; no encoder in it fits, or more
            than one does; a size differs. The encoder is then unchanged.
    """
    return _load(path, backbone(encoder), {}, modality, source)


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
    if tag != "encoder" and isinstance(encoder, VisionTransformer):
        raise WeightsError(f"tag {tag!r}: a ViT has no decoder of these weights; only encoder can be loaded")
    return _load(path, encoder, _beside(segmenter.network, tag), modality, source)


def check_bands(report: WeightsReport, bands: Sequence[str]) -> None:
    """Refuse weights that were trained on other bands, or on another order of them, than are fed.

    Raises:
        WeightsError: The file tells its bands, or its source has fixed ones, and they differ.
    """
    trained = report.bands or SOURCES[report.source].bands.get(report.in_channels)
    if trained is not None and list(map(_same_name, trained)) != list(map(_same_name, bands)):
        raise WeightsError(f"{report.path}: trained on bands {' '.join(trained)}, but {' '.join(bands)} are fed")


def _same_name(band: str) -> str:
    """One name for the bands of all sensors that see the same colour."""
    return _TRUE_COLOUR.get(band, canonical_band(band))


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
    if source == "scalemae" and not isinstance(encoder, ScaleMAE):
        raise WeightsError(f"{path}: source scalemae: its encoder is --model_type scalemae_large_patch16_224 or alike")
    content = open_checkpoint(Path(path))
    state_dict = tensors_in(content, path)
    own = own_names(encoder)
    wanted = find_stems(own, *first_convolution(own))[0]
    stems = find_stems(state_dict, *first_convolution(own))
    chosen = _choose(path, stems, wanted, modality, source)
    parts = {"encoder": (encoder, chosen.prefix)}
    for part, module in beside.items():
        parts[part] = (module, _ENCODER_IN_PREFIX.sub("", chosen.prefix) + part + ".")
    found, notes = _tensors_of(path, state_dict, parts, stems)
    for part, (module, _) in parts.items():
        fill(module, found[part])
    sensor, told_source = chosen.modality or modality, _told_source(chosen, encoder, source)
    return WeightsReport(
        Path(path),
        _sha256(path),
        len(state_dict),
        stems,
        **_origin((chosen,)) | {"modality": sensor, "source": told_source},
        num_loaded=sum(map(len, found.values())),
        num_expected=sum(len(module.state_dict()) for module, _ in parts.values()),
        parts={part: len(tensors) for part, tensors in found.items()},
        bands=told_bands(content, sensor, chosen.shape[1]),
        normalization=told_normalization(content),
        statistics=told_statistics(content),
        notes=notes + _notes_of_dofa(encoder, found["encoder"], told_source),
    )


def _choose(path: str | Path, stems: tuple[Stem, ...], wanted: Stem, modality: str | None, source: str) -> Stem:
    """The encoder of a file that fits the wanted one, or an error."""
    if stems and wanted.kind not in {stem.kind for stem in stems}:
        raise WeightsError(f"{path}: no {wanted.kind} encoder in it; {_ADVICE['encoder']}; found {listed(stems)}")
    fitting = [stem for stem in stems if _fits(stem, wanted, modality, source)]
    fitting = [stem for stem in fitting if stem.preferred] or fitting
    if len(fitting) != 1:
        asked = f"{wanted.shape[1] or 'any'} bands" + (f" of {modality}" if modality else "")
        asked += f" in {source}" if source != "auto" else ""
        problem = f"more than one encoder takes {asked}, name the modality" if fitting else f"no encoder takes {asked}"
        remedy = "" if fitting else f"; {_remedy(stems, wanted, modality, source)}"
        raise WeightsError(f"{path}: {problem}; found {listed(stems)}{remedy}")
    if wanted.kind in VIT_STEMS and (misfits := fitting[0].misfits(wanted)):
        raise WeightsError(f"{path}: {'; '.join(misfits)}; found {listed(stems)}")
    return fitting[0]


def _fits(stem: Stem, wanted: Stem, modality: str | None, source: str) -> bool:
    """Whether an encoder of a file is of the kind, bands, modality and source asked for."""
    return (
        stem.kind == wanted.kind
        and (stem.shape[1] == wanted.shape[1] or bool(stem.groups))
        and (modality is None or stem.modality in (None, modality))
        and (source == "auto" or stem.layout in SOURCES[source].accepted)
    )


def _remedy(stems: tuple[Stem, ...], wanted: Stem, modality: str | None, source: str) -> str:
    """What to do about a file whose encoders are of the kind wanted, but none of them fits."""
    if not stems:
        return "give weights of a whole network or encoder"
    if any(_fits(stem, wanted, modality, "auto") for stem in stems):
        return "leave --weight_source out"
    if modality == "common" and all(stem.modality != "common" for stem in stems):
        return "--fusion_type twin takes an encoder for each sensor"
    return "feed the bands it was trained on (--n_channels, --input_type)"


def _tensors_of(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    parts: Mapping[str, tuple[nn.Module, str]],
    stems: tuple[Stem, ...],
) -> tuple[dict[str, dict[str, torch.Tensor]], tuple[str, ...]]:
    """Tensors of every part from the file, all of them, or an error; and what was done to them."""
    encoder, behind = parts["encoder"]
    if behind + "register_tokens" in state_dict:
        wanted = "with timm's names (reg_token) they are, such as those of vit_small_patch14_reg4_dinov2"
        raise WeightsError(f"{path}: register_tokens: DINOv2's own files with registers are not read; {wanted}")
    try:
        state_dict, notes = fit_positions(state_dict, behind, encoder)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; {_ADVICE['encoder']}; found {listed(stems)}") from None
    found = {}
    for part, (module, prefix) in parts.items():
        found[part], problems = pick(state_dict, prefix, module, _dispensable(state_dict, prefix, module))
        if problems:
            misfits = f"{len(problems)} of its tensors {'does' if len(problems) == 1 else 'do'} not fit"
            raise WeightsError(
                f"{path}: {prefix or '(no prefix)'} is not this {part}, {misfits}: "
                f"{'; '.join(problems[:3])}; {_ADVICE[part.split('.')[0]]}; found {listed(stems)}"
            )
        if damaged := damages(module, found[part]):
            raise WeightsError(f"{path}: {'; '.join(damaged[:3])}; {_DAMAGED}; found {listed(stems)}")
    return found, notes


def _dispensable(state_dict: Mapping[str, torch.Tensor], prefix: str, module: nn.Module) -> tuple[str, ...]:
    """Own names that a file may lack: those of DOFA's final norm, which torchgeo's copies are without."""
    lacks_norm = isinstance(module, Dofa) and not any(prefix + name in state_dict for name in _FINAL_NORM)
    return _FINAL_NORM if lacks_norm else ()


def _notes_of_dofa(encoder: nn.Module, loaded: Mapping[str, torch.Tensor], source: str) -> tuple[str, ...]:
    """What files of DOFA leave open; the order of the kernels in our own ones is known."""
    if not isinstance(encoder, Dofa):
        return ()
    norm = () if _FINAL_NORM[0] in loaded else (_NO_FINAL_NORM,)
    return norm if source == "cromss" else (*norm, _KERNEL_ORDER)


def _told_source(stem: Stem, encoder: nn.Module, source: str) -> str:
    """Whose weights these are: as told, by the encoder where its files look like others' (ScaleMAE), by the layout."""
    if source != "auto":
        return source
    if isinstance(encoder, ScaleMAE) and stem.layout in SOURCES["scalemae"].accepted:
        return "scalemae"
    return source_of(stem.layout, stem.shape[1], stem.kind)


def _origin(stems: tuple[Stem, ...]) -> dict[str, str | int | None]:
    """Fields of a report that the encoders in a file tell."""
    layouts = {stem.layout for stem in stems}
    layout = layouts.pop() if len(layouts) == 1 else "unknown"
    if len(stems) != 1:
        return {"layout": layout, "source": source_of(layout)}
    stem, bands = stems[0], stems[0].shape[1]
    told = {"prefix": stem.prefix, "kind": stem.kind, "in_channels": bands, "modality": stem.modality}
    return told | {"layout": layout, "source": source_of(layout, bands, stem.kind)}


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
