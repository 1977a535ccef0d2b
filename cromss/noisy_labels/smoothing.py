"""Label smoothing over space and seasons (CromSS, arXiv 2405.01217, section on label smoothing)."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
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
    crops: Sequence[tuple[slice, slice]] | None = None,
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
        crops: Rows and columns wanted of each sample, of one size; labels around them count as ever. All for `None`.

    Returns:
        `(B, K, H, W)` float32, summing to 1 over the classes.
    """
    if kind not in PRIOR_KINDS:
        raise ValueError(f"label smoothing prior {kind!r}: choose one of {', '.join(PRIOR_KINDS)}")
    if labels.device.type != "cpu" or labels.shape[1] > _MOST_SEASONS:
        prior = dense_prior(labels, season, num_classes, kind, sigma, truncate)
        return prior if crops is None else torch.stack([one[:, *crop] for one, crop in zip(prior, crops)])
    height, width = labels.shape[-2:]
    crops = crops or [(slice(0, height), slice(0, width))] * len(labels)
    size = (side.stop - side.start for side in crops[0])
    prior = torch.from_numpy(np.empty((len(labels), num_classes, *size), np.float32))
    votes = _season_votes(labels, season, kind).to(torch.uint8).numpy()
    for one in zip(prior, labels.to(torch.uint8).numpy(), votes, crops):
        _fill_sparse_prior(*one, gaussian_kernel(sigma, truncate).float())
    return prior


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


@lru_cache(maxsize=16)
def gaussian_kernel(sigma: float, truncate: float) -> Tensor:
    """Weights `(2 r + 1,)` float64 of a Gaussian of radius `r = truncate sigma`, summing to 1."""
    radius = int(truncate * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return kernel / kernel.sum()


def mirrored(size: int, radius: int) -> Tensor:
    """Pixels of a line and `radius` beyond each end, `(size + 2 radius,)`: `d c b a | a b c d | d c b a`."""
    period = torch.arange(-radius, size + radius).remainder(2 * size)
    return torch.minimum(period, 2 * size - 1 - period)


def _fill_sparse_prior(
    prior: Tensor, labels: np.ndarray, votes: np.ndarray, crop: tuple[slice, slice], kernel: Tensor
) -> None:
    """Fill one prior `(K, h, w)` from labels `(T, H, W)` uint8: only classes in the sample are filtered, in eights.

    Where nothing is ignored, the last class takes the rest.
    """
    there = labels.tobytes()
    present, complete = [k for k in range(len(prior)) if k in there], labels.max() < len(prior)
    filtered, last = (present[:-1], present[-1]) if complete else (present, None)
    prior.zero_()
    if complete:
        prior[last] = 1
    for first in range(0, len(filtered), 8):
        classes = filtered[first : first + 8]
        mixing = torch.zeros(len(prior), 8)
        mixing[classes, range(len(classes))] = scale = 1 / float(votes.sum()) if complete else 1.0
        if complete:
            mixing[last] = -scale
        _add_filtered(prior, _packed_votes(labels, votes, classes), crop, kernel, mixing)
    if complete:
        prior[last].clamp_min_(0)
    else:
        total = prior.sum(0)
        prior.div_(total.clamp_min(_NOTHING))[:, total <= _NOTHING] = 1 / len(prior)


def _packed_votes(labels: np.ndarray, votes: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Votes for up to eight classes, `(H, W, 8)` uint8: a pixel's are the bytes of one number, so that they add up."""
    tables = np.zeros((len(votes), IGNORE_INDEX + 1, 8), np.uint8)
    tables[:, classes, range(len(classes))] = votes[:, np.newaxis]
    packed = np.zeros((*labels.shape[-2:], 1), np.uint64)
    for table, season in zip(tables.view(np.uint64), labels):
        packed[..., 0] += table.take(season)
    return packed.view(np.uint8)


def _add_filtered(prior: Tensor, votes: np.ndarray, crop: tuple[slice, slice], kernel: Tensor, mixing: Tensor) -> None:
    """Add the crop of `(H, W, 8)`, filtered down and across, the border mirrored, and mixed by `(K, 8)`.

    So many rows are taken at a time as the processor's cache holds at every step.
    """
    radius, (height, width), depth = len(kernel) // 2, prior.shape[-2:], votes.shape[-1]
    padded = np.pad(votes.view(np.uint64), [(radius, radius), (radius, radius), (0, 0)], mode="symmetric")
    padded = padded[tuple(slice(side.start, side.stop + 2 * radius) for side in crop)]
    for top in range(0, height, _ROWS):
        rows = padded[top : top + _ROWS + 2 * radius].view(np.uint8)
        smooth = torch.from_numpy(rows).float().unsqueeze(0).permute(0, 3, 1, 2)  # what a filter takes as channels last
        for shape in ((-1, 1), (1, -1)):
            smooth = F.conv2d(smooth, kernel.view(1, 1, *shape).expand(depth, -1, -1, -1), groups=depth)
        mixed = prior.view(len(prior), -1)[:, top * width : (top + _ROWS) * width]
        mixed.addmm_(mixing, smooth[0].permute(1, 2, 0).reshape(-1, depth).T)


def _season_votes(labels: Tensor, season: Tensor, kind: str) -> Tensor:
    """Votes of each season, `(B, T)`: one each, as many as there are seasons for the drawn one, or both."""
    batch, num_seasons = labels.shape[:2]
    votes = torch.full((batch, num_seasons), float("t" in kind), device=labels.device)
    if "s" in kind:
        votes[torch.arange(batch, device=labels.device), season.long()] += num_seasons
    return votes


_NOTHING = 1e-6
"""Votes up to here are none: only ignored pixels are in reach."""
_ROWS = 136
"""Half a tile."""
_MOST_SEASONS = 127
"""Twice their votes fit a byte."""
