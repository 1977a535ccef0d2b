"""A release from a checkpoint: encoders for other tools, the whole network, a model card, sums."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData

from cromss.config import to_flat
from cromss.encoder_names import is_vit
from cromss.models.found_encoders import found_encoders
from cromss.models.published_names import from_published, to_published
from cromss.models.release import (
    ReleasedEncoder,
    check_release,
    foreign_encoder,
    read_encoder,
    released_encoder,
    save_tensors,
    write_encoder,
    write_sums,
)
from cromss.models.stems import listed
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint, tensors_in
from cromss.models.weights import inspect
from cromss.sensors import MODALITIES
from cromss.settings.release import ReleaseSettings, WeightsSettings
from cromss.training.pretrained import settings_from

PRETRAINER_NAME = "pretrainer.safetensors"

_OWN_LAYOUTS = {"cromss-mid", "cromss-late", "single", "pretrainer-mid", "pretrainer-late"}
"""Layouts of whole pretrained networks."""

_MODEL = "model."
"""What stands before the network's names in our checkpoints."""


@dataclass(frozen=True)
class LoadingLine:
    """How a package loads an encoder.

    Attributes:
        package: Its name, as it is imported.
        code: Python that runs in the folder of the release.
    """

    package: str
    code: str


def release(settings: ReleaseSettings) -> list[str]:
    """Write a release and say what was written, and what was checked.

    Raises:
        ValueError: The checkpoint holds no pretrained encoder that can be released, `out` is not empty, or the release
            does not stand its check.
    """
    path, out = settings.checkpoint, settings.out
    _refuse_full(out)
    scores = "" if settings.scores is None else settings.scores.read_text(encoding="utf-8")
    tensors, card = pretrainer_in(path)
    encoders = [released_encoder(path, modality) for modality in card["bands"]]
    told = _write(out, encoders, lambda some, place="": card_text(settings, card, some, scores, place), (tensors, card))
    return told + (verify(out) if settings.verify else [])


def to_release(settings: WeightsSettings) -> list[str]:
    """Write the encoders in a file of anyone's as a release; says what was written.

    Raises:
        ValueError: No encoder that timm has, it is not known what one expects of its input, or `out` is not empty.
    """
    path, out = settings.path, settings.out
    _refuse_full(out)
    found = found_encoders(path, settings.modality or None, settings.source, settings.normalization)
    whole = settings.source == "auto" and not settings.normalization
    if whole and any(encoder.stem.layout in _OWN_LAYOUTS for encoder in found):
        return release(ReleaseSettings(path, out))
    if not found:
        raise WeightsError(f"{path}: no ResNet or ViT in it")
    wanted = [encoder for encoder in found if encoder.stem.preferred] or found
    told = [encoder.modality for encoder in wanted]
    if len(set(told)) < len(told):
        raise WeightsError(f"{path}: more than one encoder of {told[0]} in it: {listed(tuple(e.stem for e in wanted))}")
    encoders = [foreign_encoder(path, encoder, settings.source) for encoder in wanted]
    return _write(out, encoders, partial(_foreign_card, path))


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already; choose an empty folder")


