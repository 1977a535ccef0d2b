"""What networks expect of their input: what a normalisation does to raw values, in words and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cromss.normalization import DOFA, FMOW_SENTINEL, IMAGENET_MEAN, IMAGENET_STD, STANDARD
from cromss.sensors import S1, Modality

STEPS = MappingProxyType(
    {
        "common": "clip to mean +- 2 std, scale to 0..255, drop the fraction, divide by 255",
        "zscore": "clip to mean +- 2 std, then (value - mean) / std",
        "reflectance": "divide by 10000, clip to 0..1",
        "standard": "(value - mean) / std",
        "satlas": "divide red, green and blue by 3558 and the others by 8160, clip to 0..1",
        "imagenet": "divide by 3558 (orthophotos: 255), clip to 0..1, then (value - mean) / std",
        "satmae": "clip to mean +- 2 std, scale to 0..255, drop the fraction, divide by 255",
        "dofa": "to 0..255 as in SatlasPretrain, then (value - mean) / std",
    }
)
"""Normalisation -> what it does, see `cromss.normalization`."""

_OF_RADAR = {"zscore": "clip to the image's own 1 and 99 percentiles, then (value - mean) / std"}


@dataclass(frozen=True)
class ExpectedInput:
    """What a network expects of the images of one sensor.

    Attributes:
        bands: Names of the bands, in order.
        unit: Unit of the raw values.
        normalization: Name in `cromss.normalization.NORMALIZATIONS`.
        steps: What it does.
        mean: By band, or nothing where it needs none.
        std: By band, or nothing where it needs none.
    """

    bands: tuple[str, ...]
    unit: str
    normalization: str
    steps: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        lines = [f"bands {' '.join(self.bands)}, {self.unit}, {self.normalization} normalization: {self.steps}"]
        for name in ("mean", "std"):
            if values := getattr(self, name):
                lines.append(f"{name} {' '.join(f'{value:g}' for value in values)}")
        return "; ".join(lines)

    def as_plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def expected_input(normalization: str, sensor: Modality, bands: Sequence[str]) -> ExpectedInput:
    """What a normalisation makes of bands of a sensor that carries the statistics in use.

    Raises:
        ValueError: A band that the sensor does not have, or that the normalisation has no statistics of.
    """
    names = tuple(bands)
    steps = _OF_RADAR.get(normalization, STEPS[normalization]) if sensor.name == S1.name else STEPS[normalization]
    mean, std = _statistics(normalization, sensor, names)
    return ExpectedInput(names, sensor.unit, normalization, steps, mean, std)


def _statistics(
    normalization: str, sensor: Modality, bands: tuple[str, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by band that a normalisation goes by; nothing for those that need none."""
    places = sensor.indices(bands)
    if normalization in ("reflectance", "satlas"):
        return (), ()
    if normalization == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if normalization == "dofa":
        known = DOFA.get(sensor.name, {})
        if unknown := [band for band in bands if band not in known]:
            raise ValueError(f"dofa normalization: no statistics of {' '.join(unknown)}")
        mean, std = zip(*(known[band] for band in bands))
        return mean, std
    own = {"common": sensor, "zscore": sensor, "satmae": FMOW_SENTINEL}.get(normalization)
    mean, std = (own.mean, own.std) if own else STANDARD[sensor.name]
    return tuple(mean[i] for i in places), tuple(std[i] for i in places)
