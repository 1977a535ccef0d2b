"""An orthophoto of a city, and labels of it as from a laser scan: coarse, shifted, incomplete."""

import numpy as np

from cromss.fields import point_spread, shifted, smooth_field
from cromss.legends import NYC
from cromss.noise_rules import confuse, shift_borders
from cromss.synthetic.city import BARE, BUILDING, GRASS, PAVED, RAILROAD, ROAD, STREET, TREE, WATER, City

COLOURS = {
    TREE: (142, 58, 78, 52),
    GRASS: (168, 98, 118, 78),
    BARE: (158, 152, 132, 106),
    WATER: (20, 46, 62, 66),
    BUILDING: (120, 120, 118, 116),
    ROAD: (78, 84, 86, 90),
    PAVED: (128, 138, 136, 132),
    RAILROAD: (100, 98, 90, 82),
}
"""Brightness of each class in near infrared, red, green and blue, 0..255."""

ROOFS = ((62, 62, 64, 68), (98, 98, 98, 100), (142, 142, 140, 140), (205, 208, 208, 206), (128, 122, 88, 78))
"""Tar, slate, gravel, white paint, brick."""

GRAIN = {TREE: 0.16, GRASS: 0.07, BARE: 0.08, WATER: 0.05, BUILDING: 0.05, ROAD: 0.04, PAVED: 0.06, RAILROAD: 0.12}
"""Relative strength of the texture of a class."""

SHADOW, SHADOW_LENGTH, LONGEST = 0.42, 0.7, 28
"""Light left in a shadow; length of a shadow by height; longest shadow in px."""

SEEN_AS = {TREE: 1, BUILDING: 2, ROAD: 3}
"""Classes of the noisy labels; 0 for the rest."""

CONFUSION = np.array(
    [[0.87, 0.03, 0.03, 0.07], [0.25, 0.73, 0.015, 0.005], [0.25, 0.01, 0.73, 0.01], [0.25, 0.01, 0.01, 0.73]]
)
"""Probability of each noisy label given the exact one, in patches of `PATCH` px, before the labels are displaced."""

PATCH, DISPLACEMENT = 4.0, 2.5
"""Size of the patches and root mean square displacement of borders, in px."""


def photograph(city: City, rng: np.random.Generator, sun: tuple[float, float]) -> np.ndarray:
    """Near infrared, red, green, blue; `(4, H, W)` uint8.

    Args:
        city: What stands there.
        rng: Source of randomness: roofs, textures, light, the camera.
        sun: Unit vector towards the sun: rows down, columns right.
    """
    shape = city.classes.shape
    colours = np.array([COLOURS[c] for c in sorted(COLOURS)], np.float32)[city.classes]
    roofs = np.array(ROOFS, np.float32)[rng.integers(0, len(ROOFS), city.lot.max() + 1)]
    colours = np.where((city.classes == BUILDING)[..., None], roofs[city.lot], colours)
    grain = np.array([GRAIN[c] for c in sorted(GRAIN)], np.float32)[city.classes]
    texture = 0.6 * rng.standard_normal(shape, dtype=np.float32) + 0.8 * smooth_field(rng, shape, 1.2)
    by_lot = 0.1 * rng.standard_normal(city.lot.max() + 1, dtype=np.float32)[city.lot]
    by_lot = np.where(np.isin(city.classes, (WATER, ROAD, RAILROAD)), 0, by_lot)
    patchy = np.where(np.isin(city.classes, (GRASS, BARE, TREE)), 0.1 * smooth_field(rng, shape, 8), 0)
    relief = 0.22 * city.roof + 0.3 * city.crown
    light = np.exp(grain * texture + by_lot + patchy + relief + 0.05 * rng.standard_normal())
    light *= np.where(shadows(city.height, sun), SHADOW, 1) * _paint(city, rng)
    sharp = np.moveaxis(colours * light[..., None], -1, 0) * rng.normal(1, 0.05, (4, 1, 1))
    seen = 0.6 * sharp + 0.4 * point_spread(sharp) + 6 + rng.normal(0, 1.5, sharp.shape)
    return np.clip(seen + 0.5, 0, 255).astype(np.uint8)


def shadows(height: np.ndarray, sun: tuple[float, float]) -> np.ndarray:
    """Pixels in the shadow of something higher; `(H, W)` bool."""
    dark = np.zeros(height.shape, bool)
    for step in range(1, LONGEST + 1):
        caster = shifted(height, -round(step * sun[0]), -round(step * sun[1]))
        dark |= caster - height > step / SHADOW_LENGTH
    return dark


def laser_labels(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noisy labels of an exact map of `cromss.legends.NYC`; `(H, W)` uint8.

    0 background, 1 trees, 2 buildings, 3 roads, about two thirds right, as the published ones.
    """
    table = np.zeros(NYC.num_classes, np.uint8)
    table[list(SEEN_AS)] = list(SEEN_AS.values())
    return confuse(shift_borders(table[classes], rng, DISPLACEMENT), rng, CONFUSION, PATCH)


def _paint(city: City, rng: np.random.Generator) -> np.ndarray:
    """Lane markings and cars on streets, rails on railways, as factors of brightness."""
    shape = city.classes.shape
    road = city.classes == ROAD
    marking = road & (np.abs(city.across - STREET / 2) < 0.5)
    car = road & (smooth_field(rng, shape, 1.6) > 2.3)
    rail = (city.classes == RAILROAD) & (smooth_field(rng, shape, 1.0) > 1.3)
    paint = np.where(marking, 1.35, 1.0)
    paint[car] = np.where(smooth_field(rng, shape, 5)[car] > 0, 1.9, 0.55)
    paint[rail] = 0.65
    return paint
