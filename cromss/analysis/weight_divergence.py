"""How far the weights of a module in two networks are apart: KL divergence of their distributions."""

import math
from typing import NamedTuple

import torch
from torch import nn

NUM_BINS = 64


class Divergence(NamedTuple):
    """KL divergences of the weights of one module in two networks, in nats.

    Attributes:
        gaussian: Of the Gaussians fitted to both.
        histogram: Of their histograms.
        chance: What the histograms of two samples of this size from one distribution have on average, if all bins
            are filled; less if not.
    """

    gaussian: float
    histogram: float
    chance: float


def divergence(p: torch.Tensor, q: torch.Tensor, num_bins: int = NUM_BINS) -> Divergence:
    """KL(p || q) of the distributions of two sets of weights.

    Args:
        p: Weights of a module in the one network, any shape.
        q: The same in the other.
        num_bins: Bins of the histograms.

    Raises:
        ValueError: No weights, or NaN or infinity among them.
    """
    p, q = (weights.detach().flatten().double() for weights in (p, q))
    for weights in (p, q):
        if not len(weights) or not torch.isfinite(weights).all():
            raise ValueError(f"weights: {len(weights)} of them, or NaN or infinity among them; finite ones are wanted")
    chance = (num_bins - 1) / 2 * (1 / len(p) + 1 / len(q))
    return Divergence(gaussian_kl(p, q), histogram_kl(p, q, num_bins), chance)


def gaussian_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL divergence of the Gaussians with the means `m` and standard deviations `s` of two samples.

    `ln(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2` (Kullback, Information Theory and Statistics,
    1959). 0 for equal constants, infinite where just one is constant or they differ.
    """
    (m_p, s_p), (m_q, s_q) = ((float(x.mean()), float(x.std(correction=0))) for x in (p, q))
    if s_p == 0 or s_q == 0:
        return 0.0 if (m_p, s_p) == (m_q, s_q) else math.inf
    return math.log(s_q / s_p) + (s_p**2 + (m_p - m_q) ** 2) / (2 * s_q**2) - 0.5


def histogram_kl(p: torch.Tensor, q: torch.Tensor, num_bins: int = NUM_BINS) -> float:
    """KL divergence of two samples' histograms on equal bins from their least to their largest value.

    To every bin half a count is added (Krichevsky and Trofimov 1981), so that no bin is empty.
    """
    low, high = float(min(p.min(), q.min())), float(max(p.max(), q.max()))
    counts = [torch.histc(x, num_bins, low, high) + 0.5 for x in (p, q)]
    shares = [count / count.sum() for count in counts]
    return float((shares[0] * (shares[0] / shares[1]).log()).sum())


def weights_of(module: nn.Module) -> torch.Tensor:
    """Kernels and matrices of a module as one vector; biases and scales of norms are left out."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters() if parameter.ndim > 1])
