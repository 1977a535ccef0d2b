"""What one tile shows by itself: nodata, saturation, units, the offset, codes outside the legend."""

from collections.abc import Iterator

import numpy as np

from cromss.doctor.subject import Subject
from cromss.input_checks import check_values, shown_offset
from cromss.legends import IGNORE_INDEX
from cromss.sensors import MODALITIES, S2_OFFSET, Modality, canonical_band

Fault = tuple[str, str]
"""Code word and what is wrong."""

_SATURATED = 0.99
"""Share of pixels at 0 or 255 from which a quantised tile is saturated."""


def bands_of(subject: Subject) -> tuple[str, ...]:
    """Band names of a store of images; those of the sensor where it names none."""
    return subject.meta.bands or MODALITIES[subject.meta.modality].bands


def label_faults(ids: np.ndarray, subject: Subject) -> Iterator[Fault]:
    """What is wrong with a mask `(H, W)` of class ids."""
    counts = np.bincount(ids.ravel(), minlength=IGNORE_INDEX + 1)
    outside = [code for code in np.flatnonzero(counts).tolist() if subject.legend.num_classes <= code < IGNORE_INDEX]
    if outside:
        shown = ", ".join(map(str, outside[:8]))
        named = subject.meta.classes or subject.meta.legend
        yield (
            "legend" if named else "legend-unsaid",
            f"codes outside the {subject.legend.num_classes} classes of {subject.legend.name}: {shown}",
        )


def image_faults(values: np.ndarray, subject: Subject) -> Iterator[Fault]:
    """What is wrong with an image `(C, H, W)`; at most the first of what excludes the rest."""
    if subject.meta.modality not in MODALITIES:
        return
    sensor, bands = MODALITIES[subject.meta.modality], tuple(map(canonical_band, bands_of(subject)))
    if values.dtype.kind == "f" and (bad := int(values.size - np.isfinite(values).sum())):
        yield "not-finite", f"{bad} NaN or infinite values"
    elif len(values) != len(bands):
        yield "shape", f"{len(values)} bands, wanted are {len(bands)}"
    elif (values == values[:, :1, :1]).all():
        yield "constant", f"every pixel of every band is the same ({', '.join(f'{v:g}' for v in values[:3, 0, 0])} ...)"
    elif values.dtype == np.uint8 and sensor.name != "ortho":
        yield from _quantised_faults(values, sensor, bands)
    else:
        yield from _raw_faults(values, sensor, bands)


def _raw_faults(values: np.ndarray, sensor: Modality, bands: tuple[str, ...]) -> Iterator[Fault]:
    try:
        check_values(values, sensor, "", bands)
    except ValueError as error:
        yield "unit", str(error).removeprefix(": ").rpartition("; ")[0] or str(error).removeprefix(": ")
        return
    if sensor.name == "s1" and _swapped(values, bands):
        yield "swapped", "VV lies below VH on average"
    if sensor.name == "s2" and shown_offset_of(values, bands):
        yield "offset", f"the pixels show a DN offset of {S2_OFFSET}"


def _quantised_faults(values: np.ndarray, sensor: Modality, bands: tuple[str, ...]) -> Iterator[Fault]:
    """Quantised values are taken back to the sensor's unit, as far as saturation lets."""
    low, high = values == 0, values == 255
    saturated = float((low | high).mean())
    mean, std = sensor.statistics(bands)
    if saturated >= _SATURATED:
        yield "saturated", f"{100 * saturated:.1f} % of the pixels are 0 or 255 ({100 * float(high.mean()):.1f} % 255)"
    elif sensor.name == "s1" and high.mean(axis=(1, 2)).min() >= _SATURATED:
        yield "saturated", "all bands are 255 nearly everywhere; in linear units?"
    elif sensor.name == "s1" and _swapped(mean - 2 * std + (values + 0.5) / 255 * 4 * std, bands):
        yield "swapped", "VV lies below VH on average"
    elif sensor.name == "s2" and _is_reflectance(values, mean, std):
        yield "unit", "hardly above 0 DN in any band; reflectance in 0..1?"
    elif sensor.name == "s2" and _quantised_offset(values, bands, mean, std):
        yield "offset", f"the pixels show a DN offset of {S2_OFFSET}"


def shown_offset_of(values: np.ndarray, bands: tuple[str, ...]) -> bool:
    """Whether raw DN show the offset; without all 13 bands nothing can be told."""
    return len(bands) == len(MODALITIES["s2"].bands) and bool(shown_offset(values))


def _swapped(decibels: np.ndarray, bands: tuple[str, ...]) -> bool:
    if not {"VV", "VH"} <= set(bands):
        return False
    return bool(decibels[bands.index("VV")].mean() < decibels[bands.index("VH")].mean())


def _is_reflectance(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> bool:
    """Whether 99 % of the pixels are what 0 to 2.55 DN are quantised to; B10 is always dark."""
    least, most = (np.floor(np.clip((dn - mean + 2 * std) / (4 * std), 0, 1) * 255) for dn in (0, 2.55))
    bright = (mean > 500).ravel()
    return bool(((values >= least) & (values <= most))[bright].mean() >= _SATURATED)


def _quantised_offset(values: np.ndarray, bands: tuple[str, ...], mean: np.ndarray, std: np.ndarray) -> bool:
    """As `detect_offset`, with bands whose range ends below the offset (B10) saturated, and blue not."""
    if len(bands) < len(MODALITIES["s2"].bands):
        return False
    floor = np.percentile(values.reshape(len(values), -1), 1, axis=1)
    dn = (mean - 2 * std).ravel() + (floor + 1) / 255 * 4 * std.ravel()
    short = ((mean + 2 * std) < S2_OFFSET).ravel()
    blue = np.median(values[bands.index("B2")])
    return bool((floor[short] == 255).all() and dn[~short].min() >= S2_OFFSET and blue < 255)
