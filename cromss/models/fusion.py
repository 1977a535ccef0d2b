"""The pretraining networks: one branch a sensor, with middle or late fusion (CromSS, arXiv 2405.01217).

Middle fusion: an encoder for each sensor, one decoder and head for all. Late fusion: a network for each
sensor; they meet only in the objective. The networks are U-Nets, those of ViTs UPerNets.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from cromss.encoder_names import is_vit
from cromss.models.encoders import build_network, check_images, pad_to_multiple
from cromss.models.stages import beside, encoder_stages, trainable
from cromss.models.vit import AS_NAMED, ViTOptions, backbone
from cromss.sensors import MODALITIES, S1, S2

FUSIONS = ("mid", "late")
BANDS = MappingProxyType({S1.name: len(S1.bands), S2.name: len(S2.bands)})
"""Band count of each modality: all bands of both sensors."""


class Pretrainer(nn.Module, ABC):
    """Named images in, logits of every branch out.

    Attributes:
        bands: Modality -> number of bands, in the order the branches run.
        common_branch: Whether a branch `"common"` sees all modalities stacked.
        encoders: Branch (`"s1"`, `"s2"`, `"common"`) -> its encoder.
    """

    encoders: Mapping[str, nn.Module]

    def __init__(self, bands: Mapping[str, int], common_branch: bool):
        super().__init__()
        self.bands = dict(bands)
        self.common_branch = common_branch

    @abstractmethod
    def segment(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """Images of one branch, at a size the encoder divides -> `(B, K, H, W)` logits."""

    def forward(self, **images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Segment every modality.

        Args:
            **images: Modality -> `(B, C, H, W)`, the same size for all; any H and W (padded to what
                the encoder divides, and cropped back).

        Returns:
            Branch -> logits `(B, K, H, W)`.

        Raises:
            ValueError: A modality missing or unknown, a wrong band count, or sizes that differ.
        """
        self._check(images)
        inputs = {name: images[name] for name in self.bands}
        if self.common_branch:
            inputs["common"] = torch.cat(list(inputs.values()), dim=1)
        return {branch: self.segment_any_size(branch, image) for branch, image in inputs.items()}

    def segment_any_size(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """Images of one branch, of any size (padded and cropped back) -> `(B, K, H, W)` logits."""
        height, width = images.shape[-2:]
        padded = pad_to_multiple(images, self.encoders[branch].output_stride)
        return self.segment(branch, padded)[..., :height, :width]

    def stages(self) -> list[list[nn.Parameter]]:
        """Trainable parameters: stem and stages of the encoders, the same of all together, and the rest."""
        encoders = [backbone(encoder) for encoder in self.encoders.values()]
        return trainable([*encoder_stages(encoders), beside(self, encoders)])

    def _check(self, images: Mapping[str, torch.Tensor]) -> None:
        if images.keys() != self.bands.keys():
            given = ", ".join(images) or "none"
            raise ValueError(f"images: this model takes the modalities {', '.join(self.bands)}; got {given}")
        for name, image in images.items():
            check_images(image, self.bands[name], name)
        sizes = {name: (len(image), *image.shape[-2:]) for name, image in images.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"images: all modalities must share (B, H, W); got {sizes}")


class MidFusion(Pretrainer):
    """An encoder for each branch; decoder and head are shared by all."""

    def __init__(self, networks: Mapping[str, nn.Module], bands: Mapping[str, int], common_branch: bool = False):
        super().__init__(bands, common_branch)
        shared = networks[next(iter(bands))]
        self.encoders = nn.ModuleDict({branch: network.encoder for branch, network in networks.items()})
        self.decoder = shared.decoder
        self.segmentation_head = shared.segmentation_head

    def segment(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """Own encoder, shared decoder and head."""
        return self.segmentation_head(self.decoder(self.encoders[branch](images)))


class LateFusion(Pretrainer):
    """A whole network for each branch."""

    def __init__(self, networks: Mapping[str, nn.Module], bands: Mapping[str, int], common_branch: bool = False):
        super().__init__(bands, common_branch)
        self.networks = nn.ModuleDict(networks)

    @property
    def encoders(self) -> Mapping[str, nn.Module]:
        """Branch -> its encoder."""
        return {branch: network.encoder for branch, network in self.networks.items()}

    def segment(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """The branch's own network."""
        return self.networks[branch](images)


def build_pretrainer(
    fusion: str = "mid",
    encoder_name: str = "resnet50",
    bands: Mapping[str, int] = BANDS,
    num_classes: int = 9,
    common_branch: bool = False,
    encoder_weights: str | Mapping[str, str | None] | None = None,
    vit: ViTOptions = AS_NAMED,
    wavelengths: Mapping[str, Sequence[float]] | None = None,
) -> Pretrainer:
    """The network that is pretrained on noisy labels.

    Args:
        fusion: `"mid"` (own encoders, shared decoder and head) or `"late"` (own networks). With a
            single modality there is nothing to fuse, and the network is one.
        encoder_name: An encoder of segmentation_models_pytorch, `tu-<model>` for one of timm, or a ViT
            (`vit_small_patch16_224`, see `cromss.models.vit.build_vit_encoder`).
        bands: Modality (`"s1"`, `"s2"`) -> number of bands.
        num_classes: Number of classes `K`.
        common_branch: Add a branch `"common"` with its own encoder (late: its own network) that sees
            the bands of all modalities stacked.
        encoder_weights: `"imagenet"` to start from downloaded weights, `None` from random ones, or
            a mapping of branch to either.
        vit: How ViTs are built.
        wavelengths: Modality -> central wavelength of each band in um (DOFA).

    Returns:
        A module `model(s1=..., s2=...) -> {"s1": logits, "s2": logits[, "common": logits]}`.

    Raises:
        ValueError: Unknown fusion, modality, encoder or weights, or a common branch of one modality.
    """
    _check_settings(fusion, bands, common_branch)
    channels = dict(bands)
    if common_branch:
        channels["common"] = sum(bands.values())
    starts = encoder_weights if isinstance(encoder_weights, Mapping) else dict.fromkeys(channels, encoder_weights)
    waves = {name: wavelengths[name] for name in bands} if wavelengths else {}
    waves |= {"common": [um for of_one in waves.values() for um in of_one]} if wavelengths else {}
    architecture = "upernet" if is_vit(encoder_name) else "unet"
    networks = {
        branch: build_network(
            architecture, encoder_name, count, num_classes, 5, starts.get(branch), vit, waves.get(branch)
        )
        for branch, count in channels.items()
    }
    cls = MidFusion if fusion == "mid" and len(bands) > 1 else LateFusion
    return cls(networks, bands, common_branch)


def _check_settings(fusion: str, bands: Mapping[str, int], common_branch: bool) -> None:
    if fusion not in FUSIONS:
        raise ValueError(f"fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")
    if not bands or not set(bands) <= set(MODALITIES):
        raise ValueError(f"bands {dict(bands)}: name one or more of {', '.join(MODALITIES)} with their band counts")
    if common_branch and len(bands) < 2:
        raise ValueError(f"common_branch: it stacks modalities, and there is only {next(iter(bands))}")
