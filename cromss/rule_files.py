"""Noise rules that a legend file lists, and confusion matrices in CSV files."""

import csv
from collections.abc import Sequence
from inspect import Signature, signature
from pathlib import Path
from typing import Any

import numpy as np

from cromss.legend_files import read_legend
from cromss.noise_rules import RULES, Rule, check_confusion
from cromss.yaml_files import read_yaml

MAX_BYTES = 10**7
"""Size of a file beyond which it is no confusion matrix."""


def read_rules(path: Path) -> list[Rule]:
    """Rules of a legend file (see `cromss.legend_files`), in their order; none where it lists none.

    Each is a mapping of one name in `RULES` to its arguments: by name, as a list, or the only one::

        rules:
          - coarsen: 30
          - translate: [3, -2]
          - confuse: {matrix: confusion.csv, patch: 4}

    The matrix is a list of rows, or a CSV beside the file with class names in its first row and column.

    Raises:
        ValueError: No legend file, an unknown rule, or arguments that it does not take, in one line.
    """
    content, classes = read_yaml(path, "rules"), read_legend(str(path), "rules").classes
    entries = content.get("rules")
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise ValueError(f"--rules {path}: rules: wanted a list like [{{coarsen: 30}}], got {entries!r}")
    rules = []
    for number, entry in enumerate(entries, 1):
        try:
            rules.append(_read_rule(entry, classes, path.parent))
        except ValueError as error:
            raise ValueError(f"--rules {path}: rule {number}: {error}") from None
    return rules


def _read_rule(entry: Any, classes: Sequence[str], folder: Path) -> Rule:
    name, value = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (None, None)
    if name not in RULES:
        raise ValueError(f"{entry!r}: wanted one of {', '.join(RULES)} and its arguments")
    rule = Rule(name, _arguments(name, value))
    if "matrix" in rule.arguments:
        rule = Rule(name, {**rule.arguments, "matrix": _matrix(rule.arguments["matrix"], classes, folder)})
    try:
        rule(np.zeros((2, 2), np.uint8), np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return rule


def _arguments(name: str, value: Any) -> dict[str, Any]:
    """Argument name -> value, from a mapping, a list or a single value."""
    taken = [p for p in signature(RULES[name]).parameters.values() if p.name not in ("labels", "rng")]
    try:
        bind = Signature(taken).bind
        bound = bind(**value) if isinstance(value, dict) else bind(*(value if isinstance(value, list) else [value]))
    except TypeError:
        needed = [p.name for p in taken if p.default is p.empty and isinstance(value, dict) and p.name not in value]
        missing = f"; {', '.join(needed)} is missing" if needed else ""
        raise ValueError(f"{name} {value!r}: wanted {', '.join(p.name for p in taken)}{missing}") from None
    return bound.arguments


def _matrix(value: Any, classes: Sequence[str], folder: Path) -> list[list[float]]:
    """Rows of a confusion matrix of these classes."""
    matrix = check_confusion(_read_confusion(folder / value, classes) if isinstance(value, str) else value)
    if len(matrix) != len(classes):
        raise ValueError(f"confusion matrix: {len(matrix)} rows, wanted {len(classes)}: {', '.join(classes)}")
    return matrix.tolist()


def _read_confusion(path: Path, classes: Sequence[str]) -> list[list[str]]:
    """Cells of a CSV, its class names checked."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file; wanted is a CSV")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{path}: {path.stat().st_size / 1e6:.0f} MB; a confusion matrix has {MAX_BYTES / 1e6:.0f} at most"
            )
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)] or [[]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for where, names in (("first row", header[1:]), ("first column", [row[0] for row in rows])):
        if names != list(classes):
            raise ValueError(f"{path}: {where} {', '.join(names) or 'empty'}; wanted {', '.join(classes)}")
    return [row[1:] for row in rows]
