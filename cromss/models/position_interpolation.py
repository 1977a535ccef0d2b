"""Position embeddings of a ViT's file on the grid of the encoder that takes them."""

import math
from collections.abc import Mapping

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

NAME = "pos_embed"


def fit_positions(
    state_dict: Mapping[str, torch.Tensor], prefix: str, encoder: nn.Module
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """A file's tensors with its position embeddings on the encoder's grid.

    Args:
        state_dict: All tensors of the file.
        prefix: What stands before the encoder's own names.
        encoder: Where they will be loaded; others than ViTs with learned positions have none to fit.

    Returns:
        The tensors, and what was done to them: nothing where the grids are equal.

    Raises:
        ValueError: As `interpolate_positions`.
    """
    found, own = state_dict.get(prefix + NAME), getattr(encoder, NAME, None)
    if not isinstance(encoder, VisionTransformer) or found is None or own is None:
        return dict(state_dict), ()
    if found.ndim != 3 or len(found) != 1:
        return dict(state_dict), ()
    grid = tuple(encoder.patch_embed.grid_size)
    fitted, note = interpolate_positions(found, grid, own.shape[1] - math.prod(grid))
    return dict(state_dict) | {prefix + NAME: fitted}, (note,) if note else ()


def interpolate_positions(
    positions: torch.Tensor, grid: tuple[int, int], num_prefix_tokens: int
) -> tuple[torch.Tensor, str]:
    """Position embeddings of a square grid, bicubically on another one.

    Args:
        positions: `(1, P + n * n, D)`.
        grid: Wanted height and width, in tokens.
        num_prefix_tokens: Tokens `P` before the grid (class token, registers); they stay as they are.

    Returns:
        `(1, P + height * width, D)`, the very same tensor where the grid has this size already, and a line
        that says what was done, empty for nothing.

    Raises:
        ValueError: No square grid is left after the prefix tokens.
    """
    count = positions.shape[1] - num_prefix_tokens
    if count == math.prod(grid):
        return positions, ""
    side = math.isqrt(max(count, 0))
    if side == 0 or side**2 != count:
        raise ValueError(
            f"{NAME} of {positions.shape[1]} tokens is no square grid after {num_prefix_tokens} of class and registers"
        )
    fitted = resample_abs_pos_embed(positions, list(grid), [side, side], num_prefix_tokens)
    return fitted, f"{NAME} interpolated from {side}x{side} to {grid[0]}x{grid[1]}"
