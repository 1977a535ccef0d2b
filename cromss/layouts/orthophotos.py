"""Listings of orthophotos in the layout of New York City (arXiv 2402.16164), with exact or noisy labels or both."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cromss.layouts.folders import child_names, joined, named_file
from cromss.layouts.location import Location


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
    return _orthophotos(root, split, {"ortho": "image", "labels": "label"}, bands)


def list_nyc_triples(
    root: Path,
    split: str,
    bands: tuple[str, ...] | None = None,
    modalities: Sequence[str] = ("ortho", "labels", "exact"),
) -> list[Location]:
    """Locations of orthophotos with noisy and exact labels, `<split>/{image,noisy,label}/<id>.tif`.

    Args:
        root: Folder of the set.
        split: `"train"` or `"test"`.
        bands: Order of the bands in the images, see `list_nyc`.
        modalities: Which of the three to list.

    Raises:
        ValueError: A folder is missing, or none holds a file.
    """
    folders = {"ortho": "image", "labels": "noisy", "exact": "label"}
    return _orthophotos(root, split, {modality: folders[modality] for modality in modalities}, bands)


def _orthophotos(root: Path, split: str, folders: Mapping[str, str], bands: tuple[str, ...] | None) -> list[Location]:
    found = {modality: _stems(root / split / name) for modality, name in folders.items()}
    patterns = {modality: f"{split}/{name}/*.tif" for modality, name in folders.items()}
    find = partial(named_file, root, patterns)
    return joined(found, find, root, patterns, bands={} if bands is None else {"ortho": bands})


def _stems(folder: Path) -> set[str]:
    return {sys.intern(name.removesuffix(".tif")) for name in child_names(folder) if name.endswith(".tif")}
