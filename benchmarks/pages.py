"""Tables of benchmarks in Markdown pages, between a line that names a table and one that ends it."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cromss.config import replace_text
from cromss.tables import summarise

HOME = Path(__file__).resolve().parent


def rows_of(table: str) -> list[dict[str, str]]:
    """Rows of a table beside this file."""
    with (HOME / table).open(newline="") as file:
        return list(csv.DictReader(file))


def measured_row(table: str, what: str, way: str) -> dict[str, str]:
    """The row of something measured, of a table beside this file.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [row for row in rows_of(table) if (row["what"], row["way"]) == (what, way)]
    if len(found) != 1:
        raise ValueError(f"{HOME / table}: {len(found)} rows of {what!r}, {way!r}, where one is wanted; write it again")
    return found[0]


def value(table: str, what: str, way: str) -> float:
    """A measured value of a table beside this file; see `measured_row`."""
    return float(measured_row(table, what, way)["value"])


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same keys, numbers to the right."""
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    rule = ["---" if index == 0 else "---:" for index in range(len(lines[0]))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def cell(values: Iterable[float], sign: str = "") -> str:
    """Mean and sample standard deviation; a dash for no value."""
    summary = summarise(list(values))
    if summary is None:
        return "-"
    return f"{summary.mean:{sign}.1f}" + ("" if summary.std is None else f" ± {summary.std:.1f}")


def gain_cell(ours: Mapping[Any, float], others: Mapping[Any, float]) -> str:
    """Mean and spread of the differences between runs of the same seed; in brackets, how many are gains."""
    gains = [ours[seed] - others[seed] for seed in sorted(ours.keys() & others.keys())]
    return cell(gains, sign="+") + (f" ({sum(gain > 0 for gain in gains)}/{len(gains)})" if gains else "")


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with its tables replaced.

    Raises:
        ValueError: The page has no place for a table.
    """
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"no lines <!-- {name} --> and <!-- end --> on the page")
        text = place.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Print the tables, and put them on a page."""
    for name, table in tables.items():
        print(f"{name}\n\n{table}\n")
    replace_text(page, filled(page.read_text(), tables))
