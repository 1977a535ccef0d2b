"""One store a modality, side by side with equal indices: written location by location, resumed where a run stopped.

A location that is bad in one modality is bad in all. Three ledgers beside the stores say what was
left out, from which scene each season is, and which offset every Sentinel-2 scene had.
"""

import csv
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cromss.layouts import Location
from cromss.scene_names import scene_time
from cromss.scene_sources import Scene
from cromss.store import LmdbReader, LmdbWriter, StoreMeta
from cromss.work_ahead import work_ahead

SKIPPED_NAME, SCENES_NAME, OFFSETS_NAME = "skipped.csv", "scenes.csv", "s2_offsets.csv"
"""The ledgers: what was left out, the scene of every season, and the offset of every Sentinel-2 scene."""

_TILE = re.compile(r"_r\d+_c\d+$")
_SKIPPED_COLUMNS = ("id", "reason")
_SCENE_COLUMNS = ("id", "season", "modality", "scene")
_OFFSET_COLUMNS = ("id", "season", "scene", "offset", "decided_by")


@dataclass(frozen=True)
class Prepared:
    """One location, ready to be written.

    Attributes:
        seasons: By modality one array a season.
        offsets: A row `(season, scene, offset, decided by)` for every Sentinel-2 scene whose
            offset was decided.
    """

    seasons: Mapping[str, Sequence[np.ndarray]]
    offsets: tuple[tuple[int, str, int, str], ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        num_written: Locations in the stores, those of an interrupted run included.
        skipped: Reason -> locations left out for it.
        offsets: `(offset, decided by)` -> Sentinel-2 scenes.
        megabytes_written: Bytes of the arrays that this run wrote, in MB.
        seconds_written: Time from the first reading to the last commit.
        seconds_committing: Time of it spent in commits.
        megabytes_checked: Bytes of the records that were read back at the end, in MB.
        seconds_checked: Time that took.
        files: The finished stores.
    """

    num_written: int
    skipped: Mapping[str, int]
    offsets: Mapping[tuple[int, str], int]
    megabytes_written: float
    seconds_written: float
    seconds_committing: float
    megabytes_checked: float
    seconds_checked: float
    files: tuple[Path, ...]

    def __str__(self) -> str:
        size, total, commits = self.megabytes_written, self.seconds_written, self.seconds_committing
        lines = [
            f"written: {self.num_written} locations, {_rate(size, total)} (commits alone {_rate(size, commits)})",
            f"read back and checked: {_rate(self.megabytes_checked, self.seconds_checked)}",
        ]
        lines += [f"skipped: {count} x {reason}" for reason, count in self.skipped.items()]
        lines += [f"s2 offset {value}: {count} scenes ({by})" for (value, by), count in self.offsets.items()]
        return "\n".join(lines + [f"store: {path}" for path in self.files])


def _rate(megabytes: float, seconds: float) -> str:
    return f"{megabytes / max(seconds, 1e-9):.1f} MB/s"


def write_stores(
    stores: Mapping[Path, StoreMeta],
    locations: Sequence[Location],
    prepare: Callable[[Location], Prepared],
    on_error: str = "stop",
    workers: int = 4,
) -> Summary:
    """Write locations into one store a modality, side by side with equal indices.

    An interrupted run goes on where the shortest store stopped, with the same result. Beside the
    stores, `skipped.csv`, `scenes.csv` and `s2_offsets.csv` say what was left out, what the seasons
    are and which offset was found.

    Args:
        stores: Path of each store and its description; all in one folder.
        locations: What to write, in this order.
        prepare: Reads and converts one location; its ValueError makes the location bad.
        on_error: `"stop"` at the first bad location, or `"skip"` it.
        workers: Reading threads.

    Raises:
        ValueError: A bad location (`"stop"`), nothing written at all, or stores that are finished
            already or belong to other locations.
    """
    begun = {path: meta for path, meta in stores.items() if not path.exists()}
    finished = [path for path in stores if path not in begun]
    if not begun:
        raise ValueError(f"{', '.join(map(str, stores))}: finished already; remove them or choose another --out")
    folder = next(iter(stores)).parent
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {meta.modality: stack.enter_context(LmdbWriter(path, meta)) for path, meta in begun.items()}
        written = _align(list(writers.values()), [LmdbReader(path).location_ids() for path in finished])
        position = len(locations) if finished else _resume_position(written, locations, folder)
        examined = {name for location in locations[:position] for name in (location.id, location.place)}
        skipped = stack.enter_context(_Ledger(folder / SKIPPED_NAME, _SKIPPED_COLUMNS, examined, _kind_of_reason))
        scenes = stack.enter_context(_Ledger(folder / SCENES_NAME, _SCENE_COLUMNS, examined, itemgetter(2)))
        _say_unknown([location.id for location in locations[:position]], written, skipped)
        offsets = stack.enter_context(_Ledger(folder / OFFSETS_NAME, _OFFSET_COLUMNS, examined, _decision))
        results = stack.enter_context(closing(work_ahead(prepare, locations[position:], workers)))
        count, num_bytes, start = len(written), 0, time.monotonic()
        with tqdm(total=len(locations) - position, unit="location", disable=None) as bar:
            for location, future in results:
                if prepared := _result(future, location, on_error, skipped):
                    num_bytes += _write(location, prepared, writers, scenes, offsets)
                    count += 1
                bar.set_postfix_str(f"{num_bytes / 1e6 / (time.monotonic() - start):.1f} MB/s", refresh=False)
                bar.update()
        if not count:
            raise ValueError(f"{skipped.path}: all {len(locations)} locations were skipped, nothing is left to store")
        for writer in writers.values():
            writer.commit()
        written_at = time.monotonic()
        checked = _finish(list(writers.values()))
    return Summary(
        num_written=count,
        skipped=skipped.counts,
        offsets=offsets.counts,
        megabytes_written=num_bytes / 1e6,
        seconds_written=written_at - start,
        seconds_committing=sum(writer.commit_seconds for writer in writers.values()),
        megabytes_checked=checked / 1e6,
        seconds_checked=time.monotonic() - written_at,
        files=tuple(stores),
    )


def refuse_changed_offsets(out: Path, told_by_id: Mapping[str, int]) -> None:
    """Refuse to resume when a location was already written with another offset than now told.

    Raises:
        ValueError: Names the first such location; or a damaged ledger.
    """
    path = out / OFFSETS_NAME
    for name, _, _, offset, _ in _read_rows(path, len(_OFFSET_COLUMNS)):
        if name in told_by_id and str(told_by_id[name]) != offset:
            raise ValueError(
                f"--s2_offset_ids {name}={told_by_id[name]}: written with {offset} already (see {path}); "
                "remove the stores to start anew"
            )


def scene_names(folder: Path, modality: str) -> dict[tuple[str, int], str]:
    """Place and season -> its scene of a modality, with its folder where the name has no date; as the ledger beside the
    stores tells, nothing where there is none.

    Raises:
        ValueError: A damaged ledger.
    """
    rows = _read_rows(folder / SCENES_NAME, len(_SCENE_COLUMNS))
    return {(place, int(season)): name for place, season, kind, name in rows if kind == modality and season.isdecimal()}


def refuse_unknown(folder: Path, ids: Sequence[str]) -> None:
    """Refuse finished stores whose ledgers do not know some locations; those of earlier versions are believed.

    Raises:
        ValueError: Names the first of them; or a damaged ledger.
    """
    ledgers = {folder / SCENES_NAME: len(_SCENE_COLUMNS), folder / SKIPPED_NAME: len(_SKIPPED_COLUMNS)}
    if not (folder / SCENES_NAME).exists():
        return
    known = {row[0] for path, num_columns in ledgers.items() for row in _read_rows(path, num_columns)}
    known |= {_TILE.sub("", name) for name in known}
    if unknown := [name for name in ids if name not in known]:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise ValueError(
            f"{folder}: finished without {len(unknown)} of {len(ids)} locations that are there now ({shown}); "
            "choose another --out, or remove it to write all anew"
        )


def _result(future: Future[Prepared], location: Location, on_error: str, skipped: "_Ledger") -> Prepared | None:
    try:
        return future.result()
    except ValueError as error:
        reason = " ".join(str(error).split())
        if on_error == "stop":
            raise ValueError(f"{reason} (--on_error skip leaves such locations out)") from error
        skipped.add(location.id, reason)
        return None


def _write(
    location: Location,
    prepared: Prepared,
    writers: Mapping[str, LmdbWriter],
    scenes: "_Ledger",
    offsets: "_Ledger",
) -> int:
    if location.place != scenes.last:  # tiles of a location have its scenes in common
        for modality, sources in location.scenes.items():
            for season, source in enumerate(sources):
                scenes.add(location.place, season, modality, _scene_name(source))
    if location.place != offsets.last:
        for row in prepared.offsets:
            offsets.add(location.place, *row)
    for modality, writer in writers.items():
        writer.write(location.id, prepared.seasons[modality])
    return sum(array.nbytes for modality in writers for array in prepared.seasons[modality])


def _scene_name(source: Scene) -> str:
    """Name of a scene, with its folder where only that may be dated, as of `<scene>/label.tif`."""
    return source.name if scene_time(source.name) else f"{source.parent.name}/{source.name}"


class _Ledger:
    """A CSV that says what happened to each location, as it happens; reopened, it keeps the rows of `ids`.

    Attributes:
        counts: Rows of each kind.
        last: Id in the last row.

    Raises:
        ValueError: The file that is there cannot be read.
    """

    def __init__(self, path: Path, columns: Sequence[str], ids: Collection[str], kind: Callable[[list[str]], Any]):
        self.path, self.counts, self.last, self._kind = path, Counter(), "", kind
        renewed = path.with_name(f"{path.name}.partial")
        with renewed.open("w", newline="", encoding="utf-8") as file:
            self._writer = csv.writer(file)
            self._writer.writerow(columns)
            for row in (row for row in _read_rows(path, len(columns)) if row[0] in ids):
                try:
                    self._add(row)
                except ValueError as error:
                    raise ValueError(f"{path}: damaged ({error}); remove it, and the same command goes on") from None
        renewed.replace(path)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def __enter__(self) -> "_Ledger":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, *row: object) -> None:
        """Append a row, on the disk at once."""
        self._add([str(cell) for cell in row])
        self._file.flush()

    def _add(self, row: list[str]) -> None:
        self._writer.writerow(row)
        self.counts[self._kind(row)] += 1
        self.last = row[0]


def _read_rows(path: Path, num_columns: int) -> Iterator[list[str]]:
    """Whole rows of a ledger without its header; none where there is no file. ValueError where it is no CSV."""
    if not path.exists():
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in islice(csv.reader(file), 1, None) if len(row) == num_columns)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it, and the same command goes on") from error


def _say_unknown(ids: Sequence[str], written: Collection[str], skipped: _Ledger) -> None:
    """List what an interrupted run left out without a word, as what was not there when it began."""
    known = {row[0] for row in _read_rows(skipped.path, len(_SKIPPED_COLUMNS))}.union(written)
    for name in (name for name in ids if name not in known):
        skipped.add(name, f"location {name}: neither written nor listed by the run that was interrupted")


def _align(writers: Sequence[LmdbWriter], finished: Sequence[list[str]]) -> list[str]:
    """Cut unfinished stores back to the locations that all stores have; returns their ids."""
    common = min([*(writer.location_ids for writer in writers), *finished], key=len)
    for writer in writers:
        there = writer.location_ids
        if there[: len(common)] != common or any(there != other for other in finished):
            raise ValueError(f"{writer.partial}: holds other locations than the stores beside it; remove it and them")
    for writer in writers:
        writer.truncate(len(common))
    return common


def _resume_position(written: Sequence[str], locations: Sequence[Location], folder: Path) -> int:
    """Index of the first location that an interrupted run has not come to."""
    ids = [location.id for location in locations]
    position = ids.index(written[-1]) + 1 if written and written[-1] in ids else 0
    among = set(written)
    if [name for name in ids[:position] if name in among] != list(written):
        raise ValueError(f"{folder}: the unfinished stores are of other locations; remove them or choose another --out")
    return position


def _finish(writers: Sequence[LmdbWriter]) -> int:
    """Finish the stores, with a progress bar over the records read back; returns their bytes."""
    total = sum(writer.num_records for writer in writers)
    with tqdm(total=total, unit="record", desc="reading back", disable=None) as bar:
        return sum(writer.finish(progress=bar.update)["bytes"] for writer in writers)


def _decision(row: list[str]) -> tuple[int, str]:
    return int(row[3]), row[4]


def _kind_of_reason(row: list[str]) -> str:
    """`where: reason; advice` -> the reason without its numbers, so that equal reasons count as one."""
    return re.sub(r"(?<![\w-])-?\d[\dx.]*", "#", row[1].partition(": ")[2].partition("; ")[0])
