"""Listings of sets with exact labels: DFC2020, SSL4EO-S12@DW and @OSM, or any set by name."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from cromss.layouts.folders import children, joined
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
        files = {path: pattern.fullmatch(path.name) for path in children(top / f"{word}_{split}")}
        found[modality] = {match[1]: (path,) for path, match in files.items() if match}
        patterns[modality] = f"{top.name}/{word}_{split}/ROIs0000_{split}_{word}_0_*.tif"
    return joined(found, root, patterns)


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
    words = {"s1": ("image_s1", "s1"), "s2": ("image_s2", "s2"), "labels": (f"label_{kind}", kind)}
    patterns = {modality: f"{top.name}/{folder}/{word}_*.tif" for modality, (folder, word) in words.items()}
    return joined(images | {"labels": labels}, root, patterns, second_label_band=True)


def _named_places(folder: Path, word: str) -> dict[str, Path]:
    """`<lon>_<lat>-<date>` -> its file."""
    named = {path.stem.removeprefix(f"{word}_"): path for path in children(folder) if path.suffix == ".tif"}
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