def _write(
    out: Path,
    encoders: Sequence[ReleasedEncoder],
    text: Callable[..., str],
    network: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write a release whole; `text` makes the card of some of the encoders, `network` is the whole one and its card."""
    unfinished = out.with_name(f"{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "torchgeo").mkdir(parents=True)
    for encoder in encoders:
        write_encoder(encoder, unfinished / encoder.modality, text([encoder], place="."))
        torch.save(encoder.model.state_dict(), unfinished / "torchgeo" / f"{encoder.modality}.pth")
    if network:
        save_tensors(*network, unfinished / PRETRAINER_NAME)
    (unfinished / "README.md").write_text(text(encoders), encoding="utf-8")
    write_sums(unfinished)
    unfinished.replace(out)
    return [f"released: {out / encoder.modality} ({encoder.architecture})" for encoder in encoders]


def verify(folder: Path) -> list[str]:
    """Check the files of a release and run its loading lines, offline; says what held.

    Raises:
        WeightsError: As `check_release`, or a line fails.
    """
    folders = check_release(folder)
    told = [f"{folder}: every sum holds; timm loads every tensor of {', '.join(path.name for path in folders)}"]
    for path in folders:
        encoder = read_encoder(path)
        for line in loading_lines(encoder):
            told.append(f"{path.name}, {line.package}: {_run(line, folder)}")
    return told


def pretrainer_in(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of the whole network by our names, and a card that tells how to build it.

    Raises:
        WeightsError: Neither a checkpoint of our pretraining nor a published one of CromSS.
    """
    content = open_checkpoint(path)
    tensors, card = tensors_in(content, path), content.get(CARD_KEY) if isinstance(content, Mapping) else None
    if isinstance(card, Mapping):
        if "fusion" not in card or not isinstance(card.get("bands"), Mapping):
            raise WeightsError(f"{path}: not a checkpoint of pretraining, such as train_pretrain_mm.py writes")
        return {name: tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}, dict(card)
    try:
        own = from_published({name: tensor for name, tensor in tensors.items() if name.startswith("net.")})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return {_MODEL + name: tensor for name, tensor in own.items()}, _published_card(path, own)


def to_published_file(path: Path, out: Path) -> int:
    """Write a pretraining checkpoint of ours, or the network of a release, in the published layout; tensors written.

    Raises:
        WeightsError: As `pretrainer_in`; or it has what no published network has.
    """
    tensors, card = pretrainer_in(path)
    renamed = to_published({name.removeprefix(_MODEL): tensor for name, tensor in tensors.items()}, card["fusion"])
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": renamed}, out)
    return len(renamed)


def _published_card(path: Path, own: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Card of a published network: what its tensors tell."""
    fusion = "mid" if any(name.startswith("encoders.") for name in own) else "late"
    encoders = {stem.modality: stem for stem in inspect(path).stems if stem.modality in MODALITIES}
    released = [released_encoder(path, modality) for modality in sorted(encoders)]
    head = next(tensor for name, tensor in own.items() if "segmentation_head" in name and tensor.ndim == 4)
    told: dict[str, Any] = {"n_classes": len(head), "model_type": released[0].architecture}
    if len(released) == 1:
        fusion = "single"
        told |= {"input_type": released[0].modality}
    else:
        told |= {"input_type": "s12", "fusion_type": fusion}
    channels = {len(encoder.bands) for encoder in released if encoder.modality == "s2"}
    told |= {"n_channels": channels.pop()} if channels else {}
    settings = settings_from(told)
    return {
        "fusion": fusion,
        "encoder_name": settings.model.model_type,
        "bands": {encoder.modality: list(encoder.bands) for encoder in released},
        "settings": to_flat(settings),
    }


def loading_lines(encoder: ReleasedEncoder, place: str = "") -> list[LoadingLine]:
    """How each package loads an encoder, from the folder of the release, or from its own for a `place` of `"."`."""
    folder, count = place or encoder.modality, len(encoder.bands)
    name = encoder.architecture if is_vit(encoder.architecture) else f"tu-{encoder.architecture}"
    timm = f'import timm\nencoder = timm.create_model("local-dir:{folder}", pretrained=True)'
    imported, options = _vit_words(encoder)
    ours = (
        f"from cromss.models import build_segmenter\n{imported}from cromss.models.weights import load_encoder\n"
        f'model = build_segmenter("unet", "{name}", in_channels={count}, num_classes=8{options})\n'
        f'print(load_encoder(model.encoder, "{folder}/model.safetensors"))'
    )
    if is_vit(encoder.architecture):
        return [LoadingLine("timm", timm), LoadingLine("cromss", ours)]
    smp = (
        "import segmentation_models_pytorch as smp\n"
        f'model = smp.Unet("tu-local-dir:{folder}", encoder_weights=True, in_channels={count}, classes=8)'
    )
    torchgeo = (
        "from torchgeo.trainers import SemanticSegmentationTask\n"
        f'task = SemanticSegmentationTask(model="unet", backbone="tu-local-dir:{folder}", weights=True, '
        f"in_channels={count}, num_classes=8)"
    )
    return [
        LoadingLine("timm", timm),
        LoadingLine("segmentation_models_pytorch", smp),
        LoadingLine("torchgeo", torchgeo),
        LoadingLine("cromss", ours),
    ]


def _vit_words(encoder: ReleasedEncoder) -> tuple[str, str]:
    """What a ViT wants imported and as an argument; nothing for other encoders."""
    if not is_vit(encoder.architecture):
        return "", ""
    side, patch = encoder.model_args["img_size"], encoder.model_args["patch_size"]
    return "from cromss.models.vit import ViTOptions\n", f", vit=ViTOptions(patch_size={patch}, image_size={side})"


def _run(line: LoadingLine, folder: Path) -> str:
    """What came of running a line."""
    if find_spec(line.package) is None:
        return "not installed, so its line was not run"
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", line.code], cwd=folder, capture_output=True, text=True, env=offline, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise WeightsError(f"{folder}: {line.package} does not load it ({last[:200]}): {line.code}")
    return "its line runs"


def card_text(
    settings: ReleaseSettings,
    card: Mapping[str, Any],
    encoders: Sequence[ReleasedEncoder],
    scores: str,
    place: str = "",
) -> str:
    """Model card of a release, or of one encoder's folder (`place` `"."`)."""
    tags = ["remote-sensing", "land-cover", "noisy-labels", *(encoder.modality for encoder in encoders)]
    data = ModelCardData(license=settings.license, library_name="timm", pipeline_tag="image-segmentation", tags=tags)
    classes = ", ".join(card.get("classes", ())) or f"{card['settings']['n_classes']} classes"
    kind = {"mid": "twin encoders, middle fusion", "late": "twin encoders, late fusion"}.get(
        card["fusion"], "one encoder"
    )
    lines = [f"---\n{data.to_yaml()}\n---", f"# {settings.title}", ""]
    lines += [f"Pretrained on noisy land-cover labels ({kind}): {classes}. Method: arXiv 2405.01217, 2402.16164.", ""]
    lines += [f"Data: {settings.data}\n"] if settings.data else []
    for encoder in encoders:
        lines += [*_encoder_lines(encoder, place), ""]
    lines += [f"## Scores\n\n{scores.strip()}\n"] if scores else []
    lines += [
        f"Checkpoint: SHA-256 {encoders[0].sha256}...; sums of all files: SHA256SUMS. Licence: {settings.license}."
    ]
    return "\n".join(lines) + "\n"


def _foreign_card(path: Path, encoders: Sequence[ReleasedEncoder], place: str = "") -> str:
    """Model card of encoders of anyone's."""
    lines = [f"# {encoders[0].origin}", "", f"Converted from {path.name}, SHA-256 {encoders[0].sha256}...", ""]
    lines += ["Licence: that of the weights converted.", ""]
    for encoder in encoders:
        lines += [*_encoder_lines(encoder, place), ""]
    return "\n".join(lines)


def _encoder_lines(encoder: ReleasedEncoder, place: str) -> list[str]:
    config = encoder.config["cromss"]
    lines = [
        f"## {MODALITIES[encoder.modality].title}: {encoder.architecture}, {len(encoder.bands)} bands",
        "",
        f"Input: {config['unit']}, {config['normalization']} ({config['statistics']}).",
        "",
        "| band | mean | std |",
        "|---|---|---|",
    ]
    means, deviations = (
        [f"{value:g}" for value in config[name]] or [""] * len(encoder.bands) for name in ("mean", "std")
    )
    rows = zip(encoder.bands, means, deviations, strict=True)
    lines += [f"| {band} | {mean} | {std} |" for band, mean, std in rows]
    for line in loading_lines(encoder, place):
        lines += ["", f"```python\n{line.code}\n```"]
    return lines
