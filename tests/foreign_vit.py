"""Foreign checkpoints of ViTs, re-created layout by layout, as small files: every tensor is one number, spread."""

import argparse
import copy
from functools import cache

import torch
from foreign import constants
from timm.models.vision_transformer import VisionTransformer

from cromss.models.vit import ViTEncoder, ViTOptions, build_vit_encoder

TINY = "vit_tiny_patch16_224"
SATMAE = "satmae_tiny_patch8_96"
SCALEMAE = "scalemae_tiny_patch16_224"
DOFA = "dofa_tiny_patch16_224"
DEPTH = 3
"""Blocks that are left of twelve: the other nine have the same names and shapes."""


@cache
def _zeros(bands: int, name: str, patch_size: int, image_size: int) -> ViTEncoder:
    wavelengths = (0.5,) * bands if name.startswith("dofa") else None
    empty = build_vit_encoder(name, bands, ViTOptions(patch_size, image_size), wavelengths, pyramid=False)
    empty.vit.blocks = empty.vit.blocks[:DEPTH]
    for tensor in empty.state_dict().values():
        tensor.zero_()
    return empty


def encoder(bands: int = 13, name: str = TINY, patch_size: int = 0, image_size: int = 0) -> ViTEncoder:
    """A ViT of zeros in its encoder."""
    return copy.deepcopy(_zeros(bands, name, patch_size, image_size))


def vit(bands: int = 13, name: str = TINY, patch_size: int = 0, image_size: int = 0) -> VisionTransformer:
    """A ViT of zeros."""
    return encoder(bands, name, patch_size, image_size).vit


@cache
def tensors(bands: int = 13, name: str = TINY, seed: int = 0, image_size: int = 0) -> dict[str, torch.Tensor]:
    """What a ViT's file should hold."""
    return constants(_zeros(bands, name, 0, image_size).vit.state_dict(), seed + bands)


def behind(prefix: str, bands: int = 13, name: str = TINY, seed: int = 0) -> dict[str, torch.Tensor]:
    """A ViT and its classifier behind a prefix."""
    classifier = {f"{prefix}head.weight": torch.zeros(5, 192), f"{prefix}head.bias": torch.zeros(5)}
    return {prefix + key: value for key, value in tensors(bands, name, seed).items()} | classifier


def decoder() -> dict[str, torch.Tensor]:
    """What stands beside a masked autoencoder's encoder, beginning with the token of masked patches."""
    names = ("embed.weight", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.11.norm1.weight", "pred.weight")
    return {"mask_token": torch.zeros(1, 1, 512)} | {f"decoder_{name}": torch.zeros(4, 4) for name in names}


def mae(bands: int = 13, name: str = TINY) -> dict:
    settings = argparse.Namespace(model="mae_vit", mask_ratio=0.75, input_size=224)
    return {"model": tensors(bands, name) | decoder(), "epoch": 99, "scaler": {"scale": 65536.0}, "args": settings}


def satmae(bands: int = 10) -> dict:
    return mae(bands, SATMAE) | {"args": argparse.Namespace(grouped_bands=[[0, 1, 2, 6], [3, 4, 5, 7], [8, 9]])}


def satmae_plus_plus(bands: int = 10) -> dict:
    content = satmae(bands)
    content["model"] |= {"upsample.0.weight": torch.zeros(4, 4, 2, 2), "decoder_channel_embed": torch.zeros(1, 4, 8)}
    return content


def scalemae(bands: int = 3) -> dict:
    return mae(bands) | {"args": argparse.Namespace(base_resolution=2.5)}


def dofa(bands: int = 13) -> dict:
    """As its authors' files: the final norm, and what pretraining needed."""
    beside = {"mask_token": torch.zeros(1, 1, 512), "projector.weight": torch.zeros(4, 4)}
    return tensors(bands, DOFA, seed=-bands) | beside


def dofa_of_torchgeo(bands: int = 13) -> dict:
    """As torchgeo's copies: no final norm, but that of a classifier."""
    own = {key: value for key, value in tensors(bands, DOFA, seed=-bands).items() if not key.startswith("norm.")}
    return own | {name: torch.zeros(192) for name in ("fc_norm.weight", "fc_norm.bias", "head.bias")}


def dino(bands: int = 13, teacher: str = "module.backbone.") -> dict:
    head = {teacher.replace("backbone", "head") + "mlp.0.weight": torch.zeros(4, 4)}
    return {"student": behind("module.backbone.", bands, seed=1), "teacher": behind(teacher, bands) | head}


def dino_of_one_device(bands: int = 13) -> dict:
    return dino(bands, "backbone.")


def moco(bands: int = 13) -> dict:
    keys = behind("module.momentum_encoder.", bands, seed=1) | {"module.predictor.0.weight": torch.zeros(8, 8)}
    head = {"module.base_encoder.head.0.weight": torch.zeros(4, 4)}
    return {"arch": "vit_small", "state_dict": keys | behind("module.base_encoder.", bands) | head}


def bare(bands: int = 13) -> dict:
    return behind("", bands) | {"mask_token": torch.zeros(1, 192)}


def headless(bands: int = 13) -> dict:
    return dict(tensors(bands))
