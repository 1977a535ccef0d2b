"""A city block by block on 1 m pixels: streets at one angle, lots with buildings, parks, water, a railway, trees."""

from dataclasses import dataclass

import numpy as np

from cromss.fields import Shape, near, smooth_field
from cromss.legends import NYC

TREE, GRASS, BARE, WATER, BUILDING, ROAD, PAVED, RAILROAD = range(NYC.num_classes)

STREET, PAVEMENT = 11.0, 3.0
"""Width of a street and of the pavement on each side of it, in m."""


@dataclass(frozen=True)
class Style:
    """How a block is built up; lengths in m.

    Attributes:
        share: Probability of a block to have it.
        lot: Width of a lot.
        gap: Share of a lot's width left free on each side of the house.
        depth: Share of a lot's depth that the house takes.
        height: Mean height of the houses; 0 for none.
        yards: Share of the rest of the lots in grass, bare and paved.
        trees: Trees per are (100 m2) of grass.
    """

    share: float
    lot: float
    gap: float
    depth: float
    height: float
    yards: tuple[float, float, float]
    trees: float


STYLES = (
    Style(share=0.34, lot=8, gap=0.0, depth=0.5, height=11, yards=(0.6, 0.03, 0.37), trees=0.7),
    Style(share=0.26, lot=14, gap=0.17, depth=0.4, height=7, yards=(0.9, 0.02, 0.08), trees=0.9),
    Style(share=0.20, lot=42, gap=0.06, depth=0.8, height=18, yards=(0.2, 0.1, 0.7), trees=0.5),
    Style(share=0.13, lot=200, gap=0.5, depth=0.0, height=0, yards=(1.0, 0.0, 0.0), trees=0.8),
    Style(share=0.07, lot=60, gap=0.5, depth=0.0, height=0, yards=(0.15, 0.6, 0.25), trees=0.1),
)
"""Terraces, detached houses, large buildings, parks, vacant land. Our own choice."""

SHORE_SHARE, RAILWAY_SHARE = 0.2, 0.15
"""Share of the scenes at the water, and with a railway."""


@dataclass(frozen=True)
class City:
    """What stands on the ground; each `(H, W)`.

    Attributes:
        classes: uint8 ids of `cromss.legends.NYC`.
        height: float32 m above the ground.
        lot: int64 number of the lot.
        across: float32 distance from the kerb over the street, in m; meaningful on streets.
        roof: float32 -1 and 1 on the two sides of a ridge, 0 where flat.
        crown: float32 shade of the crowns, -1 away from the sun to 1 towards it; 0 where no tree is.
    """

    classes: np.ndarray
    height: np.ndarray
    lot: np.ndarray
    across: np.ndarray
    roof: np.ndarray
    crown: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """The street plan: each pixel's lot, its block's style, and its place across the street and in the lot (0..1)."""

    lot: np.ndarray
    style: np.ndarray
    across: np.ndarray
    street: np.ndarray
    pavement: np.ndarray
    back: np.ndarray
    side: np.ndarray


def draw_city(rng: np.random.Generator, size: int, sun: tuple[float, float]) -> City:
    """One scene.

    Args:
        rng: Source of randomness.
        size: Side in px of 1 m.
        sun: Unit vector towards the sun: rows down, columns right.
    """
    shape = (size, size)
    plan = _street_plan(rng, shape)
    water, railway = _shore(rng, shape), _railway(rng, shape)
    cut_off = np.bincount(plan.lot.ravel(), (near(water, 2) | near(railway, 3)).ravel())[plan.lot] > 0
    house, height, roof = _houses(rng, plan, cut_off)
    classes = _yards(rng, plan)
    classes[plan.pavement] = PAVED
    classes[plan.street] = ROAD
    classes[house] = BUILDING
    classes[near(railway, 3) & ~plan.street] = GRASS
    classes[railway] = RAILROAD
    classes[near(water, 4) & (classes != RAILROAD)] = PAVED
    classes[water] = WATER
    height = np.where(classes == BUILDING, height, 0)
    density = np.array([style.trees for style in STYLES])[plan.style]
    crown, tall = _trees(rng, _tree_points(rng, classes, density), shape, sun)
    tree = (tall > height) & (classes != WATER) & (classes != RAILROAD)
    classes[tree] = TREE
    return City(classes, np.where(tree, tall, height), plan.lot, plan.across, roof, np.where(tree, crown, 0))


def _street_plan(rng: np.random.Generator, shape: Shape) -> _Plan:
    angle = rng.uniform(0, np.pi / 2)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u, v = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y + np.sin(angle) * shape[0]
    row, depth, deep = _between_cuts(rng, u, (50, 75))
    column, along, long = _between_cuts(rng, v, (90, 170))
    block = row * (column.max() + 1) + column
    style = rng.choice(len(STYLES), block.max() + 1, p=[style.share for style in STYLES])[block]
    width = np.array([style.lot for style in STYLES])[style]
    number = np.floor((along - STREET) / width).clip(0)
    lower = depth > (deep + STREET) / 2
    lot = (block * 2 + lower) * 32 + number.astype(np.int64)
    inner = np.minimum(np.minimum(depth - STREET, deep - depth), np.minimum(along - STREET, long - along))
    return _Plan(
        lot=lot,
        style=style,
        across=np.minimum(depth, along),
        street=inner < 0,
        pavement=(inner >= 0) & (inner < PAVEMENT),
        back=np.where(lower, deep - depth, depth - STREET) / ((deep - STREET) / 2),
        side=(along - STREET) / width - number,
    )


