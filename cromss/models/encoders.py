"""Networks on any encoder of segmentation_models_pytorch or on a ViT: found by name, run at any image size."""

import difflib
from collections.abc import Sequence
from functools import lru_cache

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import nn

from cromss.encoder_names import OWN_FAMILIES, VIT_HEADS, family, is_vit
from cromss.models.grid_pooling import pool_deterministically
from cromss.models.vit import AS_NAMED, ViTOptions
from cromss.models.vit_networks import UNET_CHANNELS, build_vit_network

ARCHITECTURES = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn"),
    *("pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"),
)
"""Architectures on offer, by the names segmentation_models_pytorch gives them."""


def build_network(
    architecture: str,
    encoder_name: str,
    in_channels: int,
    num_classes: int,
    encoder_depth: int = 5,
    encoder_weights: str | None = None,
    vit: ViTOptions = AS_NAMED,
    wavelengths: Sequence[float] | None = None,
) -> nn.Module:
    """A segmentation network with encoder, decoder and head.

    Args:
        architecture: One of `ARCHITECTURES`; with a ViT one of `VIT_HEADS`.
        encoder_name: An encoder of segmentation_models_pytorch, `tu-<model>` for one of timm, or a ViT, see
            `cromss.models.vit.build_vit_encoder`.
        in_channels: Number of bands.
        num_classes: Number of classes `K`.
        encoder_depth: Encoder stages that run, 3 to 5; parameters of later ones get no gradient. A ViT has
            no stages.
        encoder_weights: `"imagenet"` to download weights, `None` for random ones.
        vit: How a ViT is built.
        wavelengths: Central wavelength of each band in um (DOFA).

    Returns:
        A module `(B, C, H, W) -> (B, K, H, W)` for sizes divisible by `encoder.output_stride`.

    Raises:
        ValueError: Unknown architecture, encoder or weights, a number out of range, or no network
            to download from.
    """
    _check_names(architecture, encoder_name)
    _check_numbers(in_channels, num_classes, encoder_depth)
    _check_vit(encoder_name, encoder_depth, encoder_weights, vit)
    try:
        if is_vit(encoder_name):
            network = build_vit_network(
                architecture, encoder_name, in_channels, num_classes, encoder_weights is not None, vit, wavelengths
            )
            pool_deterministically(network)
            return network
        network = smp.create_model(
            architecture,
            encoder_name=encoder_name,
            encoder_weights=_weights_argument(encoder_name, encoder_weights),
            in_channels=in_channels,
            classes=num_classes,
            encoder_depth=encoder_depth,
            **_depth_options(architecture, encoder_depth),
        )
    except ValueError as error:
        if "downsampling pattern" not in str(error):
            raise
        raise ValueError(_unusable(encoder_name, "has no pyramid of features")) from error
    except (KeyError, OSError) as error:
        if encoder_weights is None:
            raise
        raise ValueError(_weights_error(encoder_name, encoder_weights, error)) from error
    if encoder_depth < 5:
        _switch_off_idle(network, in_channels, side=8 << encoder_depth)
    pool_deterministically(network)
    return network


def pad_to_multiple(images: torch.Tensor, multiple: int, smallest: int = 1) -> torch.Tensor:
    """Pad below and to the right until both sides are divisible by `multiple`.

    Args:
        images: `(B, C, H, W)`.
        multiple: Divisor wanted, in pixels.
        smallest: Sides to reach at least, in multiples.

    Returns:
        `(B, C, H', W')`, mirrored at the border; the last row or column is repeated where the image
        is too small to mirror. `[..., :H, :W]` undoes it.
    """
    height, width = images.shape[-2:]
    below, right = (max(-side % multiple, smallest * multiple - side) for side in (height, width))
    if not below and not right:
        return images
    mode = "reflect" if below < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, below), mode=mode)


