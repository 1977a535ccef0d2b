"""Encoders found in foreign files: by the name and shape of their first layer, and what stands before it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

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
    "module.base_encoder.": ("moco", None),
    "module.momentum_encoder.": ("moco", None),
    "module.backbone.": ("dino", None),
    "module.backbone_1.": ("decur", "s1"),
    "module.backbone_2.": ("decur", "s2"),
    "backbone.resnet.": ("satlas", "s2"),
    "": ("bare", None),
}
"""Prefix of an encoder -> (layout, modality); `None` where the band count tells the modality."""

LAYOUTS = (*dict.fromkeys(layout for layout, _ in ORIGINS.values()), "single", "mae", "satmae", "dofa")
"""Layouts recognised; `single` is `net.encoder.` with no `net.encoder1.` beside it, `mae` a ViT and its decoder."""

VIT_STEMS = {
    "vit": "patch_embed.proj.weight",
    "satmae": "patch_embed.0.proj.weight",
    "dofa": "patch_embed.fclayer.w1.weight",
}
"""Kind of a ViT -> the tensor it is found by: SatMAE embeds groups of bands, DOFA makes its convolution."""

_PREFERRED = re.compile("encoder_q|base_encoder|teacher")
_RESNET = ("conv1.weight", (7, 7))
_MODALITY_BY_BANDS = {len(S1.bands): "s1"} | {len(bands): "s2" for bands in S2_SUBSETS.values() if len(bands) > 3}

Tensors = Mapping[str, torch.Tensor]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Stem:
    """An encoder found in a file, as its first layer tells it.

    Attributes:
        prefix: What stands before the encoder's own names.
        shape: Shape of the first convolution, `(out, bands, height, width)`; bands of all groups together
            (SatMAE), `None` where any number is taken (DOFA).
        layout: Whose checkpoint it is, one of `LAYOUTS`, or `"unknown"`.
        modality: `"s1"`, `"s2"`, `"ortho"`, `"common"`, or `None` where neither prefix nor band count tells.
        kind: `"resnet"`, a ViT's kind (a key of `VIT_STEMS`), or `"other"`.
        groups: Number of bands in each group (SatMAE).
        depth: Number of blocks of a ViT; 0 of others.
    """

    prefix: str
    shape: Shape
    layout: str
    modality: str | None
    kind: str = "resnet"
    groups: tuple[int, ...] = ()
    depth: int = 0

    def __str__(self) -> str:
        out, bands, *kernel = self.shape
        bands = "+".join(map(str, self.groups)) or bands or "any"
        shape = ", ".join(map(str, (out, bands, *kernel)))
        return f"{self.prefix or '(no prefix)'} ({shape})" + (f" [{self.modality}]" if self.modality else "")

    @property
    def preferred(self) -> bool:
        """Whether its name says that it is the one to use, where a file holds several of a kind."""
        return bool(_PREFERRED.search(self.prefix))

    def misfits(self, encoder: "Stem") -> list[str]:
        """What keeps this ViT of a file from an encoder of its kind, with the flag that mends it."""
        sizes = (
            ("patch", self.shape[-1], encoder.shape[-1], "--model_type/--patch_size"),
            ("width", self.shape[0], encoder.shape[0], "--model_type"),
            ("depth", self.depth, encoder.depth, "--model_type"),
        )
        found = [
            f"{what} {theirs} in the file, {ours} in {flag}" for what, theirs, ours, flag in sizes if theirs != ours
        ]
        if self.groups != encoder.groups:
            ours, theirs = (", ".join(map(str, groups)) for groups in (encoder.groups, self.groups))
            found.append(f"groups of {ours} bands wanted, the file has {len(self.groups)} groups of {theirs}")
        return found


def find_stems(
    state_dict: Tensors, convolution: str = _RESNET[0], kernel: tuple[int, ...] = _RESNET[1]
) -> tuple[Stem, ...]:
    """Encoders among the tensors: ViTs, and those that begin with a convolution, by default ResNets.

    Args:
        state_dict: Tensors of a file, or of an encoder.
        convolution: Name of the first convolution's weight.
        kernel: Its height and width.
    """
    marks = VIT_STEMS | {"resnet" if convolution == _RESNET[0] else "other": convolution}
    stems: dict[str, Stem] = {}
    for name in state_dict:
        for kind, mark in marks.items():
            prefix = name.removesuffix(mark)
            if not ("." + name).endswith("." + mark) or prefix in stems:
                continue
            if layer := _first_layer(state_dict, prefix, kind, mark, kernel):
                stems[prefix] = _stem(state_dict, prefix, kind, *layer)
    return tuple(stems.values())


def first_convolution(encoder: Tensors) -> tuple[str, tuple[int, ...]]:
    """Name and kernel of an encoder's first convolution, for `find_stems`; of a ViT that of ResNets."""
    if any(stem.kind in VIT_STEMS for stem in find_stems(encoder)):
        return _RESNET
    return next((name, tuple(tensor.shape[2:])) for name, tensor in encoder.items() if tensor.ndim == 4)


