"""Fixed sine-cosine embeddings of positions (arXiv 1706.03762, and in two dimensions 2104.02057)."""

import torch


def sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Embeddings of positions along a line: sines, then cosines, of frequencies from 1 down to 1/10000.

    Args:
        positions: `(N,)`.
        dim: Length D of an embedding, even.

    Returns:
        `(N, D)` float32.

    Raises:
        ValueError: An odd `dim`.
    """
    if dim % 2:
        raise ValueError(f"sine-cosine embedding: its length must be even, got {dim}")
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim / 2)
    angles = torch.outer(positions.float(), 1 / 10000**exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_sincos(
    grid: tuple[int, int], dim: int, scale: float = 1.0, device: torch.device | None = None
) -> torch.Tensor:
    """Embeddings of the cells of a grid: the first half tells the column, the second half the row.

    Args:
        grid: Rows h and columns w.
        dim: Length D of an embedding, divisible by 4.
        scale: Factor on rows and columns.
        device: Where to compute.

    Returns:
        `(h * w, D)` float32, row by row.

    Raises:
        ValueError: `dim` is not divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine embedding of a grid: its length must be divisible by 4, got {dim}")
    rows, columns = (sincos(torch.arange(side, device=device) * scale, dim // 2) for side in grid)
    return torch.cat([columns.repeat(grid[0], 1), rows.repeat_interleave(grid[1], dim=0)], dim=1)
