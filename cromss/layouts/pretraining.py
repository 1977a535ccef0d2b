"""Listings of pretraining sets: SSL4EO-S12, and one's own tiles."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from cromss.archives import TarPath, find_tree
from cromss.layouts.folders import FOUND, child_names, id_folders, not_empty
from cromss.layouts.location import FoundScenes, Location
from cromss.scene_names import id_key, read_ids, scene_time
from cromss.scene_sources import Scene


def list_ssl4eo(root: Path, folders: Mapping[str, str], ids_csv: Path | None = None) -> list[Location]:
    """Locations of the SSL4EO-S12 layout `<root>/<folder>/<id>/<scene>/<band>.tif` (arXiv 2211.07044).

    Ids match as numbers, so that `12` and `0000012` are one place. Scenes named in `ids_csv` are
    those of Sentinel-2 and of the labels; Sentinel-1 scenes go to the seasons in time order.
    Where a folder is missing, `<root>/<folder>.tar` is read in place, or `*.tar` in the folder.

    Args:
        root: Folder of the set.
        folders: Modality -> its folder under `root`; labels are `<id>/<scene>/label.tif`.
        ids_csv: Ids and scenes (see `read_ids`); every id found in any folder for `None`.

    Raises:
        ValueError: A folder is missing or empty, or ids occur twice.
    """
    found = {modality: id_folders(find_tree(root, folder)) for modality, folder in folders.items()}
    names = {key: name for ids in found.values() for key, name in ids.names.items()}
    patterns = {modality: f"{folder}/*/<scene>" for modality, folder in folders.items()}
    listed = read_ids(ids_csv) if ids_csv else dict.fromkeys(sorted(names.values()), ())
    wanted = {id_key(name): scenes for name, scenes in listed.items() if scenes}

    @lru_cache(FOUND)
    def scenes(name: str) -> dict[str, tuple[Scene, ...]]:
        key = id_key(name)
        return {m: _season_paths(ids.get(key), m, wanted.get(key, ())) for m, ids in found.items()}

    located = (names.get(id_key(name), name) for name in listed)
    locations = [Location(name, FoundScenes(found, scenes, name), patterns=patterns) for name in located]
    return not_empty(locations, root, patterns)


def list_tiles(
    root: Path,
    patterns: Mapping[str, str],
    roots: Mapping[str, Path] | None = None,
    bands: tuple[str, ...] | None = None,
) -> list[Location]:
    """Locations of one's own multi-band tiles, `<root>/<id>/<file>`: one season.

    Args:
        root: Folder of the set.
        patterns: Modality -> file pattern, as `{"s2": "S2*.tif"}`.
        roots: Modality -> folder with the same ids, where its files are not under `root`.
        bands: Order of the bands in orthophotos, see `list_nyc`.

    Raises:
        ValueError: A folder without ids, or a pattern that several files of a location match.
    """
    tops = {modality: (roots or {}).get(modality, root) for modality in patterns}
    folders = {top: id_folders(top) for top in dict.fromkeys(tops.values())}
    names = {key: name for top in reversed(folders) for key, name in folders[top].names.items()}
    told = {} if bands is None else {"ortho": bands}
    wanted = {m: f"*/{p}" if tops[m] == root else f"{tops[m]}/*/{p}" for m, p in patterns.items()}

    @lru_cache(FOUND)
    def scenes(name: str) -> dict[str, tuple[Scene, ...]]:
        key = id_key(name)
        return {m: _matching(folders[tops[m]].get(key), pattern, m) for m, pattern in patterns.items()}

    locations = [Location(n, FoundScenes(patterns, scenes, n), told, patterns=wanted) for n in sorted(names.values())]
    return not_empty(locations, root, wanted)


def _season_paths(folder: Path | TarPath | None, modality: str, wanted: Sequence[str]) -> tuple[Scene, ...]:
    if folder is None:
        return ()
    if modality == "s1" or not wanted:
        dated = [name for name in child_names(folder) if scene_time(name) and (folder / name).is_dir()]
        wanted = sorted(dated, key=scene_time)
    return tuple(folder / scene / "label.tif" if modality == "labels" else folder / scene for scene in wanted)


def _matching(folder: Path | None, pattern: str, modality: str) -> tuple[Path, ...]:
    """The one file of a location that matches, if any."""
    files = tuple(sorted(folder.glob(pattern))) if folder else ()
    if len(files) > 1:
        names, flag = ", ".join(file.name for file in files), f"--{modality.removesuffix('s')}_pattern"
        raise ValueError(f"{folder}: {names} all match {pattern!r}; narrow {flag}")
    return files
