"""Raw folder layouts -> locations with ids, and locations -> arrays.

Listing is apart from reading: a `Location` only names files, so that a set can be counted and
checked before a pixel is read.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cromss.legends import Legend
from cromss.scenes import read_image, read_labels, scene_place
from cromss.sensors import MODALITIES

_TIME = re.compile(r"(?<!\d)(\d{8})(?:T(\d{6}))?(?!\d)")


@dataclass(frozen=True)
class Location:
    """One place and the files of its seasons.

    Attributes:
        id: Name of the place.
        scenes: By modality (`"s1"`, `"s2"`, `"labels"`) one path a season, in time order: a folder
            of single-band files, or one GeoTIFF.
    """

    id: str
    scenes: Mapping[str, tuple[Path, ...]]


def list_ssl4eo(root: Path, folders: Mapping[str, str], ids_csv: Path | None = None) -> list[Location]:
    """Locations of the SSL4EO-S12 layout `<root>/<folder>/<id>/<scene>/<band>.tif` (arXiv 2211.07044).

    Ids match as numbers, so that `12` and `0000012` are one place. Scenes named in `ids_csv` are
    those of Sentinel-2 and of the labels; Sentinel-1 scenes go to the seasons in time order.

    Args:
        root: Folder of the set.
        folders: Modality -> its folder under `root`; labels are `<id>/<scene>/label.tif`.
        ids_csv: Ids and scenes (see `read_ids`); every id found in any folder for `None`.

    Raises:
        ValueError: A folder is missing or empty, or ids occur twice.
    """
    found = {modality: _id_folders(root / folder) for modality, folder in folders.items()}
    names = {key: folder.name for ids in found.values() for key, folder in ids.items()}
    listed = read_ids(ids_csv) if ids_csv else dict.fromkeys(sorted(names.values()), ())
    locations = []
    for name, wanted in listed.items():
        key = _id_key(name)
        scenes = {modality: _season_paths(ids.get(key), modality, wanted) for modality, ids in found.items()}
        locations.append(Location(names.get(key, name), scenes))
    return _not_empty(locations, root)


def list_tiles(root: Path, patterns: Mapping[str, str]) -> list[Location]:
    """Locations of one's own multi-band tiles, `<root>/<id>/<file>`: one season.

    Args:
        root: Folder of the set.
        patterns: Modality -> file pattern, as `{"s2": "S2*.tif"}`.

    Raises:
        ValueError: No folder under `root`, or a pattern that several files of a location match.
    """
    locations = []
    for folder in _id_folders(root).values():
        scenes = {modality: tuple(sorted(folder.glob(pattern))) for modality, pattern in patterns.items()}
        for modality, files in scenes.items():
            if len(files) > 1:
                names = ", ".join(file.name for file in files)
                raise ValueError(f"{folder}: {names} all match {patterns[modality]!r}; narrow --{modality}_pattern")
        locations.append(Location(folder.name, scenes))
    return _not_empty(locations, root)


def list_dfc2020(root: Path, split: str) -> list[Location]:
    """Locations of one DFC2020 split, `<split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_*_0_p<i>.tif`.

    Args:
        root: Folder of the set; `ROIs0000_<split>`, the official folder name, is found too.
        split: `"validation"` or `"test"`.

    Raises:
        ValueError: A folder is missing or holds no such file.
    """
    top = root / split if (root / split).is_dir() else root / f"ROIs0000_{split}"
    scenes: dict[int, dict[str, tuple[Path, ...]]] = {}
    for modality, word in (("s1", "s1"), ("s2", "s2"), ("labels", "dfc")):
        folder = top / f"{word}_{split}"
        for path in _children(folder):
            if match := re.fullmatch(rf"ROIs0000_{split}_{word}_0_p(\d+)\.tif", path.name):
                scenes.setdefault(int(match[1]), {"s1": (), "s2": (), "labels": ()})[modality] = (path,)
    return _not_empty([Location(f"p{number}", scenes[number]) for number in sorted(scenes)], top)


def read_ids(path: Path) -> dict[str, tuple[str, ...]]:
    """Location ids and their scene names in time order, from a CSV.

    The header is `id,season1,...,seasonT`; without it, every row is an id and its scenes, as in
    the published `dw_complete_ids.csv`. Rows of an id alone leave the scenes to the folders.

    Raises:
        ValueError: An id twice, an empty field, rows of different length, or a scene name without
            a date; the line is named.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file), 1) if row]
    width = len(rows[0][1]) if rows else 0
    if rows and rows[0][1][0].lower() == "id":
        del rows[0]
    ids: dict[str, tuple[str, ...]] = {}
    seen: dict[str, int] = {}
    for number, (name, *scenes) in rows:
        where = f"{path} line {number}"
        if len(scenes) + 1 != width or not all((name, *scenes)):
            raise ValueError(f"{where}: {width} filled fields are wanted (an id and its scenes), got {[name, *scenes]}")
        if _id_key(name) in seen:
            raise ValueError(f"{where}: id {name} is already on line {seen[_id_key(name)]}; every id once")
        if undated := [scene for scene in scenes if scene_time(scene) is None]:
            raise ValueError(f"{where}: {undated[0]!r} is not a scene name, it holds no YYYYMMDD date")
        if len(set(scenes)) < len(scenes):
            raise ValueError(f"{where}: id {name} names a scene twice: {', '.join(scenes)}")
        seen[_id_key(name)] = number
        ids[name] = tuple(sorted(scenes, key=scene_time))
    if not ids:
        raise ValueError(f"{path}: holds no ids; wanted rows of an id and its scenes")
    return ids


