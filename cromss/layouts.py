"""Raw folder layouts -> locations with ids, and locations -> arrays.

Listing is apart from reading: a `Location` only names files, so that a set can be counted and
checked before a pixel is read.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cromss.legends import Legend
from cromss.scene_names import id_key, read_ids, scene_time
from cromss.scenes import read_image, read_labels, scene_grid
from cromss.sensors import MODALITIES

_PLACE = re.compile(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)_(-?\d+(?:\.\d+)?(?:e-?\d+)?)-\d{8}\w*")


@dataclass(frozen=True)
class Location:
    """One place and the files of its seasons.

    Attributes:
        id: Name of the place.
        scenes: By modality (`"s1"`, `"s2"`, `"ortho"`, `"labels"`) one path a season, in time order: a
            folder of single-band files, or one GeoTIFF.
        bands: By modality the order of the bands in its files, where the user told it.
        second_label_band: Label files may have several bands; the second is the label then.
    """

    id: str
    scenes: Mapping[str, tuple[Path, ...]]
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    second_label_band: bool = False


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
        key = id_key(name)
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


def list_downstream(root: Path, name: str, part: str, bands: tuple[str, ...] | None = None) -> list[Location]:
    """Locations of the training or test part of a set of tiles.

    Args:
        root: Folder of the raw set.
        name: `"DFC2020"` (its "validation" split trains, as published), `"DW"`, `"OSM"` or `"NYC"`.
        part: `"train"` or `"test"`.
        bands: Order of the bands in orthophotos, see `list_nyc`.

    Raises:
        ValueError: As the listing of that set.
    """
    if name == "DFC2020":
        return list_dfc2020(root, {"train": "validation", "test": "test"}[part])
    return list_nyc(root, part, bands) if name == "NYC" else list_dwosm(root, name.lower(), part)


def list_dfc2020(root: Path, split: str) -> list[Location]:
    """Locations `p<i>` of one DFC2020 split, `<split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_*_0_p<i>.tif`.

    Args:
        root: Folder of the set; `ROIs0000_<split>`, the official folder name, is found too.
        split: `"validation"` or `"test"`.

    Raises:
        ValueError: A folder is missing or holds no such file.
    """
    top = root / split if (root / split).is_dir() else root / f"ROIs0000_{split}"
    found = {}
    for modality, word in (("s1", "s1"), ("s2", "s2"), ("labels", "dfc")):
        pattern = re.compile(rf"ROIs0000_{split}_{word}_0_(p\d+)\.tif")
        files = {path: pattern.fullmatch(path.name) for path in _children(top / f"{word}_{split}")}
        found[modality] = {match[1]: (path,) for path, match in files.items() if match}
    return _joined(found, top)


def list_dwosm(root: Path, kind: str, split: str) -> list[Location]:
    """Locations of SSL4EO-S12@DW or @OSM.

    The files are `<kind>_<split>/{image_s1,image_s2,label_<kind>}/{s1,s2,<kind>}_<lon>_<lat>-<date>.tif`.
    A location is a label, `<lon>_<lat>-<date>`. Its images have the same name; or another date, if
    no other label and image of that place are without a partner. Whatever stays alone is listed as
    an incomplete location, for `check_location` to refuse.

    Args:
        root: Folder of the set.
        kind: `"dw"` or `"osm"`.
        split: `"train"` or `"test"`.

    Raises:
        ValueError: A folder is missing, or none holds such a file.
    """
    top = root / f"{kind}_{split}"
    labels = {name: (path,) for name, path in _named_places(top / f"label_{kind}", kind).items()}
    images = {word: _partners(labels, _named_places(top / f"image_{word}", word)) for word in ("s1", "s2")}
    return _joined(images | {"labels": labels}, top, second_label_band=True)


def list_nyc(root: Path, split: str, bands: tuple[str, ...] | None = None) -> list[Location]:
    """Locations of a set of orthophotos, `<split>/{image,label}/<id>.tif`.

    Args:
        root: Folder of the set.
        split: `"train"` or `"test"`.
        bands: Order of the bands in the images, a permutation of `ORTHO.bands`; for `None` that very
            order is wanted, and images that tell another are refused when they are read.

    Raises:
        ValueError: A folder is missing, or neither holds a file.
    """
    folders = {"ortho": root / split / "image", "labels": root / split / "label"}
    found = {m: {path.stem: (path,) for path in _children(f) if path.suffix == ".tif"} for m, f in folders.items()}
    return _joined(found, root / split, bands={} if bands is None else {"ortho": bands})


def most_seasons(locations: Sequence[Location]) -> int:
    """Number of seasons that most locations have (of the modality with most scenes in each)."""
    return Counter(max(map(len, location.scenes.values())) for location in locations).most_common(1)[0][0]


def check_location(location: Location, num_seasons: int | Mapping[str, int]) -> None:
    """Refuse a location whose listed scenes are not `num_seasons`, in every modality or by modality.

    Raises:
        ValueError: A modality or season is missing, or labels are of another day than Sentinel-2.
    """
    for modality, paths in location.scenes.items():
        wanted = num_seasons if isinstance(num_seasons, int) else num_seasons[modality]
        if len(paths) != wanted:
            raise ValueError(f"location {location.id}: {len(paths) or 'no'} {modality} scenes, wanted {wanted}")
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
        grids = {path: grid for path in paths if path.is_file() and (grid := scene_grid(path))}
        for path, grid in grids.items():
            first = next(iter(grids))
            if not grid.starts_at(grids[first]):
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
            read_labels(path, legend, size, location.second_label_band)
            if modality == "labels"
            else read_image(path, MODALITIES[modality], size, location.bands.get(modality))
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


def _named_places(folder: Path, word: str) -> dict[str, Path]:
    """`<lon>_<lat>-<date>` -> its file."""
    named = {path.stem.removeprefix(f"{word}_"): path for path in _children(folder) if path.suffix == ".tif"}
    return {name: path for name, path in named.items() if path.stem != name and _PLACE.fullmatch(name)}


def _partners(labels: Collection[str], images: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Label -> its images; an image without a label stands under its own name."""
    partners = {name: (path,) for name, path in images.items() if name in labels}
    waiting = _by_place(name for name in labels if name not in partners)
    for place, names in _by_place(name for name in images if name not in partners).items():
        alone = waiting.get(place, ())
        together = tuple(images[name] for name in names)
        partners |= {alone[0]: together} if len(alone) == 1 else dict(zip(names, ((path,) for path in together)))
    return partners


