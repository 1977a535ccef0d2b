"""Overlapping tiles put together: where they lie, how they are weighted, and rows that no tile will change any more."""

import numpy as np


class Side:
    """The tiles along one side of a scene.

    They begin at multiples of what the network divides, so that it sees a place alike in every tile. Networks see the
    least at the edge of a tile: on the sides with neighbours the `unused_edge` has no weight, which rises to 1 as a
    squared sine over the middle of the overlap. Weights are divided by their sum.

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

    def __init__(self, num_classes: int, height: int, width: int, first: int = 0) -> None:
        self.num_classes, self.first, self._num_taken = num_classes, first, 0
        self._rows = np.zeros((num_classes, height, width), np.float32)

    def add(self, top: int, left: int, probabilities: np.ndarray, weights: np.ndarray) -> None:
        """Add the probabilities `(K, h, w)` of a tile, by the weights `(h, w)` of its pixels."""
        self._drop_taken()
        height, width = weights.shape
        start = top - self.first
        for rows, values in zip(self._rows, probabilities):
            rows[start : start + height, left : left + width] += values * weights

    def take(self, end: int) -> np.ndarray:
        """Rows up to `end`, which leave the canvas; they are there until more is added."""
        self._drop_taken()
        self._num_taken = end - self.first
        return self._rows[:, : self._num_taken]

    def _drop_taken(self) -> None:
        count, self._num_taken = self._num_taken, 0
        if count:
            self.first += count
            for rows in self._rows:
                rows[:-count] = rows[count:]
                rows[-count:] = 0


def unused_edge(overlap: int) -> int:
    """Pixels of a tile at the side of a neighbour that do not count: three eighths of what they share."""
    return 3 * overlap // 8


def _window(length: int, overlap: int, left: bool, right: bool) -> np.ndarray:
    """Weights along a tile, falling over the overlap on the sides where it has neighbours."""
    margin = unused_edge(overlap)
    ramp = np.clip((np.arange(overlap) + 0.5 - margin) / max(overlap - 2 * margin, 1), 0, 1)
    rise = np.sin(np.pi / 2 * ramp) ** 2
    window = np.ones(length)
    if left:
        window[:overlap] *= rise
    if right:
        window[length - overlap :] *= rise[::-1]
    return window
