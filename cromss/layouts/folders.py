"""What all listings share: files and ids of a folder, and ids of several folders joined."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cromss.archives import TarPath
from cromss.layouts.location import FoundScenes, Location
from cromss.scene_names import id_key
from cromss.scene_sources import Scene

FOUND = 64
"""Locations whose files are remembered at once, longer than one is worked on."""


def children(folder: Path | TarPath) -> list[Path | TarPath]:
    """Paths in a folder, by name, without hidden ones; errors as `child_names`."""
    return [folder / name for name in child_names(folder)]


def child_names(folder: Path | TarPath) -> list[str]:
    """Names in a folder, in order, without hidden ones.

    Raises:
        ValueError: No such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@dataclass(frozen=True)
class IdFolders:
    """Folders that are named by ids.

    Attributes:
        root: Where they lie.
        names: Id, as a number where it is one -> name of its folder.
    """

    root: Path | TarPath
    names: Mapping[str, str]

    def get(self, key: str) -> Path | TarPath | None:
        """Folder of an id, if there is one."""
        return self.root / self.names[key] if key in self.names else None


def id_folders(root: Path | TarPath) -> IdFolders:
    """The folders under `root`.

    Raises:
        ValueError: No such folder, two folders of one id, or a link to nothing.
    """
    names: dict[str, str] = {}
    for name in map(sys.intern, child_names(root)):  # the same in all modalities
        path = root / name
        if path.is_dir():
            if names.setdefault(sys.intern(id_key(name)), name) != name:
                raise ValueError(f"{root}: {names[id_key(name)]} and {name} are the same id")
        elif isinstance(path, Path) and path.is_symlink() and not path.exists():
            raise ValueError(f"{path}: a link to nothing; is a disk not mounted? Remove it, or mend it")
    return IdFolders(root, names)


def joined(
    found: Mapping[str, Collection[str]],
    find: Callable[[str, str], tuple[Scene, ...]],
    root: Path,
    patterns: Mapping[str, str],
    **described,
) -> list[Location]:
    """Locations of every id found in any modality, shorter ids first, so that p2 comes before p10.

    Args:
        found: Modality -> ids.
        find: Modality and one of its ids -> scenes.
        root: Folder of the set.
        patterns: As in `Location`.
        described: What else a `Location` takes.

    Raises:
        ValueError: As `not_empty`.
    """
    ids = sorted(set().union(*found.values()), key=lambda name: (len(name), name))

    def scenes(name: str) -> dict[str, tuple[Scene, ...]]:
        return {modality: find(modality, name) if name in names else () for modality, names in found.items()}

    located = (Location(name, FoundScenes(found, scenes, name), patterns=patterns, **described) for name in ids)
    return not_empty(list(located), root, patterns)


def named_file(root: Path, patterns: Mapping[str, str], modality: str, name: str) -> tuple[Path]:
    """The file of an id, where the pattern of its modality says."""
    return (root / patterns[modality].replace("*", name, 1),)


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
