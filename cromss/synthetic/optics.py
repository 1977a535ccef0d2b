"""Sentinel-2 level 1C of a land cover: mixed surfaces, texture, native resolution, atmosphere, sensor noise.

Spectra are our own round numbers of the usual shape (red edge of leaves, dark water in the infrared).
"""

import numpy as np

from cromss.fields import block_means, enlarge, point_spread, smooth_field
from cromss.sensors import S2
from cromss.synthetic.ground import Ground, check_season, draw_ground, greenness
from cromss.synthetic.land import BARE, BUILT, CROPS, FLOODED, GRASS, SHRUB, SNOW, TREES, WATER

RESOLUTION = {
    **dict.fromkeys(S2.bands, 20),
    **dict.fromkeys(("B2", "B3", "B4", "B8"), 10),
    **dict.fromkeys(("B1", "B9", "B10"), 60),
}
"""Ground sampling of each band in m."""

SPECTRA = {
    "clear water": (0.035, 0.040, 0.035, 0.018, 0.014, 0.010, 0.009, 0.008, 0.007, 0.006, 0.0, 0.004, 0.003),
    "turbid water": (0.060, 0.075, 0.105, 0.095, 0.090, 0.055, 0.050, 0.042, 0.036, 0.030, 0.0, 0.016, 0.010),
    "broad leaves": (0.018, 0.026, 0.055, 0.032, 0.085, 0.240, 0.320, 0.345, 0.365, 0.365, 0.0, 0.185, 0.085),
    "needles": (0.014, 0.020, 0.036, 0.022, 0.052, 0.140, 0.175, 0.190, 0.205, 0.205, 0.0, 0.095, 0.042),
    "herbs": (0.026, 0.036, 0.076, 0.042, 0.108, 0.290, 0.365, 0.390, 0.410, 0.410, 0.0, 0.220, 0.115),
    "dry stalks": (0.055, 0.072, 0.110, 0.145, 0.175, 0.205, 0.225, 0.245, 0.265, 0.265, 0.0, 0.320, 0.235),
    "dark soil": (0.045, 0.055, 0.078, 0.100, 0.115, 0.125, 0.135, 0.145, 0.160, 0.160, 0.0, 0.215, 0.190),
    "bright soil": (0.090, 0.115, 0.165, 0.220, 0.240, 0.255, 0.270, 0.285, 0.300, 0.300, 0.0, 0.380, 0.335),
    "concrete": (0.125, 0.145, 0.170, 0.190, 0.200, 0.210, 0.220, 0.230, 0.240, 0.240, 0.0, 0.255, 0.235),
    "tiles and asphalt": (0.060, 0.068, 0.088, 0.120, 0.135, 0.145, 0.155, 0.165, 0.175, 0.175, 0.0, 0.205, 0.180),
    "snow": (0.780, 0.800, 0.800, 0.790, 0.780, 0.770, 0.750, 0.740, 0.720, 0.640, 0.0, 0.090, 0.070),
}
"""Surface reflectance in [0, 1] by band of `cromss.sensors.S2`."""

COMPOSITION = {
    WATER: ("herbs", "herbs", "clear water", "turbid water"),
    TREES: ("broad leaves", "needles", "dark soil", "dry stalks"),
    GRASS: ("herbs", "herbs", "dry stalks", "bright soil"),
    FLOODED: ("herbs", "broad leaves", "turbid water", "dark soil"),
    CROPS: ("herbs", "herbs", "dark soil", "bright soil"),
    SHRUB: ("broad leaves", "broad leaves", "dark soil", "dry stalks"),
    BUILT: ("herbs", "broad leaves", "concrete", "tiles and asphalt"),
    BARE: ("dry stalks", "dry stalks", "dark soil", "bright soil"),
    SNOW: ("herbs", "herbs", "snow", "snow"),
}
"""Green surface of the first and second kind of a class, dark and bright background."""

GRAIN = {WATER: 0.02, TREES: 0.16, GRASS: 0.06, FLOODED: 0.12, CROPS: 0.05, SHRUB: 0.13, BUILT: 0.28, BARE: 0.07}
"""Relative brightness of the texture of a class; 0.04 for the rest."""

TRANSMISSION = {"B3": 0.93, "B4": 0.95, "B9": 0.38, "B10": 0.002}
"""Share of light that ozone and water vapour let through, there and back; 0.97 for the rest."""