def listed(stems: tuple[Stem, ...]) -> str:
    """Stems for an error or a report, those of a kind together."""
    kinds = dict.fromkeys(stem.kind for stem in stems)
    groups = (", ".join(str(stem) for stem in stems if stem.kind == kind) + f" ({kind})" for kind in kinds)
    return ", ".join(groups) or "none"


def _stem(state_dict: Tensors, prefix: str, kind: str, shape: Shape, groups: tuple[int, ...]) -> Stem:
    layout, modality = _origin(state_dict, prefix, kind)
    depth = _depth(state_dict, prefix) if kind in VIT_STEMS else 0
    return Stem(prefix, shape, layout, modality or _MODALITY_BY_BANDS.get(shape[1]), kind, groups, depth)


def _origin(state_dict: Tensors, prefix: str, kind: str) -> tuple[str, str | None]:
    """Layout and modality of an encoder behind a prefix."""
    canonical = _canonical(prefix)
    if canonical == "net.encoder." and not any(_canonical(name).startswith("net.encoder1.") for name in state_dict):
        return "single", None
    if canonical == "" and kind in ("satmae", "dofa"):
        return kind, None
    if canonical == "" and kind == "vit" and any(name.startswith(f"{prefix}decoder_") for name in state_dict):
        return "mae", None
    if canonical == "backbone." and kind == "vit":
        return "dino", None
    return ORIGINS.get(canonical, ("unknown", None))


def _first_layer(
    state_dict: Tensors, prefix: str, kind: str, mark: str, kernel: tuple[int, ...]
) -> tuple[Shape, tuple[int, ...]] | None:
    """Shape of an encoder's first convolution and bands of its groups; `None` where there is no such encoder."""
    if kind in VIT_STEMS and not _depth(state_dict, prefix):
        return None
    if kind == "dofa":
        shape = _generated_shape(state_dict, f"{prefix}patch_embed.weight_generator.")
        return shape and (shape, ())
    names = [prefix + mark]
    if kind == "satmae":
        numbered = (f"{prefix}patch_embed.{group}.proj.weight" for group in count())
        names = list(takewhile(state_dict.__contains__, numbered))
    shapes = [tuple(state_dict[name].shape) for name in names]
    if any(len(shape) != 4 for shape in shapes) or (kind not in VIT_STEMS and shapes[0][2:] != kernel):
        return None
    bands = tuple(shape[1] for shape in shapes)
    return (shapes[0][0], sum(bands), *shapes[0][2:]), bands if kind == "satmae" else ()


def _generated_shape(state_dict: Tensors, generator: str) -> Shape | None:
    """Shape of the convolution that DOFA makes for any number of bands, from the layers that make it."""
    weight, bias = (state_dict.get(f"{generator}{layer}.bias") for layer in ("fc_weight", "fc_bias"))
    if weight is None or bias is None or not bias.numel():
        return None
    patch = math.isqrt(weight.numel() // bias.numel())
    return bias.numel(), None, patch, patch


def _depth(state_dict: Tensors, prefix: str) -> int:
    """Number of a ViT's blocks."""
    found = (re.match(r"blocks\.(\d+)\.", name.removeprefix(prefix)) for name in state_dict if name.startswith(prefix))
    return max((int(block[1]) + 1 for block in found if block), default=0)


def _canonical(prefix: str) -> str:
    """Prefix without what wraps it: `model.` of Lightning and timm, our ViTs' `vit.`, Satlas's repeated `backbone.`."""
    return re.sub(r"^(backbone\.)+|^model\.|(?<![^.])(?:model|vit)\.$", lambda found: found[1] or "", prefix)
