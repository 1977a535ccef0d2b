"""Land cover: relief and moisture, then nature, fields, towns and water, each laid over what was there."""

from dataclasses import dataclass

import numpy as np

from cromss.fields import (
    Shape,
    fractal_field,
    parcel_edges,
    parcels,
    per_parcel,
    smooth_field,
)
from cromss.legends import NOL

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(NOL.num_classes)


@dataclass(frozen=True)
class Biome:
    """A kind of region.

    Attributes:
        share: Probability of a location to lie in it.
        altitude: Mean height, in standard deviations of the relief.
        moisture: Mean moisture; high grows trees, low leaves bare land.
        farming: Share of the land in fields.
        towns: Mean number of settlements a location.
        water: Height under which water stands.
    """

    share: float
    altitude: float
    moisture: float
    farming: float
    towns: float
    water: float


BIOMES = {
    "farmland": Biome(share=0.32, altitude=0.0, moisture=0.1, farming=0.85, towns=1.5, water=-1.6),
    "forest": Biome(share=0.16, altitude=0.3, moisture=0.8, farming=0.20, towns=0.4, water=-1.3),
    "city": Biome(share=0.14, altitude=0.0, moisture=0.1, farming=0.45, towns=4.5, water=-1.5),
    "wetland": Biome(share=0.15, altitude=-0.3, moisture=0.7, farming=0.25, towns=0.4, water=-0.65),
    "dryland": Biome(share=0.13, altitude=0.2, moisture=-1.1, farming=0.25, towns=0.6, water=-1.9),
    "mountains": Biome(share=0.10, altitude=2.0, moisture=0.1, farming=0.05, towns=0.3, water=-0.2),
}
"""Our own choice, so that all nine classes occur and snow is rare."""


@dataclass(frozen=True)
class Landscape:
    """Land cover and what the sensors need beside it.

    Attributes:
        labels: `(H, W)` uint8 class ids.
        parcel: `(H, W)` int64 number of the field each pixel lies in, whether farmed or not.
        height: `(H, W)` float32 relief, in standard deviations.
    """

    labels: np.ndarray
    parcel: np.ndarray
    height: np.ndarray


def land_cover(rng: np.random.Generator, size: int) -> np.ndarray:
    """Class ids of one location, `(size, size)` uint8 in 0..8."""
    return landscape(rng, size).labels


def landscape(rng: np.random.Generator, size: int, width: int | None = None, biome: Biome | None = None) -> Landscape:
    """One location.

    Args:
        rng: Source of randomness.
        size: Height in px of 10 m.
        width: Width in px; `size` for `None`.
        biome: What kind of region; drawn for `None`.
    """
    shape = (size, width or size)
    biome = biome or _draw_biome(rng)
    height = biome.altitude + _relief(rng, shape)
    moisture = biome.moisture + 0.8 * fractal_field(rng, shape, 1.7) - 0.3 * (height - biome.altitude)
    parcel = parcels(rng, shape, width=rng.uniform(12, 26))
    labels = _nature(rng, height, moisture)
    labels = _farm(rng, labels, parcel, height, biome.farming)
    labels = _settle(rng, labels, height, biome.towns)
    labels = _drown(rng, labels, height, moisture, biome.water)
    return Landscape(labels, parcel, height)


def roads(rng: np.random.Generator, shape: Shape, centres: np.ndarray) -> np.ndarray:
    """A two-pixel road from each town through the next and out of the picture; bool."""
    road = np.zeros(shape, bool)
    bend = 4 * smooth_field(rng, shape, 35)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for (row, column), angle in zip(centres[:3], rng.uniform(0, np.pi, 3)):
        road |= np.abs(np.cos(angle) * (y - row) - np.sin(angle) * (x - column) + bend) < 1
    return road


def _draw_biome(rng: np.random.Generator) -> Biome:
    biomes = list(BIOMES.values())
    return biomes[rng.choice(len(biomes), p=[biome.share for biome in biomes])]


