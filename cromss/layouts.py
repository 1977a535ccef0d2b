"""Raw folder layouts -> locations with ids, and locations -> arrays.

Listing is apart from reading: a `Location` only names files, so that a set can be counted and
checked before a pixel is read. Images are resampled bicubically, labels to the nearest neighbour.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from cromss.legends import Legend
from cromss.sensors import MODALITIES, Modality, canonical_band, check_values

_TIME = re.compile(r"(?<!\d)(\d{8})(?:T(\d{6}))?(?!\d)")
_KNOWN_BANDS = frozenset(band for modality in MODALITIES.values() for band in modality.bands)


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
        scenes = {}
        for modality, ids in found.items():
            folder = ids.get(_id_key(name))
            paths = _scene_folders(folder, wanted if modality != "s1" else ()) if folder else ()
            scenes[modality] = tuple(path / "label.tif" if modality == "labels" else path for path in paths)
        locations.append(Location(names.get(_id_key(name), name), scenes))
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
    if rows and rows[0][1][0].lower() == "id":
        width, rows = len(rows[0][1]), rows[1:]
    else:
        width = len(rows[0][1]) if rows else 0
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
        ids[name] = tuple(sorted(scenes, key=_time_order))
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
        if not paths:
            raise ValueError(f"location {location.id}: no {modality} scene")
        if len(paths) != num_seasons:
            raise ValueError(
                f"location {location.id}: {len(paths)} {modality} scenes where {num_seasons} seasons are wanted"
            )
    for image, labels in zip(location.scenes.get("s2", ()), location.scenes.get("labels", ())):
        days = [(scene_time(p.parent.name if p.suffix else p.name) or "")[:8] for p in (image, labels)]
        if all(days) and days[0] != days[1]:
            raise ValueError(f"location {location.id}: labels of {days[1]} beside s2 of {days[0]}; seasons must agree")


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
    seasons = {
        modality: [
            read_labels(path, legend, size) if modality == "labels" else read_image(path, MODALITIES[modality], size)
            for path in paths
        ]
        for modality, paths in location.scenes.items()
    }
    shapes = {modality: {array.shape[-2:] for array in arrays} for modality, arrays in seasons.items()}
    if len(set().union(*shapes.values())) > 1:
        found = ", ".join(f"{m} {'x'.join(map(str, shape))}" for m, each in shapes.items() for shape in sorted(each))
        raise ValueError(f"location {location.id}: sizes differ ({found}); all modalities and seasons must agree")
    return seasons


def read_image(source: Path, modality: Modality, size: int | None = None) -> np.ndarray:
    """One scene as `(C, H, W)` raw values (dB or DN), bicubic where `size` differs from the file.

    Args:
        source: A folder of single-band files `<band>.tif` on any grids, or one multi-band GeoTIFF.
        modality: The sensor.
        size: Side in pixels to resample to; the file's own size for `None`.

    Raises:
        ValueError: A band is missing or out of order, the file is truncated, or the values are
            nodata, NaN or in another unit.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such scene")
    if source.is_dir():
        files = _band_files(source, modality)
        bands = [_read_bands(file, (band,), size) for band, file in files.items()]
        if len({band.shape for band in bands}) > 1:
            raise ValueError(f"{source}: bands are on different grids; give the size to resample them to")
        image = np.concatenate(bands)
    else:
        image = _read_bands(source, modality.bands, size)
    check_values(image, modality, str(source))
    return image


def read_labels(source: Path, legend: Legend, size: int | None = None) -> np.ndarray:
    """One label file as `(H, W)` uint8 class ids (255 ignored), nearest where `size` differs.

    Raises:
        ValueError: The file is missing, unreadable, of several bands, or has codes outside the legend.
    """
    with _opened(source, ("label",)) as dataset:
        shape = dataset.shape if size is None else (size, size)
        raw = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    return legend.to_class_ids(raw, where=str(source))


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


def _time_order(name: str) -> tuple[str, str]:
    return scene_time(name) or "", name


def _scene_folders(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    names = names or [p.name for p in _children(folder) if p.is_dir() and scene_time(p.name)]
    return [folder / name for name in sorted(names, key=_time_order)]


def _band_files(folder: Path, modality: Modality) -> dict[str, Path]:
    files = {canonical_band(path.stem): path for path in _children(folder) if path.suffix == ".tif"}
    missing = [band for band in modality.bands if band not in files]
    if missing:
        level = " (level 2A has none: level 1C is wanted)" if missing == ["B10"] else ""
        raise ValueError(f"{folder}: no file for band {' '.join(missing)} of {modality.title}{level}")
    return {band: files[band] for band in modality.bands}


@contextmanager
def _opened(path: Path, bands: Sequence[str]) -> Iterator[rasterio.DatasetReader]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with rasterio.open(path) as dataset:
            _check_bands(dataset, bands, path)
            yield dataset
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{path}: cannot be read, truncated or not a GeoTIFF ({reason})") from error


def _check_bands(dataset: rasterio.DatasetReader, bands: Sequence[str], path: Path) -> None:
    named = [canonical_band(text) for text in dataset.descriptions if text]
    named = named if len(named) == dataset.count and _KNOWN_BANDS.issuperset(named) else []
    if dataset.count != len(bands):
        missing = [band for band in bands if band not in named] if named else []
        missing = missing or (["B10 (level 2A has none)"] if (dataset.count, len(bands)) == (12, 13) else [])
        hint = f"; missing: {' '.join(missing)}" if missing else f": {' '.join(bands)}"
        raise ValueError(f"{path}: {dataset.count} bands where {len(bands)} are wanted{hint}")
    if named and named != list(bands):
        raise ValueError(f"{path}: bands are {' '.join(named)}, wanted in the order {' '.join(bands)}")


def _read_bands(path: Path, bands: Sequence[str], size: int | None) -> np.ndarray:
    with _opened(path, bands) as dataset:
        pixels = dataset.read()
        if dataset.nodata is not None:
            holes = np.isnan(pixels) if np.isnan(dataset.nodata) else pixels == dataset.nodata
            if holes.any():
                raise ValueError(f"{path}: {int(holes.sum())} nodata pixels ({dataset.nodata:g}); fill them or skip it")
        if size is not None and dataset.shape != (size, size):
            pixels = dataset.read(out_shape=(len(bands), size, size), resampling=Resampling.cubic)
    return pixels
