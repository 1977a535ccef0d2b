"""The sensors: bands by name, statistics, units, normalisations, and checks of the input.

Every fact about Sentinel-1, Sentinel-2 and orthophotos lives here and is asked for by band *name*.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

QUANTISED = "uint8 of mean +- 2 std"
"""Unit of the pretraining input, see `quantise`; networks take it divided by 255."""

S2_OFFSET = 1000
"""DN added to every Sentinel-2 product of processing baseline 04.00 and later (2022-01-25)."""


@dataclass(frozen=True)
class Modality:
    """What is known about one sensor.

    Attributes:
        name: Key used in samples, batches and stores (`"s1"`, `"s2"`, `"ortho"`).
        title: Name for people.
        bands: Band names in storage order.
        unit: Unit of the raw values, `"dB"`, `"DN"` (reflectance x 10000) or `"8 bit"`.
        mean: Mean of each band, in `unit`.
        std: Standard deviation of each band, in `unit`.
        source: Where `mean` and `std` come from.
        wavelengths: Central wavelengths in um, or `None` where there are none (radar) or they differ by camera.
    """

    name: str
    title: str
    bands: tuple[str, ...]
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    wavelengths: tuple[float, ...] | None = None

    def index(self, band: str) -> int:
        """Position of a band; `B02` and `B2` are the same band.

        Raises:
            ValueError: The sensor has no such band.
        """
        name = canonical_band(band)
        if name not in self.bands:
            raise ValueError(f"{self.title} has no band {band!r}; its bands are {' '.join(self.bands)}")
        return self.bands.index(name)

    def indices(self, bands: tuple[str, ...] | None = None) -> list[int]:
        """Positions of `bands` (all of them for `None`), in the order asked for."""
        return list(range(len(self.bands))) if bands is None else [self.index(band) for band in bands]

    def statistics(self, bands: tuple[str, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of `bands`, each `(C, 1, 1)` float64, in `unit`."""
        chosen = self.indices(bands)
        mean, std = np.asarray(self.mean)[chosen], np.asarray(self.std)[chosen]
        return mean[:, None, None], std[:, None, None]


S1 = Modality(
    name="s1",
    title="Sentinel-1",
    bands=("VV", "VH"),
    unit="dB",
    mean=(-12.54847273, -20.19237134),
    std=(5.25697717, 5.91150917),
    source="50k locations of SSL4EO-S12 (GRD, sigma0)",
)

S2 = Modality(
    name="s2",
    title="Sentinel-2",
    bands=("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"),
    unit="DN",
    mean=(
        *(1605.57504906, 1390.78157673, 1314.8729939, 1363.52445545, 1549.44374991, 2091.74883118),
        *(2371.7172463, 2299.90463006, 2560.29504086, 830.06605044, 22.10351321, 2177.07172323),
        1524.06546312,
    ),
    std=(
        *(786.78685367, 850.34818441, 875.06484736, 1138.84957046, 1122.17775652, 1161.59187054),
        *(1274.39184232, 1248.42891965, 1345.52684884, 577.31607053, 51.15431158, 1336.09932639),
        1136.53823676,
    ),
    source="50k locations of SSL4EO-S12 (level 1C)",
    wavelengths=(0.443, 0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 0.940, 1.375, 1.610, 2.190),
)

ORTHO = Modality(
    name="ortho",
    title="Orthophoto",
    bands=("NIR", "R", "G", "B"),
    unit="8 bit",
    mean=(127.5,) * 4,
    std=(63.75,) * 4,
    source="no set's statistics: mean +- 2 std is the whole range 0..255, so that quantised values are the raw ones",
)

MODALITIES = {"s1": S1, "s2": S2, "ortho": ORTHO}

S2_SUBSETS = {
    3: ("B4", "B3", "B2"),
    9: ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"),
    92: ("B4", "B3", "B2", "B5", "B6", "B7", "B8", "B11", "B12"),
    10: ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"),
    12: tuple(band for band in S2.bands if band != "B10"),
    13: S2.bands,
}
"""Band subsets by the published word for them; 92 is the subset of 9 in RGB-first order."""


_ALIKE = (("B1", "B2", "B3", "B4", "B5"), ("B6", "B7", "B8", "B8A"))
"""Sentinel-2 bands whose bright pixels are alike, wherever there is light at all (`_BRIGHT` DN)."""

_BRIGHT, _UNLIKE = 500, 12
"""A band whose 99 percentile is `_UNLIKE` times below the median of those like it is in another unit."""


class UndecidableOffset(ValueError):
    """The pixels alone cannot tell whether the +1000 DN offset is in them."""


