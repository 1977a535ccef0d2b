"""Mean and standard deviation by band: gathered in one pass, kept in a YAML file, found again in a store.

Count, mean and sum of squared deviations are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances" (1979): numerically stable, and in any order.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cromss.sensors import MODALITIES, Modality, canonical_band
from cromss.store import StoreMeta
from cromss.yaml_files import read_yaml

MEASURED = ("s1", "s2")
"""Modalities with statistics of their own; orthophotos are 8 bit already and stay as they are."""

MIN_PIXELS = 1000
"""Fewer pixels make no statistics of a set."""

_KEYS = ("bands", "mean", "std", "unit", "count", "source")


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of the pixels seen.

    Attributes:
        count: Pixels.
        mean: Mean of each band `(C,)` float64.
        deviations: Sum of squared deviations from the mean of each band, `(C,)` float64.
    """

    count: int
    mean: np.ndarray
    deviations: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each band over all pixels, `(C,)`."""
        return np.sqrt(self.deviations / self.count)

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both sets of pixels together."""
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        deviations = self.deviations + other.deviations + shift**2 * (self.count * other.count / count)
        return Moments(count, mean, deviations)


def moments(image: np.ndarray) -> Moments:
    """Moments of an image `(C, H, W)`."""
    pixels = np.asarray(image, np.float64).reshape(len(image), -1)
    mean = pixels.mean(axis=1)
    return Moments(pixels.shape[1], mean, np.square(pixels - mean[:, None]).sum(axis=1))


def described(measured: Moments, modality: str, source: str) -> dict[str, Any]:
    """Entry of a file of statistics.

    Raises:
        ValueError: Fewer than `MIN_PIXELS` pixels, or a band that is the same everywhere.
    """
    sensor = MODALITIES[modality]
    if measured.count < MIN_PIXELS:
        raise ValueError(f"{modality}: {measured.count} pixels, at least {MIN_PIXELS} are wanted; give more locations")
    for band, std in zip(sensor.bands, measured.std):
        if not std > 0:
            raise ValueError(f"{modality}: band {band} is the same in every pixel; its std of 0 cannot be divided by")
    statistics = {"mean": measured.mean.tolist(), "std": measured.std.tolist()}
    return {"bands": list(sensor.bands), **statistics, "unit": sensor.unit, "count": measured.count, "source": source}


def write_statistics(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a file of statistics, modality -> entry, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(yaml.safe_dump(dict(entries), sort_keys=False, default_flow_style=None), encoding="utf-8")
    temporary.replace(path)


def read_statistics(path: Path | None, flag: str = "statistics") -> dict[str, Modality]:
    """Modalities, those with statistics in a file having these; all as built in without a file.

    Raises:
        ValueError: Something wrong in the file; the line begins with `--<flag> <path>:`.
    """
    if path is None:
        return dict(MODALITIES)
    content = read_yaml(path, flag)
    try:
        if not isinstance(content, dict) or not content:
            raise ValueError("wanted is modality: {bands, mean, std, unit, count, source}")
        return MODALITIES | {name: _sensor(name, entry) for name, entry in content.items()}
    except ValueError as error:
        raise ValueError(f"--{flag} {path}: {error}") from None


def stored_sensor(meta: StoreMeta) -> Modality:
    """The sensor of a store with the statistics that the store tells; the built-in ones where it tells none.

    Raises:
        ValueError: It tells impossible ones.
    """
    return with_statistics(MODALITIES[meta.modality], meta.statistics, "the store's statistics")


def with_statistics(sensor: Modality, told: Mapping[str, Any], source: str) -> Modality:
    """A sensor with other `mean` and `std`, in the order of its bands; itself where they are its own or not told.

    Raises:
        ValueError: Not one finite number a band, or a std that is not over 0.
    """
    if not {"mean", "std"} <= told.keys():
        return sensor
    mean, std = (_numbers(sensor, name, told[name]) for name in ("mean", "std"))
    if min(std) <= 0:
        raise ValueError(f"{sensor.name}: std {min(std):g} of {sensor.bands[std.index(min(std))]}: must be over 0")
    return sensor if (mean, std) == (sensor.mean, sensor.std) else replace(sensor, mean=mean, std=std, source=source)


def as_plain(sensor: Modality) -> dict[str, list]:
    """Statistics of a sensor as plain values, for the card of a checkpoint."""
    return {"bands": list(sensor.bands), "mean": list(sensor.mean), "std": list(sensor.std)}


def _sensor(name: Any, entry: Any) -> Modality:
    """A modality with the statistics of one entry of a file."""
    if name not in MEASURED:
        why = "; orthophotos stay as they are" if name == "ortho" else ""
        raise ValueError(f"{name}: statistics are for {' and '.join(MEASURED)}{why}")
    if not isinstance(entry, dict) or not {"bands", "mean", "std", "unit"} <= entry.keys():
        raise ValueError(f"{name}: bands, mean, std and unit are wanted")
    if unknown := entry.keys() - set(_KEYS):
        raise ValueError(f"{name}: unknown key {min(unknown, key=str)!r}; wanted: {', '.join(_KEYS)}")
    sensor, bands = MODALITIES[name], entry["bands"]
    if not isinstance(bands, list) or [canonical_band(str(band)) for band in bands] != list(sensor.bands):
        raise ValueError(f"{name}: bands {bands}: must be {' '.join(sensor.bands)}, in this order")
    if entry["unit"] != sensor.unit:
        raise ValueError(f"{name}: unit {entry['unit']!r}: must be {sensor.unit}")
    told = with_statistics(sensor, entry, str(entry.get("source", "")))
    _refuse_other_unit(told)
    return told


def _refuse_other_unit(sensor: Modality) -> None:
    """Refuse means that are in another unit than the entry says, by which all pixels would become 0 or 255."""
    if sensor.unit == "DN" and max(sensor.mean) <= 2.55:
        raise ValueError(f"{sensor.name}: mean: up to {max(sensor.mean):g}, which looks like reflectance; DN is wanted")
    if sensor.unit == "dB" and min(sensor.mean) > 0:
        raise ValueError(f"{sensor.name}: mean: {min(sensor.mean):g} and more, which looks linear; dB is wanted")


def _numbers(sensor: Modality, name: str, values: Any) -> tuple[float, ...]:
    numbers = values if isinstance(values, list | tuple) else [None]
    plain = all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in numbers)
    if not plain or len(numbers) != len(sensor.bands):
        raise ValueError(f"{sensor.name}: {name}: {len(sensor.bands)} finite numbers are wanted, one a band")
    return tuple(map(float, numbers))
