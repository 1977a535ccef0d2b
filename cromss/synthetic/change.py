"""One town at two dates: what was built, cleared or rebuilt between them is change; seasons and crops are not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cromss.fields import local_mean, parcels, per_parcel, smooth_field, squash
from cromss.synthetic.ground import Ground, draw_ground
from cromss.synthetic.land import BARE, BIOMES, BUILT, CROPS, GRASS, SHRUB, SNOW, TREES, WATER, landscape, roads

REGIONS = (
    replace(BIOMES["farmland"], towns=5.0),
    replace(BIOMES["city"], towns=6.0),
    replace(BIOMES["dryland"], towns=5.0),
)
"""Where the towns lie: among fields, in a built-up region, in a dry one."""

BUILT_SHARE, REBUILT_SHARE, CLEARED = (0.015, 0.045), 0.006, 0.25
"""Share of the picture that is newly built on (least, most), rebuilt (at most), and of new sites still bare."""


@dataclass(frozen=True)
class Pair:
    """One place at two dates.

    Attributes:
        labels: `(H, W)` uint8 land cover of each date.
        grounds: What varies within the classes, of each date.
        change: `(H, W)` bool, what counts as urban change.
    """

    labels: tuple[np.ndarray, np.ndarray]
    grounds: tuple[Ground, Ground]
    change: np.ndarray


def town_pair(shape: tuple[int, int], seed: int | Sequence[int]) -> Pair:
    """One town before and after.

    Outside the change both dates have the same land cover and ground, but for what grows: fields bear other crops,
    and plants thrive better or worse.

    Args:
        shape: Height and width in px of 10 m.
        seed: Seed of everything that is drawn.
    """
    land_seed, ground_seed, change_seed, crop_seed = np.random.SeedSequence(seed).spawn(4)
    rng = np.random.default_rng(land_seed)
    land = landscape(rng, *shape, REGIONS[rng.integers(len(REGIONS))])
    after, rebuilt = _built_over(land.labels, np.random.default_rng(change_seed))
    first = draw_ground(land.labels, np.random.default_rng(ground_seed), land)
    second = draw_ground(after, np.random.default_rng(ground_seed), land)
    second = _regrown(_renewed(second, rebuilt), after, land.parcel, np.random.default_rng(crop_seed))
    return Pair((land.labels, after), (first, second), rebuilt | (after != land.labels))


def _built_over(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Land cover after the building works, and where a house stands in place of another (bool)."""
    shape = labels.shape
    block = parcels(rng, shape, width=rng.uniform(5, 9))
    town = local_mean(labels == BUILT, 15) + 0.2 * smooth_field(rng, shape, 25)
    free = np.isin(labels, (TREES, GRASS, CROPS, SHRUB, BARE))
    site = _best_blocks(block, np.where(free, town, -1), free, rng.uniform(*BUILT_SHARE))
    is_bare = rng.random(block.max() + 1)[block] < CLEARED
    luck = rng.standard_normal(block.max() + 1)[block]
    rebuilt = _best_blocks(block, np.where(labels == BUILT, luck, -9), labels == BUILT, rng.uniform(0, REBUILT_SHARE))
    after = np.where(site, np.where(is_bare, BARE, BUILT), labels).astype(np.uint8)
    if rng.random() < 0.5:
        road = roads(rng, shape, rng.uniform(0.3, 0.7, (1, 2)) * shape)
        after[road & (labels != WATER) & (labels != SNOW)] = BUILT
    return after, rebuilt


def _best_blocks(block: np.ndarray, score: np.ndarray, eligible: np.ndarray, share: float) -> np.ndarray:
    """Eligible pixels of the blocks with the highest mean `score`, together `share` of the picture or a bit more."""
    mean = np.bincount(block.ravel(), score.ravel()) / np.maximum(np.bincount(block.ravel()), 1)
    size = np.bincount(block.ravel(), eligible.ravel())
    order = np.argsort(-mean, kind="stable")
    chosen = np.zeros(len(size), bool)
    chosen[order[size[order].cumsum() - size[order] < share * block.size]] = True
    return chosen[block] & eligible


def _renewed(ground: Ground, rebuilt: np.ndarray) -> Ground:
    """The other kind of building, with a brighter roof and no gardens yet."""
    kind = np.where(rebuilt, 1 - ground.kind, ground.kind)
    gain = np.where(rebuilt, ground.gain + 2, ground.gain)
    return replace(ground, kind=kind, gain=gain, vigour=np.where(rebuilt, -2, ground.vigour).astype(np.float32))


def _regrown(ground: Ground, labels: np.ndarray, parcel: np.ndarray, rng: np.random.Generator) -> Ground:
    """Other crops, another year's vigour."""
    crop = squash(2.5 * rng.standard_normal(parcel.max() + 1, dtype=np.float32))[parcel]
    weather = rng.normal(0, 0.5) + 0.5 * smooth_field(rng, labels.shape, 20)
    field = 0.8 * per_parcel(parcel, smooth_field(rng, labels.shape, 3)) * (labels == CROPS)
    vigour = (ground.vigour + weather + field).astype(np.float32)
    return replace(ground, kind=np.where(labels == CROPS, crop, ground.kind), vigour=vigour)
