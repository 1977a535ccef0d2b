"""What lasts over the seasons within a class: crop types, soils, vigour and texture, by parcel and patch."""

from dataclasses import dataclass

import numpy as np

from cromss.fields import Shape, fractal_field, parcel_edges, parcels, smooth_field, squash
from cromss.synthetic.land import BARE, BUILT, CROPS, FLOODED, GRASS, SHRUB, SNOW, TREES, WATER, Landscape

NUM_SEASONS = 4

GREENNESS = {
    WATER: ((0.00, 0.00, 0.00, 0.00), (0.00, 0.00, 0.00, 0.00)),
    TREES: ((0.70, 0.88, 0.62, 0.35), (0.72, 0.80, 0.74, 0.66)),
    GRASS: ((0.75, 0.66, 0.52, 0.38), (0.52, 0.30, 0.30, 0.25)),
    FLOODED: ((0.42, 0.72, 0.55, 0.22), (0.55, 0.62, 0.38, 0.30)),
    CROPS: ((0.85, 0.42, 0.12, 0.38), (0.15, 0.88, 0.55, 0.10)),
    SHRUB: ((0.55, 0.55, 0.42, 0.30), (0.40, 0.30, 0.28, 0.26)),
    BUILT: ((0.18, 0.20, 0.16, 0.10), (0.30, 0.36, 0.28, 0.18)),
    BARE: ((0.10, 0.07, 0.06, 0.04), (0.04, 0.03, 0.03, 0.02)),
    SNOW: ((0.00, 0.00, 0.00, 0.00), (0.00, 0.00, 0.00, 0.00)),
}
"""Green share of the surface in spring, summer, autumn and winter, for the two kinds of each class."""


@dataclass(frozen=True)
class Ground:
    """Variation within the classes, the same for both sensors and all seasons; each `(H, W)` float32.

    Attributes:
        kind: Place between the two kinds of a class (broadleaf to needle, winter to summer crop), in [0, 1].
        vigour: Greenness above or below what the class has, about N(0, 1).
        soil: Place between the dark and the bright background of a class, in [0, 1].
        gain: Brightness of the surface, about N(0, 1).
        slope: Relief facing the light, about N(0, 1).
        grain: Texture finer than the labels (crowns, roofs), about N(0, 1).
    """

    kind: np.ndarray
    vigour: np.ndarray
    soil: np.ndarray
    gain: np.ndarray
    slope: np.ndarray
    grain: np.ndarray


def draw_ground(labels: np.ndarray, rng: np.random.Generator, land: Landscape | None = None) -> Ground:
    """Draw the variation within the classes.

    Args:
        labels: `(H, W)` uint8 class ids 0..8.
        rng: Source of randomness.
        land: Parcels and relief to follow; drawn as well for `None`.

    Returns:
        Fields of the shape of `labels`.
    """
    shape = labels.shape
    parcel = parcels(rng, shape, 18) if land is None else land.parcel
    height = fractal_field(rng, shape, 2.0) if land is None else land.height
    farmed = np.isin(labels, (CROPS, GRASS))

    def varied(roughness: float) -> np.ndarray:
        patchy = fractal_field(rng, shape, roughness)
        by_parcel = rng.standard_normal(parcel.max() + 1, dtype=np.float32)[parcel]
        return np.where(farmed, 0.85 * by_parcel + 0.5 * patchy, patchy)

    region = rng.normal(0, 0.6, 4).astype(np.float32)
    house, street = _quarters(rng, shape)
    grain = 0.6 * smooth_field(rng, shape, 0.8) + 0.8 * rng.standard_normal(shape, dtype=np.float32)
    built = labels == BUILT
    kind = np.where(built, 1.2 * house, varied(1.3) + region[0])
    return Ground(
        kind=squash(2.5 * kind),
        vigour=varied(1.1) + region[1],
        soil=squash(1.5 * (varied(1.3) + region[2])),
        gain=varied(1.2) + region[3],
        slope=_sunlit(height),
        grain=np.where(built, 0.5 * grain + 0.7 * house - 1.3 * street, grain),
    )


def greenness(labels: np.ndarray, season: float, ground: Ground) -> np.ndarray:
    """Green share of each pixel in [0, 1], `(H, W)` float32; `season` may lie between two of 0..3."""
    at = np.array([[_seasonal(kind, season) for kind in GREENNESS[c]] for c in sorted(GREENNESS)], np.float32)
    mean = between(at[:, 0][labels], at[:, 1][labels], ground.kind)
    return np.clip(mean * (1 + 0.28 * ground.vigour + 0.1 * ground.grain), 0, 1)


def between(first: np.ndarray, second: np.ndarray, place: np.ndarray) -> np.ndarray:
    """From `first` at place 0 to `second` at place 1."""
    return first + (second - first) * place


def check_season(season: float) -> None:
    """Refuse a season outside [0, 4).

    Raises:
        ValueError: No such season.
    """
    if not 0 <= season < NUM_SEASONS:
        raise ValueError(f"season {season}: wanted 0 spring, 1 summer, 2 autumn, 3 winter, or between them")


def _seasonal(values: tuple[float, ...], season: float) -> float:
    return float(np.interp(season, range(NUM_SEASONS + 1), [*values, values[0]]))


def _quarters(rng: np.random.Generator, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """One N(0, 1) value a house, and the streets (bool) between blocks of houses."""
    house = parcels(rng, shape, 3)
    return rng.standard_normal(house.max() + 1, dtype=np.float32)[house], parcel_edges(parcels(rng, shape, 9))


def _sunlit(height: np.ndarray) -> np.ndarray:
    slope = np.gradient(height, axis=1) - np.gradient(height, axis=0)
    return (slope / max(slope.std(), 1e-6)).astype(np.float32)
