"""DOFA: a ViT whose patch embedding is generated from the bands' wavelengths (arXiv 2403.15356)."""

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cromss.encoder_names import LONGEST_WAVELENGTH
from cromss.models.positions import grid_sincos, sincos
from cromss.sensors import MODALITIES, S1, S2

S1_WAVELENGTH = 3.75
"""What DOFA is told of a Sentinel-1 band, as if in um: the number in its authors' table of pretraining.

It is no wavelength (that is 55,500 um). Their later models of patch 14 take 5.405, the radar's frequency in GHz.
"""

WAVELENGTHS = MappingProxyType({S1.name: (S1_WAVELENGTH,) * len(S1.bands), S2.name: S2.wavelengths})
"""Modality -> wavelength of each of its bands in um, as DOFA takes them."""

DIM, NUM_TOKENS, NUM_HEADS, SCALE = 128, 128, 4, 0.01
"""Of the weight generator: channels, learned tokens, attention heads, and the factor on what it generates."""


def wavelengths_of(modality: str, bands: Sequence[str] | None = None) -> tuple[float, ...] | None:
    """Wavelengths in um of named bands of a modality (all for `None`); `None` where they are unknown.

    Raises:
        ValueError: The modality has no such band.
    """
    if modality not in WAVELENGTHS:
        return None
    return tuple(WAVELENGTHS[modality][index] for index in MODALITIES[modality].indices(bands))


class WeightGenerator(nn.Module):
    """A transformer layer that turns features of C wavelengths into a convolution's kernels and bias.

    Args:
        patch_size: Side k of the kernels, in pixels.
        embed_dim: Number D of kernels.
    """

    def __init__(self, patch_size: int, embed_dim: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, NUM_HEADS, dropout=0.0, activation="gelu")
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.fc_weight = nn.Linear(DIM, patch_size**2 * embed_dim)
        self.fc_bias = nn.Linear(DIM, embed_dim)
        self.weight_tokens = nn.Parameter(0.02 * torch.randn(NUM_TOKENS, DIM))
        self.bias_token = nn.Parameter(0.02 * torch.randn(1, DIM))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(C, 128)` -> kernels `(C, k * k * D)` and bias `(D,)`."""
        tokens = self.transformer_encoder(torch.cat([self.weight_tokens, features, self.bias_token]))
        return self.fc_weight(tokens[NUM_TOKENS:-1] + features), self.fc_bias(tokens[-1])


class ResidualLayer(nn.Module):
    """Two linear layers around which their input goes."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(C, 128)` -> `(C, 128)`."""
        return features + F.relu(self.w2(F.relu(self.w1(features))))


class WavelengthPatchEmbed(nn.Module):
    """A patch embedding with one generated kernel for each band and channel.

    The kernels lie in the generator's output as `(C, k, k, D)`. The files of the first release had them as
    `(D, C, k, k)`; neither keys nor shapes tell the difference. The convolution pads by one pixel.

    Args:
        wavelengths: Of each band, in um.
        img_size: Side of the images that `grid_size` tells of, in pixels.
        patch_size: Side k of a patch, in pixels.
        embed_dim: Channels D of a token.
    """

    def __init__(self, wavelengths: Sequence[float], img_size: int, patch_size: int, embed_dim: int):
        super().__init__()
        self.register_buffer("wavelengths", torch.tensor(wavelengths, dtype=torch.float32), persistent=False)
        self.img_size, self.patch_size = (img_size, img_size), (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = math.prod(self.grid_size)
        self.weight_generator = WeightGenerator(patch_size, embed_dim)
        self.fclayer = ResidualLayer()

    def init_weights(self) -> None:
        """Initial weights of the linear layers, as published; timm calls it after its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels to a side of a token."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def kernels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Kernels `(D, C, k, k)` and bias `(D,)` of the convolution."""
        features = self.fclayer(sincos(1000 * self.wavelengths, DIM))
        kernels, bias = self.weight_generator(features)
        kernels = kernels.unflatten(1, (*self.patch_size, -1)).permute(3, 0, 1, 2)
        return SCALE * kernels, SCALE * bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> `(B, h, w, D)`."""
        return F.conv2d(images, *self.kernels(), stride=self.patch_size, padding=1).permute(0, 2, 3, 1)


class Dofa(VisionTransformer):
    """A ViT for any bands of known wavelength.

    Its authors' files hold the final `norm`, torchgeo's copies do not.

    Args:
        wavelengths: Of each band, in um, see `wavelengths_of`.
        img_size: Side of the images that the position embeddings are made for, in pixels; they are
            interpolated for others.
        patch_size: Side of a patch, in pixels.
        in_chans: Number of bands.
        kwargs: As for timm's `VisionTransformer`; images may always have any size that patches divide.

    Raises:
        ValueError: `wavelengths` are missing, of another number than the bands, or out of range.
    """

    def __init__(self, *, wavelengths: Sequence[float] | None = None, in_chans: int, **kwargs):
        _check_wavelengths(wavelengths, in_chans)

        def embed_layer(img_size: int, patch_size: int, embed_dim: int, **_) -> WavelengthPatchEmbed:
            return WavelengthPatchEmbed(wavelengths, img_size, patch_size, embed_dim)

        fixed = {"embed_layer": embed_layer, "dynamic_img_size": True}
        super().__init__(in_chans=in_chans, **kwargs | fixed)
        with torch.no_grad():
            self.pos_embed.zero_()[0, 1:] = grid_sincos(self.patch_embed.grid_size, self.embed_dim)


def _check_wavelengths(wavelengths: Sequence[float] | None, in_chans: int) -> None:
    wanted = f"dofa: wavelengths of the {in_chans} bands are needed in um (--wavelengths)"
    if wavelengths is None:
        raise ValueError(f"{wanted}, got none")
    if len(wavelengths) != in_chans:
        raise ValueError(f"{wanted}, got {len(wavelengths)}")
    if not all(0 < wavelength < LONGEST_WAVELENGTH for wavelength in wavelengths):
        raise ValueError(f"{wanted}, 0 to {LONGEST_WAVELENGTH:g}, got {' '.join(map(str, wavelengths))}")