def canonical_band(band: str) -> str:
    """`B02`, `b2` and `B2` -> `B2`; `vv` -> `VV`."""
    name = band.strip().upper()
    if name.startswith("B0"):
        return "B" + name[2:]
    return name


def s2_bands(n_channels: int) -> tuple[str, ...]:
    """Names of the Sentinel-2 bands meant by `--n_channels`.

    Raises:
        ValueError: No such subset.
    """
    if n_channels not in S2_SUBSETS:
        raise ValueError(f"--n_channels {n_channels}: choose one of {', '.join(map(str, sorted(S2_SUBSETS)))}")
    return S2_SUBSETS[n_channels]


def quantise(dn: np.ndarray, modality: Modality, bands: tuple[str, ...] | None = None) -> np.ndarray:
    """Clip to mean +- 2 std and scale to 0..255, truncating: the input of pretraining.

    Computed in the input's own float type (integers in float64), as published.

    Args:
        dn: `(C, H, W)` values in the modality's unit (dB or DN).
        modality: The sensor.
        bands: Names of the `C` bands; all bands of the sensor for `None`.

    Returns:
        `(C, H, W)` uint8.
    """
    values = _as_float(dn, modality, bands)
    mean, std = modality.statistics(bands)
    low, width = (mean - 2 * std).astype(values.dtype), (4 * std).astype(values.dtype)
    return (np.clip((values - low) / width, 0, 1) * 255).astype(np.uint8)


def zscore(dn: np.ndarray, modality: Modality, bands: tuple[str, ...] | None = None) -> np.ndarray:
    """Z-score of the values clipped to mean +- 2 std; `(C, H, W)` float in [-2, 2]."""
    values = _as_float(dn, modality, bands)
    mean, std = (s.astype(values.dtype) for s in modality.statistics(bands))
    return (np.clip(values, mean - 2 * std, mean + 2 * std) - mean) / std


def percentile_zscore(dn: np.ndarray, modality: Modality, bands: tuple[str, ...] | None = None) -> np.ndarray:
    """Z-score after clipping each band to its own 1 and 99 percentiles; `(C, H, W)` float."""
    values = _as_float(dn, modality, bands)
    mean, std = (s.astype(values.dtype) for s in modality.statistics(bands))
    low, high = np.percentile(values, [1, 99], axis=(1, 2), keepdims=True)
    return (np.clip(values, low, high) - mean) / std


def reflectance(dn: np.ndarray) -> np.ndarray:
    """Sentinel-2 DN -> reflectance clipped to [0, 1], float32."""
    return np.clip(np.asarray(dn, dtype=np.float32) / 10000, 0, 1)


def check_values(values: np.ndarray, modality: Modality, where: str, bands: tuple[str, ...] | None = None) -> None:
    """Refuse an image that is not in the modality's unit.

    Args:
        values: `(C, H, W)` raw values.
        modality: The sensor they are said to come from.
        where: File or record named in the error.
        bands: Names of the bands; all bands of the sensor for `None`.

    Raises:
        ValueError: Wrong band count, NaN or infinity, dB against linear against DN, an image or a
            band without data, or one band in another unit; the line says which and what to do.
    """
    values = _as_float(values, modality, bands, where)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{where}: {bad} NaN or infinite values; fill them or leave the location out")
    if np.ptp(values) == 0:
        raise ValueError(f"{where}: every pixel is {values.flat[0]:g}, so this is nodata; leave the location out")
    _UNIT_CHECKS[modality.unit](values, modality.title, where)
    if modality.unit != "8 bit":  # over dark water a band of an orthophoto may well be all 0
        _check_each_band(values, [canonical_band(band) for band in bands or modality.bands], modality, where)


def detect_offset(dn: np.ndarray, bands: tuple[str, ...] = S2.bands, where: str = "image") -> int:
    """Decide from the pixels whether Sentinel-2 DN carry the +1000 offset of baseline 04.00.

    Some band always has dark pixels (cirrus B10, shadow, water in the short-wave infrared): a
    floor under 900 DN means no offset. A floor of 1000 or more in every band means the offset,
    unless snow or cloud brightens the whole tile (median blue above 4000 DN).

    Args:
        dn: `(C, H, W)` values in DN.
        bands: Names of the bands.
        where: File or record named in the error.

    Returns:
        0 or 1000.

    Raises:
        UndecidableOffset: Too bright or too uniform a tile to tell.
    """
    flat = np.asarray(dn, dtype=np.float32).reshape(len(bands), -1)
    valid = flat[:, (flat > 0).any(axis=0)]
    if valid.size:
        floor = np.percentile(valid, 1, axis=1).min()
        if floor < 900:
            return 0
        names = [canonical_band(band) for band in bands]
        blue = np.median(valid[names.index("B2")] if "B2" in names else valid[0])
        if floor >= S2_OFFSET and blue < 4000:
            return S2_OFFSET
    raise UndecidableOffset(
        f"{where}: the pixels cannot tell whether the +1000 DN offset (baseline 04.00) is in them; "
        "say --s2_offset 0 or --s2_offset 1000"
    )


