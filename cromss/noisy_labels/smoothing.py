"""Label smoothing over space and seasons (CromSS, arXiv 2405.01217, section on label smoothing)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX
from cromss.opencv import cv2

PRIOR_KINDS = ("ts", "t", "s")


def label_prior(
    labels: Tensor,
    season: Tensor,
    num_classes: int,
    kind: str = "ts",
    sigma: float = 3.0,
    truncate: float = 4.0,
) -> Tensor:
    """How probable each class is at each pixel, given the noisy labels around it and in other seasons.

    One-hot labels are averaged over the seasons (`t`), taken from the drawn season (`s`), or both
    in equal parts (`ts`), then filtered with a Gaussian and normalised over the classes. The filter
    is linear, so one pass serves all three. Ignored pixels add nothing; where none but ignored
    pixels are in reach, the prior is uniform.

    Args:
        labels: `(B, T, H, W)` integer class ids, 255 where ignored.
        season: `(B,)` index of the drawn season of each sample.
        num_classes: Number of classes `K`.
        kind: `"ts"`, `"t"` or `"s"`.
        sigma: Standard deviation of the Gaussian, in pixels.
        truncate: Radius of the filter, in standard deviations.

    Returns:
        `(B, K, H, W)` float32, summing to 1 over the classes.
    """
    if kind not in PRIOR_KINDS:
        raise ValueError(f"label smoothing prior {kind!r}: choose one of {', '.join(PRIOR_KINDS)}")
    if labels.device.type != "cpu" or labels.shape[1] > _MOST_SEASONS:
        return dense_prior(labels, season, num_classes, kind, sigma, truncate)
    prior = np.empty((len(labels), num_classes, *labels.shape[-2:]), np.float32)
    votes = _season_votes(labels, season, kind).to(torch.uint8).numpy()
    fill = partial(_fill_sparse_prior, kernel=gaussian_kernel(sigma, truncate).float().numpy())
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, prior, labels.to(torch.uint8).numpy(), votes))
    return torch.from_numpy(prior)


def dense_prior(labels: Tensor, season: Tensor, num_classes: int, kind: str, sigma: float, truncate: float) -> Tensor:
    """The same by products with whole matrices, of all classes: what suits GPUs, and the oracle of the other way."""
    by_season = _season_votes(labels, season, kind).view(*labels.shape[:2], 1, 1, 1)
    votes = torch.zeros(len(labels), num_classes, *labels.shape[-2:], device=labels.device)
    for t in range(labels.shape[1]):
        votes += one_hot(labels[:, t], num_classes) * by_season[:, t]
    height, width = labels.shape[-2:]
    down, across = (gaussian_matrix(size, sigma, truncate, labels.device) for size in (height, width))
    smooth = down @ votes @ across.T
    total = smooth.sum(1, keepdim=True)
    return torch.where(total > _NOTHING, smooth / total.clamp_min(_NOTHING), 1 / num_classes)


def smooth_targets(labels: Tensor, num_classes: int, factors: Sequence[float], prior: Tensor | None = None) -> Tensor:
    """Soft targets: the label, a share of the prior, and a share of the uniform distribution.

    Args:
        labels: `(B, H, W)` integer class ids, 255 where ignored.
        num_classes: Number of classes `K`.
        factors: `(a,)` or `(a, b)`: share `a` of the prior and share `b` of the uniform
            distribution; without a prior only `(a,)`, the share of the uniform distribution.
        prior: `(B, K, H, W)` from `label_prior`, or `None`.

    Returns:
        `(B, K, H, W)` float32: `(1 - a - b) onehot + a prior + b / K`; zero where ignored.

    Raises:
        ValueError: Factors that are negative, too many, or sum to over 1.
    """
    check_factors(factors, has_prior=prior is not None)
    known = (labels != IGNORE_INDEX).unsqueeze(1)
    if prior is None:
        shared = torch.full(
            (len(labels), num_classes, *labels.shape[-2:]), factors[0] / num_classes, device=labels.device
        )
    else:
        shared = (prior.float() * factors[0]).add_(factors[1] / num_classes if len(factors) == 2 else 0.0)
    own = torch.full(known.shape, 1 - sum(factors), device=labels.device)
    index = torch.where(known, labels.unsqueeze(1), 0).long()
    return shared.scatter_add_(1, index, own).mul_(known)


def check_factors(factors: Sequence[float], has_prior: bool = True) -> None:
    """Refuse smoothing factors that make no distribution; see `smooth_targets`."""
    most = 2 if has_prior else 1
    if not 1 <= len(factors) <= most:
        raise ValueError(f"--label_smoothing_factor takes 1 to {most} numbers here, got {len(factors)}")
    if min(factors) < 0 or sum(factors) > 1:
        raise ValueError(
            f"--label_smoothing_factor {' '.join(f'{f:g}' for f in factors)}: factors must be >= 0 and sum to at most 1"
        )


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """`(B, H, W)` class ids -> `(B, K, H, W)` float32, zero at ignored pixels."""
    classes = torch.arange(num_classes, device=labels.device).view(-1, 1, 1)
    return (labels.unsqueeze(1) == classes).float()


@lru_cache(maxsize=16)
def gaussian_matrix(size: int, sigma: float, truncate: float, device: torch.device | str = "cpu") -> Tensor:
    """Gaussian filter of a line of `size` pixels as a `(size, size)` matrix, which stays on the device.

    The border repeats the edge pixel and mirrors (`d c b a | a b c d`), as in the published prior;
    the mirroring is folded into the matrix, so rows sum to 1 and no padding is needed.
    """
    kernel = gaussian_kernel(sigma, truncate)
    source = mirrored(size, len(kernel) // 2).unfold(0, len(kernel), 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(size, -1)).float().to(device)


def reach(sigma: float, truncate: float = 4.0) -> int:
    """Radius of the filter of `label_prior`, in pixels: labels further away have no say."""
    return int(truncate * sigma + 0.5)


@lru_cache(maxsize=16)
def gaussian_kernel(sigma: float, truncate: float) -> Tensor:
    """Weights `(2 r + 1,)` float64 of a Gaussian of radius `r`, see `reach`, summing to 1."""
    radius = reach(sigma, truncate)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return kernel / kernel.sum()


def mirrored(size: int, radius: int) -> Tensor:
    """Pixels of a line and `radius` beyond each end, `(size + 2 radius,)`: `d c b a | a b c d | d c b a`."""
    period = torch.arange(-radius, size + radius).remainder(2 * size)
    return torch.minimum(period, 2 * size - 1 - period)


def _fill_sparse_prior(prior: np.ndarray, labels: np.ndarray, votes: np.ndarray, kernel: np.ndarray) -> None:
    """Fill one prior `(K, H, W)` from labels `(T, H, W)` uint8: only classes in the sample are filtered."""
    there, known = labels.tobytes(), labels.max() < len(prior)
    down = kernel / (votes.sum(dtype=np.float32) if known else 1)
    for k, probability in enumerate(prior):
        if k in there:
            votes_for_it = np.einsum("t,thw->hw", votes, (labels == k).view(np.uint8))
            cv2.sepFilter2D(votes_for_it, cv2.CV_32F, kernel, down, probability, borderType=cv2.BORDER_REFLECT)
        else:
            probability[:] = 0
    if not known:
        total = prior.sum(0)
        prior /= np.maximum(total, _NOTHING)
        prior[:, total <= _NOTHING] = 1 / len(prior)


def _season_votes(labels: Tensor, season: Tensor, kind: str) -> Tensor:
    """Votes of each season, `(B, T)`: one each, as many as there are seasons for the drawn one, or both."""
    batch, num_seasons = labels.shape[:2]
    votes = torch.full((batch, num_seasons), float("t" in kind), device=labels.device)
    if "s" in kind:
        votes[torch.arange(batch, device=labels.device), season.long()] += num_seasons
    return votes


_NOTHING = 1e-6
"""Votes up to here are none: only ignored pixels are in reach."""
_MOST_SEASONS = 127
"""Twice their votes fit a byte."""
