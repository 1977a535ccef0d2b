"""Listing of one's own set: `<root>/<modality>/<id>/<date>.tif`, any number of seasons, multi-band GeoTIFFs.

The seasons are the days of Sentinel-2 (else of the orthophotos, else of Sentinel-1). Sentinel-1 has other days, and is
put to the seasons in time order (`far_in_time` tells how far apart they are). Masks go by day; a single mask without a
date in its name is that of all seasons.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from cromss.layouts.folders import FOUND, children, id_folders, not_empty
from cromss.layouts.location import FoundScenes, Location
from cromss.scene_names import id_key, scene_time

OWN_MODALITIES = ("s1", "s2", "ortho", "labels", "exact")
"""Folders that a set of one's own may have."""

MOST_DAYS = 45
"""Half a season."""

_MASKS = ("labels", "exact")


def own_modalities(root: Path) -> tuple[str, ...]:
    """Modalities that have a folder under `root`.

    Raises:
        ValueError: A folder whose name resembles that of a modality that has none.
    """
    there = tuple(modality for modality in OWN_MODALITIES if (root / modality).is_dir())
    missing = [modality for modality in OWN_MODALITIES if modality not in there]
    for path in children(root) if root.is_dir() else ():
        if path.is_dir() and (close := get_close_matches(path.name.lower(), missing, n=1)):
            raise ValueError(f"{path}: is {close[0]}/ meant? rename it, or move it away")
    return there


def own_part(root: Path, part: str) -> Path:
    """Folder of the training or test part of a set with exact labels.

    Raises:
        ValueError: There is none.
    """
    if not (root / part).is_dir():
        raise ValueError(
            f"{root / part}: no such folder; train/ and test/ are wanted: move the locations of whole "
            "regions to test/, apart from those of train/, never random ones among their neighbours"
        )
    return root / part


def refuse_shared_ids(root: Path) -> None:
    """Refuse a set that has an id in its training and in its test part, whatever lies there.

    Raises:
        ValueError: Names the folders of the first such id.
    """
    parts = [root / part for part in ("train", "test") if (root / part).is_dir()]
    train, test = (_ids(part) for part in parts) if len(parts) == 2 else ({}, {})
    if shared := [key for key in train if key in test]:
        first, more = shared[0], f" (and {len(shared) - 1} more)" if shared[1:] else ""
        raise ValueError(
            f"{root}: train/*/{train[first]} and test/*/{test[first]} are the same id{more}; move the place to one "
            "part, or rename one of the two if they are different places"
        )


def list_own(root: Path, modalities: Sequence[str], bands: tuple[str, ...] | None = None) -> list[Location]:
    """Locations of one's own set.

    Ids are folder names, the same under every modality. Masks that are not of the days of the images, and files whose
    order in time is unknown, are for `check_location` to refuse.

    Args:
        root: Folder of the set.
        modalities: Which folders to take, of `OWN_MODALITIES`.
        bands: Order of the bands in orthophotos, see `list_nyc`.

    Raises:
        ValueError: A folder is missing or holds no file, or an id occurs twice.
    """
    found = {modality: id_folders(root / modality) for modality in modalities}
    names = {key: name for ids in reversed(found.values()) for key, name in ids.names.items()}
    patterns = {modality: f"{modality}/*/" + _wanted(modality, modalities) for modality in modalities}
    told = {} if bands is None else {"ortho": bands}

    @lru_cache(FOUND)
    def scenes(name: str) -> dict[str, tuple[Path, ...]]:
        return _by_season({modality: _in_time_order(ids.get(id_key(name))) for modality, ids in found.items()})

    ids = sorted(names.values(), key=lambda name: (len(name), name))
    locations = [Location(name, FoundScenes(found, scenes, name), told, patterns=patterns) for name in ids]
    return locations if any(map(_holds_any, locations)) else not_empty([], root, patterns)


def far_in_time(locations: Sequence[Location]) -> str:
    """The Sentinel-1 scene farthest from the day of the Sentinel-2 one that it is put to, of some thousand locations.

    Returns:
        A line that names both; empty where none is more than `MOST_DAYS` away.
    """
    some = locations[:: max(1, len(locations) // 1000)]
    pairs = [pair for location in some for pair in _radar_pairs(location)]
    days, radar, image = max(pairs, key=lambda pair: pair[0], default=(0, None, None))
    if days <= MOST_DAYS:
        return ""
    return f"{radar} goes with {image}, {days} days apart: Sentinel-1 is put to the days of Sentinel-2 in time order"


def _radar_pairs(location: Location) -> list[tuple[int, Path, Path]]:
    """Days between the Sentinel-1 and the Sentinel-2 scene of each season, and both; none where days are unknown."""
    try:
        scenes = location.scenes
        pairs = list(zip(scenes.get("s1", ()), scenes.get("s2", ())))
        days = [[datetime.strptime(_day(path), "%Y%m%d") for path in pair] for pair in pairs]
    except ValueError:  # what cannot be told apart is for `check_location` to refuse
        return []
    return [(abs((radar - image).days), *pair) for (radar, image), pair in zip(days, pairs)]


def _holds_any(location: Location) -> bool:
    try:
        return any(location.scenes.values())
    except ValueError:  # more files than can be told apart
        return True


def _ids(root: Path) -> dict[str, str]:
    """Id, as a number where it is one -> name of its folder, over all modalities."""
    folders = (id_folders(root / modality) for modality in own_modalities(root))
    return {key: name for ids in folders for key, name in ids.names.items()}


def _wanted(modality: str, modalities: Sequence[str]) -> str:
    reference = next((image for image in ("s2", "ortho", "s1") if image in modalities), None)
    if modality in _MASKS and reference:
        return f"<day of each {reference} file>.tif, or a single mask without a date"
    return "<YYYYMMDD>.tif"


def _in_time_order(folder: Path | None) -> tuple[Path, ...]:
    """GeoTIFFs of a location; a single one may be without a date."""
    files = [path for path in children(folder) if path.suffix.lower() in (".tif", ".tiff")] if folder else []
    days = [_day(path) for path in files]
    for path, day in zip(files, days):
        if len(files) > 1 and not day:
            raise ValueError(f"{path}: no date YYYYMMDD in its name, but {len(files)} files in its folder; rename it")
        if day and days.count(day) > 1:
            same = ", ".join(other.name for other in files if _day(other) == day)
            raise ValueError(f"{folder}: {same} are of the same day; keep one file a day")
    return tuple(sorted(files, key=lambda path: _day(path)))


def _by_season(files: Mapping[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Masks put to the days of the images; images as they are."""
    images = next((files[modality] for modality in ("s2", "ortho", "s1") if files.get(modality)), ())
    scenes = dict(files)
    for modality in (modality for modality in _MASKS if files.get(modality) and images):
        masks = files[modality]
        if len(masks) == 1 and not _day(masks[0]):
            scenes[modality] = masks * len(images)
        elif (days := _days(masks)) != (wanted := _days(images)):
            raise ValueError(
                f"{masks[0].parent}: masks of {days}, but images of {wanted} in {images[0].parent.parent.name}/; "
                "a mask for each of these days is wanted, or a single one without a date for all"
            )
    return scenes


def _days(files: Sequence[Path]) -> str:
    return " ".join(_day(path) or path.name for path in files)


def _day(path: Path) -> str:
    """`YYYYMMDD` of a file; nothing where its name tells none."""
    return (scene_time(path.stem) or "")[:8]