def shown_offset(image: np.ndarray) -> int | None:
    """DN offset that the pixels `(13, H, W)` show, 0 or 1000; `None` where they cannot tell."""
    with suppress(UndecidableOffset):
        return detect_offset(image)
    return None


def refuse_offset(image: np.ndarray, where: str) -> None:
    """Refuse a scene of a set older than the offset, `(13, H, W)` DN, whose pixels show it all the same.

    Raises:
        ValueError: They do; where they cannot tell, the scene passes.
    """
    if shown_offset(image):
        raise ValueError(
            f"{where}: the pixels show a DN offset of {S2_OFFSET}, but these data predate it; subtract {S2_OFFSET}"
        )


def _as_float(
    values: np.ndarray, modality: Modality, bands: tuple[str, ...] | None, where: str = "image"
) -> np.ndarray:
    values = np.asarray(values)
    names = modality.bands if bands is None else bands
    if values.ndim != 3 or len(values) != len(names):
        raise ValueError(
            f"{where}: {modality.title} wants ({len(names)}, H, W) with bands {' '.join(names)}, got {values.shape}"
        )
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def _check_decibel(values: np.ndarray, title: str, where: str) -> None:
    negative = float((values < 0).mean())
    if negative < 0.05 and values.max() > 100:
        raise ValueError(f"{where}: {title} looks like digital numbers (up to {values.max():g}), but dB is wanted")
    if negative < 0.05:
        raise ValueError(
            f"{where}: {title} looks linear (0 to {values.max():.3g}), but dB is wanted; convert with 10 log10(x)"
        )
    if values.min() < -200:
        raise ValueError(f"{where}: {title} has values of {values.min():g}, a fill value; fill them or leave it out")
    if np.median(values) < -60:
        raise ValueError(f"{where}: {title} has a median of {np.median(values):.1f}, too low for dB")


def _check_digital_numbers(values: np.ndarray, title: str, where: str) -> None:
    if (values < 0).mean() > 0.05:
        raise ValueError(f"{where}: {title} has negative values (dB or a z-score?), but DN is wanted")
    if values.max() <= 2.55:
        raise ValueError(f"{where}: {title} looks like reflectance in 0..1, but DN is wanted; multiply by 10000")
    if values.max() <= 255:
        raise ValueError(f"{where}: {title} looks like 8-bit values (up to {values.max():g}), but DN is wanted")
    if values.max() > 65535:
        raise ValueError(f"{where}: {title} has values up to {values.max():g}, beyond 16-bit DN")


def _check_each_band(values: np.ndarray, names: list[str], modality: Modality, where: str) -> None:
    """Refuse a single band that is constant (cirrus B10 may be), or in another unit than the bands like it."""
    spread, peak = np.ptp(values, axis=(1, 2)), values.max(axis=(1, 2))
    for name, width, most in zip(names, spread, peak):
        if width == 0 and name != "B10":
            raise ValueError(f"{where}: every pixel of band {name} is {most:g}, so this is nodata; leave it out")
        if modality.unit == "DN" and most <= 2.55 and name != "B10":
            raise ValueError(f"{where}: band {name} looks like reflectance in 0..1, wanted is DN; multiply by 10000")
    for alike in _ALIKE if modality.unit == "DN" else ():
        there = [names.index(band) for band in alike if band in names]
        bright = np.percentile(values[there], 99, axis=(1, 2)) if there else np.zeros(1)
        usual = float(np.median(bright))
        if usual >= _BRIGHT and bright.min() * _UNLIKE < usual:
            name = names[there[int(bright.argmin())]]
            raise ValueError(
                f"{where}: band {name} reaches {bright.min():g} where the bands like it reach {usual:g}; is it in DN?"
            )


def _check_8_bit(values: np.ndarray, title: str, where: str) -> None:
    if values.min() < 0 or values.max() > 255:
        raise ValueError(f"{where}: {title} has values of {values.min():g} to {values.max():g}, wanted are 0..255")
    if values.max() <= 1:
        raise ValueError(f"{where}: {title} looks scaled to 0..1, but 0..255 is wanted; multiply by 255")


_UNIT_CHECKS = {"dB": _check_decibel, "DN": _check_digital_numbers, "8 bit": _check_8_bit}
