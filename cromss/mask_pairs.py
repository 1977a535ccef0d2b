"""Masks of two folders or stores, paired by location: what there is, what has no partner, and reading both."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cromss.legend_files import read_legend, stored_legend
from cromss.legends import LEGENDS, Legend
from cromss.scenes import read_labels, scene_grid
from cromss.store import LmdbReader, PublishedReader, StoreMeta, open_store
from cromss.store.folder import DATA_NAME

Store = LmdbReader | PublishedReader

ANY_FILE = "*.tif"
"""Pattern of the files in a folder, where no other is told."""

MODALITIES = ("labels", "exact")
"""What a store of masks says it holds."""


@dataclass(frozen=True)
class Masks:
    """Masks of one kind, by location.

    Attributes:
        path: Folder of the files with their pattern, or of the store.
        legend: Classes of the masks; for files also what their codes mean.
        places: Id of a location -> its file, or its index in the store.
        store: The store; `None` for files.
        excluded: Id of each location that the store leaves out of use -> why; none of them has a place.
    """

    path: Path
    legend: Legend
    places: Mapping[str, Path | int]
    store: Store | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        """`(T, H, W)` uint8 class ids of a location, one season for a file; errors as the store or `read_labels`."""
        place = self.places[name]
        return read_labels(place, self.legend)[None] if self.store is None else self.store.read_seasons(place)

    def where(self, name: str) -> str:
        """What to call the masks of a location in an error."""
        return str(self.places[name]) if self.store is None else f"{self.path}, location {name}"


@dataclass(frozen=True)
class Pairs:
    """Noisy and exact masks of the same locations.

    Attributes:
        noisy: The noisy masks.
        exact: The exact masks.

    Raises:
        ValueError: They are of other classes, or of the same in another order.
    """

    noisy: Masks
    exact: Masks

    def __post_init__(self):
        if self.noisy.legend.classes != self.exact.legend.classes:
            named = [f"{', '.join(legend.classes)} ({legend.name})" for legend in (self.noisy.legend, self.legend)]
            raise ValueError(
                f"--noisy_codes and --exact_codes: noisy classes {named[0]}; exact classes {named[1]}; "
                "both legends must have the same classes in the same order"
            )

    @property
    def legend(self) -> Legend:
        """Classes of both, in the colours of the exact masks."""
        return self.exact.legend

    @property
    def names(self) -> list[str]:
        """Ids of the locations with both masks, in the order of the noisy ones."""
        return [name for name in self.noisy.places if name in self.exact.places]

    @property
    def alone(self) -> dict[str, str]:
        """Id of each location with masks on one side only -> what is missing."""
        noisy, exact, excluded = self.noisy.places, self.exact.places, self.excluded
        without = {name: "no exact mask" for name in noisy if name not in exact}
        without |= {name: "no noisy mask" for name in exact if name not in noisy}
        return {name: reason for name, reason in without.items() if name not in excluded}

    @property
    def excluded(self) -> dict[str, str]:
        """Id of each location that a store leaves out of use -> why."""
        return {**self.exact.excluded, **self.noisy.excluded}

    def where(self, name: str) -> str:
        """What to call the masks of a location in an error."""
        return f"{self.noisy.where(name)} and {self.exact.where(name)}"

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Noisy and exact masks of a location, both `(T, H, W)` uint8 class ids.

        Raises:
            ValueError: They differ in size, number of seasons or, if the files tell, place; or as `Masks.read`.
        """
        noisy, exact = self.noisy.read(name), self.exact.read(name)
        if noisy.shape != exact.shape:
            sizes = [" x ".join(map(str, mask.shape)) for mask in (noisy, exact)]
            raise ValueError(f"{self.where(name)}: {sizes[0]} and {sizes[1]} seasons, rows and columns; all must agree")
        if self.noisy.store is None and self.exact.store is None:
            _check_places(self.noisy.places[name], self.exact.places[name])
        return noisy, exact


def open_masks(path: Path, pattern: str, codes: str | None, side: str) -> Masks:
    """List the masks of a store of ours or of the published layout, or of a folder of GeoTIFFs.

    Args:
        path: The store or the folder.
        pattern: Files in the folder, as `*/noisy.tif`; what its wildcards `*` match is the id of the location.
        codes: Name or file of the legend. Files want one. A store holds class ids and mostly names its classes.
        side: `"noisy"` or `"exact"`, whose flags an error names.

    Raises:
        ValueError: Nothing there, a store of something else, or a legend that is missing or wrong.
    """
    if path.suffix == ".lmdb" or (path / DATA_NAME).exists():
        if pattern != ANY_FILE:
            raise ValueError(f"--{side}_pattern {pattern}: is for folders of files; {path} is a store, leave it out")
        return _open_store(path, codes, side)
    if codes is None:
        raise ValueError(f"--{side}_codes: files hold codes; name their legend ({', '.join(LEGENDS)}) or a YAML file")
    return Masks(path / pattern, read_legend(codes, f"{side}_codes"), _matches(path, pattern, side))


def _open_store(path: Path, codes: str | None, side: str) -> Masks:
    store = open_store(path)
    if store.meta.modality not in MODALITIES:
        raise ValueError(f"--{side} {path}: a store of {store.meta.modality!r}; wanted is one of masks")
    ids = store.location_ids()
    if len(set(ids)) < len(store):
        raise ValueError(f"--{side} {path}: {len(store)} locations with {len(set(ids))} ids; every id once")
    places = {name: index for index, name in enumerate(ids) if index not in store.excluded}
    excluded = {ids[index]: reason for index, reason in store.excluded.items()}
    return Masks(path, _store_legend(store.meta, path, codes, side), places, store, excluded)


def _store_legend(meta: StoreMeta, path: Path, codes: str | None, side: str) -> Legend:
    """Classes that a store names; those of the flag where it names none."""
    told = read_legend(codes, f"{side}_codes") if codes else None
    own = stored_legend(meta)
    if own and told and own.classes != told.classes:
        raise ValueError(f"--{side}_codes {codes}: {path} names its classes itself ({', '.join(own.classes)})")
    if not (own or told):
        raise ValueError(f"--{side}_codes: {path} does not name its classes; give a legend that has them")
    return own or told


def _matches(folder: Path, pattern: str, side: str) -> dict[str, Path]:
    """What the wildcards of a pattern match -> the file, shorter ids first."""
    if "*" not in pattern or "**" in pattern or set("?[]") & set(pattern) or pattern.startswith("/"):
        raise ValueError(f"--{side}_pattern {pattern!r}: wanted are * for the id of a location, as */mask.tif or *.tif")
    if not folder.is_dir():
        raise ValueError(f"--{side} {folder}: no such folder or store")
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
    files = {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern)}
    found = {"/".join(match.groups()): path for name, path in files.items() if (match := expression.fullmatch(name))}
    if not found:
        raise ValueError(f"--{side} {folder}: no file like --{side}_pattern {pattern!r}")
    return {name: found[name] for name in sorted(found, key=lambda name: (len(name), name))}


def _check_places(noisy: Path, exact: Path) -> None:
    """Refuse files of two places, by more than a pixel; those without a CRS pass."""
    here, there = scene_grid(noisy), scene_grid(exact)
    if here and there and (here.crs != there.crs or max(here.overhang(there), there.overhang(here)) > 1):
        raise ValueError(f"{noisy} and {exact} lie in different places by their CRS and geotransform")
