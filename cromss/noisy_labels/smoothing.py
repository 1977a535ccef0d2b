"""Label smoothing over space and seasons (CromSS, arXiv 2405.01217, section on label smoothing)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cromss.legends import IGNORE_INDEX

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
    votes = _season_votes(labels, season, num_classes, kind)
    height, width = labels.shape[-2:]
    down = gaussian_matrix(height, sigma, truncate).to(votes)
    across = gaussian_matrix(width, sigma, truncate).to(votes)
    smooth = down @ votes @ across.T
    total = smooth.sum(1, keepdim=True)
    return torch.where(total > 1e-6, smooth / total.clamp_min(1e-6), 1 / num_classes)


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
    onehot = one_hot(labels, num_classes)
    if prior is None:
        mixed = factors[0] / num_classes
    else:
        mixed = factors[0] * prior + (factors[1] / num_classes if len(factors) == 2 else 0.0)
    return (onehot * (1 - sum(factors)) + mixed) * (labels != IGNORE_INDEX).unsqueeze(1)


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
def gaussian_matrix(size: int, sigma: float, truncate: float) -> Tensor:
    """Gaussian filter of a line of `size` pixels as a `(size, size)` matrix.

    The border repeats the edge pixel and mirrors (`d c b a | a b c d`), as in the published prior;
    the mirroring is folded into the matrix, so rows sum to 1 and no padding is needed.
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    source = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)[None, :]
    period = source.remainder(2 * size)
    mirrored = torch.minimum(period, 2 * size - 1 - period)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, mirrored, kernel.expand(size, -1)).float()


def _season_votes(labels: Tensor, season: Tensor, num_classes: int, kind: str) -> Tensor:
    batch, num_seasons = labels.shape[:2]
    share = torch.zeros(batch, num_seasons, device=labels.device)
    if "t" in kind:
        share += 1 / num_seasons
    if "s" in kind:
        share[torch.arange(batch, device=labels.device), season.long()] += 1
    share = share / share.sum(1, keepdim=True)
    votes = torch.zeros(batch, num_classes, *labels.shape[-2:], device=labels.device)
    for t in range(num_seasons):
        votes += one_hot(labels[:, t], num_classes) * share[:, t].view(-1, 1, 1, 1)
    return votes