def scene_time(name: str) -> str | None:
    """Start of a scene as a sortable `YYYYMMDDTHHMMSS`, from its name; `None` without a date."""
    match = _TIME.search(name)
    return f"{match[1]}T{match[2] or '000000'}" if match else None


def most_seasons(locations: Sequence[Location]) -> int:
    """Number of seasons that most locations have (of the modality with most scenes in each)."""
    return Counter(max(map(len, location.scenes.values())) for location in locations).most_common(1)[0][0]


def check_location(location: Location, num_seasons: int) -> None:
    """Refuse a location whose listed scenes are not `num_seasons` in every modality.

    Raises:
        ValueError: A modality or season is missing, or labels are of another day than Sentinel-2.
    """
    for modality, paths in location.scenes.items():
        if len(paths) != num_seasons:
            raise ValueError(f"location {location.id}: {len(paths) or 'no'} {modality} scenes, wanted {num_seasons}")
    for image, labels in zip(location.scenes.get("s2", ()), location.scenes.get("labels", ())):
        days = [(scene_time(p.parent.name if p.suffix else p.name) or "")[:8] for p in (image, labels)]
        if all(days) and days[0] != days[1]:
            raise ValueError(f"location {location.id}: labels of {days[1]} beside s2 of {days[0]}; seasons must agree")


def check_places(location: Location) -> None:
    """Refuse multi-band files of one season that lie in different places; those without a CRS pass.

    Raises:
        ValueError: Another CRS or corner, by more than a pixel.
    """
    for paths in zip(*location.scenes.values()):
        places = [(path, scene_place(path)) for path in paths if path.is_file()]
        known = [(path, place) for path, place in places if place is not None]
        for path, place in known[1:]:
            (first, expected) = known[0]
            if place[0] != expected[0] or max(abs(a - b) for a, b in zip(place[1], expected[1])) > expected[2]:
                raise ValueError(f"location {location.id}: {path.name} and {first.name} lie in different places")


def read_location(
    location: Location, num_seasons: int, legend: Legend, size: int | None = None
) -> dict[str, list[np.ndarray]]:
    """Read all seasons of a location.

    Args:
        location: The files.
        num_seasons: Seasons wanted in every modality.
        legend: Codes of the label files.
        size: Side in pixels to resample to; the files' own size for `None`.

    Returns:
        By modality one array a season: images `(C, H, W)` raw values (dB, DN), `"labels"`
        `(H, W)` uint8 class ids.

    Raises:
        ValueError: Whatever is missing, unreadable, in the wrong unit or of unequal size.
    """
    check_location(location, num_seasons)
    check_places(location)
    seasons = {
        modality: [
            read_labels(path, legend, size) if modality == "labels" else read_image(path, MODALITIES[modality], size)
            for path in paths
        ]
        for modality, paths in location.scenes.items()
    }
    sizes = {f"{modality} {a.shape[-2]}x{a.shape[-1]}": a.shape[-2:] for modality in seasons for a in seasons[modality]}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"location {location.id}: sizes differ ({', '.join(sizes)}); all must agree")
    return seasons


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _not_empty(locations: list[Location], root: Path) -> list[Location]:
    if not locations:
        raise ValueError(f"{root}: no location found in this layout")
    return locations


def _id_key(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name


def _id_folders(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for path in _children(root):
        if path.is_dir() and folders.setdefault(_id_key(path.name), path) != path:
            raise ValueError(f"{root}: {folders[_id_key(path.name)].name} and {path.name} are the same id")
    return folders


def _season_paths(folder: Path | None, modality: str, wanted: Sequence[str]) -> tuple[Path, ...]:
    if folder is None:
        return ()
    if modality == "s1" or not wanted:
        dated = [path.name for path in _children(folder) if path.is_dir() and scene_time(path.name)]
        wanted = sorted(dated, key=scene_time)
    return tuple(folder / scene / "label.tif" if modality == "labels" else folder / scene for scene in wanted)
