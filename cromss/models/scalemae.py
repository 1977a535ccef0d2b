"""ScaleMAE: a ViT whose position embeddings know the ground resolution (arXiv 2212.14532)."""

import math

import torch
from timm.models.vision_transformer import VisionTransformer

from cromss.models.positions import grid_sincos

S2_RESOLUTION = 10.0
"""Metres a pixel of Sentinel-2, whose bands all come on the grid of the finest ones."""


class ScaleMAE(VisionTransformer):
    """A ViT with fixed position embeddings, made for the grid of the images and their resolution.

    The patch in row i and column j gets the sine-cosine embedding of `i * resolution` and `j * resolution`: the
    paper's factor g/G with a reference G of 1 m (section 3.1). The published defaults gave the encoder factors of
    2.2 to 5 in pretraining (nominally 2.5 m, times the crop's scale) and of 1 in evaluation.

    Args:
        resolution: Metres a pixel of the images.
        kwargs: As for timm's `VisionTransformer`; images may always have any size that patches divide.

    Raises:
        ValueError: `resolution` is not a positive number.
    """

    def __init__(self, *, resolution: float = 1.0, **kwargs):
        if not (math.isfinite(resolution) and resolution > 0):
            raise ValueError(f"scalemae: the resolution must be positive, in metres a pixel, got {resolution}")
        super().__init__(**kwargs | {"pos_embed": "none", "dynamic_img_size": True})
        self.resolution = resolution

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Patches `(B, h, w, D)` -> tokens `(B, 1 + h * w, D)`; nothing is added to the class token."""
        positions = grid_sincos(x.shape[1:3], self.embed_dim, self.resolution, x.device)
        patches = x.flatten(1, 2) + positions.to(self.cls_token.dtype)  # that of the weights: autocast's x is coarser
        return self.pos_drop(torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1))
