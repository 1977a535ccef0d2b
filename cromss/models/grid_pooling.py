"""Mean pooling to a grid, with gradients that are the same bits each time, which PyTorch has on CPUs alone."""

import torch
from torch import Tensor, nn


class GridPool(nn.AdaptiveAvgPool2d):
    """PyTorch's pooling, by products with matrices where deterministic algorithms are asked for off the CPU."""

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C, h, w)`."""
        if features.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
            return super().forward(features)
        rows, columns = (self.output_size,) * 2 if isinstance(self.output_size, int) else self.output_size
        return pooled(features, rows, columns)


def pool_deterministically(network: nn.Module) -> None:
    """Make the pooling to a grid in a network, of PSPNet and UPerNet, a `GridPool`, in place."""
    for module in network.modules():
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size not in (1, (1, 1)):
            module.__class__ = GridPool


def pooled(features: Tensor, rows: int, columns: int) -> Tensor:
    """Means over the cells of a grid, `(B, C, H, W)` -> `(B, C, rows, columns)`, summed up in float32."""
    height, width = features.shape[-2:]
    with torch.autocast(features.device.type, enabled=False):
        down, across = _cells(height, rows, features.device), _cells(width, columns, features.device)
        return (down @ features.float() @ across.T).to(features.dtype)


def _cells(size: int, count: int, device: torch.device) -> Tensor:
    """Weights `(count, size)` of the pixels of a line in its cells, which overlap where they must, as PyTorch's do."""
    cell, pixel = torch.arange(count, device=device)[:, None], torch.arange(size, device=device)
    begin, end = cell * size // count, -(-(cell + 1) * size // count)
    return ((begin <= pixel) & (pixel < end)) / (end - begin)
