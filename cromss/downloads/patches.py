"""Patches of a place, season by season, in the folders of SSL4EO-S12."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import rasterio

from cromss.downloads.job import NothingThere
from cromss.downloads.manifest import Entry, FileMark, written
from cromss.downloads.places import Place, patch_grid
from cromss.downloads.retries import with_retries
from cromss.downloads.season_scenes import PRODUCTS, Archive, Rules, Scene
from cromss.input_checks import check_values, refuse_offset
from cromss.scene_names import scene_time
from cromss.scenes import Grid
from cromss.sensors import MODALITIES

_TAGS = ("PROCESSING_BASELINE", "CLOUDY_PIXEL_PERCENTAGE", "orbitProperties_pass")
"""Properties of a scene that go into its files."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Patch:
    """Pixels `(C, H, W)` of a scene, checked."""

    modality: str
    scene: Scene
    pixels: np.ndarray


@dataclass(frozen=True)
class PlaceFetcher:
    """Fetches all seasons of a place, and writes them once they are complete.

    Attributes:
        archive: The service.
        folder: Folder of the job.
        seasons: Date of each, in time order.
        modalities: Some of `PRODUCTS`.
        rules: Which scenes will do.
        size: Side of a patch in pixels.
        attempts: Tries of each request.
        pause: First pause between them, in seconds.
    """

    archive: Archive
    folder: Path
    seasons: Sequence[date]
    modalities: Sequence[str]
    rules: Rules
    size: int = 264
    attempts: int = 5
    pause: float = 2.0

    def __call__(self, place: Place) -> list[FileMark]:
        """Files of a place.

        Raises:
            Unavailable: The service does not answer.
            NothingThere: A season without a scene that will do; the reason names it.
            ValueError: The service refuses, or folders of other scenes are there.
        """
        grid, patches, after = patch_grid(place, self.size), [], None
        for season in self.seasons:
            taken = self._season(place, season, grid, after)
            after = next((patch.scene.start for patch in taken if patch.modality == "s1"), None)
            patches += taken
        _refuse_other_scenes(self.folder, place, patches)
        return [mark for patch in patches for mark in self._write(place, patch, grid)]

    def _season(self, place: Place, season: date, grid: Grid, after: datetime | None) -> list[Patch]:
        """One patch a modality, of the best scenes that are whole."""
        span, labelled, around = self.rules.span(season), None, ()
        if "labels" in self.modalities:
            labelled = {scene.name for scene in self._scenes("labels", place, span)}
        ranked = self.rules.ranked_s2(self._scenes("s2", place, span), season, labelled)
        if not ranked:
            wanted = "" if labelled is None else " with labels"
            raise NothingThere(f"{season}: no Sentinel-2 scene{wanted} under {self.rules.max_cloud:g} % cloud")
        if "s1" in self.modalities:
            around = self._scenes("s1", place, self.rules.span(season, self.rules.s1_days))
        reasons: list[str] = []
        for scene in ranked:
            candidates = {"labels": [scene], "s2": [scene]}
            if "s1" in self.modalities:
                candidates["s1"] = self.rules.ranked_s1(around, scene, after)
            if len(taken := self._taken(candidates, grid, reasons)) == len(self.modalities):
                return taken
        raise NothingThere(f"{season}: {reasons[0]}")

    def _taken(self, candidates: Mapping[str, Sequence[Scene]], grid: Grid, reasons: list[str]) -> list[Patch]:
        """The first whole patch of each modality, up to one that has none; why is added to the reasons."""
        taken = []
        for modality in (modality for modality in candidates if modality in self.modalities):
            if not candidates[modality]:
                reasons.append(f"no Sentinel-1 scene within {self.rules.s1_days} days of Sentinel-2")
            found = next(filter(None, (self._patch(modality, s, grid, reasons) for s in candidates[modality])), None)
            if found is None:
                break
            taken.append(found)
        return taken

    def _patch(self, modality: str, scene: Scene, grid: Grid, reasons: list[str]) -> Patch | None:
        pixels = self._ask(partial(self.archive.pixels, PRODUCTS[modality], scene.name, grid))
        wanted = (len(PRODUCTS[modality].bands), *grid.shape)
        if pixels.shape != wanted:
            raise ValueError(f"{PRODUCTS[modality].collection}/{scene.name}: came as {pixels.shape}, wanted {wanted}")
        if reason := fault(modality, pixels):
            reasons.append(reason)
            return None
        return Patch(modality, scene, pixels.astype(PRODUCTS[modality].dtype))

    def _scenes(self, modality: str, place: Place, span: tuple[datetime, datetime]) -> Sequence[Scene]:
        collection = PRODUCTS[modality].collection
        return self._ask(partial(self.archive.scenes, collection, place.lon, place.lat, *span))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        return with_retries(call, self.attempts, self.pause)

    def _write(self, place: Place, patch: Patch, grid: Grid) -> list[FileMark]:
        product = PRODUCTS[patch.modality]
        folder = self.folder / product.folder / place.id / patch.scene.name
        tags = {key: patch.scene.properties[key] for key in _TAGS if key in patch.scene.properties}
        tags["ID"] = f"{product.collection}/{patch.scene.name}"
        paths = [folder / f"{band}.tif" for band in product.bands]
        for path, band in zip(paths, patch.pixels):
            _write_tiff(path, band, grid, tags)
        return [FileMark.of(path, self.folder) for path in paths]


