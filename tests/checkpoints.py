"""Checkpoints of pretraining runs that never ran: random networks in the layout that training writes."""

from functools import cache

import torch

from cromss.config import parse, to_flat
from cromss.models import encoders
from cromss.settings import MultiModalSettings, SingleModalSettings
from cromss.training.pretrained import blank_network

SMALL = "--model_type tu-test_resnet --crop_size 64 --validation 0.5"


@cache
def settings_of(arguments):
    kind = MultiModalSettings if "s12" in arguments else SingleModalSettings
    return parse(kind, [*SMALL.split(), *arguments.split()])


def state_dict_of(arguments, seed):
    return _state_dict_of(arguments, seed, encoders.UNET_CHANNELS)


@cache
def _state_dict_of(arguments, seed, channels):
    torch.manual_seed(seed)
    state_dict = blank_network(settings_of(arguments)).state_dict()
    return {f"model.{name}": tensor for name, tensor in state_dict.items()}


def save_checkpoint(path, arguments="--input_type s2", seed=0, data="", **changes):
    """Write a checkpoint for these settings and set; entries of the card, or `state_dict`, may be others."""
    settings = settings_of(arguments)
    state_dict = changes.pop("state_dict", None)
    if state_dict is None:
        state_dict = state_dict_of(arguments, seed) | {"val_scores.counts.s2.confmat": torch.zeros(9, 9)}
    card = {"fusion": settings.cross.fusion_type, "settings": to_flat(settings) | {"data_path": str(data)}} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "state_dict": state_dict, "cromss": card}, path)
    return path