def _between_cuts(
    rng: np.random.Generator, place: np.ndarray, pitch: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the strip that each pixel lies in, distance from its start, and width of the strip, in m."""
    widths = rng.uniform(*pitch, int(place.max() / pitch[0]) + 3) + STREET
    cuts = np.cumsum(widths) - widths[0] * rng.uniform(0.2, 1)
    strip = np.searchsorted(cuts, place)
    return strip, place - (cuts - widths)[strip], widths[strip]


def _houses(rng: np.random.Generator, plan: _Plan, cut_off: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where houses stand (bool), how high (m), and which way their roofs slope (-1, 0, 1)."""
    number = plan.lot.max() + 1
    gap, depth, height = (
        np.array([getattr(style, name) for style in STYLES])[plan.style] for name in ("gap", "depth", "height")
    )
    vary = rng.uniform(0.8, 1.2, (3, number))[:, plan.lot]
    front, there = rng.uniform(0.08, 0.2, number)[plan.lot], rng.random(number)[plan.lot] < 0.93
    in_depth = (plan.back > front) & (plan.back < front + depth * vary[0])
    in_width = np.abs(plan.side - 0.5) < 0.5 - gap * vary[1]
    house = in_depth & in_width & there & ~cut_off & ~plan.street & ~plan.pavement & (height > 0)
    tower = np.where(rng.random(number)[plan.lot] < 0.15, 2.0, 1.0)
    pitched = (height < 8) & (rng.random(number)[plan.lot] < 0.7)
    roof = np.where(pitched & house, np.sign(plan.side - 0.5), 0)
    return house, height * vary[2] * np.where(height > 15, tower, 1), roof.astype(np.float32)


def _yards(rng: np.random.Generator, plan: _Plan) -> np.ndarray:
    """Grass, bare and paved ground by lot; a path now and then in a park."""
    luck = rng.random(plan.lot.max() + 1)[plan.lot]
    grass, bare = (np.array([style.yards[i] for style in STYLES])[plan.style] for i in (0, 1))
    classes = np.select([luck < grass, luck < grass + bare], [GRASS, BARE], PAVED).astype(np.uint8)
    wild = smooth_field(rng, plan.lot.shape, 9)
    path = (np.abs(wild) < 0.05) & (plan.style == 3)
    classes[path] = PAVED
    classes[(wild > 2.0) & (classes == GRASS)] = BARE
    return classes


def _shore(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Water along one side of some scenes; bool."""
    angle, level = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35)
    y, x = np.mgrid[-0.5 : 0.5 : shape[0] * 1j, -0.5 : 0.5 : shape[1] * 1j]
    far = np.cos(angle) * y + np.sin(angle) * x + 0.02 * smooth_field(rng, shape, 30)
    return (far > level) & (rng.random() < SHORE_SHARE)


def _railway(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """A straight railway through some scenes; bool."""
    angle, middle = rng.uniform(0, np.pi), rng.uniform(0.25, 0.75, 2) * shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = np.cos(angle) * (y - middle[0]) - np.sin(angle) * (x - middle[1])
    return (np.abs(across) < rng.uniform(5, 10)) & (rng.random() < RAILWAY_SHARE)


def _tree_points(rng: np.random.Generator, classes: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Rows and columns of the trunks `(N, 2)`: in grass by `density` per are, some on pavements."""
    chance = np.select([classes == GRASS, classes == PAVED], [density / 100, 0.004], 0)
    return np.argwhere(rng.random(classes.shape) < chance)


def _trees(
    rng: np.random.Generator, points: np.ndarray, shape: Shape, sun: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shade of the crowns in [-1, 1], and their height in m, 0 where none is; each `shape` float32."""
    reach = 7
    shade, height = (np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach), np.float32) for _ in range(2))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    ragged = smooth_field(rng, shape, 1.5)
    for (row, column), radius in zip(points, rng.uniform(2.0, 5.5, len(points))):
        window = np.s_[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        distance = np.hypot(y, x) / (radius * (1 + 0.1 * ragged[row, column]))
        dome = np.where(distance < 1, 2.2 * radius * (1 - 0.4 * distance**2), 0)
        higher = dome > height[window]
        height[window][higher] = dome[higher]
        shade[window][higher] = ((y * sun[0] + x * sun[1]) / radius)[higher]
    inside = np.s_[reach : reach + shape[0], reach : reach + shape[1]]
    return shade[inside], height[inside]
