"""Legends that a user writes: a YAML file of classes, colours and codes.

classes: {other: b4aaa0, trees: 1b6b3a, built: c4281b}   # name -> hex colour, in the order of class ids
codes: {41: trees, 42: trees, 21: other, 23: built}      # raw code -> class name
ignored: [0]                                             # codes without a label; 255 always is one
name: land cover                                         # that of the file if left out
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cromss.legends import IGNORE_INDEX, LEGENDS, NYC_MERGED, Legend
from cromss.store import StoreMeta
from cromss.yaml_files import read_yaml

NAMED = LEGENDS | {"NYC_MERGED": NYC_MERGED}
"""Legends that a flag may name."""

MIN_CODE, MAX_CODE, MAX_CLASSES = -(2**31), 65535, 254

_KEYS = ("classes", "codes", "ignored", "name", "rules")


def read_legend(word: str, flag: str) -> Legend:
    """A legend by its name, or from a YAML file.

    Args:
        word: A key of `NAMED`, or the path of a file; `rules` in it are for `noise_rules`.
        flag: The flag that gives it.

    Raises:
        ValueError: No such legend and no such file, or a file with something wrong in it; the line begins
            with `--<flag> <word>:`.
    """
    if word in NAMED:
        return NAMED[word]
    path = Path(word)
    if not path.is_file():
        raise ValueError(f"--{flag} {word}: neither a legend ({', '.join(NAMED)}) nor a file")
    content = read_yaml(path, flag)
    try:
        return _legend(path, content)
    except ValueError as error:
        raise ValueError(f"--{flag} {path}: {error}") from None


def write_legend(path: Path, legend: Legend) -> None:
    """Write the legend of masks that hold class ids of `legend`, see `class_id_legend`."""
    classes = dict(zip(legend.classes, legend.colours))
    content = {"name": legend.name, "classes": classes, "codes": dict(enumerate(legend.classes))}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def class_id_legend(legend: Legend) -> Legend:
    """The same classes for masks that hold class ids: each code is its class id, 255 is ignored."""
    return replace(legend, codes={i: i for i in range(legend.num_classes)}, ignored=frozenset({IGNORE_INDEX}))


def codes_checksum(legend: Legend) -> str:
    """Eight hexadecimal digits that tell what a legend makes of codes."""
    meaning = sorted(legend.codes.items()), sorted(legend.ignored)
    return hashlib.sha256(repr(meaning).encode()).hexdigest()[:8]


def stored_legend(meta: StoreMeta) -> Legend | None:
    """Classes of the class ids in a store: those that it describes, else those of the legend it names, if known."""
    described = Legend(meta.legend, meta.classes, meta.colours, {}) if meta.classes else LEGENDS.get(meta.legend)
    return described and class_id_legend(described)


def _legend(path: Path, content: Any) -> Legend:
    if not isinstance(content, dict):
        raise ValueError("wanted is a mapping with classes and codes")
    for key in content.keys() - set(_KEYS):
        raise ValueError(f"unknown key {key!r}; wanted: {', '.join(_KEYS)}")
    for key in ("classes", "codes"):
        if key not in content:
            raise ValueError(f"{key} is missing; wanted is a mapping with classes and codes")
    colours = _colours(content["classes"])
    ignored = _ignored(content.get("ignored"))
    codes = _codes(content["codes"], list(colours), ignored)
    name = content.get("name", path.stem)
    _refuse_no_name(name, "name")
    legend = Legend(name, tuple(colours), tuple(colours.values()), codes, ignored, path.name, path.name)
    if legend.classes != LEGENDS.get(name, legend).classes:
        raise ValueError(f"name: {name} is a legend of other classes; choose another name (the file's if none is told)")
    return legend


def _colours(classes: Any) -> dict[str, str]:
    """Class name -> hex colour."""
    if not isinstance(classes, dict) or not 2 <= len(classes) <= MAX_CLASSES:
        found = f"got {len(classes)} ({', '.join(map(str, classes))[:60]})" if isinstance(classes, dict) else "got none"
        raise ValueError(f"classes: wanted are 2 to {MAX_CLASSES} names with a colour each, as trees: 1b6b3a; {found}")
    for name, colour in classes.items():
        _refuse_no_name(name, "classes")
        if not isinstance(colour, str) or not re.fullmatch("[0-9a-fA-F]{6}", colour):
            raise ValueError(f"classes: colour {colour!r} of {name}: six hex digits, in quotes if all are decimal")
    return {name: colour.lower() for name, colour in classes.items()}


def _ignored(codes: Any) -> frozenset[int]:
    if not isinstance(codes, list | None):
        raise ValueError(f"ignored: {codes!r}: a list of codes is wanted, as [0]")
    for code in codes or ():
        _refuse_no_code(code, "ignored")
    return frozenset({IGNORE_INDEX, *(codes or ())})


def _codes(codes: Any, classes: list[str], ignored: frozenset[int]) -> Mapping[int, int]:
    """Raw code -> class id."""
    if not isinstance(codes, dict) or not codes:
        raise ValueError("codes: wanted is a class name by code, as 41: trees")
    for code, name in codes.items():
        _refuse_no_code(code, "codes")
        if name not in classes:
            raise ValueError(f"codes: {code}: {name!r} is none of the classes {', '.join(classes)}; name one of them")
        if code in ignored:
            always = "; 255 always is" if code == IGNORE_INDEX else "; keep one"
            raise ValueError(f"codes: {code}: {name} is also ignored{always}")
    return {code: classes.index(name) for code, name in codes.items()}


def _refuse_no_name(name: Any, key: str) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"{key}: {name!r} is no name; quote it if it is meant as text")


def _refuse_no_code(code: Any, key: str) -> None:
    if type(code) is not int or not MIN_CODE <= code <= MAX_CODE:
        raise ValueError(f"{key}: code {code!r}: a whole number of {MIN_CODE}..{MAX_CODE} is wanted")
