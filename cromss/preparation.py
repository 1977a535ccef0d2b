"""From raw locations to stores: offset, quantise, disk estimate, stop or skip, resume, report.

Every data set is written along this one path. A location that is bad in one modality is bad in
all, so that the stores of a set share their indices.
"""

import csv
import json
import re
import shutil
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from tqdm import tqdm

from cromss.layouts import Location, check_location
from cromss.sensors import MODALITIES, S2, S2_OFFSET, UndecidableOffset, detect_offset, quantise
from cromss.store import LmdbReader, LmdbWriter, StoreMeta, partial_path

OFFSET_BASELINE = 4.0
"""First Sentinel-2 processing baseline whose DN carry the offset (04.00)."""

SKIPPED_NAME, OFFSETS_NAME = "skipped.csv", "s2_offsets.csv"
"""Written beside the stores: what was left out, and the offset of every Sentinel-2 scene."""

_PAGE = 4096
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
        megabytes_per_second: Rate of this run, over the bytes of the arrays.
        files: The finished stores.
    """

    num_written: int
    skipped: Mapping[str, int]
    offsets: Mapping[tuple[int, str], int]
    megabytes_per_second: float
    files: tuple[Path, ...]

    def __str__(self) -> str:
        lines = [f"written: {self.num_written} locations, {self.megabytes_per_second:.1f} MB/s"]
        lines += [f"skipped: {count} x {reason}" for reason, count in self.skipped.items()]
        lines += [f"s2 offset {value}: {count} scenes ({by})" for (value, by), count in self.offsets.items()]
        return "\n".join(lines + [f"store: {path}" for path in self.files])


@contextmanager
def one_line_errors() -> Iterator[None]:
    """For command lines: end an expected error as one line on stderr, with exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def metadata_offset(source: Path) -> int | None:
    """DN offset that the metadata of a Sentinel-2 scene declare: 0, 1000, or `None` if they are silent.

    Looks for a harmonised collection in `id`, `RADIO_ADD_OFFSET*` and `PROCESSING_BASELINE`, in the
    GeoTIFF tags and in a `metadata.json` beside them.

    Raises:
        ValueError: `metadata.json` cannot be parsed, or an offset or baseline is not a number.
    """
    folder, file = (source, min(source.glob("*.tif"))) if source.is_dir() else (source.parent, source)
    with rasterio.open(file) as dataset:
        entries = dataset.tags() | _json_entries(folder / "metadata.json")
    entries = {key.upper(): value for key, value in entries.items()}
    if "HARMONIZED" in str(entries.get("ID", "")).upper():
        return 0
    try:
        offsets = [float(value) for key, value in entries.items() if key.startswith("RADIO_ADD_OFFSET")]
        if offsets:
            return S2_OFFSET if any(offsets) else 0
        baseline = entries.get("PROCESSING_BASELINE")
        return None if baseline is None else S2_OFFSET * (float(baseline) >= OFFSET_BASELINE)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: offset or baseline in the metadata is not a number ({error})") from error


def decide_offset(image: np.ndarray, source: Path, location_id: str, told: int | None = None) -> tuple[int, str]:
    """DN offset to subtract from a Sentinel-2 scene, and what decided it.

    Args:
        image: `(13, H, W)` DN.
        source: Folder or file of the scene, for its metadata.
        location_id: Named in the error.
        told: 0 or 1000 if the user said so; `None` follows the metadata, else the pixels.

    Returns:
        The offset (0 or 1000) and `"told"`, `"metadata"` or `"pixels"`.

    Raises:
        ValueError: The pixels cannot tell, or contradict the metadata; the line names the flag.
    """
    if told is not None:
        return told, "told"
    declared = metadata_offset(source)
    where, advice = f"{source} of {location_id}", f"say --s2_offset_ids {location_id}=0 or {location_id}=1000"
    try:
        seen = detect_offset(image, S2.bands, where)
    except UndecidableOffset as error:
        if declared is not None:
            return declared, "metadata"
        raise UndecidableOffset(f"{str(error).rpartition(';')[0]}; {advice}") from error
    if declared == S2_OFFSET and seen == 0:
        raise ValueError(f"{where}: the metadata declare the +1000 DN offset, but pixels lie below it; {advice}")
    return (seen, "pixels") if declared is None else (declared, "metadata")


