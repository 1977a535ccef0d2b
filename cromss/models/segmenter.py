"""Downstream segmentation: any head on one, two or twice the same encoder, which can be frozen for good."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cromss.models.encoders import build_network, check_images, pad_to_multiple
from cromss.models.stacked_encoders import SiameseEncoder, TwinEncoder
from cromss.models.stages import beside, by_stage, encoder_stages, trainable
from cromss.models.vit import AS_NAMED, ViTOptions, backbone
from cromss.sensors import MODALITIES

_SMALLEST = {"pan": 8}
"""Cells of the coarsest feature map that a head needs on each side, where it needs more than one."""


class Segmenter(nn.Module):
    """A segmentation network for images of any size.

    Attributes:
        network: Encoder, decoder and head, as segmentation_models_pytorch has them.
        architecture: Its name.
        in_channels: Number of bands, of all modalities or dates together.
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
        """What turns images into features: of twins both encoders, of a ViT its pyramid, too."""
        return self.network.encoder

    @property
    def smallest(self) -> int:
        """Cells of the coarsest feature map on each side that the head needs at least."""
        return _SMALLEST.get(self.architecture, 1)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """What weights are loaded into and freezing freezes: one encoder as `"images"`, twins by modality."""
        stacked = isinstance(self.encoder, TwinEncoder | SiameseEncoder)
        whole = self.encoder.encoders if stacked else {"images": self.encoder}
        return {name: backbone(encoder) for name, encoder in whole.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` images -> `(B, K, H, W)` logits.

        Sizes the head cannot divide are padded (mirrored border) and cropped back.

        Raises:
            ValueError: Wrong band count.
        """
        check_images(images, self.in_channels, "images")
        height, width = images.shape[-2:]
        padded = pad_to_multiple(images, self.encoder.output_stride, self.smallest)
        return self.network(padded)[..., :height, :width]

    def stages(self) -> list[list[nn.Parameter]]:
        """Trainable parameters from input to output, for learning rates by layer.

        Stem and stages of the encoder (twins: the same stage of both together), the pyramid of a ViT, the
        decoder, block by block where it has blocks (U-Net++: column by column), and the head. Frozen and
        idle parameters are left out, and so are stages without any other.
        """
        encoders = self.encoders.values()
        pyramid = beside(self.encoder, encoders)
        head = list(self.network.segmentation_head.parameters())
        return trainable([*encoder_stages(encoders), pyramid, *by_stage(self.network.decoder).values(), head])

    def freeze_encoder(self, update_batchnorm: bool = False) -> None:
        """Stop training the encoder: no gradients, and fixed BatchNorm statistics.

        Args:
            update_batchnorm: Let BatchNorm statistics follow the training images although the
                weights are fixed: what "frozen" meant in the published tables.
        """
        for encoder in self.encoders.values():
            encoder.requires_grad_(False)
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
            for encoder in self.encoders.values():
                encoder.eval()
        return self


def build_segmenter(
    architecture: str = "pspnet",
    encoder_name: str = "resnet50",
    in_channels: int = 13,
    num_classes: int = 8,
    encoder_depth: int | None = None,
    encoder_weights: str | None = None,
    vit: ViTOptions = AS_NAMED,
    wavelengths: Sequence[float] | None = None,
) -> Segmenter:
    """The network that is fine-tuned on a downstream set.

    Args:
        architecture: `unet`, `unetplusplus`, `manet`, `linknet`, `fpn`, `pspnet`, `deeplabv3`,
            `deeplabv3plus`, `pan` or `upernet`; on a ViT `unet`, `fpn`, `upernet` or `segmenter`.
        encoder_name: An encoder of segmentation_models_pytorch, `tu-<model>` for one of timm, or a ViT
            (`vit_small_patch16_224`, see `cromss.models.vit.build_vit_encoder`).
        in_channels: Number of bands; of all modalities together where they are stacked.
        num_classes: Number of classes `K`.
        encoder_depth: Encoder stages that run, 3 to 5. `None` means 5, but 3 for PSPNet, as in the
            published DFC2020 table: layer3 and layer4 of a ResNet then load their weights but never
            run nor train. Ask for 5 to use the whole encoder.
        encoder_weights: `"imagenet"` to download weights, `None` for random ones (see `load_encoder`).
        vit: How a ViT is built.
        wavelengths: Central wavelength of each band in um (DOFA).

    Returns:
        A module `(B, C, H, W) -> (B, K, H, W)`.

    Raises:
        ValueError: Unknown architecture, encoder or weights, or a number out of range.
    """
    depth = _depth(architecture, encoder_depth)
    network = build_network(
        architecture, encoder_name, in_channels, num_classes, depth, encoder_weights, vit, wavelengths
    )
    return Segmenter(network, architecture, in_channels)


def build_twin_segmenter(
    architecture: str,
    encoder_name: str,
    bands: Mapping[str, int],
    num_classes: int,
    encoder_depth: int | None = None,
    encoder_weights: Mapping[str, str | None] | None = None,
    vit: ViTOptions = AS_NAMED,
    wavelengths: Mapping[str, Sequence[float]] | None = None,
) -> Segmenter:
    """A segmenter with an encoder for each modality, whose features are averaged (`TwinEncoder`).

    Args:
        architecture: As in `build_segmenter`.
        encoder_name: Kind of both encoders.
        bands: Modality (`"s1"`, `"s2"`) -> number of bands, in the order in which they are stacked.
        num_classes: Number of classes `K`.
        encoder_depth: As in `build_segmenter`.
        encoder_weights: Modality -> `"imagenet"`, where they are to be downloaded.
        vit: How ViTs are built.
        wavelengths: Modality -> central wavelength of each band in um (DOFA).

    Returns:
        A module `(B, sum C, H, W) -> (B, K, H, W)`; `encoders` holds both encoders by modality.

    Raises:
        ValueError: As in `build_segmenter`, or fewer than two modalities, or FPN at depth 3, where the
            image itself is one of the features.
    """
    depth = _depth(architecture, encoder_depth)
    if len(bands) < 2 or not set(bands) <= set(MODALITIES):
        raise ValueError(f"bands {dict(bands)}: twins take two or more of {', '.join(MODALITIES)} with their counts")
    if architecture == "fpn" and depth == 3:
        raise ValueError("encoder_depth 3: the image itself is a feature of fpn then, and twins share none; choose 4")
    starts, waves = encoder_weights or {}, wavelengths or {}
    networks = {
        m: build_network(architecture, encoder_name, count, num_classes, depth, starts.get(m), vit, waves.get(m))
        for m, count in bands.items()
    }
    twins = TwinEncoder({modality: network.encoder for modality, network in networks.items()}, bands)
    network = networks[next(iter(bands))]
    network.encoder = twins
    return Segmenter(network, architecture, sum(bands.values()))


def build_change_segmenter(
    architecture: str = "unet",
    encoder_name: str = "resnet50",
    in_channels: int = 13,
    num_classes: int = 1,
    encoder_depth: int | None = None,
    encoder_weights: str | None = None,
    vit: ViTOptions = AS_NAMED,
    wavelengths: Sequence[float] | None = None,
) -> Segmenter:
    """A segmenter of what changed between two dates: one encoder for both (`SiameseEncoder`).

    Args:
        architecture: As in `build_segmenter`.
        encoder_name: Kind of the encoder.
        in_channels: Number of bands of one date.
        num_classes: Logits a pixel; 1 for change, positive where it is seen.
        encoder_depth: As in `build_segmenter`.
        encoder_weights: As in `build_segmenter`.
        vit: As in `build_segmenter`.
        wavelengths: As in `build_segmenter`, of one date.

    Returns:
        A module `(B, 2C, H, W) -> (B, K, H, W)`, date 1 before date 2.

    Raises:
        ValueError: As in `build_segmenter`.
    """
    depth = _depth(architecture, encoder_depth)
    network = build_network(
        architecture, encoder_name, in_channels, num_classes, depth, encoder_weights, vit, wavelengths
    )
    network.encoder = SiameseEncoder(network.encoder)
    return Segmenter(network, architecture, 2 * in_channels)


def _depth(architecture: str, encoder_depth: int | None) -> int:
    if encoder_depth is not None:
        return encoder_depth
    return 3 if architecture == "pspnet" else 5
