"""Settings of the export of networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cromss.settings.common import require


@dataclass(frozen=True)
class ExportSettings:
    """Write a trained network as ONNX, and check it against PyTorch. It takes normalised images and gives logits."""

    model: tyro.conf.Positional[str]
    """Run folder or checkpoint file, of pretraining or transfer."""
    out: Path
    """The file, OUT.onnx."""
    size: int = 0
    """Side of the images in pixels; 0 for any height and width. pspnet, upernet and segmenter want one."""
    modality: Literal["", "s1", "s2", "ortho"] = ""
    """Pretrained twins: whose branch."""

    def __post_init__(self) -> None:
        require(bool(self.model), "model", self.model, "a path")
        require(self.out.suffix == ".onnx", "out", self.out, "a file that ends with .onnx")
        require(0 <= self.size <= 16384, "size", self.size, "0 to 16384")
