"""Overlapping tiles put together: where they lie, how they are weighted, and rows that no tile will change any more."""

import numpy as np


class Side:
    """The tiles along one side of a scene.

    They begin at multiples of what the network divides, so that it sees a place alike in every tile. The weight of a
    tile is 1 in its middle and falls to 0 as a squared sine over the overlap with its neighbours; weights are divided
    by their sum.

    Attributes:
        spans: First pixel of each tile, and the one after its last.
        weights: Weight of each pixel in each tile, float32.
    """

    def __init__(self, length: int, size: int, overlap: int, multiple: int = 1) -> None:
        """Tiles of `size` pixels with at least `overlap` in common, the last one being smaller where it must be."""
        step = max(1, (size - overlap) // multiple) * multiple
        last = -(-max(length - size, 0) // multiple) * multiple
        starts = [*range(0, last, step), last]
        self.spans = [(start, min(start + size, length)) for start in starts]
        raw = [_window(b - a, overlap, a > 0, b < length) for a, b in self.spans]
        total = np.zeros(length)
        for (a, b), weight in zip(self.spans, raw):
            total[a:b] += weight
        self.weights = [(weight / total[a:b]).astype(np.float32) for (a, b), weight in zip(self.spans, raw)]

    def first_reaching(self, pixel: int) -> int:
        """Position of the first tile that reaches beyond `pixel`."""
        return next(index for index, (_, end) in enumerate(self.spans) if end > pixel)

    def final_before(self, index: int) -> int:
        """Pixels that are final once tile `index` is in: those before the next tile, or all."""
        return self.spans[index + 1][0] if index + 1 < len(self.spans) else self.spans[index][1]


class Canvas:
    """Probabilities of the rows that are not final yet, `(K, rows, W)`; there are never more than a tile has.

    Attributes:
        num_classes: Number of classes `K`.
        first: First of these rows in the scene.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        self.num_classes, self.first = num_classes, 0
        self._rows = np.zeros((num_classes, 0, width), np.float32)

    def add(self, top: int, strip: np.ndarray, weights: np.ndarray) -> None:
        """Add the weighted probabilities `(K, h, W)` of a row of tiles whose first row is `top`."""
        if not self._rows.shape[1]:
            self.first = top
        grown = top + strip.shape[1] - self.first - self._rows.shape[1]
        if grown > 0:
            self._rows = np.pad(self._rows, ((0, 0), (0, grown), (0, 0)))
        start = top - self.first
        for rows, probabilities in zip(self._rows, strip):
            rows[start : start + len(weights)] += probabilities * weights[:, None]

    def take(self, end: int) -> np.ndarray:
        """Rows up to `end`, which leave the canvas."""
        count = end - self.first
        taken, self._rows, self.first = self._rows[:, :count], self._rows[:, count:], end
        return taken


def _window(length: int, overlap: int, left: bool, right: bool) -> np.ndarray:
    """Weights along a tile: 1, falling over the overlap on the sides where it has neighbours."""
    ramp = np.sin(np.pi / 2 * (np.arange(min(overlap, length)) + 0.5) / max(overlap, 1)) ** 2
    window = np.ones(length)
    if left:
        window[: len(ramp)] *= ramp
    if right:
        window[length - len(ramp) :] *= ramp[::-1]
    return window
