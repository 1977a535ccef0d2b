"""What all listings share: files and ids of a folder, and ids of several folders joined."""

from collections.abc import Mapping
from pathlib import Path

from cromss.layouts.location import Location
from cromss.scene_names import id_key


def children(folder: Path) -> list[Path]:
    """Paths in a folder, by name, without hidden ones.

    Raises:
        ValueError: No such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def id_folders(root: Path) -> dict[str, Path]:
    """Id, as a number where it is one -> its folder.

    Raises:
        ValueError: No such folder, or two folders of one id.
    """
    folders: dict[str, Path] = {}
    for path in children(root):
        if path.is_dir() and folders.setdefault(id_key(path.name), path) != path:
            raise ValueError(f"{root}: {folders[id_key(path.name)].name} and {path.name} are the same id")
    return folders


def joined(found: Mapping[str, Mapping[str, tuple[Path, ...]]], root: Path, **described) -> list[Location]:
    """Locations of every id found in any modality, shorter ids first, so that p2 comes before p10."""
    ids = sorted(set().union(*found.values()), key=lambda name: (len(name), name))
    scenes = ({modality: files.get(name, ()) for modality, files in found.items()} for name in ids)
    return not_empty([Location(name, scene, **described) for name, scene in zip(ids, scenes)], root)


def not_empty(locations: list[Location], root: Path) -> list[Location]:
    """The locations, of which there must be one.

    Raises:
        ValueError: There is none; `root` is named.
    """
    if not locations:
        raise ValueError(f"{root}: no location found in this layout")
    return locations
