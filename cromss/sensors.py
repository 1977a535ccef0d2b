"""The sensors: bands by name, statistics, units, and the usual normalisations.

Every fact about Sentinel-1, Sentinel-2 and orthophotos lives here and is asked for by band *name*.
"""

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
    values = as_float(dn, modality, bands)
    mean, std = modality.statistics(bands)
    low, width = (mean - 2 * std).astype(values.dtype), (4 * std).astype(values.dtype)
    return (np.clip((values - low) / width, 0, 1) * 255).astype(np.uint8)


def zscore(dn: np.ndarray, modality: Modality, bands: tuple[str, ...] | None = None) -> np.ndarray:
    """Z-score of the values clipped to mean +- 2 std; `(C, H, W)` float in [-2, 2]."""
    values = as_float(dn, modality, bands)
    mean, std = (s.astype(values.dtype) for s in modality.statistics(bands))
    return (np.clip(values, mean - 2 * std, mean + 2 * std) - mean) / std


def percentile_zscore(
    dn: np.ndarray, modality: Modality, bands: tuple[str, ...] | None = None, limits: np.ndarray | None = None
) -> np.ndarray:
    """Z-score after clipping each band to its own `percentile_limits`, or to given ones; `(C, H, W)` float."""
    values = as_float(dn, modality, bands)
    mean, std = (s.astype(values.dtype) for s in modality.statistics(bands))
    low, high = percentile_limits(values) if limits is None else limits
    return (np.clip(values, low, high) - mean) / std


def percentile_limits(values: np.ndarray) -> np.ndarray:
    """1 and 99 percentile of each band of `(C, H, W)`, `(2, C, 1, 1)`."""
    return np.percentile(values, [1, 99], axis=(1, 2), keepdims=True)


def reflectance(dn: np.ndarray) -> np.ndarray:
    """Sentinel-2 DN -> reflectance clipped to [0, 1], float32."""
    return np.clip(np.asarray(dn, dtype=np.float32) / 10000, 0, 1)


def as_float(values: np.ndarray, modality: Modality, bands: tuple[str, ...] | None, where: str = "image") -> np.ndarray:
    """Values `(C, H, W)` as they are if floating, else as float64.

    Raises:
        ValueError: Not as many bands as named; `where` is named.
    """
    values = np.asarray(values)
    names = modality.bands if bands is None else bands
    if values.ndim != 3 or len(values) != len(names):
        raise ValueError(
            f"{where}: {modality.title} wants ({len(names)}, H, W) with bands {' '.join(names)}, got {values.shape}"
        )
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
