"""Input normalisations by name: the common one of pretraining, and those that other weights were trained with.

Every function takes raw values `(C, H, W)` in the modality's unit, the modality and the names of the `C` bands
(all of them for `None`), and returns `(C, H, W)`: uint8 where networks take it divided by 255, else float32.
"""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from cromss.sensors import ORTHO, S1, S2, S2_SUBSETS, Modality, percentile_zscore, quantise, zscore
from cromss.sensors import reflectance as to_reflectance

Bands = tuple[str, ...] | None
Normalization = Callable[[np.ndarray, Modality, Bands], np.ndarray]

TRUE_COLOUR_DN = 3558
"""DN at which ESA's 8-bit true-colour image of level 1C saturates (Sentinel-2 MSI user guide, definitions)."""

SATLAS_DN = 8160
"""DN at which Satlas clips the bands that are not in the true-colour image (allenai/satlas, Normalization.md)."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in [0, 1], as torchvision's models expect them."""

STANDARD = MappingProxyType(
    {
        S1.name: ((-12.59, -20.26), (5.26, 5.91)),
        S2.name: (
            (1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4),
            (791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9),
        ),
    }
)
"""Modality -> mean and standard deviation of all its bands (SSL4EO-S12, as torchgeo records them with the weights)."""

FMOW_SENTINEL = replace(
    S2,
    mean=(
        *(1370.19151926, 1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151, 1846.87040806),
        *(1762.59530783, 1972.62420416, 582.72633433, 14.77112979, 1732.16362238, 1247.91870117),
    ),
    std=(
        *(633.15169573, 650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639, 1258.36394548),
        *(1233.1492281, 1364.38688993, 472.37967789, 14.3114637, 1310.36996126, 1087.6020813),
    ),
    source="fMoW-Sentinel, as recorded in the code of SatMAE (arXiv 2207.08051)",
)
"""Sentinel-2 with the statistics of fMoW-Sentinel."""

DOFA = MappingProxyType(
    {
        S1.name: {"VV": (166.36275909, 64.83126309), "VH": (88.45542715, 43.07350145)},
        S2.name: {
            "B4": (114.1099739, 77.84352553),
            "B3": (114.81779093, 69.96844919),
            "B2": (126.63977424, 67.42465279),
            "B5": (84.33539309, 64.57022983),
            "B6": (97.84789168, 61.72545487),
            "B7": (103.94461911, 61.34187099),
            "B8": (101.435633, 60.29744676),
            "B11": (72.32804172, 47.88519516),
            "B12": (56.66528851, 42.55886798),
        },
    }
)
"""Modality -> band -> mean and standard deviation of SatlasPretrain's 8-bit images (zhu-xlab/DOFA, README).

The README calls the bands of Sentinel-1 "vh, vv", but reads VV first; VV is the brighter one.
"""

S1_GAIN = 600
"""Sentinel-1's 8-bit amplitude over the root of sigma0, where images are made as SatlasPretrain's.

These hold the amplitudes of ESA's uncalibrated products, cut at 255 (allenai/satlas, issue 49), whose gain
changes across the swath. The value is our estimate: it brings real images near the statistics `DOFA`.
"""

_RGB = {S2.name: S2_SUBSETS[3], ORTHO.name: ("R", "G", "B")}


