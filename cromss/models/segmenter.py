"""Downstream segmentation: any head on any encoder, with an encoder that can be frozen for good."""

import torch
from torch import nn

from cromss.models.encoders import build_network, check_images, pad_to_multiple

_SMALLEST = {"pan": 8}
"""Cells of the coarsest feature map that a head needs on each side, where it needs more than one."""


class Segmenter(nn.Module):
    """A segmentation network for one image, of any size.

    Attributes:
        network: The segmentation_models_pytorch network.
        architecture: Its name.
        in_channels: Number of bands.
    """

    def __init__(self, network: nn.Module, architecture: str, in_channels: int):
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.in_channels = in_channels
        self._idle = {name for name, parameter in self.encoder.named_parameters() if not parameter.requires_grad}
        self._hold_statistics = False

    @property
    def encoder(self) -> nn.Module:
        """The encoder, as `load_encoder` wants it."""
        return self.network.encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` images -> `(B, K, H, W)` logits.

        Sizes the head cannot divide are padded (mirrored border) and cropped back.

        Raises:
            ValueError: Wrong band count.
        """
        check_images(images, self.in_channels, "images")
        height, width = images.shape[-2:]
        padded = pad_to_multiple(images, self.encoder.output_stride, _SMALLEST.get(self.architecture, 1))
        return self.network(padded)[..., :height, :width]

    def freeze_encoder(self, update_batchnorm: bool = False) -> None:
        """Stop training the encoder: no gradients, and fixed BatchNorm statistics.

        Args:
            update_batchnorm: Let BatchNorm statistics follow the training images although the
                weights are fixed: what "frozen" meant in the published tables.
        """
        self.encoder.requires_grad_(False)
        self._hold_statistics = not update_batchnorm
        self.train(self.training)

    def unfreeze_encoder(self) -> None:
        """Train the encoder again, but for the stages that never run."""
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name not in self._idle)
        self._hold_statistics = False
        self.train(self.training)

    def train(self, mode: bool = True) -> "Segmenter":
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._hold_statistics:
            self.encoder.eval()
        return self


def build_segmenter(
    architecture: str = "pspnet",
    encoder_name: str = "resnet50",
    in_channels: int = 13,
    num_classes: int = 8,
    encoder_depth: int | None = None,
    encoder_weights: str | None = None,
) -> Segmenter:
    """The network that is fine-tuned on a downstream set.

    Args:
        architecture: `unet`, `unetplusplus`, `manet`, `linknet`, `fpn`, `pspnet`, `deeplabv3`,
            `deeplabv3plus`, `pan` or `upernet`.
        encoder_name: An encoder of segmentation_models_pytorch, or `tu-<model>` for one of timm.
        in_channels: Number of bands.
        num_classes: Number of classes `K`.
        encoder_depth: Encoder stages that run, 3 to 5. `None` means 5, but 3 for PSPNet, as in the
            published DFC2020 table: layer3 and layer4 of a ResNet then load their weights but never
            run nor train. Ask for 5 to use the whole encoder.
        encoder_weights: `"imagenet"` to download weights, `None` for random ones (see `load_encoder`).

    Returns:
        A module `(B, C, H, W) -> (B, K, H, W)`.

    Raises:
        ValueError: Unknown architecture, encoder or weights, or a number out of range.
    """
    if encoder_depth is None:
        encoder_depth = 3 if architecture == "pspnet" else 5
    network = build_network(architecture, encoder_name, in_channels, num_classes, encoder_depth, encoder_weights)
    return Segmenter(network, architecture, in_channels)
