"""Checks of raw images: unit, band by band, and the +1000 offset of Sentinel-2."""

from contextlib import suppress

import numpy as np

from cromss.sensors import S2, S2_OFFSET, Modality, as_float, canonical_band

_ALIKE = (("B1", "B2", "B3", "B4", "B5"), ("B6", "B7", "B8", "B8A"))
"""Sentinel-2 bands whose bright pixels are alike, wherever there is light at all (`_BRIGHT` DN)."""

_BRIGHT, _UNLIKE = 500, 12
"""A band whose 99 percentile is `_UNLIKE` times below the median of those like it is in another unit."""


class UndecidableOffset(ValueError):
    """The pixels alone cannot tell whether the +1000 DN offset is in them."""


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
    values = as_float(values, modality, bands, where)
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
