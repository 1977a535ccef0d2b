"""Noise that can be stated: coarse blocks, lost objects, displaced borders, misregistration, confused classes.

All rules are functions of masks `(H, W)` uint8 of class ids. Ignored pixels (255) stay ignored, have no say, and
never spread: a pixel that would take the label of an ignored one keeps its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
from rasterio.features import sieve

from cromss.fields import enlarge, shifted, smooth_field, uniform_pair
from cromss.legends import IGNORE_INDEX

MAX_PIXELS = 10**9
"""Largest length, distance or area that a rule may name."""


def coarsen(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Majority over blocks of `pixels` x `pixels` from the upper left corner; ties go to the lower class id.

    Blocks at the right and lower edge may be smaller.
    """
    _check_number("pixels", pixels, 1)
    pixels = min(pixels, max(labels.shape))
    rows, columns = (np.arange(0, length, pixels) for length in labels.shape)
    most = np.zeros((len(rows), len(columns)), np.int64)
    winner = np.full(most.shape, IGNORE_INDEX, np.uint8)
    for class_id in np.setdiff1d(labels, IGNORE_INDEX):
        votes = np.add.reduceat(labels == class_id, rows, axis=0, dtype=np.int64)
        votes = np.add.reduceat(votes, columns, axis=1)
        winner[votes > most] = class_id
        most = np.maximum(most, votes)
    return _respect_ignored(enlarge(winner, pixels, labels.shape), labels)


