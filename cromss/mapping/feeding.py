"""From the rasters of a scene to what a network is fed: unit and offset decided on samples, tiles normalised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cromss.input_checks import UndecidableOffset, check_values, detect_offset
from cromss.mapping.predictor import Predictor
from cromss.mapping.scene import Image, Scene, pixel_metres
from cromss.normalization import NORMALIZATIONS
from cromss.offset import remove_offset
from cromss.sensors import S1, S2, percentile_limits, percentile_zscore

_WINDOW, _WINDOWS_A_SIDE = 48, 6
"""Windows that are looked at: their side in pixels, and how many there are down and across a scene."""

_USUAL_PIXEL, _FAR = 10, 2.5
"""Pixels of the images that networks learn from, in m, and how many times smaller or larger ones are far from them."""


@dataclass(frozen=True)
class Feed:
    """Normalised tiles of a scene.

    Attributes:
        scene: The rasters.
        predictor: What is fed.
        offset: DN offset to subtract from Sentinel-2.
        limits: Percentiles of the scene `(2, C, 1, 1)` to which Sentinel-1 is clipped, where its z-score wants an
            image's own: those of each tile would make seams. `None` where it is normalised otherwise.
        tables: Modality -> normalised values `(C, 65536)` of all integers of 16 bits, where its rasters hold such.
    """

    scene: Scene
    predictor: Predictor
    offset: int
    limits: np.ndarray | None = None
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)

    def tiles(self, rows: tuple[int, int], columns: Sequence[tuple[int, int]]) -> tuple[list[dict], np.ndarray]:
        """Neighbours in a row: by modality `(C, h, w)` each, uint8 or float32, and where all modalities have data.

        A tile without any data is empty. Pixels without data hold the mean of their band. Where there are data is told
        of all pixels from the first column to the last, `(h, w)` bool. Threads may call this at the same time.
        """
        (first, _), (_, last) = columns[0], columns[-1]
        raw, there = {}, np.True_
        for name, image in self.scene.images.items():
            values, valid = image.read(slice(*rows), slice(first, last))
            raw[name] = self._filled(name, values, valid)
            there = there & valid
        tiles: list[dict[str, np.ndarray]] = [{} for _ in columns]
        for tile, (left, right) in zip(tiles, columns):
            part = slice(left - first, right - first)
            if there[:, part].any():
                tile |= {name: self._normalised(name, values[..., part]) for name, values in raw.items()}
        return tiles, there

    def with_tables(self, dtypes: Mapping[str, np.dtype]) -> "Feed":
        """The same, faster where values are integers of 16 bits: each of them is normalised once."""
        tables = {}
        for name, dtype in dtypes.items():
            if dtype.kind in "iu" and dtype.itemsize == 2:
                every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
                shape = len(self.predictor.bands[name]), 1, every.size
                tables[name] = self._normalised(name, np.broadcast_to(every, shape))[:, 0]
        return replace(self, tables=tables)

    def _filled(self, name: str, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        values = remove_offset(values, self.offset) if name == S2.name else values
        if not valid.all():
            mean, _ = self.predictor.sensors[name].statistics(self.predictor.bands[name])
            values = np.where(valid, values, mean.astype(values.dtype))
        return values

    def _normalised(self, name: str, values: np.ndarray) -> np.ndarray:
        if name in self.tables:
            return np.stack([table.take(band.view(np.uint16)) for table, band in zip(self.tables[name], values)])
        predictor = self.predictor
        sensor, bands = predictor.sensors[name], predictor.bands[name]
        if name == S1.name and self.limits is not None:
            return percentile_zscore(values, sensor, bands, self.limits).astype(np.float32)
        return NORMALIZATIONS[predictor.normalizations[name]](values, sensor, bands)


def open_feed(scene: Scene, predictor: Predictor, told_offset: int | None) -> Feed:
    """Look at samples of the scene, say what was decided about units and offset and its pixels' size, or refuse it.

    Args:
        scene: The rasters.
        predictor: What is fed.
        told_offset: DN offset of Sentinel-2 as the user says, 0 or 1000; `None` to decide.

    Raises:
        ValueError: No data, another unit, or an offset that cannot be decided or is contradicted.
    """
    offset, limits, dtypes, size = 0, None, {}, pixel_metres(scene.grid)
    for name, image in scene.images.items():
        sample, sensor = _sample(image, scene.grid.shape), predictor.sensors[name]
        dtypes[name] = sample.dtype
        check_values(sample, sensor, image.name, image.bands)
        decision = f"values in {sensor.unit}"
        if name == S2.name:
            offset, why = decide_offset(sample, image, told_offset)
            decision += f", offset of {offset} DN ({why})"
        elif predictor.normalizations[name] == "zscore":
            limits = percentile_limits(sample)
        notes = image.source.note, f"on pixels of {size:.3g} m"
        print("; ".join(filter(None, (f"{image.name}: {decision}", *notes))))
    if not 1 / _FAR < size / _USUAL_PIXEL < _FAR:
        print(
            f"warning: pixels of {size:.3g} m, but networks learn from {_USUAL_PIXEL} m, so the map may be worthless; "
            f"warp the scene (gdalwarp -tr {_USUAL_PIXEL} {_USUAL_PIXEL})"
        )
    return Feed(scene, predictor, offset, limits).with_tables(dtypes)


def decide_offset(sample: np.ndarray, image: Image, told: int | None) -> tuple[int, str]:
    """DN offset of a scene and what decided it: the user, its metadata, or its pixels `(C, h, w)`.

    Pixels may contradict metadata, but not those of a product as it was handed out.

    Raises:
        ValueError: Nothing decides it, metadata and pixels differ, or 1000 is told and dark pixels show that it is not.
    """
    declared = image.source.offset
    try:
        seen, undecidable = detect_offset(sample, image.bands, image.name), None
    except UndecidableOffset as error:
        seen, undecidable = None, error
    if told is not None:
        if told and seen == 0 and declared != told:
            raise ValueError(f"--s2_offset {told}: the pixels of {image.name} show no DN offset; say auto or 0")
        return told, "told"
    if declared is None and seen is None:
        raise undecidable
    if not image.source.is_product and None not in (declared, seen) and declared != seen:
        raise ValueError(
            f"{image.name}: the metadata declare a DN offset of {declared}, the pixels show {seen}; "
            "say --s2_offset 0 or --s2_offset 1000"
        )
    return (seen, "by the pixels") if declared is None else (declared, "by the metadata")


def _sample(image: Image, shape: tuple[int, int]) -> np.ndarray:
    """Pixels with data `(C, 1, N)` of windows all over the scene; of its first rows that have any, if these have none.

    Raises:
        ValueError: There are none.
    """
    found = [values[:, valid] for values, valid in (image.read(*window) for window in _windows(shape))]
    pixels = np.concatenate(found, axis=1)
    strips = _strips(shape)
    while not pixels.size and (strip := next(strips, None)):
        values, valid = image.read(*strip)
        pixels = values[:, valid]
    if not pixels.size:
        raise ValueError(f"{image.name}: no pixel has data, all are nodata; give another scene")
    return pixels[:, None]


def _windows(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    sides = [np.linspace(0, max(0, side - _WINDOW), _WINDOWS_A_SIDE).astype(int).tolist() for side in shape]
    for row in sides[0]:
        for column in sides[1]:
            yield slice(row, min(row + _WINDOW, shape[0])), slice(column, min(column + _WINDOW, shape[1]))


def _strips(shape: tuple[int, int], height: int = 256) -> Iterator[tuple[slice, slice]]:
    for row in range(0, shape[0], height):
        yield slice(row, min(row + height, shape[0])), slice(0, shape[1])
