"""What all listings share: files and ids of a folder, and ids of several folders joined."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cromss.archives import TarPath
from cromss.layouts.location import Location
from cromss.scene_names import id_key


def children(folder: Path | TarPath) -> list[Path | TarPath]:
    """Paths in a folder, by name, without hidden ones.

    Raises:
        ValueError: No such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def id_folders(root: Path | TarPath) -> dict[str, Path | TarPath]:
    """Id, as a number where it is one -> its folder.

    Raises:
        ValueError: No such folder, or two folders of one id.
    """
    folders: dict[str, Path | TarPath] = {}
    for path in children(root):
        if path.is_dir() and folders.setdefault(id_key(path.name), path) != path:
            raise ValueError(f"{root}: {folders[id_key(path.name)].name} and {path.name} are the same id")
    return folders


def joined(
    found: Mapping[str, Mapping[str, tuple[Path, ...]]], root: Path, patterns: Mapping[str, str], **described
) -> list[Location]:
    """Locations of every id found in any modality, shorter ids first, so that p2 comes before p10."""
    ids = sorted(set().union(*found.values()), key=lambda name: (len(name), name))
    scenes = ({modality: files.get(name, ()) for modality, files in found.items()} for name in ids)
    locations = [Location(name, scene, patterns=patterns, **described) for name, scene in zip(ids, scenes)]
    return not_empty(locations, root, patterns)


def not_empty(locations: list[Location], root: Path, patterns: Mapping[str, str]) -> list[Location]:
    """The locations, of which there must be one.

    Args:
        locations: The listing.
        root: Folder of the set.
        patterns: Modality -> where its files were looked for under `root`.

    Raises:
        ValueError: There is none; `root`, what was looked for, and what is there instead are named.
    """
    if not locations:
        wanted = ", ".join(dict.fromkeys(patterns.values()))
        raise ValueError(f"{root}: no location found in this layout: wanted {wanted}; found {_kinds(root, patterns)}")
    return locations


def _kinds(root: Path, patterns: Mapping[str, str]) -> str:
    """Number of files by suffix in the folders that hold the files or the ids."""
    folders = dict.fromkeys(root / pattern.partition("*")[0].rpartition("/")[0] for pattern in patterns.values())
    files = [path for folder in folders if folder.is_dir() for path in children(folder) if path.is_file()]
    kinds = Counter(path.suffix or "without suffix" for path in files)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "no file"


def check_out(out: Path) -> None:
    """Refuse a folder for results that is a file, or lies under one.

    Raises:
        ValueError: Names that file.
    """
    there = next((path for path in (out, *out.parents) if path.exists()), out)
    if there.exists() and not there.is_dir():
        where = "" if there == out else f"{there} "
        raise ValueError(f"--out {out}: {where}is a file; a folder is wanted")
