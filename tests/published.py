"""The published networks with the weights of the reference run."""

import copy
import zlib
from functools import cache

import numpy as np
import torch

from cromss.models import build_pretrainer
from cromss.models.published_names import from_published, to_published


def fill(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The reference's rule (reference/README.md, h_forward): values from the published name."""
    if key.endswith("num_batches_tracked"):
        return tensor
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(tensor.shape))
    if key.endswith("running_mean"):
        values = 0.1 * values
    elif key.endswith("running_var"):
        values = 1 + 0.1 * np.abs(values)
    elif tensor.ndim == 4:
        values = values * np.sqrt(2 / np.prod(tensor.shape[1:]))
    elif key.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return torch.as_tensor(values, dtype=tensor.dtype)


def reference_model(fusion: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """ResNet-18 pretrainer, 13 + 2 bands, 9 classes."""
    return copy.deepcopy(_reference_model(fusion)).to(dtype)


@cache
def _reference_model(fusion: str) -> torch.nn.Module:
    model = build_pretrainer(fusion, "resnet18")
    published = to_published(model.state_dict(), fusion)
    filled = {key: fill(key.removeprefix("net."), tensor) for key, tensor in published.items()}
    model.load_state_dict(from_published(filled))
    return model