def check_images(images: torch.Tensor, channels: int, name: str) -> None:
    """Refuse what is not `(B, channels, H, W)`.

    Raises:
        ValueError: Wrong dimensions or band count; the line says which were expected.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"{name}: this model takes {channels} bands, (B, {channels}, H, W); got {tuple(images.shape)}")


def _check_names(architecture: str, encoder_name: str) -> None:
    offered = VIT_HEADS if is_vit(encoder_name) else ARCHITECTURES
    if architecture not in offered:
        with_it = f" with {encoder_name}" if architecture in (*ARCHITECTURES, *VIT_HEADS) else ""
        raise ValueError(f"architecture {architecture!r}: choose one of {', '.join(offered)}{with_it}")
    own = smp.encoders.get_encoder_names()
    if encoder_name in own or family(encoder_name) in OWN_FAMILIES:
        return
    timm_name = encoder_name.removeprefix("tu-")
    if is_vit(timm_name) and timm_name != encoder_name and timm.is_model(timm_name):
        raise ValueError(f"encoder_name {encoder_name!r}: ViTs go without tu-, {timm_name}")
    if (timm_name != encoder_name or is_vit(encoder_name)) and (":" in timm_name or timm.is_model(timm_name)):
        if timm_name != encoder_name and _takes_one_size(timm_name):
            raise ValueError(_unusable(encoder_name, "takes images of one size only"))
        return
    close = _similar(encoder_name)
    example = "choose --model_type such as resnet50, tu-<timm model> or vit_small_patch16_224"
    hint = f"did you mean {', '.join(close)}?" if close else example
    raise ValueError(f"encoder_name {encoder_name!r}: no such encoder; {hint}")


def _similar(encoder_name: str) -> list[str]:
    """Up to four names of encoders that resemble a misspelt one; of ViTs where it begins like theirs."""
    bare = encoder_name.lower().removeprefix("tu-")
    if bare.startswith("vit"):
        plain = timm.list_models("vit_*_patch*", module="vision_transformer")
        whole = bare if "_patch" in bare else f"{bare}_patch16_224"
        return difflib.get_close_matches(whole, plain, n=4) or ["vit_small_patch16_224"]
    of_timm = (name for name in timm.list_models(exclude_filters="vit_*") if not _has_fixed_size(name))
    known = smp.encoders.get_encoder_names() + [f"tu-{name}" for name in of_timm]
    return difflib.get_close_matches(encoder_name, known, n=4)


def _has_fixed_size(timm_name: str) -> bool:
    """Whether timm says that a model's weights are for images of one size."""
    told = timm.get_pretrained_cfg(timm_name.partition(".")[0])
    return told is not None and told.fixed_input_size


@lru_cache(maxsize=64)
def _takes_one_size(timm_name: str) -> bool:
    """Whether the features, too, of a model that timm says so of are to be had at that size only."""
    if not _has_fixed_size(timm_name):
        return False
    try:
        with torch.device("meta"):
            timm.create_model(timm_name.partition(".")[0], features_only=True).eval()(torch.empty(1, 3, 96, 96))
    except (AssertionError, RuntimeError, ValueError):
        return True
    return False


def _unusable(encoder_name: str, reason: str) -> str:
    """The line that refuses an encoder of timm."""
    remedy = "choose a CNN such as tu-resnet50, or a plain ViT such as vit_small_patch16_224"
    return f"encoder_name {encoder_name!r}: it {reason}; {remedy} (--model_type)"


def _check_numbers(in_channels: int, num_classes: int, encoder_depth: int) -> None:
    if in_channels < 1:
        raise ValueError(f"in_channels {in_channels}: an image has at least 1 band")
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: at least 1 is needed")
    if encoder_depth not in (3, 4, 5):
        raise ValueError(f"encoder_depth {encoder_depth}: choose 3, 4 or 5")


def _check_vit(encoder_name: str, encoder_depth: int, encoder_weights: str | None, vit: ViTOptions) -> None:
    if is_vit(encoder_name):
        if encoder_weights is not None and family(encoder_name) != "vit":
            raise ValueError(f"encoder_weights {encoder_weights!r}: timm has none of {encoder_name}; load a file")
        if encoder_depth != 5:
            raise ValueError(f"encoder_depth {encoder_depth}: {encoder_name} has no stages; leave it out")
        return
    for option in ("patch_size", "image_size", "drop_path"):
        if value := getattr(vit, option):
            raise ValueError(f"{option} {value}: only for ViTs, not for {encoder_name}")


def _depth_options(architecture: str, encoder_depth: int) -> dict:
    """What segmentation_models_pytorch leaves to the caller when the depth is not its default."""
    if architecture in ("unet", "unetplusplus", "manet"):
        return {"decoder_channels": UNET_CHANNELS[:encoder_depth]}
    if architecture in ("pspnet", "fpn"):
        features_stride = 2**encoder_depth if architecture == "pspnet" else 2 ** (encoder_depth - 3)
        return {"upsampling": features_stride}
    return {}


def _weights_argument(encoder_name: str, encoder_weights: str | None) -> str | bool | None:
    """Encoders of timm carry their weights in the name: there, asking for any means `True`."""
    return True if encoder_weights and encoder_name.startswith("tu-") else encoder_weights


def _weights_error(encoder_name: str, encoder_weights: str, error: Exception) -> str:
    if isinstance(error, KeyError):
        offered = smp.encoders.encoders[encoder_name]["pretrained_settings"]
        return f"encoder_weights {encoder_weights!r}: {encoder_name} offers {', '.join(offered) or 'none'}"
    return (
        f"encoder_weights {encoder_weights!r} of {encoder_name} could not be downloaded "
        f"({type(error).__name__}); check the network, or give a weights file"
    )


@torch.enable_grad()
def _switch_off_idle(network: nn.Module, in_channels: int, side: int) -> None:
    """No gradients for parameters no image ever reaches: distributed training would wait for them."""
    parameters = list(network.parameters())
    images = torch.zeros(1, in_channels, side, side, device=parameters[0].device)
    network.eval()
    total = network(images).sum()
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True)):
        parameter.requires_grad_(gradient is not None)
    network.train()
