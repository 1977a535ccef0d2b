"""Listings of orthophotos in the layout of New York City (arXiv 2402.16164), with exact or noisy labels or both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cromss.layouts.folders import children, joined
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
    found = {modality: children(root / split / name) for modality, name in folders.items()}
    scenes = {m: {path.stem: (path,) for path in files if path.suffix == ".tif"} for m, files in found.items()}
    patterns = {modality: f"{split}/{name}/*.tif" for modality, name in folders.items()}
    return joined(scenes, root, patterns, bands={} if bands is None else {"ortho": bands})
