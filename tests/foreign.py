"""Foreign checkpoints, re-created layout by layout, as small files: every tensor is one number, spread."""

import argparse
import os
from functools import cache
from pathlib import Path

import segmentation_models_pytorch as smp
import torch


def encoder(bands: int = 13, name: str = "resnet18") -> torch.nn.Module:
    """An encoder of zeros (built without drawing weights: these tests are about names and shapes)."""
    with torch.device("meta"):
        empty = smp.encoders.get_encoder(name, in_channels=bands)
    empty = empty.to_empty(device="cpu")
    for tensor in empty.state_dict().values():
        tensor.zero_()
    return empty


def constants(state_dict: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """One random number for each tensor, spread over its shape: files stay tiny, mix-ups are seen."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: (1 + 9 * torch.rand((), generator=generator)).to(value.dtype).expand(value.shape)
        for key, value in state_dict.items()
    }


@cache
def tensors(bands: int = 13, name: str = "resnet18", seed: int = 0) -> dict[str, torch.Tensor]:
    """What an encoder's file should hold."""
    return constants(encoder(bands, name).state_dict(), seed + bands)


def behind(prefix: str, bands: int = 13, name: str = "resnet18", seed: int = 0) -> dict[str, torch.Tensor]:
    """An encoder and its classifier behind a prefix."""
    classifier = {f"{prefix}fc.weight": torch.zeros(5, 7), f"{prefix}fc.bias": torch.zeros(5)}
    return {prefix + key: value for key, value in tensors(bands, name, seed).items()} | classifier


def lightning(state_dict: dict, n_channels: int = 13) -> dict:
    """A published Lightning checkpoint around its tensors."""
    settings = argparse.Namespace(model_type="resnet50", n_channels=n_channels, gpus=[0, 1])
    return {"epoch": 7, "state_dict": state_dict, "hyper_parameters": settings, "optimizer_states": [{"lr": 0.1}]}


def mid(bands: int = 13, name: str = "resnet18") -> dict:
    decoder = {"net.decoder.blocks.0.conv1.0.weight": torch.zeros(4, 4, 3, 3)}
    return lightning(behind("net.encoder1.", 2, name) | behind("net.encoder.", bands, name) | decoder, bands)


def late(bands: int = 13, name: str = "resnet18") -> dict:
    return lightning(behind("net.model1.encoder.", 2, name) | behind("net.model2.encoder.", bands, name), bands)


def single(bands: int = 13, name: str = "resnet18") -> dict:
    return lightning(behind("net.encoder.", bands, name))


def moco(bands: int = 13, name: str = "resnet18") -> dict:
    keys = behind("module.encoder_k.", bands, name, seed=1) | {"module.queue": torch.zeros(8, 8)}
    return {"arch": "resnet50", "state_dict": keys | behind("module.encoder_q.", bands, name)}


def dino(bands: int = 13, name: str = "resnet18") -> dict:
    student = behind("module.backbone.", bands, name, seed=1)
    teacher = behind("module.backbone.", bands, name) | {"module.head.mlp.0.weight": torch.zeros(4, 4)}
    return {"student": student, "teacher": teacher, "args": argparse.Namespace(lr=0.1)}


def decur(bands: int = 13, name: str = "resnet18") -> dict:
    projectors = {"module.projector.0.weight": torch.zeros(4, 4)}
    return {"model": behind("module.backbone_1.", 2, name) | behind("module.backbone_2.", bands, name) | projectors}


def satlas(bands: int = 9, name: str = "resnet18", prefix: str = "backbone.resnet.") -> dict:
    return behind(prefix, bands, name) | {"fpn.inner_blocks.0.weight": torch.zeros(4, 4, 1, 1)}


def satlas_repeated(bands: int = 9, name: str = "resnet18") -> dict:
    return satlas(bands, name, "backbone.backbone.resnet.")


def bare(bands: int = 13, name: str = "resnet18") -> dict:
    return behind("", bands, name)


def headless(bands: int = 13, name: str = "resnet18") -> dict:
    """As a split file or torchgeo's copy: the encoder's tensors, nothing else."""
    return dict(tensors(bands, name))


class Attack:
    """A pickle that makes a file when it is opened carelessly."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def holds(loaded: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    state = loaded.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)
