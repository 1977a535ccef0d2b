"""Settings of a release of weights, and of the tool that looks into weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cromss.settings.common import require


@dataclass(frozen=True)
class ReleaseSettings:
    """Write the encoders of a checkpoint, ours or a published one of CromSS, as folders that others load."""

    checkpoint: tyro.conf.Positional[Path]
    """The checkpoint, or the folder of its run."""
    out: Path
    """Folder of the release: a folder for each encoder, pretrainer.safetensors with the whole network, torchgeo/,
    README.md and SHA256SUMS."""
    title: str = "CromSS"
    """Title of the model card."""
    data: str = ""
    """What it was pretrained on, in a sentence for the card."""
    license: str = "mit"
    """Licence of the weights, by the hub's short name."""
    scores: Path | None = None
    """Markdown to put under "Scores" on the card, such as the tables.md of bench.py."""
    verify: bool = False
    """Check all files and run every loading line of the card (those of packages that are installed); what fails is not
    kept."""


@dataclass(frozen=True)
class WeightsSettings:
    """Look into a weights file, convert it, or check a release."""

    action: tyro.conf.Positional[Literal["inspect", "convert", "verify"]]
    """inspect a file of anyone's; convert it to a release, or a pretraining checkpoint (the pretrainer.safetensors of a
    release) to the published layout; verify a release: sums, loading by timm, the whole network, and the loading lines
    of its card."""
    path: tyro.conf.Positional[Path]
    """The file, or the folder of the release."""
    out: Path | None = None
    """convert: folder of the release, or for the published layout a new file that ends with .ckpt, .pt or .pth."""
    modality: Literal["", "s1", "s2", "ortho"] = ""
    """Sensor of the encoder, where the file does not tell."""
    source: str = "auto"
    """Whose weights they are, where the file does not tell: moco, dino, decur, satlas, softcon, mae, imagenet."""
    normalization: Literal["", "common", "zscore", "reflectance", "standard", "satlas", "imagenet"] = ""
    """What they were trained with, where neither file nor source tells."""

    def __post_init__(self) -> None:
        told = (self.action == "convert") == (self.out is not None)
        require(told, "out", self.out, "given with convert, and only there")
        for flag in ("modality", "normalization"):
            value = getattr(self, flag)
            require(not value or self.action != "verify", flag, value, "left out with verify")

    @property
    def to_published(self) -> bool:
        """Whether the published layout is asked for."""
        return self.out is not None and self.out.suffix in (".ckpt", ".pt", ".pth")