def to_pretraining(seasons: Mapping[str, Sequence[np.ndarray]], location: Location, told: int | None) -> Prepared:
    """Raw seasons -> uint8: offset taken off, clipped to mean +- 2 std, scaled to 0..255.

    Args:
        seasons: What `layouts.read_location` returns.
        location: Where they come from.
        told: Sentinel-2 offset the user said (0 or 1000), or `None` to decide by scene.
    """
    result, images, rows = dict(seasons), [], []
    for season, (image, source) in enumerate(zip(seasons.get("s2", ()), location.scenes.get("s2", ()))):
        offset, by = decide_offset(image, source, location.id, told)
        images.append(remove_offset(image, offset))
        rows.append((season, source.name, offset, by))
    if images:
        result["s2"] = images
    for modality in MODALITIES.keys() & result.keys():
        result[modality] = [quantise(image, MODALITIES[modality]) for image in result[modality]]
    return Prepared(result, tuple(rows))


def refuse_changed_offsets(out: Path, told_by_id: Mapping[str, int]) -> None:
    """Refuse to resume when a location was already written with another offset than now told.

    Raises:
        ValueError: Names the first such location.
    """
    path = out / OFFSETS_NAME
    for name, _, _, offset, _ in _read_rows(path, len(_OFFSET_COLUMNS)):
        if name in told_by_id and told_by_id[name] != int(offset):
            raise ValueError(
                f"--s2_offset_ids {name}={told_by_id[name]}: written with {offset} already (see {path}); "
                "remove the unfinished stores to start anew"
            )


def remove_offset(dn: np.ndarray, offset: int) -> np.ndarray:
    """Subtract the DN offset and clip at 0; the dtype stays."""
    return dn if offset == 0 else (np.maximum(dn, offset) - offset).astype(dn.dtype)


def to_raw(seasons: Mapping[str, Sequence[np.ndarray]]) -> Prepared:
    """Raw seasons kept as they are: Sentinel-1 float32 (dB), Sentinel-2 uint16 (DN), class ids uint8."""
    result = dict(seasons)
    if "s1" in result:
        result["s1"] = [image.astype(np.float32) for image in result["s1"]]
    if "s2" in result:
        result["s2"] = [np.clip(np.rint(image), 0, 65535).astype(np.uint16) for image in result["s2"]]
    return Prepared(result)


def image_meta(modality: str, dtype: str, num_seasons: int, source: str) -> StoreMeta:
    """Description of an image store; `dtype` uint8 means quantised, else values are in the sensor's unit."""
    sensor = MODALITIES[modality]
    statistics = {"mean": list(sensor.mean), "std": list(sensor.std)}
    unit = "uint8 of mean +- 2 std" if dtype == "uint8" else sensor.unit
    return StoreMeta(modality, sensor.bands, dtype, num_seasons, unit, statistics=statistics, source=source)


def label_meta(legend: str, num_seasons: int, source: str) -> StoreMeta:
    """Description of a label store."""
    return StoreMeta("labels", (), "uint8", num_seasons, "class id", legend=legend, source=source)


