"""A location, whether it is whole, and its arrays."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cromss.legends import Legend
from cromss.scene_names import scene_time
from cromss.scene_sources import Scene
from cromss.scenes import read_image, read_labels, scene_grid, scene_shape
from cromss.sensors import MODALITIES


@dataclass(frozen=True, slots=True, eq=False)
class FoundScenes(Mapping[str, tuple[Scene, ...]]):
    """Scenes by modality, looked for whenever they are asked for: a listing holds no paths, so that it may be long.

    Attributes:
        modalities: The keys.
        find: Id -> its scenes by modality, in every modality.
        id: Id of the location, as `find` knows it.
    """

    modalities: Collection[str]
    find: Callable[[str], Mapping[str, tuple[Scene, ...]]]
    id: str

    def __getitem__(self, modality: str) -> tuple[Scene, ...]:
        return self.find(self.id)[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)


@dataclass(frozen=True, slots=True)
class Location:
    """One place and the files of its seasons.

    Attributes:
        id: Name of the place.
        scenes: By modality (`"s1"`, `"s2"`, `"ortho"`, `"labels"`, `"exact"`) one path a season, in time
            order: a folder of single-band files, or one GeoTIFF, on the disk or in an archive; or a Zarr sample.
        bands: By modality the order of the bands in its files, where the user told it.
        second_label_band: Label files may have several bands; the second is the label then.
        patterns: By modality where its files are looked for under the folder of the set, the first `*` being the id.
    """

    id: str
    scenes: Mapping[str, tuple[Scene, ...]]
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    second_label_band: bool = False
    patterns: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Id of what it is a part of; its own if it is whole."""
        return self.id

    def missing(self, modality: str) -> str:
        """`" (<file>)"`, the file of a modality without a scene; nothing where it has one or is of unknown place."""
        pattern = None if self.scenes[modality] else self.patterns.get(modality)
        return f" ({pattern.replace('*', self.id, 1)})" if pattern else ""


def location_shape(location: Location) -> tuple[int, int] | None:
    """Height and width of a location's first file; `None` where it has none that can be opened."""
    first = next((path for paths in _found(location) for path in paths), None)
    return first and scene_shape(first)


def most_seasons(locations: Sequence[Location]) -> int:
    """Number of seasons that most of some thousand locations have (of the modality with most scenes in each).

    Raises:
        ValueError: None of them has a scene; what the first one lacks.
    """
    some = locations[:: max(1, len(locations) // 1000)]
    counts = Counter(number for location in some if (number := max(map(len, _found(location)), default=0)))
    if not counts:
        check_location(some[0], 1)
    return counts.most_common(1)[0][0]


def _found(location: Location) -> list[tuple[Scene, ...]]:
    """Scenes by modality; none where files are ambiguous, for `check_location` to say why."""
    try:
        return list(location.scenes.values())
    except ValueError:
        return []


def check_location(location: Location, num_seasons: int | Mapping[str, int]) -> None:
    """Refuse a location whose listed scenes are not `num_seasons`, in every modality or by modality.

    Raises:
        ValueError: A modality or season is missing, files are ambiguous, or labels are of another day than Sentinel-2.
    """
    for modality, paths in location.scenes.items():
        wanted = num_seasons if isinstance(num_seasons, int) else num_seasons[modality]
        if len(paths) != wanted:
            found = f"{len(paths) or 'no'} {modality} scenes, wanted {wanted}{location.missing(modality)}"
            raise ValueError(f"location {location.id}: {found}")
    for image, labels in zip(location.scenes.get("s2", ()), location.scenes.get("labels", ())):
        days = [(scene_time(p.parent.name if p.suffix else p.name) or "")[:8] for p in (image, labels)]
        if all(days) and days[0] != days[1]:
            raise ValueError(f"location {location.id}: labels of {days[1]} beside s2 of {days[0]}; seasons must agree")


def check_places(location: Location) -> None:
    """Refuse multi-band files of one season that lie in different places; those without a CRS pass.

    Raises:
        ValueError: Another CRS, corner, pixel size or orientation, see `Grid.covers`.
    """
    for paths in zip(*location.scenes.values()):
        grids = {path: grid for path in paths if path.is_file() and (grid := scene_grid(path))}
        for path, grid in grids.items():
            first = next(iter(grids))
            if not grid.covers(grids[first]):
                how = "do not cover the same ground" if grid.starts_at(grids[first]) else "lie in different places"
                raise ValueError(f"location {location.id}: {path} and {first} {how}")


def read_location(
    location: Location,
    num_seasons: int,
    legend: Legend,
    size: int | None = None,
    exact_legend: Legend | None = None,
) -> dict[str, list[np.ndarray]]:
    """Read all seasons of a location.

    Args:
        location: The files.
        num_seasons: Seasons wanted in every modality.
        legend: Codes of the label files.
        size: Side in pixels to resample to; the files' own size for `None`.
        exact_legend: Codes of the files of exact labels; `legend` for `None`.

    Returns:
        By modality one array a season: images `(C, H, W)` raw values (dB, DN, grey levels), `"labels"` and
        `"exact"` `(H, W)` uint8 class ids.

    Raises:
        ValueError: Whatever is missing, unreadable, in the wrong unit or of unequal size.
    """
    check_location(location, num_seasons)
    check_places(location)
    legends = {"labels": legend, "exact": exact_legend or legend}
    seasons = {
        modality: [
            read_labels(path, legends[modality], size, location.second_label_band)
            if modality in legends
            else read_image(path, MODALITIES[modality], size, location.bands.get(modality))
            for path in paths
        ]
        for modality, paths in location.scenes.items()
    }
    sizes = {f"{modality} {a.shape[-2]}x{a.shape[-1]}": a.shape[-2:] for modality in seasons for a in seasons[modality]}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"location {location.id}: sizes differ ({', '.join(sizes)}); all must agree")
    return seasons
