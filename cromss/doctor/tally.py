"""What is counted over a store, location by location: pixels of each class, or mean and deviation of each band."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cromss.doctor.findings import Finding
from cromss.doctor.subject import Subject
from cromss.doctor.tiles import bands_of
from cromss.legends import IGNORE_INDEX
from cromss.sensors import MODALITIES


class Tally:
    """Counts over the records seen so far.

    Args:
        subject: The store.

    Attributes:
        shapes: Shapes of the records seen.
    """

    def __init__(self, subject: Subject):
        self.subject, self.shapes = subject, set()
        self._pixels = np.zeros((subject.meta.num_seasons, IGNORE_INDEX + 1), np.int64)
        self._count, self._sums = 0, None

    def add(self, seasons: Sequence[np.ndarray | None]) -> None:
        """Count the readable seasons of a location."""
        for season, values in enumerate(seasons):
            if values is None:
                continue
            self.shapes.add(values.shape)
            if self.subject.meta.modality not in MODALITIES:
                self._pixels[season] += np.bincount(values.ravel(), minlength=IGNORE_INDEX + 1)
            elif len(values) == len(bands_of(self.subject)):
                flat = values.reshape(len(values), -1).astype(np.float64)
                sums = np.stack([flat.sum(axis=1), np.einsum("cp,cp->c", flat, flat)])
                self._sums = sums if self._sums is None else self._sums + sums
                self._count += flat.shape[1]

    def report(self) -> dict[str, Any]:
        """Shares of the classes, over all and by season, or statistics of the bands beside the expected ones."""
        if self.subject.meta.modality not in MODALITIES:
            by_season = [self._shares(pixels) for pixels in self._pixels]
            return {"classes": self._shares(self._pixels.sum(axis=0)), "classes_by_season": by_season}
        return {"bands": self._bands() if self._count else {}}

    def findings(self) -> list[Finding]:
        """Classes that never occur, and bands far from what is expected."""
        found, report = [], self.report()
        for name, share in report.get("classes", {}).items():
            if share == 0 and name not in ("ignored", "unknown"):
                found.append(self.subject.finding("absent-class", f"{name} never occurs"))
        if self.subject.meta.modality == "ortho":
            return found
        for name, band in report.get("bands", {}).items():
            if (away := abs(band["sigmas"])) > 1:
                what = f"mean of {name} is {band['mean']:.4g}, {away:.1f} sigma from the expected "
                code = "statistics" if away > 2 else "far-statistics"
                found.append(self.subject.finding(code, what + f"{band['expected_mean']:.4g}"))
        return found

    def _shares(self, pixels: np.ndarray) -> dict[str, float]:
        """Share by class name; `ignored` is 255, `unknown` any other id."""
        legend = self.subject.legend
        named = dict(zip(legend.classes, pixels.tolist()))
        named |= {"ignored": int(pixels[IGNORE_INDEX]), "unknown": int(pixels[legend.num_classes : IGNORE_INDEX].sum())}
        return {name: count / max(1, int(pixels.sum())) for name, count in named.items()}

    def _bands(self) -> dict[str, dict[str, float]]:
        mean, square = self._sums / self._count
        std = np.sqrt(np.maximum(square - mean**2, 0))
        expected = np.stack(expected_statistics(self.subject))
        numbers = np.stack([mean, std, *expected, (mean - expected[0]) / expected[1]])
        names = ("mean", "std", "expected_mean", "expected_std", "sigmas")
        return {band: dict(zip(names, column.tolist())) for band, column in zip(bands_of(self.subject), numbers.T)}


def expected_statistics(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation that values of the stated statistics would have, each `(C,)`.

    Quantised values (uint8) are those of a normal distribution clipped at +- 2 std and scaled to
    0..255. With `p = P(|x| < 2)` and the density `phi`, the clipped variance is
    `p - 4 phi(2) + 4 (1 - p)`; truncation takes half a grey level off the mean.
    """
    sensor, num_bands = MODALITIES[subject.meta.modality], len(bands_of(subject))
    if subject.meta.dtype != "uint8":
        stated = subject.meta.statistics
        if {"mean", "std"} <= stated.keys() and len(stated["mean"]) == len(stated["std"]) == num_bands:
            return np.asarray(stated["mean"]), np.asarray(stated["std"])
        return tuple(values.ravel() for values in sensor.statistics(bands_of(subject)))
    inside, density = math.erf(math.sqrt(2)), math.exp(-2) / math.sqrt(2 * math.pi)
    variance = inside - 4 * density + 4 * (1 - inside)
    return np.full(num_bands, 127.0), np.full(num_bands, 255 / 4 * math.sqrt(variance))
