"""Locations with images of several seasons and their labels, as samples for training.

One class serves pretraining (uint8 season stacks with noisy labels) and transfer (raw values with
exact masks): values that are not yet uint8 are quantised on the fly, or normalised as told.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from cromss.legends import IGNORE_INDEX
from cromss.normalization import Normalization, common
from cromss.sensors import MODALITIES, canonical_band
from cromss.statistics import stored_sensor


class Store(Protocol):
    """What a dataset asks of a store; see `cromss.store`."""

    meta: Any
    num_seasons: int
    excluded: Mapping[int, str]

    def __len__(self) -> int: ...

    def read(self, index: int, season: int) -> np.ndarray: ...

    def read_seasons(self, index: int) -> np.ndarray: ...

    def location_id(self, index: int) -> str: ...


class Draw(NamedTuple):
    """One sample asked for by a sampler: the same draw always yields the same sample.

    Attributes:
        epoch: Epoch that season and augmentation are drawn for.
        index: Location.
        counted: `False` for the filler that evens out processes; its labels are all ignored.
    """

    epoch: int
    index: int
    counted: bool = True


class SeasonStacks(Dataset):
    """Samples of a set of stores: the images of one season, the labels of all.

    Attributes:
        images: Modality -> store of its images.
        labels: Store of the labels to learn.
        bands: Modality -> band names to yield, in order.
        draw_season: Draw a season for every sample and epoch; otherwise take `season`.
        season: Fixed season, or -1 for location index modulo the number of seasons.
        num_classes: Number of classes; larger label ids than it allows are refused.
        min_size: Smaller tiles are mirrored out to this side, in pixels; the labels there are ignored.
        seed: With epoch and location, decides the season drawn.
        exact: Store of exact labels to score against, or `None`.
        normalise: Modality -> its normalisation, see `cromss.normalization`; the common one where none is told.
        sensors: Modality -> its sensor, with the statistics of its store.
        stack_dates: Yield the images of all dates, one after the other on the band axis, for labels
            that belong to all of them (change detection).
    """

    def __init__(
        self,
        images: Mapping[str, Store],
        labels: Store,
        bands: Mapping[str, Sequence[str]],
        num_classes: int,
        draw_season: bool = False,
        season: int = -1,
        min_size: int = 0,
        seed: int = 0,
        exact: Store | None = None,
        normalise: Mapping[str, Normalization] | None = None,
        stack_dates: bool = False,
    ) -> None:
        stores = {**images, "labels": labels} | ({"exact": exact} if exact else {})
        check_alignment(stores, same_seasons=not stack_dates)
        if season >= labels.num_seasons:
            raise ValueError(f"--test_season {season}: the set has {labels.num_seasons} seasons, counted from 0")
        self.images, self.labels, self.exact = dict(images), labels, exact
        self.bands = {modality: _band_positions(store, modality, bands[modality]) for modality, store in images.items()}
        self.sensors = {modality: stored_sensor(store.meta) for modality, store in images.items()}
        self.names = {modality: tuple(bands[modality]) for modality in images}
        self.num_classes, self.draw_season, self.season = num_classes, draw_season, season
        self.min_size, self.seed = min_size, seed
        self.normalise, self.stack_dates = dict(normalise or {}), stack_dates

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def excluded(self) -> dict[int, str]:
        """Index of each location that some store leaves out of use -> why."""
        stores = (self.labels, *self.images.values(), *([self.exact] if self.exact else []))
        return {index: reason for store in stores for index, reason in store.excluded.items()}

    def in_use(self, indices: Iterable[int] | None = None) -> list[int]:
        """Those of `indices` (all for `None`) that no store leaves out.

        Raises:
            ValueError: All of them are left out.
        """
        excluded, asked = self.excluded, list(range(len(self)) if indices is None else indices)
        used = [index for index in asked if index not in excluded]
        if asked and not used:
            raise ValueError(f"all {len(asked)} locations wanted are left out of use; write the stores again")
        return used

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """One sample.

        Returns:
            Modality -> `(C, H, W)` uint8, or float32 where normalised; `"labels"`: `(T, H, W)` uint8;
            `"exact"` the same, if there are any; `"season"`, `"index"`, `"epoch"`: int; `"id"`: str;
            `"size"`: rows and columns before any padding.

        Raises:
            ValueError: The location differs between stores in id or size, has unknown labels, or values that are
                not finite.
        """
        epoch, index, counted = draw if isinstance(draw, tuple) else Draw(0, draw)
        season = self._season(epoch, index)
        sample = {modality: self._image(modality, index, season) for modality in self.images}
        masks = {"labels": self.labels} | ({"exact": self.exact} if self.exact else {})
        sample |= {name: store.read_seasons(index) for name, store in masks.items()}
        location = self.labels.location_id(index)
        self._check(sample, index, location)
        size = sample["labels"].shape[-2:]
        sample = {name: pad_to(array, self.min_size, self.min_size, fill_of(name)) for name, array in sample.items()}
        if not counted:
            sample |= {name: np.full_like(sample[name], IGNORE_INDEX) for name in _MASKS & sample.keys()}
        return sample | {"season": season, "index": index, "epoch": epoch, "id": location, "size": size}

    def _season(self, epoch: int, index: int) -> int:
        if self.draw_season:
            return int(
                np.random.default_rng([self.seed, epoch, index, _SEASON_STREAM]).integers(self.labels.num_seasons)
            )
        return self.season if self.season >= 0 else index % self.labels.num_seasons

    def _check(self, sample: Mapping[str, np.ndarray], index: int, location: str) -> None:
        for modality, store in self.images.items():
            if store.location_id(index) != location:
                raise ValueError(
                    f"location {index} is {location!r} in labels, {store.location_id(index)!r} in {modality}"
                )
        sizes = {name: array.shape[-2:] for name, array in sample.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"location {location}: sizes differ: {sizes}")
        for name in _MASKS & sample.keys():
            mask = sample[name]
            unknown = np.unique(mask[mask >= self.num_classes]).tolist() if mask.max() >= self.num_classes else []
            if set(unknown) - {IGNORE_INDEX}:
                raise ValueError(f"location {location}: {name} {unknown} where classes are 0..{self.num_classes - 1}")

    def _image(self, modality: str, index: int, season: int) -> np.ndarray:
        store = self.images[modality]
        dates = range(store.num_seasons) if self.stack_dates else (season,)
        images = [self._normalised(modality, self._finite(modality, index, store.read(index, date))) for date in dates]
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _finite(self, modality: str, index: int, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"location {self.labels.location_id(index)}: {modality} holds NaN or infinity; leave it out"
            )
        return values

    def _normalised(self, modality: str, values: np.ndarray) -> np.ndarray:
        if self.bands[modality] is not None:
            values = values[self.bands[modality]]
        return self.normalise.get(modality, common)(values, self.sensors[modality], self.names[modality])


def check_alignment(stores: Mapping[str, Store], num_checked: int = 64, same_seasons: bool = True) -> None:
    """Refuse stores that are not of the same locations in the same order.

    Numbers of locations and, if `same_seasons`, of seasons are compared, and the ids of up to
    `num_checked` locations spread over the set.

    Raises:
        ValueError: Naming the first difference.
    """
    (first, reference), *others = stores.items()
    for name, store in others:
        for what, a, b in (
            ("locations", len(reference), len(store)),
            ("seasons", reference.num_seasons, store.num_seasons),
        ):
            if a != b and (same_seasons or what != "seasons"):
                raise ValueError(f"{first} and {name} differ: {a} against {b} {what}; were they written together?")
        for index in np.unique(np.linspace(0, len(reference) - 1, num_checked).astype(int)).tolist():
            ids = reference.location_id(index), store.location_id(index)
            if ids[0] != ids[1]:
                raise ValueError(
                    f"{first} and {name} differ: location {index} is {ids[0]!r} in one, {ids[1]!r} in the other"
                )


def pad_to(array: np.ndarray, height: int, width: int, fill: int | None = None) -> np.ndarray:
    """Pad an array `(..., H, W)` to at least `(height, width)`, below and to the right.

    Args:
        array: Image or mask.
        height: Rows wanted.
        width: Columns wanted.
        fill: Value of the new pixels; `None` mirrors the array without repeating its edge.
    """
    missing = [max(0, side - have) for side, have in zip((height, width), array.shape[-2:])]
    if not any(missing):
        return array
    widths = [(0, 0)] * (array.ndim - 2) + [(0, extra) for extra in missing]
    if fill is None:
        return np.pad(array, widths, mode="reflect")
    return np.pad(array, widths, constant_values=fill)


def fill_of(name: str) -> int | None:
    """What pads an entry of a sample, as `pad_to` takes it: masks are ignored there."""
    return IGNORE_INDEX if name in _MASKS else None


def _band_positions(store: Store, modality: str, wanted: Sequence[str]) -> list[int] | None:
    """Positions of the wanted bands in a store's records; `None` when they are the record as it is."""
    stored = [canonical_band(band) for band in store.meta.bands] or _assumed_bands(store, modality)
    missing = [band for band in wanted if canonical_band(band) not in stored]
    if missing:
        raise ValueError(f"{modality} store has bands {' '.join(stored)}, but {' '.join(missing)} is wanted too")
    positions = [stored.index(canonical_band(band)) for band in wanted]
    return None if positions == list(range(len(stored))) else positions


def _assumed_bands(store: Store, modality: str) -> list[str]:
    first = next(index for index in range(len(store)) if index not in store.excluded)
    bands, count = MODALITIES[modality].bands, len(store.read(first, 0))
    if count != len(bands):
        raise ValueError(f"{modality} store names no bands and has {count} channels where {len(bands)} are wanted")
    return list(bands)


_SEASON_STREAM = 2
_MASKS = frozenset({"labels", "exact"})
