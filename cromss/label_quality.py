"""How far noisy labels are from exact ones, in counts that add: what is taken for what, and how near to class borders.

The orientation is that of Table 1 of arXiv 2402.16164: the exact mask is the truth and the noisy mask the prediction.
Precision of class k is the share of the pixels noisily labelled k that are truly k; recall of class k the share of
the pixels that are truly k that are noisily labelled so.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from cromss.legends import IGNORE_INDEX
from cromss.metrics import confusion_matrix, scores

MAX_DISTANCE = 1000
"""Pixels up to which distances may be counted."""


@dataclass(frozen=True, eq=False)
class Quality:
    """Counts over masks; those of two sets of masks add up to those of both.

    Pixels are compared where both masks have a class. Distances are those of `border_distance`; column i of the
    counts by distance holds what lies in (i, i + 1] px, and the last one what lies beyond.

    Attributes:
        confusion: `(K, K)` compared pixels, row = exact class, column = noisy class.
        pixels: `(K, D)` compared pixels by exact class and distance to the nearest border of the exact mask.
        wrong: `(K, D)` those of them that are noisily labelled otherwise.
        num_masks: Pairs of masks.
        num_pixels: Pixels of a mask over all pairs, compared or not.
        unlabelled_noisy: Pixels without a class in the noisy mask.
        unlabelled_exact: Pixels without a class in the exact mask.
    """

    confusion: np.ndarray
    pixels: np.ndarray
    wrong: np.ndarray
    num_masks: int
    num_pixels: int
    unlabelled_noisy: int
    unlabelled_exact: int

    def __add__(self, other: "Quality") -> "Quality":
        if self.pixels.shape != other.pixels.shape:
            (here, reach), (there, other_reach) = self.pixels.shape, other.pixels.shape
            raise ValueError(
                f"counts of {here} classes up to {reach - 1} px and of {there} classes up to {other_reach - 1} px "
                "do not add; compare all masks with the same num_classes and max_distance"
            )
        return Quality(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def num_compared(self) -> int:
        """Pixels with a class in both masks."""
        return int(self.confusion.sum())

    @property
    def num_wrong(self) -> int:
        """Compared pixels whose classes differ."""
        return int(self.wrong.sum())

    @property
    def max_distance(self) -> int:
        """Distance in pixels up to which they are told apart."""
        return self.pixels.shape[1] - 1

    def scores(self) -> dict[str, float | torch.Tensor]:
        """The scores of `cromss.metrics.scores`, NaN where undefined, and the mean `precision_mean`."""
        result = scores(self.confusion)
        return result | {"precision_mean": result["precision"].nanmean().item()}


def compare(noisy: np.ndarray, exact: np.ndarray, num_classes: int, max_distance: int = 32) -> Quality:
    """Counts of one pair of masks.

    Args:
        noisy: `(H, W)` integer class ids, 255 for unlabelled pixels.
        exact: `(H, W)` of the same place.
        num_classes: Number of classes `K`.
        max_distance: Pixels up to which distances are told apart, 1 to `MAX_DISTANCE`.

    Raises:
        ValueError: Not two integer masks of one size, class ids outside 0..K-1, or `max_distance` out of range.
    """
    if not 1 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance {max_distance}: 1 to {MAX_DISTANCE} pixels")
    _check_mask("noisy", noisy, num_classes)
    _check_mask("exact", exact, num_classes)
    if noisy.shape != exact.shape:
        raise ValueError(f"sizes differ: noisy {noisy.shape}, exact {exact.shape}")
    compared = (noisy != IGNORE_INDEX) & (exact != IGNORE_INDEX)
    steps = np.minimum(np.ceil(border_distance(exact, max_distance)), max_distance + 1).astype(np.int64)
    shape = (num_classes, max_distance + 1)
    cells = np.ravel_multi_index((exact[compared], steps[compared] - 1), shape)
    wrong = cells[noisy[compared] != exact[compared]]
    return Quality(
        confusion=confusion_matrix(noisy[compared], exact[compared], num_classes).numpy(),
        pixels=np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape),
        wrong=np.bincount(wrong, minlength=shape[0] * shape[1]).reshape(shape),
        num_masks=1,
        num_pixels=exact.size,
        unlabelled_noisy=int((noisy == IGNORE_INDEX).sum()),
        unlabelled_exact=int((exact == IGNORE_INDEX).sum()),
    )


def border_distance(labels: np.ndarray, max_distance: int) -> np.ndarray:
    """Exact Euclidean distance between the centres of each pixel and of the nearest one of another class.

    It is 1 right at a border. Unlabelled pixels are no class: they make no border, and have no distance. One pass
    along the rows, then one along the columns, as in separable distance transforms (Saito and Toriwaki 1994,
    Pattern Recognition 27); here "another class" depends on the pixel.

    Args:
        labels: `(H, W)` integer class ids, 255 for unlabelled pixels.
        max_distance: Pixels up to which distances are wanted.

    Returns:
        `(H, W)` float64 in pixels; infinite beyond `max_distance` and for unlabelled pixels.
    """
    far = max_distance + 1
    sides = (_to_the_left(labels, far), [array[:, ::-1] for array in _to_the_left(labels[:, ::-1], far)])
    squared = np.full(labels.shape, far**2, np.int32)
    reach = min(max_distance, len(labels) - 1)
    for step in range(-reach, reach + 1):
        here = slice(max(0, -step), len(labels) - max(0, step))
        there = slice(max(0, step), len(labels) - max(0, -step))
        for classes, nearest, other in sides:
            along = np.where(classes[there] == labels[here], other[there], nearest[there])
            np.minimum(squared[here], along + step**2, out=squared[here])
    distance = np.sqrt(squared)
    distance[(distance > max_distance) | (labels == IGNORE_INDEX)] = np.inf
    return distance


def _to_the_left(labels: np.ndarray, far: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each pixel meets to the left in its row, itself included.

    Returns:
        Class of the nearest labelled pixel, squared distance to it, and squared distance to the nearest one of
        another class than that; `far` squared where there is none nearer. Each `(H, W)`.
    """
    columns = np.arange(labels.shape[1], dtype=np.int32)
    place = np.maximum.accumulate(np.where(labels != IGNORE_INDEX, columns, -far), axis=1)
    classes = np.take_along_axis(labels, np.maximum(place, 0), axis=1)
    changes = np.where(classes[:, 1:] != classes[:, :-1], place[:, :-1], -far)
    before = np.maximum.accumulate(np.pad(changes, ((0, 0), (1, 0)), constant_values=-far), axis=1)
    nearest, other = (np.minimum(columns - found, far).astype(np.int32) ** 2 for found in (place, before))
    return classes, nearest, other


def _check_mask(name: str, mask: np.ndarray, num_classes: int) -> None:
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "iu":
        raise ValueError(f"{name} mask: integer class ids (H, W) are wanted, got {mask.dtype} of shape {mask.shape}")
    outside = np.unique(mask[(mask != IGNORE_INDEX) & ((mask < 0) | (mask >= num_classes))])
    if len(outside):
        found = ", ".join(map(str, outside[:8]))
        raise ValueError(f"{name} mask: class ids lie in 0..{num_classes - 1}, or {IGNORE_INDEX}; found {found}")
