"""Segmenter's decoder: class embeddings attend to the tokens of a ViT, and a mask is how alike both are."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn


class MaskNorm(nn.Module):
    """Normalises `K` masks over the classes; one or two are only scaled and shifted.

    LayerNorm would leave nothing of a single mask, and of two only which is the larger, with next to no gradient.

    Attributes:
        weight: `(K,)`, what a mask is multiplied by at last.
        bias: `(K,)`, what is added to it then.
    """

    def __init__(self, num_classes: int, scale: float):
        """Build it, with the factor that one or two masks start with."""
        super().__init__()
        self.normalises = num_classes > 2
        self.weight = nn.Parameter(torch.full((num_classes,), 1.0 if self.normalises else scale))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """`(..., K)` -> `(..., K)`."""
        if self.normalises:
            return F.layer_norm(masks, masks.shape[-1:], self.weight, self.bias)
        return masks * self.weight + self.bias


class MaskTransformer(nn.Module):
    """The mask transformer of Segmenter (Strudel et al., ICCV 2021, arXiv 2105.05633, section 3.2).

    A learned embedding for each class goes through transformer blocks together with the patches; the
    logits of a class are the cosines between its embedding and the patches, both projected. Over the `K`
    masks they are normalised. One or two cosines are multiplied by a learned scale instead. It starts at
    `sqrt(D)`, which gives cosines of random directions the unit spread that LayerNorm gives.

    Attributes:
        class_embeddings: `(1, K, D)`.
        mask_norm: The last layer, see `MaskNorm`.
    """

    def __init__(self, embed_dim: int, num_classes: int, depth: int = 2, num_heads: int | None = None):
        """Build it with the random weights of a ViT.

        Args:
            embed_dim: Channels `D` of the tokens.
            num_classes: Number of classes `K`; 1 for change, a logit positive where it is seen.
            depth: Number of transformer blocks.
            num_heads: Attention heads of a block; `None` for heads of about 64 channels.

        Raises:
            ValueError: A number out of range, or heads that do not divide the channels.
        """
        super().__init__()
        _check_numbers(embed_dim, num_classes, depth, num_heads)
        heads = num_heads or _num_heads(embed_dim)
        self.project = nn.Linear(embed_dim, embed_dim)
        self.class_embeddings = nn.Parameter(torch.empty(1, num_classes, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.project_patches = nn.Linear(embed_dim, embed_dim, bias=False)
        self.project_classes = nn.Linear(embed_dim, embed_dim, bias=False)
        self.mask_norm = MaskNorm(num_classes, scale=embed_dim**0.5)
        self._initialise()

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feature maps, the last one `(B, D, h, w)` with the tokens of the last ViT block -> `(B, K, h, w)` logits."""
        height, width = features[-1].shape[-2:]
        patches = self.project(features[-1].flatten(2).transpose(1, 2))
        tokens = torch.cat([patches, self.class_embeddings.expand(len(patches), -1, -1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        patches, classes = self.norm(tokens).split([height * width, self.class_embeddings.shape[1]], dim=1)
        masks = self._masks(patches, classes)
        return masks.transpose(1, 2).unflatten(2, (height, width))

    def _masks(self, patches: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """`(B, h*w, D)` patches and `(B, K, D)` classes -> `(B, h*w, K)` masks."""
        patches = F.normalize(self.project_patches(patches), dim=-1)
        classes = F.normalize(self.project_classes(classes), dim=-1)
        return self.mask_norm(patches @ classes.transpose(1, 2))

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.class_embeddings, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for projection in (self.project_patches, self.project_classes):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)


def _num_heads(embed_dim: int) -> int:
    """The largest number of heads that divides the channels and leaves at least 64 to each, or 1."""
    return next(heads for heads in range(max(embed_dim // 64, 1), 0, -1) if embed_dim % heads == 0)


def _check_numbers(embed_dim: int, num_classes: int, depth: int, num_heads: int | None) -> None:
    for name, number in (("embed_dim", embed_dim), ("num_classes", num_classes), ("depth", depth)):
        if number < 1:
            raise ValueError(f"{name} {number}: at least 1 is needed")
    if num_heads is not None and (num_heads < 1 or embed_dim % num_heads):
        raise ValueError(f"num_heads {num_heads}: must divide the {embed_dim} channels of the tokens")