def common(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """The input of pretraining, uint8: mean +- 2 std -> 0..255; values that are uint8 already stay as they are."""
    return values if values.dtype == np.uint8 else quantise(values, modality, bands)


def published_zscore(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """What the published `--s2_norm` and `--s1_norm` meant (arXiv 2405.01217).

    The z-score after clipping to mean +- 2 std; for Sentinel-1 after clipping each band to the image's own
    1 and 99 percentiles.

    Raises:
        ValueError: Values that are quantised already, or other bands than named.
    """
    _check_raw(values, modality, bands)
    score = percentile_zscore if modality.name == S1.name else zscore
    return score(values, modality, bands).astype(np.float32)


def reflectance(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """DN/10000 clipped to [0, 1]: MoCo, DINO and DeCUR on Sentinel-2 (SSL4EO-S12, arXiv 2211.07044).

    Raises:
        ValueError: Another sensor, values that are quantised already, or other bands than named.
    """
    _check_offered("reflectance", modality, (S2.name,))
    _check_raw(values, modality, bands)
    return to_reflectance(values)


def standard(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """The plain z-score, nothing clipped, with the statistics `STANDARD`.

    MoCo and DeCUR on Sentinel-1 (arXiv 2211.07044, 2309.05300), SoftCon on both sensors (arXiv 2405.20462).

    Raises:
        ValueError: An orthophoto, values that are quantised already, or other bands than named.
    """
    _check_offered("standard", modality, STANDARD)
    _check_raw(values, modality, bands)
    chosen = modality.indices(bands)
    mean, std = (np.asarray(statistic, np.float32)[chosen, None, None] for statistic in STANDARD[modality.name])
    return (np.asarray(values, np.float32) - mean) / std


def satlas(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """Red, green and blue as in the true-colour image, DN/8160 for the rest; clipped to [0, 1].

    The weights were trained on the true-colour image of the product (8 bits, divided by 255) and six other
    bands (allenai/satlas, Normalization.md; arXiv 2211.15660). The rounding to 8 bits is left out.

    Raises:
        ValueError: Another sensor, a band that Satlas does not use, values that are quantised already, or
            other bands than named.
    """
    _check_offered("satlas", modality, (S2.name,))
    names = _check_raw(values, modality, bands)
    _check_satlas_bands("satlas", names)
    return _as_satlas(values, names)


def imagenet(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """Red, green and blue in [0, 1], as in the true-colour image, less ImageNet's mean, by its deviation.

    Raises:
        ValueError: Other bands than red, green and blue in this order, or values that are quantised already.
    """
    _check_offered("imagenet", modality, _RGB)
    names = _check_raw(values, modality, bands)
    if names != _RGB[modality.name]:
        raise ValueError(
            f"imagenet normalization: it is known for {' '.join(_RGB[modality.name])} only, got {' '.join(names)}; "
            "choose --normalization common"
        )
    top = TRUE_COLOUR_DN if modality.name == S2.name else 255
    unit = np.clip(np.asarray(values, np.float32) / np.float32(top), 0, 1)
    mean, std = (np.float32(statistic)[:, None, None] for statistic in (IMAGENET_MEAN, IMAGENET_STD))
    return (unit - mean) / std


def satmae(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """uint8 of mean +- 2 std of fMoW-Sentinel, truncating: SatMAE and SatMAE++ (arXiv 2207.08051, 2403.05419).

    Raises:
        ValueError: Another sensor, values that are quantised already, or other bands than named.
    """
    _check_offered("satmae", modality, (S2.name,))
    _check_raw(values, modality, bands)
    return quantise(values, FMOW_SENTINEL, bands)


def dofa(values: np.ndarray, modality: Modality, bands: Bands = None) -> np.ndarray:
    """The z-score of images in 0..255 as of SatlasPretrain, with the statistics `DOFA` (arXiv 2403.15356).

    Sentinel-2 is brought there as in `satlas`, Sentinel-1 by `S1_GAIN`. The rounding to 8 bits is left out.

    Raises:
        ValueError: An orthophoto, a band without statistics, values that are quantised already, or other
            bands than named.
    """
    _check_offered("dofa", modality, DOFA)
    names = _check_raw(values, modality, bands)
    if modality.name == S1.name:
        image = np.minimum(S1_GAIN * 10 ** (np.asarray(values, np.float32) / 20), 255)
    else:
        _check_satlas_bands("dofa", names)
        image = 255 * _as_satlas(values, names)
    mean, std = np.float32([DOFA[modality.name][name] for name in names]).T[..., None, None]
    return (image - mean) / std


NORMALIZATIONS: MappingProxyType[str, Normalization] = MappingProxyType(
    {
        "common": common,
        "zscore": published_zscore,
        "reflectance": reflectance,
        "standard": standard,
        "satlas": satlas,
        "imagenet": imagenet,
        "satmae": satmae,
        "dofa": dofa,
    }
)
"""Name -> function `(values, modality, bands) -> values`."""

WITH_STATISTICS = frozenset({"common", "zscore"})
"""Those that go by the modality's mean and standard deviation; the others have numbers of their own."""


def _check_offered(name: str, modality: Modality, offered: object) -> None:
    if modality.name not in offered:
        raise ValueError(f"{name} normalization: not known for {modality.title}; choose --normalization common")


def _check_satlas_bands(name: str, bands: tuple[str, ...]) -> None:
    unknown = [band for band in bands if band not in S2_SUBSETS[92]]
    if unknown:
        raise ValueError(
            f"{name} normalization: {' '.join(unknown)} are not among its bands {' '.join(S2_SUBSETS[92])}; "
            "choose --n_channels 92"
        )


def _as_satlas(values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Sentinel-2 DN -> the true-colour image and the other bands of Satlas, all in [0, 1]."""
    top = np.float32([TRUE_COLOUR_DN if name in S2_SUBSETS[3] else SATLAS_DN for name in names])
    return np.clip(np.asarray(values, np.float32) / top[:, None, None], 0, 1)


def _check_raw(values: np.ndarray, modality: Modality, bands: Bands) -> tuple[str, ...]:
    """Names of the bands of raw values `(C, H, W)`; anything else is refused."""
    names = tuple(modality.bands[index] for index in modality.indices(bands))
    if values.ndim != 3 or len(values) != len(names):
        raise ValueError(f"{modality.title}: ({len(names)}, H, W) with bands {' '.join(names)}, got {values.shape}")
    if values.dtype == np.uint8 and modality.unit != "8 bit":
        raise ValueError(
            f"{modality.title}: these values are quantised to uint8 already, but raw {modality.unit} are needed; "
            "choose --normalization common, or a store of raw values"
        )
    return names