def _by_place(names: Iterable[str]) -> dict[tuple[float, ...], list[str]]:
    places: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        places.setdefault(tuple(map(float, _PLACE.fullmatch(name).groups())), []).append(name)
    return places


def _joined(found: Mapping[str, Mapping[str, tuple[Path, ...]]], root: Path, **described) -> list[Location]:
    """Locations of every id found in any modality, shorter ids first, so that p2 comes before p10."""
    ids = sorted(set().union(*found.values()), key=lambda name: (len(name), name))
    scenes = ({modality: files.get(name, ()) for modality, files in found.items()} for name in ids)
    return _not_empty([Location(name, scene, **described) for name, scene in zip(ids, scenes)], root)


def _not_empty(locations: list[Location], root: Path) -> list[Location]:
    if not locations:
        raise ValueError(f"{root}: no location found in this layout")
    return locations


def _id_folders(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for path in _children(root):
        if path.is_dir() and folders.setdefault(id_key(path.name), path) != path:
            raise ValueError(f"{root}: {folders[id_key(path.name)].name} and {path.name} are the same id")
    return folders


def _season_paths(folder: Path | None, modality: str, wanted: Sequence[str]) -> tuple[Path, ...]:
    if folder is None:
        return ()
    if modality == "s1" or not wanted:
        dated = [path.name for path in _children(folder) if path.is_dir() and scene_time(path.name)]
        wanted = sorted(dated, key=scene_time)
    return tuple(folder / scene / "label.tif" if modality == "labels" else folder / scene for scene in wanted)
