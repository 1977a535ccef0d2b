"""Encoders found in foreign files: by the name and shape of their first convolution, and what stands before it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cromss.sensors import S1, S2_SUBSETS

ORIGINS = {
    "net.encoder1.": ("cromss-mid", "s1"),
    "net.encoder.": ("cromss-mid", "s2"),
    "net.encoder_common.": ("cromss-mid", "common"),
    "net.model1.encoder.": ("cromss-late", "s1"),
    "net.model2.encoder.": ("cromss-late", "s2"),
    "net.model_common.encoder.": ("cromss-late", "common"),
    "encoders.s1.": ("pretrainer-mid", "s1"),
    "encoders.s2.": ("pretrainer-mid", "s2"),
    "encoders.common.": ("pretrainer-mid", "common"),
    "networks.s1.encoder.": ("pretrainer-late", "s1"),
    "networks.s2.encoder.": ("pretrainer-late", "s2"),
    "networks.common.encoder.": ("pretrainer-late", "common"),
    "networks.ortho.encoder.": ("pretrainer-late", "ortho"),
    "network.encoder.": ("segmenter", None),
    "network.encoder.encoders.s1.": ("segmenter", "s1"),
    "network.encoder.encoders.s2.": ("segmenter", "s2"),
    "network.encoder.encoders.images.": ("segmenter", None),
    "module.encoder_q.": ("moco", None),
    "module.encoder_k.": ("moco", None),
    "module.backbone.": ("dino", None),
    "module.backbone_1.": ("decur", "s1"),
    "module.backbone_2.": ("decur", "s2"),
    "backbone.resnet.": ("satlas", "s2"),
    "": ("bare", None),
}
"""Prefix of an encoder -> (layout, modality); `None` where the band count tells the modality."""

LAYOUTS = (*dict.fromkeys(layout for layout, _ in ORIGINS.values()), "single")
"""Layouts recognised; `single` is `net.encoder.` with no `net.encoder1.` beside it."""

_MODALITY_BY_BANDS = {len(S1.bands): "s1"} | {len(bands): "s2" for bands in S2_SUBSETS.values() if len(bands) > 3}


@dataclass(frozen=True)
class Stem:
    """The first convolution of an encoder found in a file.

    Attributes:
        prefix: What stands before the encoder's own names.
        shape: Shape of the weight, `(out, bands, height, width)`.
        layout: Whose checkpoint it is, one of `LAYOUTS`, or `"unknown"`.
        modality: `"s1"`, `"s2"`, `"ortho"`, `"common"`, or `None` where neither prefix nor band count tells.
    """

    prefix: str
    shape: tuple[int, ...]
    layout: str
    modality: str | None

    def __str__(self) -> str:
        return f"{self.prefix or '(no prefix)'} {self.shape}" + (f" [{self.modality}]" if self.modality else "")


def find_stems(
    state_dict: Mapping[str, torch.Tensor], stem_name: str = "conv1.weight", kernel: tuple[int, ...] = (7, 7)
) -> tuple[Stem, ...]:
    """First convolutions of that name and kernel among the tensors; by default those of ResNets."""
    shapes = {
        name.removesuffix(stem_name): tuple(tensor.shape)
        for name, tensor in state_dict.items()
        if ("." + name).endswith("." + stem_name) and tensor.ndim == 4 and tuple(tensor.shape[2:]) == kernel
    }
    both_sensors = "net.encoder1." in map(_canonical, shapes)
    stems = []
    for prefix, shape in shapes.items():
        layout, modality = ORIGINS.get(_canonical(prefix), ("unknown", None))
        if _canonical(prefix) == "net.encoder." and not both_sensors:
            layout, modality = "single", None
        stems.append(Stem(prefix, shape, layout, modality or _MODALITY_BY_BANDS.get(shape[1])))
    return tuple(stems)


def listed(stems: tuple[Stem, ...]) -> str:
    """Stems for an error or a report."""
    return ", ".join(map(str, stems)) or "none"


def _canonical(prefix: str) -> str:
    """Prefix without what wraps it: Lightning's and timm's `model.`, the repeated `backbone.` of Satlas."""
    return re.sub(r"^(backbone\.)+|^model\.|(?<=\.)model\.$", lambda found: found[1] or "", prefix)
