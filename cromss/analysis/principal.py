"""First principal component of a layer's features: the picture that a layer makes of an image."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Principal(NamedTuple):
    """First principal component over the cells of one image.

    Attributes:
        map: `(h, w)` in [0, 1], stretched from the 2 to the 98 percentile; 0.5 where all cells
            are the same, or not finite.
        share: Share of the variance that it explains; NaN where there is none.
    """

    map: torch.Tensor
    share: float


def first_principal_component(features: torch.Tensor, towards: torch.Tensor | None = None) -> Principal:
    """Project the features of every cell on the direction in which they vary most (Pearson 1901).

    The sign of a principal component is free. Here it is chosen so that the map correlates positively with
    another one; without, the loading of largest magnitude is positive.

    Args:
        features: `(C, h, w)` of one image.
        towards: Map `(h', w')` to turn towards, of any size.

    Returns:
        The map, and how much of the variance it shows.
    """
    height, width = features.shape[1:]
    centred = features.double().flatten(1)
    centred = centred - centred[:, :1]  # constant features become 0 exactly
    centred = centred - centred.mean(1, keepdim=True)
    variance = centred.square().sum()
    if not 0 < variance < math.inf:
        return Principal(torch.full((height, width), 0.5), float("nan"))
    loadings = _first_direction(centred)
    scores = (loadings @ centred).reshape(height, width)
    share = float(scores.square().sum() / variance)
    if towards is None:
        sign = loadings[loadings.abs().argmax()].sign()
    else:
        sign = _covariance(scores, _resized(towards, scores)).sign()
    return Principal(_stretch(scores if sign >= 0 else -scores), share)


def _first_direction(centred: torch.Tensor) -> torch.Tensor:
    """Unit vector `(C,)` of largest variance of `(C, N)`, by the smaller of the two Gram matrices."""
    channels, cells = centred.shape
    if channels <= cells:
        return torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1]
    direction = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    return direction / direction.norm()


def _resized(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    image = image.to(like)[None, None]
    return F.interpolate(image, size=like.shape, mode="bilinear", antialias=True)[0, 0]


def _covariance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - a.mean()) * (b - b.mean())).sum()


def _stretch(scores: torch.Tensor) -> torch.Tensor:
    low, high = torch.quantile(scores.flatten(), scores.new_tensor([0.02, 0.98]))
    if low == high:  # nearly all cells are the same
        low, high = scores.min(), scores.max()
    return ((scores - low) / (high - low)).clamp(0, 1).float().cpu()
