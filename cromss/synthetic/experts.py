"""What an expert marks on an image: not all of it, no class borders, no clouds."""

import numpy as np

from cromss.fields import Shape, fractal_field, local_mean, parcel_edges, shifted, smooth_field

CLOUD = (0.62, 0.62, 0.60, 0.61, 0.63, 0.64, 0.65, 0.66, 0.67, 0.40, 0.02, 0.46, 0.37)
"""Top-of-atmosphere reflectance of a thick cloud by band of `cromss.sensors.S2`; our own round numbers."""


def clouded(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw clouds and their shadows over a Sentinel-2 image.

    Args:
        image: `(13, H, W)` uint16 DN.
        rng: Source of randomness; decides cover (3 to 25 %), shape and height of the clouds.

    Returns:
        Image of the same kind, and the opacity of the clouds `(H, W)` in [0, 1].
    """
    shape = image.shape[1:]
    field = fractal_field(rng, shape, 1.6)
    level = np.quantile(field, 1 - rng.uniform(0.03, 0.25))
    opacity = np.clip(2.5 * (field - level), 0, 1)
    rows, columns = rng.integers(5, 16, 2)
    light = 1 - 0.5 * shifted(opacity, -rows, columns)
    bright = np.exp(0.08 * fractal_field(rng, shape, 1.2)) * 10000
    seen = np.empty_like(image)
    for band, (below, above) in enumerate(zip(image, CLOUD)):
        seen[band] = np.clip((1 - opacity) * light * below + opacity * above * bright + 0.5, 1, 65535)
    return seen, opacity


def left_out(labels: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Pixels that nobody marked: about `share` of them in ragged patches, the class borders, small objects; bool."""
    edge = parcel_edges(labels)
    border = edge | shifted(edge, 1, 0) | shifted(edge, 0, 1)
    return ragged(rng, labels.shape, share) | border | (local_mean(border, 4) > 0.6)


def ragged(rng: np.random.Generator, shape: Shape, share: float) -> np.ndarray:
    """Patches with ragged edges that cover `share` of the picture; bool."""
    field = fractal_field(rng, shape, 1.5) + 0.25 * smooth_field(rng, shape, 1.5)
    return field > np.quantile(field, 1 - share)