def estimate_bytes(num_locations: int, metas: Collection[StoreMeta], num_pixels: int) -> int:
    """Disk space of the stores, in bytes: the arrays of tiles of `num_pixels`, in whole pages."""
    values = [max(len(meta.bands), 1) * num_pixels * np.dtype(meta.dtype).itemsize for meta in metas]
    return num_locations * sum(meta.num_seasons * (value // _PAGE + 2) * _PAGE for meta, value in zip(metas, values))


def mean_pixels(locations: Sequence[Location], num_samples: int = 32) -> int:
    """Pixels of an average tile, from the headers of a few locations' first files."""
    sizes = []
    for location in locations[:: max(1, len(locations) // num_samples)]:
        for path in [path for paths in location.scenes.values() for path in paths][:1]:
            with suppress(RasterioError), rasterio.open(path) as dataset:
                sizes.append(dataset.width * dataset.height)
    return int(np.mean(sizes)) if sizes else 0


def check_space(out: Path, wanted: int) -> int:
    """Free bytes on the disk of `out`, which need not exist yet.

    Raises:
        ValueError: Less than `wanted`.
    """
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ValueError(
            f"--out {out}: {wanted / 1e9:.2f} GB wanted, {free / 1e9:.2f} GB free; "
            "choose another disk or fewer locations (--limit)"
        )
    return free


def first(locations: Sequence[Location], limit: int | None) -> Sequence[Location]:
    """The first `limit` locations; all for `None`.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit}: at least 1")
    return locations[:limit]


def refuse_incomplete(locations: Sequence[Location], num_seasons: int) -> None:
    """Refuse a listing in which modalities, ids or seasons do not match, before anything is read.

    Raises:
        ValueError: Names the first few such locations and their number.
    """
    reasons = []
    for location in locations:
        try:
            check_location(location, num_seasons)
        except ValueError as error:
            reasons.append(str(error))
    if reasons:
        shown = "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
        raise ValueError(
            f"{len(reasons)} of {len(locations)} locations are incomplete: {shown} (--on_error skip leaves them out)"
        )


def run(
    stores: Mapping[Path, StoreMeta],
    locations: Sequence[Location],
    prepare: Callable[[Location], Prepared],
    size: int | None = None,
    on_error: str = "stop",
    workers: int = 4,
    dry_run: bool = False,
) -> None:
    """One preparation from check to report, on standard output; the arguments are those of `write_stores`.

    Args:
        stores: Path of each store and its description.
        locations: What to write.
        prepare: Reads and converts one location.
        size: Side of all tiles in pixels; `None` looks at the files.
        on_error: `"stop"` or `"skip"`.
        workers: Reading threads.
        dry_run: End after the check and the disk estimate.

    Raises:
        ValueError: As `refuse_incomplete` (`"stop"`), `check_space`, `write_stores`.
    """
    out, num_seasons = next(iter(stores)).parent, next(iter(stores.values())).num_seasons
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least 1")
    if on_error == "stop":
        refuse_incomplete(locations, num_seasons)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        wanted = estimate_bytes(len(locations), stores.values(), size * size if size else mean_pixels(locations))
        there = sum(f.stat().st_blocks * 512 for path in stores for f in partial_path(path).glob("*.mdb"))
        free = check_space(out, wanted - there)
        names = ", ".join(meta.modality for meta in stores.values())
        print(f"{len(locations)} locations x {num_seasons} seasons ({names}) to {out}")
        print(f"disk: {wanted / 1e9:.3f} GB wanted, {free / 1e9:.1f} GB free")
        if not dry_run:
            print(write_stores(stores, locations, prepare, on_error, workers))


def write_stores(
    stores: Mapping[Path, StoreMeta],
    locations: Sequence[Location],
    prepare: Callable[[Location], Prepared],
    on_error: str = "stop",
    workers: int = 4,
) -> Summary:
    """Write locations into one store a modality, side by side with equal indices.

    An interrupted run goes on where the shortest store stopped, with the same result. Beside the
    stores, `skipped.csv` and `s2_offsets.csv` say what was left out and which offset was found.

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
    start = time.monotonic()
    with ExitStack() as stack:
        writers = {meta.modality: stack.enter_context(LmdbWriter(path, meta)) for path, meta in begun.items()}
        written = _align(list(writers.values()), [LmdbReader(path).location_ids() for path in finished])
        position = len(locations) if finished else _resume_position(written, locations, folder)
        examined = {location.id for location in locations[:position]}
        skipped = stack.enter_context(_Ledger(folder / SKIPPED_NAME, ("id", "reason"), examined))
        offsets = stack.enter_context(_Ledger(folder / OFFSETS_NAME, _OFFSET_COLUMNS, examined))
        results = stack.enter_context(closing(_read_ahead(prepare, locations[position:], workers)))
        count, num_bytes = len(written), 0
        for location, future in tqdm(results, total=len(locations) - position, unit="location", disable=None):
            if prepared := _result(future, location, on_error, skipped):
                num_bytes += _write(location, prepared, writers, offsets)
                count += 1
        if not count:
            raise ValueError(f"{skipped.path}: all {len(locations)} locations were skipped, nothing is left to store")
        _finish(list(writers.values()))
    reasons = Counter(_reason(reason) for _, reason in skipped.rows)
    decisions = Counter((int(row[3]), row[4]) for row in offsets.rows)
    return Summary(count, reasons, decisions, num_bytes / 1e6 / (time.monotonic() - start), tuple(stores))


def _result(future: Future[Prepared], location: Location, on_error: str, skipped: "_Ledger") -> Prepared | None:
    try:
        return future.result()
    except ValueError as error:
        if on_error == "stop":
            raise ValueError(f"{error} (--on_error skip leaves such locations out)") from error
        skipped.add(location.id, " ".join(str(error).split()))
        return None


def _write(location: Location, prepared: Prepared, writers: Mapping[str, LmdbWriter], offsets: "_Ledger") -> int:
    for row in prepared.offsets:
        offsets.add(location.id, *row)
    for modality, writer in writers.items():
        writer.write(location.id, prepared.seasons[modality])
    return sum(array.nbytes for modality in writers for array in prepared.seasons[modality])


class _Ledger:
    """A CSV that says what happened to each location, as it happens; reopened, it keeps the rows of `ids`."""

    def __init__(self, path: Path, columns: Sequence[str], ids: Collection[str]):
        self.path, self.rows = path, [row for row in _read_rows(path, len(columns)) if row[0] in ids]
        renewed = path.with_name(f"{path.name}.partial")
        with renewed.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *self.rows])
        renewed.replace(path)
        self._file = path.open("a", newline="", encoding="utf-8")

    def __enter__(self) -> "_Ledger":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, *row: object) -> None:
        self.rows.append([str(cell) for cell in row])
        csv.writer(self._file).writerow(row)
        self._file.flush()


def _read_rows(path: Path, num_columns: int) -> list[list[str]]:
    """Whole rows of a ledger without its header; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in islice(csv.reader(file), 1, None) if len(row) == num_columns]


def _json_entries(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    properties = content.get("properties", {}) if isinstance(content, dict) else {}
    return content | properties if isinstance(properties, dict) and isinstance(content, dict) else {}


def _read_ahead(
    prepare: Callable[[Location], Prepared], locations: Sequence[Location], workers: int
) -> Iterator[tuple[Location, Future[Prepared]]]:
    """Prepare in threads, hand out in order; at most two locations a thread wait, so that memory stays flat."""
    pool, waiting, following = ThreadPoolExecutor(workers), deque(), iter(locations)
    try:
        for location in islice(following, 2 * workers):
            waiting.append((location, pool.submit(prepare, location)))
        while waiting:
            yield waiting.popleft()
            for location in islice(following, 1):
                waiting.append((location, pool.submit(prepare, location)))
    finally:
        pool.shutdown(cancel_futures=True)


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


def _finish(writers: Sequence[LmdbWriter]) -> None:
    for writer in writers:
        writer.commit()
    for writer in writers:
        writer.finish()


def _reason(message: str) -> str:
    """`where: reason; advice` -> the reason without its numbers, so that equal reasons count as one."""
    return re.sub(r"(?<![\w-])-?\d[\dx.]*", "#", message.partition(": ")[2].partition("; ")[0])