def _relief(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Fractal terrain on a slope of random direction."""
    slope = rng.normal(0, 0.6, 2)
    y, x = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])[None]
    return (0.8 * fractal_field(rng, shape, 2.0) + slope[0] * y + slope[1] * x).astype(np.float32)


def _nature(rng: np.random.Generator, height: np.ndarray, moisture: np.ndarray) -> np.ndarray:
    """Grass, shrub, trees and bare land by moisture; bare land and snow by height."""
    shape = height.shape
    patch = moisture + 0.6 * fractal_field(rng, shape, 1.4)
    labels = np.full(shape, GRASS, np.uint8)
    labels[(patch < -0.3) & (patch > -1.3)] = SHRUB
    labels[patch <= -1.3] = BARE
    labels[patch > 0.55] = TREES
    labels[(patch > 0.3) & (patch <= 0.55) & (smooth_field(rng, shape, 6) > 0.3)] = SHRUB
    alpine = height + 0.3 * fractal_field(rng, shape, 1.2)
    labels[(alpine > 1.5) & (labels == TREES)] = SHRUB
    labels[alpine > 2.3] = BARE
    labels[alpine > 2.8] = SNOW
    return labels


def _farm(
    rng: np.random.Generator, labels: np.ndarray, parcel: np.ndarray, height: np.ndarray, share: float
) -> np.ndarray:
    """Turn the lowest, flattest `share` of the parcels into fields, with hedges between some of them."""
    suitability = 0.8 * smooth_field(rng, labels.shape, 45) - height
    rank = per_parcel(parcel, suitability)
    farmed = rank > np.quantile(rank, 1 - np.clip(share * rng.uniform(0.6, 1.3), 0, 0.95))
    uses = np.array([CROPS, GRASS, SHRUB, TREES, BARE], np.uint8)
    use = rng.choice(uses, size=parcel.max() + 1, p=[0.74, 0.15, 0.03, 0.05, 0.03])[parcel]
    labels = np.where(farmed, use, labels)
    hedge = farmed & parcel_edges(parcel) & (smooth_field(rng, labels.shape, 9) > 1.0)
    labels[hedge] = TREES
    return labels


def _settle(rng: np.random.Generator, labels: np.ndarray, height: np.ndarray, mean_towns: float) -> np.ndarray:
    """Towns of blocks and gardens, farmsteads, and roads between the towns."""
    shape = labels.shape
    centres = rng.uniform(0, 1, (rng.poisson(mean_towns), 2)) * shape
    radii = rng.gamma(2.0, 7.0 + 1.5 * mean_towns, len(centres))
    density = _town_density(shape, centres, radii) + 0.25 * fractal_field(rng, shape, 1.2)
    block = parcels(rng, shape, width=7)
    garden = rng.choice([BUILT, GRASS, TREES], size=block.max() + 1, p=[0.82, 0.1, 0.08]).astype(np.uint8)[block]
    town = (density > 0.5) & (height < 1.8)
    labels = np.where(town, np.where(density > 0.95, BUILT, garden), labels)
    labels[roads(rng, shape, centres)] = BUILT
    for row, column in rng.integers(0, shape, (rng.poisson(1 + mean_towns), 2)):
        depth, width = rng.integers(2, 6, 2)
        labels[row : row + depth, column : column + width] = BUILT
    return labels


def _town_density(shape: Shape, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    density = np.zeros(shape, np.float32)
    for (row, column), radius in zip(centres, radii):
        density += 1.4 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * radius**2))
    return density


def _drown(
    rng: np.random.Generator, labels: np.ndarray, height: np.ndarray, moisture: np.ndarray, level: float
) -> np.ndarray:
    """Lakes under `level`, a river in a third of the locations, and flooded vegetation along the shores."""
    shape = labels.shape
    above = height - level + 0.08 * fractal_field(rng, shape, 1.2)
    bank = _distance_to_river(rng, shape) if rng.random() < 0.35 else np.full(shape, np.inf)
    dry = (labels == BUILT) | (labels == SNOW)
    marsh = (above < 0.55) & (moisture + 0.8 * smooth_field(rng, shape, 8) > 0.2) & ~dry
    carr = (bank < 2.2) & (smooth_field(rng, shape, 8) > 0.6) & ~dry
    labels = labels.copy()
    labels[marsh | carr] = FLOODED
    labels[((above < 0) & ~dry) | ((bank < 1) & (labels != SNOW))] = WATER
    return labels


def _distance_to_river(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Distance from a winding river's middle, in half widths of the river."""
    angle, half_width = rng.uniform(0, np.pi), rng.uniform(2, 8)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = np.cos(angle) * (y - shape[0] * rng.uniform(0.2, 0.8)) - np.sin(angle) * (x - shape[1] / 2)
    return np.abs(across + 22 * smooth_field(rng, shape, 32) + 7 * smooth_field(rng, shape, 12)) / half_width
