"""Encoders of stacked images: two sensors side by side, or two dates of one sensor.

Both stand where an encoder of segmentation_models_pytorch stands (a list of features, `out_channels`,
`output_stride`), so every head takes them as they are.
"""

from collections.abc import Mapping

import torch
from torch import nn


class TwinEncoder(nn.Module):
    """An encoder for each modality; the features of every level are averaged.

    The average has no parameters and needs none: the encoders of middle fusion are trained with one
    decoder, so that their features live in one space (arXiv 2405.01217), and the head gets features of
    the size it would get from one encoder.

    Args:
        encoders: Modality -> encoder, all of the same kind.
        bands: Modality -> number of bands, in the order in which they are stacked.

    Attributes:
        encoders: Modality -> its encoder.
        bands: Modality -> number of bands.
        out_channels: Channels of every level; level 0 is the stack itself.
        output_stride: Pixels to a cell of the last level.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], bands: Mapping[str, int]):
        super().__init__()
        self.encoders = nn.ModuleDict({modality: encoders[modality] for modality in bands})
        self.bands = dict(bands)
        one = next(iter(self.encoders.values()))
        self.out_channels = [sum(bands.values()), *one.out_channels[1:]]
        self.output_stride = one.output_stride

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`(B, sum C, H, W)` -> features `(B, C_l, H_l, W_l)` of every level; level 0 is the stack itself."""
        parts = images.split(list(self.bands.values()), dim=1)
        features = [encoder(part)[1:] for encoder, part in zip(self.encoders.values(), parts)]
        return [images, *(torch.stack(level).mean(dim=0) for level in zip(*features))]


class SiameseEncoder(nn.Module):
    """One encoder for two dates; the absolute difference of the features of every level.

    Both dates go through in one pass, on the batch axis: BatchNorm sees them together, and the order of
    the dates does not matter.

    Args:
        encoder: Encoder of one date.

    Attributes:
        encoders: The encoder, as `"images"`.
        out_channels: Channels of every level.
        output_stride: Pixels to a cell of the last level.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoders = nn.ModuleDict({"images": encoder})
        self.out_channels = list(encoder.out_channels)
        self.output_stride = encoder.output_stride

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`(B, 2C, H, W)`, date 1 before date 2 -> features `(B, C_l, H_l, W_l)` of every level."""
        dates = torch.cat(images.chunk(2, dim=1))
        pairs = (level.chunk(2) for level in self.encoders["images"](dates))
        return [(first - second).abs() for first, second in pairs]
