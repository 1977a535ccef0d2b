"""Segmentation networks on ViTs: decoders of segmentation_models_pytorch on the pyramid, or the mask transformer."""

from collections.abc import Sequence

from segmentation_models_pytorch.base import SegmentationHead, SegmentationModel
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn

from cromss.models.mask_transformer import MaskTransformer
from cromss.models.vit import AS_NAMED, STRIDES, ViTEncoder, ViTOptions, build_vit_encoder

UNET_CHANNELS = (256, 128, 64, 32, 16)
"""Channels of a U-Net's decoder blocks, from the coarsest to the finest."""


class ViTNetwork(SegmentationModel):
    """A ViT with decoder and head, in the form of segmentation_models_pytorch."""

    def __init__(self, encoder: ViTEncoder, decoder: nn.Module, segmentation_head: nn.Module):
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = encoder, decoder, segmentation_head
        self.classification_head = None


def build_vit_network(
    architecture: str,
    encoder_name: str,
    in_channels: int,
    num_classes: int,
    pretrained: bool = False,
    options: ViTOptions = AS_NAMED,
    wavelengths: Sequence[float] | None = None,
) -> ViTNetwork:
    """A segmentation network on a ViT.

    Args:
        architecture: `"unet"`, `"fpn"` or `"upernet"` on the pyramid, or `"segmenter"`: the mask transformer
            on the tokens of the last block (arXiv 2105.05633).
        encoder_name: See `build_vit_encoder`; so are the rest.
        in_channels: Number of bands.
        num_classes: Number of classes `K`.
        pretrained: Download the weights that timm has under this name.
        options: Whatever the name leaves open.
        wavelengths: Central wavelength of each band in um, for DOFA.

    Returns:
        A module `(B, C, H, W) -> (B, K, H, W)` for sizes divisible by `encoder.output_stride`.
    """
    pyramid = architecture != "segmenter"
    encoder = build_vit_encoder(encoder_name, in_channels, options, wavelengths, pretrained, pyramid)
    channels = encoder.out_channels
    if architecture == "segmenter":
        decoder = MaskTransformer(channels[-1], num_classes)
        return ViTNetwork(encoder, decoder, nn.Upsample(scale_factor=encoder.token_stride, mode="bilinear"))
    if architecture == "unet":
        decoder, head = UnetDecoder(channels, UNET_CHANNELS), SegmentationHead(UNET_CHANNELS[-1], num_classes)
    elif architecture == "fpn":
        decoder, head = FPNDecoder(channels), _coarse_head(128, num_classes)
    else:
        decoder, head = UPerNetDecoder(channels), _coarse_head(256, num_classes)
    network = ViTNetwork(encoder, decoder, head)
    network.initialize()
    return network


def _coarse_head(channels: int, num_classes: int) -> SegmentationHead:
    """Head of the decoders that end at the pyramid's finest level."""
    return SegmentationHead(channels, num_classes, kernel_size=1, upsampling=STRIDES[0])