def fault(modality: str, pixels: np.ndarray) -> str:
    """Why a patch is not taken, the same words for all of a kind; nothing if it is whole.

    An image has no pixel of the fill value nor one that is 0 in every band, and passes the checks of the writers;
    labels are 0..8, and not all masked.
    """
    title = {"labels": "Dynamic World"}.get(modality) or MODALITIES[modality].title
    product = PRODUCTS[modality]
    if modality == "labels":
        known = (pixels == product.fill) | ((pixels >= 0) & (pixels <= 8))
        if not known.all():
            raise ValueError(f"{product.collection}: a label is {pixels[~known][0]}, wanted are 0..8")
        return f"{title}: cloud over the whole patch" if (pixels == product.fill).all() else ""
    if not np.isfinite(pixels).all() or (pixels == product.fill).any() or (pixels == 0).all(axis=0).any():
        return f"{title}: no scene covers the patch"
    try:
        check_values(pixels, MODALITIES[modality], "the patch")
        if modality == "s2":
            refuse_offset(pixels, "the patch")
    except ValueError:
        return f"{title}: pixels that no writer takes"
    return ""


def complete_places(entries: Mapping[str, Entry], places: Iterable[Place], modalities: Sequence[str]) -> dict:
    """Id -> its scenes in time order, of all places that are done; scenes are those of Sentinel-2 where it is there."""
    folder = PRODUCTS[next(m for m in ("s2", "labels", "s1") if m in modalities)].folder
    done = {}
    for place in places:
        entry = entries.get(str(place))
        if entry and entry.state == "done":
            paths = [Path(mark.path) for mark in entry.files]
            done[place.id] = sorted({path.parent.name for path in paths if path.parts[0] == folder}, key=scene_time)
    return done


def write_ids(path: Path, places: Mapping[str, Sequence[str]], num_seasons: int) -> None:
    """Write ids and scenes as `read_ids` reads them, whole or not at all."""
    with written(path) as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", *(f"season{number}" for number in range(1, num_seasons + 1))])
        rows.writerows([name, *scenes] for name, scenes in places.items())


def _refuse_other_scenes(folder: Path, place: Place, patches: Sequence[Patch]) -> None:
    """Refuse folders of scenes that are not to be written: whoever reads the place would take them for its seasons."""
    chosen = {(PRODUCTS[patch.modality].folder, patch.scene.name) for patch in patches}
    for product in {name for name, _ in chosen}:
        top = folder / product / place.id
        others = sorted(p.name for p in top.iterdir() if (product, p.name) not in chosen) if top.is_dir() else []
        if others:
            raise ValueError(
                f"{top}: holds {others[0]}, which is no scene of this place now; remove {top}, or choose another --out"
            )


def _write_tiff(path: Path, band: np.ndarray, grid: Grid, tags: Mapping[str, object]) -> None:
    height, width = grid.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": band.dtype, "compress": "deflate"}
    profile |= {"crs": grid.crs, "transform": grid.transform, "height": height, "width": width}
    with written(path) as partial_path, rasterio.open(partial_path, "w", **profile) as dataset:
        dataset.write(band, 1)
        dataset.update_tags(**tags)
