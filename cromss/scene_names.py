"""What names tell: the time of a scene, the number of a location, and lists of both."""

import csv
import re
from pathlib import Path

_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_TIME = re.compile(rf"(?<![\d.])({_DATE})(?:T(\d{{6}}))?(?!\d)")

MAX_ID = 96
"""Characters of a name, as an id in a store."""


def scene_time(name: str) -> str | None:
    """Start of a scene as a sortable `YYYYMMDDTHHMMSS`, from its name; `None` without a date.

    Decimals, as in `-103.99308536_33.18-20190422`, are no dates, nor is `25032020`, the day first.
    """
    match = _TIME.search(name)
    return f"{match[1]}T{match[2] or '000000'}" if match else None


def id_key(name: str) -> str:
    """Ids match as numbers: `0000012` and `12` are one place."""
    return str(int(name)) if name.isdecimal() and len(name) <= MAX_ID else name


def csv_rows(path: Path, where: str) -> list[tuple[int, list[str]]]:
    """Number and cells of the filled lines of a CSV.

    Raises:
        ValueError: Not UTF-8 or not a CSV; the line begins with `where`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [
                (number, [cell.strip() for cell in row])
                for number, row in enumerate(csv.reader(file, strict=True), 1)
                if row
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{where}: not a CSV of text ({error}); save it as UTF-8 with commas") from error


def read_ids(path: Path) -> dict[str, tuple[str, ...]]:
    """Location ids and their scene names in time order, from a CSV.

    The header is `id,season1,...,seasonT`; without it, every row is an id and its scenes, as in
    the published `dw_complete_ids.csv`. Rows of an id alone leave the scenes to the folders.

    Raises:
        ValueError: An id twice, an empty field, rows of different length, other separators than commas, a name that
            is none of a folder, or a scene name without a date; the line is named. Or as `csv_rows`.
    """
    rows = csv_rows(path, str(path))
    width = len(rows[0][1]) if rows else 0
    if rows and rows[0][1][0].lower() == "id":
        del rows[0]
    ids: dict[str, tuple[str, ...]] = {}
    seen: dict[str, int] = {}
    for number, (name, *scenes) in rows:
        where = f"{path} line {number}"
        if {";", "\t"} & set(name):
            raise ValueError(f"{where}: {name[:80]!r}: fields are separated by commas")
        if len(scenes) + 1 != width or not all((name, *scenes)):
            raise ValueError(f"{where}: {width} filled fields are wanted (an id and its scenes), got {[name, *scenes]}")
        if odd := [cell for cell in (name, *scenes) if not _is_plain_name(cell)]:
            raise ValueError(f"{where}: {odd[0][:80]!r}: wanted are printable names without slashes and quotes")
        if id_key(name) in seen:
            raise ValueError(f"{where}: id {name} is already on line {seen[id_key(name)]}; every id once")
        if undated := [scene for scene in scenes if scene_time(scene) is None]:
            raise ValueError(f"{where}: {undated[0]!r} is not a scene name, which is wanted with a YYYYMMDD date")
        if len(set(scenes)) < len(scenes):
            raise ValueError(f"{where}: id {name} names a scene twice: {', '.join(scenes)}; keep one")
        seen[id_key(name)] = number
        ids[name] = tuple(sorted(scenes, key=scene_time))
    if not ids:
        raise ValueError(f"{path}: holds no ids; wanted rows of an id and its scenes")
    return ids


def _is_plain_name(name: str) -> bool:
    return len(name) <= MAX_ID and name.isprintable() and not {"/", "\\", '"'} & set(name) and name not in (".", "..")
