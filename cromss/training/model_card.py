"""The card of a release: what its encoders are and expect, how they were pretrained, and how others load them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from cromss.encoder_names import is_vit
from cromss.models.release import BARE_FOLDER, ReleasedEncoder
from cromss.sensors import MODALITIES
from cromss.settings.release import ReleaseSettings
from cromss.training.pretrained import settings_from


@dataclass(frozen=True)
class LoadingLine:
    """How a package loads an encoder.

    Attributes:
        package: Its name, as it is imported.
        code: Python that runs in the folder of the release.
    """

    package: str
    code: str


def loading_lines(encoder: ReleasedEncoder, place: str = "") -> list[LoadingLine]:
    """How each package loads an encoder, from the folder of the release, or from its own for a `place` of `"."`."""
    folder, count = place or encoder.modality, len(encoder.bands)
    name = encoder.architecture if is_vit(encoder.architecture) else f"tu-{encoder.architecture}"
    timm = f'import timm\nencoder = timm.create_model("local-dir:{folder}", pretrained=True)'
    made = ", ".join(f"{name}={value}" for name, value in encoder.model_args.items())
    bare = f"{'../' if place else ''}{BARE_FOLDER}/{encoder.modality}.pth"
    alone = f'import timm\nencoder = timm.create_model("{encoder.architecture}", {made}, checkpoint_path="{bare}")'
    imported, options = _vit_words(encoder)
    ours = (
        f"from cromss.models import build_segmenter\n{imported}from cromss.models.weights import load_encoder\n"
        f'model = build_segmenter("unet", "{name}", in_channels={count}, num_classes=8{options})\n'
        f'print(load_encoder(model.encoder, "{folder}/model.safetensors"))'
    )
    if is_vit(encoder.architecture):
        return [LoadingLine("timm", timm), LoadingLine("timm", alone), LoadingLine("cromss", ours)]
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
        LoadingLine("timm", alone),
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


def card_text(
    settings: ReleaseSettings,
    card: Mapping[str, Any],
    scores: str,
    encoders: Sequence[ReleasedEncoder],
    place: str = "",
) -> str:
    """Model card of a release, or of one encoder's folder (`place` `"."`)."""
    tags = ["remote-sensing", "land-cover", "noisy-labels", *(encoder.modality for encoder in encoders)]
    data = ModelCardData(license=settings.license, library_name="timm", pipeline_tag="image-segmentation", tags=tags)
    told = card["settings"]
    classes = ", ".join(card.get("classes", ())) or f"{settings_from(told).data.n_classes} classes"
    kind = {"mid": "twin encoders, middle fusion", "late": "twin encoders, late fusion"}.get(
        card["fusion"], "one encoder"
    )
    lines = [f"---\n{data.to_yaml()}\n---", f"# {settings.title}", ""]
    lines += [f"Pretrained on noisy land-cover labels ({kind}): {classes}. Method: arXiv 2405.01217, 2402.16164.", ""]
    lines += [f"Data: {settings.data}\n"] if settings.data else []
    for encoder in encoders:
        lines += [*_encoder_lines(encoder, place), ""]
    lines += ["## Settings of the pretraining", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in told.items()]
    lines += [""]
    lines += [f"## Scores\n\n{scores.strip()}\n"] if scores else []
    lines += [
        f"Checkpoint: SHA-256 {encoders[0].sha256}...; sums of all files: SHA256SUMS. Licence: {settings.license}."
    ]
    return "\n".join(lines) + "\n"


def foreign_card(path: Path, encoders: Sequence[ReleasedEncoder], place: str = "") -> str:
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


def _cell(value: Any) -> str:
    """A setting in a table."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|") or "none"
