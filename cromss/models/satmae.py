"""SatMAE and SatMAE++: a ViT over groups of bands (arXiv 2207.08051, 2403.05419)."""

from functools import partial
from itertools import chain

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cromss.models.positions import grid_sincos, sincos
from cromss.sensors import S2_SUBSETS

BANDS = S2_SUBSETS[10]
"""Sentinel-2 bands of the published weights, in order."""

GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
"""Groups of `BANDS`: visible and near infrared at 10 m; red edge at 20 m; short-wave infrared."""

Groups = tuple[tuple[int, ...], ...]


class GroupedPatchEmbed(nn.ModuleList):
    """A patch embedding for each group of bands.

    Args:
        groups: Indices of the bands of each of the G groups.
        img_size: Side of the images that `grid_size` tells of, in pixels.
        patch_size: Side of a patch, in pixels.
        in_chans: Number of bands.
        embed_dim: Channels D of a token.
        kwargs: As for timm's `PatchEmbed`.

    Raises:
        ValueError: `groups` is no partition, or one of another number of bands.
    """

    def __init__(self, groups: Groups, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **kwargs):
        _check_bands(groups, in_chans)
        super().__init__(PatchEmbed(img_size, patch_size, len(group), embed_dim, **kwargs) for group in groups)
        self.groups = groups
        self.img_size, self.patch_size = self[0].img_size, self[0].patch_size
        self.grid_size, self.num_patches = self[0].grid_size, self[0].num_patches

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels to a side of a token."""
        return self[0].feat_ratio(as_scalar)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> `(B, G, h, w, D)`."""
        bands = images.unbind(1)
        groups = [torch.stack([bands[i] for i in group], 1) for group in self.groups]
        return torch.stack([embed(group) for embed, group in zip(self, groups, strict=True)], dim=1)


class SatMAE(VisionTransformer):
    """A ViT that sees every patch once for each group of bands.

    The last channels of a token's embedding tell its group, the others its position. Tokens are ordered
    class token first, then group by group.

    Args:
        groups: Indices of the bands of each of the G groups.
        channel_embed_dim: Channels that tell the group (256 in the published ViT-L).
        img_size: Side of the images that the position embeddings are made for, in pixels; they are
            interpolated for others.
        patch_size: Side of a patch, in pixels.
        in_chans: Number of bands.
        embed_dim: Channels D of a token.
        kwargs: As for timm's `VisionTransformer`; images may always have any size that patches divide.

    Raises:
        ValueError: `groups` is no partition, or one of another number of bands; or the channels cannot be
            divided as told.
    """

    def __init__(
        self,
        *,
        groups: Groups = GROUPS,
        channel_embed_dim: int = 256,
        img_size: int = 96,
        patch_size: int = 8,
        in_chans: int = 10,
        embed_dim: int = 1024,
        **kwargs,
    ):
        position_dim = embed_dim - channel_embed_dim
        if channel_embed_dim <= 0 or channel_embed_dim % 2 or position_dim <= 0 or position_dim % 4:
            raise ValueError(
                f"satmae: channel_embed_dim {channel_embed_dim} must be even, and leave a multiple of 4 of the "
                f"{embed_dim} channels for the position"
            )
        shape = {"img_size": img_size, "patch_size": patch_size, "in_chans": in_chans, "embed_dim": embed_dim}
        fixed = {"embed_layer": partial(GroupedPatchEmbed, groups), "dynamic_img_size": True}
        super().__init__(**shape, **kwargs | fixed)
        positions = grid_sincos(self.patch_embed.grid_size, position_dim)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, position_dim), positions])[None])
        self.channel_embed = nn.Parameter(sincos(torch.arange(len(groups)), channel_embed_dim)[None])
        self.channel_cls_embed = nn.Parameter(torch.zeros(1, 1, channel_embed_dim))

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Patches `(B, G, h, w, D)` -> tokens `(B, 1 + G * h * w, D)`."""
        batch, num_groups, *grid, _ = x.shape
        known = resample_abs_pos_embed(self.pos_embed, grid, self.patch_embed.grid_size, num_prefix_tokens=1)
        of_class, positions = known[:, :1], known[:, 1:]
        of_patches = torch.cat(
            [
                positions[:, None].expand(-1, num_groups, -1, -1),
                self.channel_embed[:, :, None].expand(-1, -1, positions.shape[1], -1),
            ],
            dim=-1,
        )
        patches = (x.flatten(2, 3) + of_patches).flatten(1, 2)
        class_token = self.cls_token + torch.cat([of_class, self.channel_cls_embed], dim=-1)
        return self.pos_drop(torch.cat([class_token.expand(batch, -1, -1), patches], dim=1))


def _check_bands(groups: Groups, in_chans: int) -> None:
    """Groups must be a partition of the bands."""
    grouped = sorted(chain(*groups))
    if not grouped or not all(groups) or grouped != list(range(len(grouped))):
        raise ValueError(f"satmae: groups must hold each band from 0 on once, and none be empty, got {groups}")
    if in_chans != len(grouped):
        names = f" {BANDS[0]} ... {BANDS[-1]} (--n_channels {len(BANDS)})" if groups == GROUPS else " of its groups"
        raise ValueError(f"satmae: takes the {len(grouped)} bands{names}, got {in_chans}")
