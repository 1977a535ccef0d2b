"""Sentinel-1 backscatter of a land cover in dB, with multi-look speckle.

The means by class are our own round numbers of the usual order: smooth water dark, walls and flooded stems
bright in VV (double bounce), crowns bright in VH (volume), soils and low plants alike.
"""

import numpy as np

from cromss.fields import point_spread, smooth_field
from cromss.synthetic.ground import Ground, between, check_season, draw_ground, greenness
from cromss.synthetic.land import BARE, BUILT, CROPS, FLOODED, GRASS, SHRUB, SNOW, TREES, WATER

LOOKS = 4.4
"""Equivalent number of looks of a GRD product in interferometric wide swath, high resolution."""

MEAN = {
    WATER: ((-20.5, -28.0), (-17.0, -25.5)),
    TREES: ((-9.5, -13.8), (-10.2, -15.2)),
    GRASS: ((-14.0, -21.0), (-12.8, -20.0)),
    FLOODED: ((-7.5, -17.3), (-9.8, -18.3)),
    CROPS: ((-12.6, -20.3), (-11.3, -19.0)),
    SHRUB: ((-11.8, -18.2), (-12.3, -18.8)),
    BUILT: ((-3.8, -11.5), (-6.5, -13.8)),
    BARE: ((-13.8, -22.0), (-16.2, -24.5)),
    SNOW: ((-13.0, -20.5), (-15.0, -22.0)),
}
"""VV and VH in dB for the two kinds of each class, without leaves."""

GREEN_GAIN = {CROPS: (2.5, 5.0), GRASS: (0.5, 1.5), SHRUB: (0.5, 1.5), FLOODED: (-0.5, 1.5)}
"""dB added at full greenness; none for the rest."""

GRAIN = {BUILT: 3.2, TREES: 0.7, FLOODED: 1.0, SHRUB: 0.6}
"""Strength of the texture of a class in dB; 0.3 for the rest."""


def radar(labels: np.ndarray, season: float, rng: np.random.Generator, ground: Ground | None = None) -> np.ndarray:
    """Speckled backscatter.

    Args:
        labels: `(H, W)` uint8 class ids 0..8.
        season: 0 spring, 1 summer, 2 autumn, 3 winter, or between.
        rng: Source of randomness of this pass: wind, soil moisture, speckle.
        ground: What lasts over the seasons; drawn first for `None`.

    Returns:
        `(2, H, W)` float32 sigma0 in dB, VV and VH.
    """
    check_season(season)
    ground = ground or draw_ground(labels, rng)
    power = point_spread(10 ** (_backscatter(labels, season, rng, ground) / 10))
    speckle = rng.standard_gamma(LOOKS, power.shape, dtype=np.float32) / LOOKS
    return (10 * np.log10(power * speckle + 1e-5)).astype(np.float32)


def _backscatter(labels: np.ndarray, season: float, rng: np.random.Generator, ground: Ground) -> np.ndarray:
    """Mean backscatter of each pixel; `(2, H, W)` dB."""
    classes = sorted(MEAN)
    means = np.array([MEAN[c] for c in classes], np.float32)
    gains = np.array([GREEN_GAIN.get(c, (0, 0)) for c in classes], np.float32)
    grain = np.array([GRAIN.get(c, 0.3) for c in classes], np.float32)[labels] * ground.grain
    green = greenness(labels, season, ground)
    moisture = rng.normal(0, 0.4) + 0.5 * smooth_field(rng, labels.shape, 30)
    wind = np.where(labels == WATER, rng.normal(0, 1.2), 0)
    common = grain + moisture + wind + 0.5 * ground.gain + 0.6 * ground.slope
    kind = between(means[:, 0][labels], means[:, 1][labels], ground.kind[..., None])
    return np.moveaxis(kind + gains[labels] * green[..., None] + common[..., None], -1, 0)
