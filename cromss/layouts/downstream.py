"""Listings of sets with exact labels: DFC2020, SSL4EO-S12@DW and @OSM, or any set by name."""

import re
import sys
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from cromss.layouts.folders import child_names, joined, named_file
from cromss.layouts.location import Location
from cromss.layouts.orthophotos import list_nyc
from cromss.layouts.own import list_own, own_modalities, own_part

_PLACE = re.compile(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)_(-?\d+(?:\.\d+)?(?:e-?\d+)?)-\d{8}\w*")


def list_downstream(root: Path, name: str, part: str, bands: tuple[str, ...] | None = None) -> list[Location]:
    """Locations of the training or test part of a set of tiles.

    Args:
        root: Folder of the raw set.
        name: `"DFC2020"` (its "validation" split trains, as published), `"DW"`, `"OSM"`, `"NYC"` or `"OWN"`.
        part: `"train"` or `"test"`.
        bands: Order of the bands in orthophotos, see `list_nyc`.

    Raises:
        ValueError: As the listing of that set.
    """
    if name == "DFC2020":
        return list_dfc2020(root, {"train": "validation", "test": "test"}[part])
    if name == "OWN":
        return list_own(own_part(root, part), own_modalities(own_part(root, part)), bands)
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
    found, patterns = {}, {}
    for modality, word in (("s1", "s1"), ("s2", "s2"), ("labels", "dfc")):
        pattern = re.compile(rf"ROIs0000_{split}_{word}_0_(p\d+)\.tif")
        matches = map(pattern.fullmatch, child_names(top / f"{word}_{split}"))
        found[modality] = {match[1] for match in matches if match}
        patterns[modality] = f"{top.name}/{word}_{split}/ROIs0000_{split}_{word}_0_*.tif"
    return joined(found, partial(named_file, root, patterns), root, patterns)


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
    labels = {name: (name,) for name in _named_places(top / f"label_{kind}", kind)}
    found = {word: _partners(labels, _named_places(top / f"image_{word}", word)) for word in ("s1", "s2")}
    found |= {"labels": labels}
    words = {"s1": ("image_s1", "s1"), "s2": ("image_s2", "s2"), "labels": (f"label_{kind}", kind)}
    patterns = {modality: f"{top.name}/{folder}/{word}_*.tif" for modality, (folder, word) in words.items()}

    def find(modality: str, name: str) -> tuple[Path, ...]:
        return sum((named_file(root, patterns, modality, other) for other in found[modality][name]), ())

    return joined(found, find, root, patterns, second_label_band=True)


def _named_places(folder: Path, word: str) -> list[str]:
    """`<lon>_<lat>-<date>` of the files `<word>_<lon>_<lat>-<date>.tif`."""
    files = (name for name in child_names(folder) if name.startswith(f"{word}_") and name.endswith(".tif"))
    places = (name.removeprefix(f"{word}_").removesuffix(".tif") for name in files)
    return [sys.intern(place) for place in places if _PLACE.fullmatch(place)]


def _partners(labels: Collection[str], images: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Label -> its images; an image without a label stands under its own name."""
    partners = {name: (name,) for name in images if name in labels}
    waiting = _by_place(name for name in labels if name not in partners)
    for place, names in _by_place(name for name in images if name not in partners).items():
        alone = waiting.get(place, ())
        partners |= {alone[0]: tuple(names)} if len(alone) == 1 else {name: (name,) for name in names}
    return partners


def _by_place(names: Iterable[str]) -> dict[tuple[float, ...], list[str]]:
    places: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        places.setdefault(tuple(map(float, _PLACE.fullmatch(name).groups())), []).append(name)
    return places