def minimum_mapping_unit(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Give connected patches (4 neighbours) of fewer than `pixels` pixels to their largest neighbour.

    A patch whose largest neighbour is small too follows that one's largest neighbour, and so on; patches among which
    none is large enough stay.
    """
    _check_number("pixels", pixels, 1)
    if pixels == 1:
        return labels
    sieved = sieve(labels, min(pixels, labels.size), mask=labels != IGNORE_INDEX, connectivity=4)
    return _respect_ignored(sieved, labels)


def shift_borders(labels: np.ndarray, rng: np.random.Generator, pixels: float, scale: float = 8) -> np.ndarray:
    """Look up each pixel at a smoothly displaced place, at most three `pixels` away along each axis.

    Args:
        labels: `(H, W)` uint8 class ids.
        rng: Source of randomness.
        pixels: Root mean square displacement in px.
        scale: Correlation length of the displacement in px.
    """
    _check_number("pixels", pixels, 0, whole=False)
    _check_number("scale", scale, 0, whole=False)
    if pixels == 0:
        return labels
    places = []
    for axis, length in enumerate(labels.shape):
        offset = np.clip(smooth_field(rng, labels.shape, scale) * pixels / np.sqrt(2), -3 * pixels, 3 * pixels)
        index = np.arange(length).reshape((-1, 1) if axis == 0 else (1, -1)) + np.rint(offset).astype(int)
        places.append(np.clip(index, 0, length - 1))
    return _respect_ignored(labels[tuple(places)], labels)


def translate(labels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Misregister: move all labels down by `rows` and right by `columns` px; edges repeat."""
    _check_number("rows", rows, -MAX_PIXELS)
    _check_number("columns", columns, -MAX_PIXELS)
    return _respect_ignored(shifted(labels, rows, columns), labels)


def confuse(labels: np.ndarray, rng: np.random.Generator, matrix: np.ndarray, patch: float) -> np.ndarray:
    """Draw each pixel's class from its row of a confusion matrix, in ragged patches.

    Args:
        labels: `(H, W)` uint8 class ids.
        rng: Source of randomness.
        matrix: `(K, K)` probability of noisy class (column) given true class (row).
        patch: Size of the patches in px; 0 for single pixels.

    Raises:
        ValueError: No matrix of probabilities (see `check_confusion`), or a class id without a row in it.
    """
    matrix = check_confusion(matrix)
    _check_number("patch", patch, 0, whole=False)
    num_classes, highest = len(matrix), labels[labels != IGNORE_INDEX].max(initial=0)
    if highest >= num_classes:
        raise ValueError(f"labels: class id {highest}, and the confusion matrix has rows for 0..{num_classes - 1}")
    whether, which = uniform_pair(rng, labels.shape, patch)
    error = np.zeros(256)
    error[:num_classes] = 1 - matrix.diagonal()
    wrong = whether < error[labels]
    noisy = labels.copy()
    noisy[wrong] = (which[wrong][:, None] >= _cumulative_errors(matrix)[labels[wrong]]).sum(axis=1)
    return noisy


def check_confusion(matrix: Any) -> np.ndarray:
    """A confusion matrix as `(K, K)` float64.

    Raises:
        ValueError: Not square, a value outside 0..1, or a row that does not sum to 1 (to 1e-6).
    """
    try:
        matrix = np.asarray(matrix, np.float64)
    except (TypeError, ValueError):
        raise ValueError("confusion matrix: wanted numbers, K rows of K") from None
    if matrix.ndim != 2 or len(set(matrix.shape)) > 1:
        raise ValueError(f"confusion matrix: shape {matrix.shape}, wanted K rows of K")
    outside = matrix[~((matrix >= 0) & (matrix <= 1))]
    if outside.size:
        raise ValueError(f"confusion matrix: value {outside[0]:g}, wanted probabilities in 0..1")
    for row, total in enumerate(matrix.sum(axis=1)):
        if abs(total - 1) > 1e-6:
            raise ValueError(f"confusion matrix: row {row} sums to {total:.7g}, wanted 1")
    return matrix


@dataclass(frozen=True)
class Rule:
    """One rule with its arguments.

    Attributes:
        name: Key in `RULES`.
        arguments: Name -> plain value.
    """

    name: str
    arguments: Mapping[str, Any]

    def __call__(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Spoil `(H, W)` uint8 class ids; only rules of chance draw from `rng`."""
        rule = RULES[self.name]
        chance = {"rng": rng} if "rng" in signature(rule).parameters else {}
        return rule(labels, **chance, **self.arguments)


def apply_rules(labels: np.ndarray, rules: Sequence[Rule], rng: np.random.Generator) -> np.ndarray:
    """Apply rules in their order; `(H, W)` uint8 class ids, 255 ignored.

    Raises:
        ValueError: `labels` is no such mask, blocks larger than it, a translation out of it, or as the rules.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise ValueError(f"labels: wanted (H, W) uint8 class ids, got {labels.shape} {labels.dtype}")
    for rule in rules:
        _refuse_beyond(rule, labels.shape)
        labels = rule(labels, rng)
    return labels


def _refuse_beyond(rule: Rule, shape: tuple[int, int]) -> None:
    """Refuse blocks that are larger than the mask, and translations that leave nothing of it."""
    told, (height, width) = rule.arguments, shape
    if rule.name == "coarsen" and told["pixels"] > max(shape):
        raise ValueError(f"coarsen {told['pixels']}: wanted at most the longer side of the mask, {height} x {width}")
    if rule.name == "translate" and not (abs(told["rows"]) < height and abs(told["columns"]) < width):
        raise ValueError(
            f"translate [{told['rows']}, {told['columns']}]: wanted less than the sides of the mask, {height} x {width}"
        )


def _cumulative_errors(matrix: np.ndarray) -> np.ndarray:
    """Cumulative share of each wrong class among the errors of a class, `(K, K)`; infinite from the last one on."""
    num_classes = len(matrix)
    others = matrix * (1 - np.eye(num_classes))
    cumulative = np.cumsum(others, axis=1) / np.maximum(1 - matrix.diagonal(), 1e-12)[:, None]
    last = num_classes - 1 - (others > 0)[:, ::-1].argmax(axis=1)
    cumulative[np.arange(num_classes) >= last[:, None]] = np.inf
    return cumulative


def _respect_ignored(noisy: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where((labels == IGNORE_INDEX) | (noisy == IGNORE_INDEX), labels, noisy)


def _check_number(name: str, value: Real, least: int, whole: bool = True) -> None:
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (fits and least <= value <= MAX_PIXELS):
        hint = _as_number(value) if isinstance(value, str) else ""
        wanted = f"wanted a {'whole ' * whole}number of pixels, {least} to {MAX_PIXELS}"
        raise ValueError(f"{name} {value!r}: {wanted}{hint}")


def _as_number(text: str) -> str:
    """How to write a number that YAML takes for text, as 1e9; nothing for other text."""
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"; write {int(number) if number.is_integer() else number}" if abs(number) < math.inf else ""


RULES: dict[str, Callable[..., np.ndarray]] = {
    rule.__name__: rule for rule in (coarsen, minimum_mapping_unit, translate, shift_borders, confuse)
}
"""The rules that a file may name."""
