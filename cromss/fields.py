"""Random fields: smooth, fractal and uniform ones, patchworks of parcels, and small filters."""

from functools import lru_cache

import numpy as np

Shape = tuple[int, int]


def smooth_field(rng: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    """Standard normal field with a Gaussian correlation of `scale` px; `shape` float32.

    Each pixel's distribution is exactly N(0, 1): the filter has unit energy.
    """
    return _filtered(rng, _gaussian_response(shape, float(scale)), shape)


def fractal_field(rng: np.random.Generator, shape: Shape, roughness: float) -> np.ndarray:
    """Standard normal field whose amplitude falls as frequency^-roughness; `shape` float32.

    Terrain has a roughness near 2, patches of vegetation near 1.4, texture under 1. A quarter is generated
    in surplus and cut away, so that opposite edges do not match.
    """
    larger = (shape[0] + shape[0] // 4, shape[1] + shape[1] // 4)
    return _filtered(rng, _fractal_response(larger, float(roughness)), larger)[: shape[0], : shape[1]]


def uniform_pair(rng: np.random.Generator, shape: Shape, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Two independent fields, uniform on (0, 1) in each pixel, in ragged patches of about `scale` px.

    Box-Muller read backwards: radius and angle of two independent normal fields (Matern correlation).
    """
    response = _matern_response(shape, float(scale))
    x, y = _filtered(rng, response, shape), _filtered(rng, response, shape)
    return np.exp(-(x * x + y * y) / 2), np.arctan2(y, x) / (2 * np.pi) + 0.5


def parcels(rng: np.random.Generator, shape: Shape, width: float) -> np.ndarray:
    """A patchwork of fields: rows at one angle, each cut at its own pitch.

    Args:
        rng: Source of randomness.
        shape: Height and width in px.
        width: Mean width of a row in px; parcels are about one to three times as long.

    Returns:
        `shape` int64 parcel numbers from 0; some numbers may not occur.
    """
    across, along = _rotated_grid(rng, shape)
    num_rows = int(4 * max(shape) / width) + 2
    row = np.searchsorted(np.cumsum(rng.uniform(0.5, 1.5, num_rows) * width), across)
    pitch, offset = width * rng.uniform(1.0, 3.0, num_rows + 1), rng.uniform(0, 1, num_rows + 1)
    column = (along / pitch[row] + offset[row]).astype(np.int64)
    return row * (column.max() + 1) + column


def per_parcel(parcel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of `values` over each parcel, at every pixel; the shape of `parcel`."""
    size = np.maximum(np.bincount(parcel.ravel()), 1)
    return (np.bincount(parcel.ravel(), values.ravel()) / size)[parcel].astype(np.float32)


def parcel_edges(parcel: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour lies in another parcel; bool."""
    edges = np.zeros(parcel.shape, bool)
    edges[:, :-1] |= parcel[:, 1:] != parcel[:, :-1]
    edges[:-1] |= parcel[1:] != parcel[:-1]
    return edges


def point_spread(image: np.ndarray) -> np.ndarray:
    """Blur the last two axes with the taps 1 2 1, the sensor's point spread; edges repeat."""
    for axis in (-2, -1):
        image = np.moveaxis(image, axis, -1)
        padded = np.concatenate([image[..., :1], image, image[..., -1:]], axis=-1)
        image = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
        image = np.moveaxis(image, -1, axis)
    return image


def block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean of each factor x factor block; `(H, W)` -> `(ceil(H / factor), ceil(W / factor))`, edges repeat."""
    height, width = image.shape
    if factor == 1:
        return image
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor)), mode="edge")
    rows = padded.reshape(-1, factor, padded.shape[1]).mean(axis=1)
    return rows.reshape(len(rows), -1, factor).mean(axis=2)


def enlarge(image: np.ndarray, factor: int, shape: Shape) -> np.ndarray:
    """Repeat each pixel of `(H, W)` factor x factor times and crop to `shape`."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]


def local_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2 radius + 1 px; `(H, W)` -> `(H, W)` float64, edges repeat."""
    side = 2 * radius + 1
    total = np.pad(image, ((radius + 1, radius), (radius + 1, radius)), mode="edge").astype(np.float64)
    total = total.cumsum(axis=0).cumsum(axis=1)
    return (total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]) / side**2


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels with a pixel of `mask` at most `radius` rows and columns away; bool."""
    return local_mean(mask, radius) > 0.5 / (2 * radius + 1) ** 2


def shifted(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """`(H, W)` moved down by `rows` and right by `columns`; edges repeat."""
    places = (np.arange(length) - by for length, by in zip(image.shape, (rows, columns)))
    return image[np.ix_(*(np.clip(place, 0, length - 1) for place, length in zip(places, image.shape)))]


def resampled(image: np.ndarray, shape: Shape, extent: tuple[float, float]) -> np.ndarray:
    """Bilinear values on another grid with the same upper left corner.

    Args:
        image: `(H, W)`.
        shape: Height and width wanted in px.
        extent: Height and width that these cover, in px of `image`.
    """
    for axis, (number, length) in enumerate(zip(shape, extent)):
        last = image.shape[axis] - 1
        place = np.clip((np.arange(number) + 0.5) * length / number - 0.5, 0, last)
        lower = np.minimum(place.astype(np.int64), max(last - 1, 0))
        share = (place - lower).reshape((-1, 1) if axis == 0 else (1, -1))
        image = image.take(lower, axis) * (1 - share) + image.take(np.minimum(lower + 1, last), axis) * share
    return image


def squash(values: np.ndarray) -> np.ndarray:
    """Logistic function, float32 in (0, 1)."""
    return (1 / (1 + np.exp(-values))).astype(np.float32)


def _filtered(rng: np.random.Generator, response: np.ndarray, shape: Shape) -> np.ndarray:
    white = rng.standard_normal(shape, dtype=np.float32)
    return np.fft.irfft2(np.fft.rfft2(white) * response, s=shape).astype(np.float32)


@lru_cache(maxsize=8)
def _gaussian_response(shape: Shape, scale: float) -> np.ndarray:
    return _unit_energy(np.exp(-2 * (np.pi * scale * _frequency(shape)) ** 2), shape)


@lru_cache(maxsize=8)
def _matern_response(shape: Shape, scale: float) -> np.ndarray:
    return _unit_energy(1 / (1 + (2 * np.pi * scale * _frequency(shape)) ** 2), shape)


@lru_cache(maxsize=64)
def _fractal_response(shape: Shape, roughness: float) -> np.ndarray:
    frequency = _frequency(shape)
    frequency[0, 0] = np.inf
    return _unit_energy(frequency**-roughness, shape)


def _unit_energy(response: np.ndarray, shape: Shape) -> np.ndarray:
    kernel = np.fft.irfft2(response, s=shape)
    return (response / np.sqrt((kernel**2).sum())).astype(np.float32)


def _frequency(shape: Shape) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])


def _rotated_grid(rng: np.random.Generator, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and along a random direction, slightly bent, from 0 upwards, in px."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = np.cos(angle) * y - np.sin(angle) * x + 2 * smooth_field(rng, shape, 40)
    along = np.sin(angle) * y + np.cos(angle) * x + 2 * smooth_field(rng, shape, 40)
    return across - across.min(), along - along.min()
