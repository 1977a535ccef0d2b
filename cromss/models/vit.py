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
from timm.layers import LayerNorm2d, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cromss.encoder_names import family
from cromss.models.dofa import Dofa
from cromss.models.satmae import SatMAE
from cromss.models.scalemae import ScaleMAE

STRIDES = (4, 8, 16, 32)
"""Pixels to a cell of each level of the pyramid."""

_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_PATCH = re.compile(r"_patch(\d+)")
_OWN_NAME = re.compile(rf"(satmae|scalemae|dofa)_({'|'.join(_SIZES)})_patch(\d+)_(\d+)")


@dataclass(frozen=True)
class ViTOptions:
    """How a ViT is built where its name leaves it open.

    Attributes:
        patch_size: Side of a patch, in pixels; 0 for that in the name.
        image_size: Side of the images that the position embeddings are made for, in pixels; they are
            interpolated for others. 0 for that in the name.
        drop_path: Rate of stochastic depth in the last block; it grows to it linearly.
        grad_checkpointing: Recompute the activations of the blocks in the backward pass.
        resolution: Metres a pixel (ScaleMAE).
    """

    patch_size: int = 0
    image_size: int = 0
    drop_path: float = 0.0
    grad_checkpointing: bool = False
    resolution: float = 10.0


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
        ValueError: Unknown name, or bands, wavelengths or options that the ViT cannot take.
    """
    told = _PATCH.search(encoder_name)
    if told is None:
        raise ValueError(f"encoder_name {encoder_name!r}: a plain ViT is wanted, such as vit_small_patch16_224")
    patch_size = options.patch_size or int(told[1])
    common = {"patch_size": patch_size, "in_chans": in_channels, "drop_path_rate": options.drop_path}
    common |= {"num_classes": 0, "global_pool": "", "dynamic_img_size": True}
    if options.image_size:
        common["img_size"] = _tokens_side(options.image_size, patch_size) * patch_size
    if family(encoder_name) == "vit":
        vit = _of_timm(encoder_name, common, pretrained)
    else:
        vit = _own(encoder_name, common, options, wavelengths)
    vit.set_grad_checkpointing(options.grad_checkpointing)
    return ViTEncoder(vit, in_channels, pyramid)


def _of_timm(encoder_name: str, common: dict, pretrained: bool) -> VisionTransformer:
    """A plain ViT; what timm has under such names besides is refused."""
    try:
        vit = timm.create_model(encoder_name, pretrained=pretrained, **common)
    except TypeError:
        vit = None
    if not isinstance(vit, VisionTransformer) or not isinstance(vit.patch_embed, PatchEmbed):
        raise ValueError(f"encoder_name {encoder_name!r}: no plain ViT; choose such as vit_small_patch16_224")
    return vit


def _own(
    encoder_name: str, common: dict, options: ViTOptions, wavelengths: Sequence[float] | None
) -> VisionTransformer:
    """A ViT that timm does not have."""
    told = _OWN_NAME.fullmatch(encoder_name)
    if told is None:
        wanted = f"{family(encoder_name)}_large_patch16_224, with {', '.join(_SIZES)}"
        raise ValueError(f"encoder_name {encoder_name!r}: its names are such as {wanted}")
    embed_dim, depth, num_heads = _SIZES[told[2]]
    common = {"img_size": _tokens_side(int(told[4]), common["patch_size"]) * common["patch_size"]} | common
    common |= {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    if told[1] == "satmae":
        return SatMAE(channel_embed_dim=embed_dim // 4, **common)
    if told[1] == "scalemae":
        return ScaleMAE(resolution=options.resolution, **common)
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