def optical(
    labels: np.ndarray, season: float, rng: np.random.Generator, ground: Ground | None = None, haze: float = 1.0
) -> np.ndarray:
    """Top-of-atmosphere Sentinel-2 image on the 10 m grid, the pixels of coarser bands repeated.

    Args:
        labels: `(H, W)` uint8 class ids 0..8.
        season: 0 spring, 1 summer, 2 autumn, 3 winter, or between.
        rng: Source of randomness of this date: illumination, haze, sensor noise.
        ground: What lasts over the seasons; drawn first for `None`.
        haze: Aerosol, relative to an average day.

    Returns:
        `(13, H, W)` uint16 DN (reflectance x 10000) in the order of `cromss.sensors.S2.bands`.

    Raises:
        ValueError: No such season.
    """
    bands = native_bands(labels, season, rng, ground, haze)
    return np.stack([enlarge(image, band_factor(band), labels.shape) for band, image in bands.items()])


def native_bands(
    labels: np.ndarray, season: float, rng: np.random.Generator, ground: Ground | None = None, haze: float = 1.0
) -> dict[str, np.ndarray]:
    """The image of `optical`, each band uint16 on its native grid (10, 20 or 60 m), by band name."""
    check_season(season)
    ground = ground or draw_ground(labels, rng)
    brightness, shares = _brightness(labels, ground, rng), _shares(labels, season, ground)
    patchy = np.exp(0.15 * smooth_field(rng, labels.shape, 40))
    aerosol, cirrus = haze * rng.gamma(6.0, 0.02), rng.gamma(4.0, 0.0006)
    bands, labels = {}, labels.astype(np.intp)
    for band in S2.bands:
        surface, factor = brightness * _mixture(labels, shares, band), band_factor(band)
        seen = point_spread(surface) if factor == 1 else block_means(surface, factor)
        seen = _atmosphere(seen, band, block_means(patchy, factor), aerosol, cirrus)
        seen *= 1 + 0.006 * rng.standard_normal(seen.shape, dtype=np.float32)
        bands[band] = np.clip(seen * 10000 + 0.5, 1, 65535).astype(np.uint16)
    return bands


def band_factor(band: str) -> int:
    """How many 10 m pixels one pixel of `band` is wide: 1, 2 or 6."""
    return RESOLUTION[band] // 10


def _shares(labels: np.ndarray, season: float, ground: Ground) -> tuple[np.ndarray, ...]:
    """Share of each pixel's four surfaces, in the order of `COMPOSITION`; they sum to 1."""
    green = greenness(labels, season, ground)
    bare = 1 - green
    return green * (1 - ground.kind), green * ground.kind, bare * (1 - ground.soil), bare * ground.soil


def _mixture(labels: np.ndarray, shares: tuple[np.ndarray, ...], band: str) -> np.ndarray:
    """Surface reflectance of each pixel as a linear mixture of its class's four surfaces; `(H, W)` float32."""
    index = S2.index(band)
    pure = np.array([[SPECTRA[name][index] for name in COMPOSITION[c]] for c in sorted(COMPOSITION)], np.float32)
    return sum(share * pure[:, surface][labels] for surface, share in enumerate(shares))


def _brightness(labels: np.ndarray, ground: Ground, rng: np.random.Generator) -> np.ndarray:
    """Multiplicative field of surface gain, texture, relief and the day's illumination; `(H, W)` float32."""
    grain = np.array([GRAIN.get(c, 0.04) for c in sorted(COMPOSITION)], np.float32)[labels]
    day = rng.normal(0, 0.04) + 0.05 * smooth_field(rng, labels.shape, 25)
    return np.exp(0.13 * ground.gain + grain * ground.grain + 0.06 * ground.slope + day)


def _atmosphere(surface: np.ndarray, band: str, patchy: np.ndarray, aerosol: float, cirrus: float) -> np.ndarray:
    """Surface -> top of atmosphere: light scattered by air, haze and cirrus, and what is lost on the way."""
    wavelength = S2.wavelengths[S2.index(band)]
    rayleigh = 0.00864 * wavelength**-4.08
    haze = aerosol * wavelength**-1.3 * patchy
    scattered = 0.38 * rayleigh + 0.10 * haze
    return TRANSMISSION.get(band, 0.97) * (scattered + (1 - 0.5 * rayleigh - 0.3 * haze) * surface) + cirrus * patchy
