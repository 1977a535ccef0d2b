"""Training subsets: nested, seeded, saved; and the tiles held out for validation, neighbours together.

A smaller subset lies within every larger one of the same seed, so that results at 1, 5, 10, 25 and 100 % of the labels
differ by what was added, not by what was drawn.
"""

import hashlib
import math
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

_CITY_TILE = re.compile(r"(.+)_r\d+_c\d+")
_DEGREES = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
_DATED_TILE = re.compile(rf"{_DEGREES}_{_DEGREES}-\d{{8}}\w*")
_SEED = re.compile(r"# seed: (\d{1,18})")


def training_order(ids: Iterable[str], seed: int) -> list[str]:
    """Ids in a random order: by the SHA-256 of seed and id.

    So the order depends on nothing but ids and seed, neither on how the ids were ordered nor on a library's generator;
    and leaving ids out leaves the others in their order.

    Raises:
        ValueError: An id occurs twice, or cannot stand in a line of a file.
    """
    return sorted(_checked(ids), key=lambda location_id: hashlib.sha256(f"{seed} {location_id}".encode()).digest())


def take(order: Sequence[str], fraction: float | None = None, count: int | None = None) -> list[str]:
    """The first ids of an order; all of them if neither share nor number is given.

    Args:
        order: Ids, as from `training_order`.
        fraction: Percent of the ids, over 0 and at most 100, rounded up to whole ids.
        count: Number of ids, at least 1; beside 100 percent it decides.

    Raises:
        ValueError: A number beside a smaller share, or there are not that many ids.
    """
    if fraction not in (None, 100) and count is not None:
        raise ValueError(f"--n_train {count}: leave it out where --fraction is given ({fraction:g})")
    if fraction is not None and count is None:
        if not 0 < fraction <= 100:
            raise ValueError(f"--fraction {fraction:g}: percent, over 0 and at most 100")
        count = math.ceil(Fraction(str(fraction)) * len(order) / 100)
    if count is None:
        return list(order)
    if not 1 <= count <= len(order):
        raise ValueError(f"--n_train {count}: at least 1, and only {len(order)} training tiles are there")
    return list(order[:count])


def saved_order(path: str | Path, ids: Iterable[str], seed: int, name: str = "") -> list[str]:
    """The training order kept in a file; the file is made by `training_order` if it is not there.

    The file has an id a line, after a header of `#` lines. It appears at once and whole, so that processes that start
    together all read the same.

    Args:
        path: The file.
        ids: Ids of the set.
        seed: Seed of an order that is made; a file that names another seed is refused.
        name: The set, for the header.

    Raises:
        ValueError: The ids of the file are not exactly those of the set; the line names the first difference.
    """
    path, ids = Path(path), _checked(ids)
    if not path.exists():
        order = training_order(ids, seed)
        header = [f"# set: {name}"] if name else []
        _write_whole(path, [*header, f"# seed: {seed}", f"# number: {len(order)}", *order])
        return order
    lines = _read_lines(path)
    told = next((int(match[1]) for _, line in lines if (match := _SEED.fullmatch(line))), seed)
    if told != seed:
        raise ValueError(f"{path}: made with --split_seed {told}, not {seed}; give that one, or another --split_file")
    return _same_ids(path, [(number, line) for number, line in lines if not line.startswith("#")], ids)


def blocked_holdout(ids: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Ids to train on and ids held out for validation: the last ones, so that neighbours stay together.

    Tiles of one place (see `place_of`) are all on one side; held out are then so many of the last places, at least one,
    as come closest to the share.

    Args:
        ids: Ids in the order of the set.
        share: Share to hold out, at least 0 and under 1; 0 holds out none.

    Raises:
        ValueError: Nothing is left to train on.
    """
    wanted, held, size = round(share * len(ids)), set(), 0
    for place, tiles in Counter(map(place_of, reversed(ids))).items():
        if not wanted or (held and size + tiles - wanted >= wanted - size):
            break
        held.add(place)
        size += tiles
    if size == len(ids):
        raise ValueError(f"--validation {share:g}: leaves none of the {len(ids)} tiles to train on")
    return [name for name in ids if place_of(name) not in held], [name for name in ids if place_of(name) in held]


def place_of(location_id: str) -> str:
    """The place that a tile shows, as far as its id tells; tiles of one place are no independent samples.

    `<city>_r<row>_c<column>` is of `<city>`, and `<lon>_<lat>-<date>` of `<lon>_<lat>`, whatever the date and however
    the degrees are written. Any other id is a place of its own.
    """
    if match := _CITY_TILE.fullmatch(location_id):
        return match[1]
    if match := _DATED_TILE.fullmatch(location_id):
        longitude, latitude = (float(degrees) + 0.0 for degrees in match.groups())  # -0.0 + 0.0 is 0.0
        return f"{longitude}_{latitude}"
    return location_id


def _checked(ids: Iterable[str]) -> list[str]:
    """Ids that are unique and can each stand in a line of a file."""
    ids = list(ids)
    for name, times in Counter(ids).items():
        if times > 1:
            raise ValueError(f"tile {name!r} occurs {times} times in the set; every id once")
        if not name.isprintable() or name != name.strip() or not name or name.startswith("#"):
            raise ValueError(f"tile {name!r}: an id is printable text without blanks around it that begins with no #")
    return ids


def _same_ids(path: Path, lines: Iterable[tuple[int, str]], ids: Sequence[str]) -> list[str]:
    """Ids of numbered lines, if they are exactly those of the set."""
    wanted, seen = set(ids), {}
    for number, name in lines:
        if name not in wanted:
            raise ValueError(f"{path} line {number}: {name[:80]!r} is no tile of this set; choose another --split_file")
        if name in seen:
            raise ValueError(f"{path} line {number}: {name!r} is on line {seen[name]} already; every tile once")
        seen[name] = number
    missing = [name for name in ids if name not in seen]
    if missing:
        have = f"{len(seen)} of the {len(ids)} tiles of this set"
        raise ValueError(f"{path}: has {have}, {missing[0]!r} is missing; choose another --split_file")
    return list(seen)


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a file that are not blank, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); wanted: a tile id a line") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line]


def _write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file beside its name, then give it the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
