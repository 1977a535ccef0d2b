"""Vision transformers as encoders: a feature pyramid in the contract of segmentation_models_pytorch.

A ViT sees an image as a grid of tokens, of one size in all of its blocks. The tokens after four evenly
spaced blocks become the pyramid's levels, as under UPerNet in BEiT and MAE (arXiv 2106.08254, 2111.06377);
they are brought to strides of 4, 8, 16 and 32 pixels by transposed convolutions and pooling, with channels
that halve where the sides double (the simple feature pyramid of ViTDet, arXiv 2203.16527).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cromss.encoder_names import IMAGE_SIZES, OWN_FAMILIES, PATCH_SIZES, family
from cromss.models.dofa import Dofa
from cromss.models.satmae import SatMAE
from cromss.models.scalemae import S2_RESOLUTION, ScaleMAE

STRIDES = (4, 8, 16, 32)
"""Pixels to a cell of each level of the pyramid."""

_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_PATCH = re.compile(r"_patch(\d+)")
_OWN_NAME = re.compile(rf"({'|'.join(OWN_FAMILIES)})_({'|'.join(_SIZES)})_patch(\d+)_(\d+)")


@dataclass(frozen=True)
class ViTOptions:
    """How a ViT is built where its name leaves it open.

    Attributes:
        patch_size: Side of a patch, in pixels, one of `PATCH_SIZES`; 0 for that in the name.
        image_size: Side of the images that the position embeddings are made for, in pixels, one of
            `IMAGE_SIZES`; they are interpolated for others. 0 for that in the name.
        drop_path: Rate of stochastic depth in the last block, at least 0 and under 1; it grows to it linearly.
    """

    patch_size: int = 0
    image_size: int = 0
    drop_path: float = 0.0


AS_NAMED = ViTOptions()
"""Nothing but what the name says."""


class ViTEncoder(nn.Module):
    """A ViT and the pyramid over its tokens.

    Where the patch side is no power of two, images are resized so that a token covers one: 14 pixels of the
    resized image for 16 of the given one.

    Args:
        vit: The transformer, with `dynamic_img_size`.
        in_channels: Number of bands.
        pyramid: Bring the levels to `STRIDES`; else every level keeps the tokens' own stride.

    Attributes:
        vit: What pretrained weights fill, and what is frozen.
        pyramid: A module for each level; learned with the decoder.
        out_channels: Channels of the six levels: the image, none at half its size, and the pyramid.
        output_stride: Sides of images must be divisible by it.
    """

    def __init__(self, vit: VisionTransformer, in_channels: int, pyramid: bool = True):
        super().__init__()
        self.vit = vit
        self.patch_size = vit.patch_embed.patch_size[0]
        self.token_stride = _token_stride(self.patch_size)
        scales = [self.token_stride / stride if pyramid else 1 for stride in STRIDES]
        self.pyramid = nn.ModuleList(_rescale(vit.embed_dim, scale) for scale in scales)
        self.blocks = [len(vit.blocks) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        self.out_channels = [in_channels, 0, *(int(vit.embed_dim / max(scale, 1)) for scale in scales)]
        self.output_stride = STRIDES[-1] if pyramid else self.token_stride

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`(B, C, H, W)`, sides divisible by `output_stride` -> features `(B, C_l, H_l, W_l)` of every level."""
        batch, _, height, width = images.shape
        nothing = images.new_empty(batch, 0, height // 2, width // 2)
        return [images, nothing, *(rescale(tokens) for rescale, tokens in zip(self.pyramid, self.maps(images)))]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`(B, C, H, W)` -> tokens after the four blocks, normalised, as maps `(B, D, h, w)`."""
        grid = tuple(side // self.token_stride for side in images.shape[-2:])
        if self.patch_size != self.token_stride:
            size = [side * self.patch_size for side in grid]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        levels = self.vit.forward_intermediates(
            images, indices=self.blocks, norm=True, output_fmt="NLC", intermediates_only=True
        )
        return [_as_map(tokens, grid) for tokens in levels]


def backbone(encoder: nn.Module) -> nn.Module:
    """The part of an encoder that pretrained weights fill: of a `ViTEncoder` the ViT, of any other all of it."""
    return encoder.vit if isinstance(encoder, ViTEncoder) else encoder


def build_vit_encoder(
    encoder_name: str,
    in_channels: int,
    options: ViTOptions = AS_NAMED,
    wavelengths: Sequence[float] | None = None,
    pretrained: bool = False,
    pyramid: bool = True,
) -> ViTEncoder:
    """A ViT with its pyramid.

    Args:
        encoder_name: A ViT of timm (`vit_small_patch16_224`), or `<family>_<size>_patch<p>_<image>` with the
            family `satmae`, `scalemae` or `dofa` and the size `tiny`, `small`, `base` or `large`.
        in_channels: Number of bands.
        options: Whatever the name leaves open.
        wavelengths: Central wavelength of each band in um, for DOFA.
        pretrained: Download the weights that timm has under this name.
        pyramid: See `ViTEncoder`.

    Raises:
        ValueError: Unknown name, or weights that timm does not have under it; bands, wavelengths or options
            that the ViT cannot take.
    """
    patch_size, image_size = _sizes(encoder_name, options)
    _check_numbers(encoder_name, patch_size, image_size, options.drop_path)
    common = {"patch_size": patch_size, "in_chans": in_channels, "drop_path_rate": options.drop_path}
    common |= {"num_classes": 0, "global_pool": "", "dynamic_img_size": True}
    if image_size is not None:
        common["img_size"] = _tokens_side(image_size, patch_size) * patch_size
    if family(encoder_name) in OWN_FAMILIES:
        vit = _own(encoder_name, common, wavelengths)
    else:
        vit = _of_timm(encoder_name, common, pretrained)
    return ViTEncoder(vit, in_channels, pyramid)


def _sizes(encoder_name: str, options: ViTOptions) -> tuple[int, int | None]:
    """Sides of a patch and of the images, as the options or else the name say; timm's own image side is `None`."""
    if family(encoder_name) in OWN_FAMILIES:
        _, _, patch_size, image_size = _own_name(encoder_name)
        return options.patch_size or int(patch_size), options.image_size or int(image_size)
    told = _PATCH.search(encoder_name)
    if told is None:
        raise ValueError(f"encoder_name {encoder_name!r}: a plain ViT is wanted, such as vit_small_patch16_224")
    return options.patch_size or int(told[1]), options.image_size or None


def _own_name(encoder_name: str) -> tuple[str, str, str, str]:
    """Family, size, patch side and image side that the name of a ViT of ours tells."""
    told = _OWN_NAME.fullmatch(encoder_name)
    if told is None:
        wanted = f"{family(encoder_name)}_large_patch16_224, with {', '.join(_SIZES)}"
        raise ValueError(f"encoder_name {encoder_name!r}: its names are such as {wanted}")
    return told.groups()


def _check_numbers(encoder_name: str, patch_size: int, image_size: int | None, drop_path: float) -> None:
    """Refuse numbers out of range, whether options or the name say them."""
    for option, number, allowed in (("patch_size", patch_size, PATCH_SIZES), ("image_size", image_size, IMAGE_SIZES)):
        if number is not None and number not in allowed:
            raise ValueError(f"{option} {number} of {encoder_name}: must be {allowed[0]} to {allowed[-1]}")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path {drop_path} of {encoder_name}: must be at least 0 and under 1")


def _of_timm(encoder_name: str, common: dict, pretrained: bool) -> VisionTransformer:
    """A plain ViT; what timm has under such names besides is refused."""
    architecture, _, tag = encoder_name.partition(".")
    if not is_model_in_modules(architecture, ["vision_transformer"]):
        raise ValueError(f"encoder_name {encoder_name!r}: no plain ViT; choose such as vit_small_patch16_224")
    if (tag or pretrained) and not timm.is_model_pretrained(encoder_name):
        offered = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ValueError(f"encoder_name {encoder_name!r}: timm has no such weights; of this architecture {offered}")
    return timm.create_model(encoder_name, pretrained=pretrained, **common)


def _own(encoder_name: str, common: dict, wavelengths: Sequence[float] | None) -> VisionTransformer:
    """A ViT that timm does not have."""
    kind, size, _, _ = _own_name(encoder_name)
    embed_dim, depth, num_heads = _SIZES[size]
    common = common | {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    if kind == "satmae":
        return SatMAE(channel_embed_dim=embed_dim // 4, **common)
    if kind == "scalemae":
        return ScaleMAE(resolution=S2_RESOLUTION, **common)
    return Dofa(wavelengths=wavelengths, **common)


def _token_stride(patch_size: int) -> int:
    """The power of two next to a patch side."""
    return 2 ** round(math.log2(patch_size))


def _tokens_side(image_size: int, patch_size: int) -> int:
    """Tokens along a side of an image, padded to what the pyramid divides."""
    return math.ceil(image_size / STRIDES[-1]) * STRIDES[-1] // _token_stride(patch_size)


def _rescale(channels: int, scale: float) -> nn.Module:
    """Sides times `scale`, a power of two, channels divided by it where it is over 1."""
    if scale <= 1:
        return nn.MaxPool2d(round(1 / scale)) if scale < 1 else nn.Identity()
    layers: list[nn.Module] = []
    for _ in range(round(math.log2(scale))):
        layers += [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2), LayerNorm2d(channels // 2), nn.GELU()]
        channels //= 2
    return nn.Sequential(*layers[:-2])


def _as_map(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """`(B, G * h * w, D)` tokens of `G` channel groups -> their mean as `(B, D, h, w)`."""
    return tokens.unflatten(1, (-1, *grid)).mean(1).permute(0, 3, 1, 2)
