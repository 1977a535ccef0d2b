"""Noisy labels whose noise is known: displaced borders, lost objects, confusion, seasonal flips."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from cromss.fields import uniform_pair
from cromss.legends import NOL
from cromss.noise_rules import confuse, minimum_mapping_unit, shift_borders
from cromss.synthetic.ground import NUM_SEASONS
from cromss.synthetic.land import BARE, BUILT, CROPS, FLOODED, GRASS, SHRUB, SNOW, TREES, WATER

CONFUSED_WITH = {
    WATER: {FLOODED: 0.7, BARE: 0.3},
    TREES: {SHRUB: 0.5, FLOODED: 0.2, GRASS: 0.15, CROPS: 0.15},
    GRASS: {CROPS: 0.45, SHRUB: 0.4, BARE: 0.1, TREES: 0.05},
    FLOODED: {GRASS: 0.35, WATER: 0.25, CROPS: 0.2, TREES: 0.2},
    CROPS: {GRASS: 0.4, SHRUB: 0.3, BARE: 0.15, BUILT: 0.15},
    SHRUB: {TREES: 0.3, GRASS: 0.3, CROPS: 0.25, BARE: 0.15},
    BUILT: {CROPS: 0.4, BARE: 0.3, SHRUB: 0.15, TREES: 0.15},
    BARE: {SHRUB: 0.4, BUILT: 0.25, CROPS: 0.2, GRASS: 0.15},
    SNOW: {BARE: 0.7, WATER: 0.3},
}
"""Where the errors of a class go. Our own choice, after what Dynamic World confuses."""

ERROR_SCALE = {WATER: 0.3, TREES: 0.7, GRASS: 1.7, FLOODED: 1.6, CROPS: 0.9, SHRUB: 1.4, BUILT: 0.6, BARE: 1.3, SNOW: 1}
"""Error rate of each class, relative to `NoiseModel.confusion_rate`."""

SEASONAL_FLIPS = (
    {CROPS: GRASS, FLOODED: WATER, BARE: GRASS, SHRUB: GRASS},
    {GRASS: CROPS, SHRUB: TREES, FLOODED: GRASS, WATER: FLOODED, SNOW: BARE},
    {CROPS: BARE, GRASS: SHRUB, FLOODED: SHRUB, TREES: SHRUB},
    {CROPS: BARE, TREES: SHRUB, GRASS: BARE, FLOODED: WATER, SHRUB: BARE, BARE: SNOW},
)
"""What a class is taken for in each season; classes left out do not flip."""


@dataclass(frozen=True)
class NoiseModel:
    """How the labels go wrong. The defaults leave about 0.72 of the pixels right, as Dynamic World does.

    Attributes:
        confusion_rate: Mean probability of a pixel to be confused, in [0, 1]; scaled by class.
        confusion_scale: Size of the confused patches in px.
        border_shift: Root mean square displacement of borders in px.
        min_object: Objects of fewer px are lost to their largest neighbour.
        seasonal_flip: Probability of a pixel to be taken for what its class resembles in that season, in [0, 1].
    """

    confusion_rate: float = 0.15
    confusion_scale: float = 3.0
    border_shift: float = 1.5
    min_object: int = 25
    seasonal_flip: float = 0.10

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise ValueError(f"NoiseModel {field.name} {value}: wanted 0 or more")
        for name in ("confusion_rate", "seasonal_flip"):
            if getattr(self, name) > 1:
                raise ValueError(f"NoiseModel {name} {getattr(self, name)}: wanted a probability in 0..1")

    def confusion_matrix(self) -> np.ndarray:
        """Planted probability of noisy class (column) given true class (row), `(9, 9)` float64, rows sum to 1."""
        matrix = np.zeros((NOL.num_classes, NOL.num_classes))
        for true, others in CONFUSED_WITH.items():
            rate = min(self.confusion_rate * ERROR_SCALE[true], 1)
            matrix[true, true] = 1 - rate
            for noisy, share in others.items():
                matrix[true, noisy] = rate * share
        return matrix


def _alone(name: str, values: Sequence[float]) -> tuple[NoiseModel, ...]:
    """Models in which one thing goes wrong and nothing else."""
    right = {"confusion_rate": 0.0, "border_shift": 0.0, "min_object": 0, "seasonal_flip": 0.0}
    return tuple(NoiseModel(**{**right, name: value}) for value in values)


NOISE_PRESETS = {
    "mixed": (
        NoiseModel(confusion_rate=0.08, border_shift=0.8, min_object=10, seasonal_flip=0.05),
        NoiseModel(),
        NoiseModel(confusion_rate=0.3, border_shift=3.0, min_object=60, seasonal_flip=0.2),
    ),
    "confusion": _alone("confusion_rate", (0.1, 0.25, 0.45)),
    "borders": _alone("border_shift", (1.5, 6.0, 16.0)),
    "objects": _alone("min_object", (150, 1000, 4000)),
    "seasons": _alone("seasonal_flip", (0.15, 0.35, 0.7)),
}
"""Kind of noise -> models of levels 1, 2 and 3, with 7 to 17, 22 to 29, and 40 to 49 percent of the pixels wrong."""


def noisy_labels(
    exact: np.ndarray, season: int, rng: np.random.Generator, noise: NoiseModel | None = None
) -> np.ndarray:
    """Spoil exact labels.

    Displacement, loss and confusion depend on the generator alone, the flips on the season too: called
    with equal fresh generators, the seasons of a location differ by their flips only.

    Args:
        exact: `(H, W)` uint8 class ids 0..8.
        season: 0 spring, 1 summer, 2 autumn, 3 winter.
        rng: Source of randomness, fresh from `np.random.default_rng`.
        noise: What goes wrong; the default `NoiseModel` for `None`.

    Returns:
        `(H, W)` uint8 class ids 0..8.

    Raises:
        ValueError: No such season, or `exact` is not a map of class ids.
    """
    _check(exact, season)
    noise = noise or NoiseModel()
    seasonal = rng.spawn(NUM_SEASONS)[season]
    labels = shift_borders(exact, rng, noise.border_shift)
    labels = minimum_mapping_unit(labels, max(noise.min_object, 1))
    labels = confuse(labels, rng, noise.confusion_matrix(), noise.confusion_scale)
    return _flip(labels, season, seasonal, noise.seasonal_flip)


def _check(exact: np.ndarray, season: int) -> None:
    if season not in range(NUM_SEASONS):
        raise ValueError(f"season {season}: wanted 0 spring, 1 summer, 2 autumn or 3 winter")
    if exact.dtype != np.uint8 or exact.ndim != 2 or exact.max() >= NOL.num_classes:
        raise ValueError(f"exact labels: wanted (H, W) uint8 ids in 0..8, got {exact.shape} {exact.dtype}")


def _flip(labels: np.ndarray, season: int, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Replace patches by what their class resembles in this season."""
    resembles = np.arange(NOL.num_classes, dtype=np.uint8)
    for true, taken_for in SEASONAL_FLIPS[season].items():
        resembles[true] = taken_for
    chosen, _ = uniform_pair(rng, labels.shape, 5)
    return np.where(chosen < probability, resembles[labels], labels)
