"""From raw locations to stores: what is stored of a location, descriptions, disk estimate, one run with its report.

Every data set is written along this one path.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from cromss.aligned_stores import Prepared, refuse_unknown, write_stores
from cromss.disk_space import check_space
from cromss.layouts import Location, check_location, location_shape
from cromss.legends import LEGENDS, Legend
from cromss.offset import decide_offset, remove_offset
from cromss.scenes import check_bands
from cromss.sensors import MODALITIES, ORTHO, QUANTISED, Modality, quantise
from cromss.store import LmdbReader, StoreMeta, partial_path
from cromss.store.record import MAX_ID_BYTES

RAW_TYPES = {"s1": "float32", "s2": "uint16", "ortho": "uint8"}
"""Type of the raw values in a store: Sentinel-1 in dB, Sentinel-2 in DN, orthophotos in grey levels."""

_PAGE = 4096


def to_pretraining(
    seasons: Mapping[str, Sequence[np.ndarray]],
    location: Location,
    told: int | None,
    told_by_id: Mapping[str, int] | None = None,
    sensors: Mapping[str, Modality] = MODALITIES,
) -> Prepared:
    """Raw seasons -> uint8: offset taken off, clipped to mean +- 2 std, scaled to 0..255.

    Args:
        seasons: What `layouts.read_location` returns.
        location: Where they come from.
        told: Sentinel-2 offset the user said (0 or 1000), or `None` to decide by scene.
        told_by_id: The same of single locations, which goes before.
        sensors: Modality -> its sensor, with the statistics to use.
    """
    prepared = without_offset(seasons, location, told, told_by_id=told_by_id)
    result = dict(prepared.seasons)
    for modality in MODALITIES.keys() & result.keys():
        result[modality] = [quantise(image, sensors[modality]) for image in result[modality]]
    return Prepared(result, prepared.offsets)


def to_raw(seasons: Mapping[str, Sequence[np.ndarray]]) -> Prepared:
    """Raw seasons kept as they are, in the type they are stored in (see `RAW_TYPES`); class ids stay uint8."""
    result = dict(seasons)
    for modality in RAW_TYPES.keys() & result.keys():
        result[modality] = [_as_type(image, np.dtype(RAW_TYPES[modality])) for image in result[modality]]
    return Prepared(result)


def without_offset(
    seasons: Mapping[str, Sequence[np.ndarray]],
    location: Location,
    told: int | None,
    by_date: bool = False,
    told_by_id: Mapping[str, int] | None = None,
) -> Prepared:
    """Raw seasons with the DN offset of Sentinel-2 taken off, and what decided it.

    The arguments are those of `to_pretraining`, and `by_date` that of `decide_offset`.
    """
    images, rows = [], []
    for season, (image, source) in enumerate(zip(seasons.get("s2", ()), location.scenes.get("s2", ()))):
        offset, by = decide_offset(image, source, location.id, told, by_date, told_by_id)
        images.append(remove_offset(image, offset))
        rows.append((season, source.name, offset, by))
    return Prepared({**seasons, "s2": images} if images else dict(seasons), tuple(rows))


def image_meta(
    modality: str,
    dtype: str,
    num_seasons: int,
    source: str,
    compression: str = "",
    sensors: Mapping[str, Modality] = MODALITIES,
) -> StoreMeta:
    """Description of an image store; a `dtype` of uint8 means quantised where raw values have another type."""
    sensor = sensors[modality]
    statistics = {"mean": list(sensor.mean), "std": list(sensor.std)}
    unit = QUANTISED if dtype == "uint8" != RAW_TYPES[modality] else sensor.unit
    described = {"statistics": statistics, "source": source, "compression": compression}
    return StoreMeta(modality, sensor.bands, dtype, num_seasons, unit, **described)


def label_meta(
    legend: str | Legend, num_seasons: int, source: str, modality: str = "labels", compression: str = ""
) -> StoreMeta:
    """Description of a label store, with the classes of a legend or of a name in `LEGENDS`; `"exact"` is one too."""
    known = LEGENDS.get(legend) if isinstance(legend, str) else legend
    described = {"classes": known.classes, "colours": known.colours} if known else {}
    described |= {"legend": known.name if known else legend, "source": source, "compression": compression}
    return StoreMeta(modality, (), "uint8", num_seasons, "class id", **described)


def source_text(*parts: str, limit: int | None = None) -> str:
    """What a store says of its source: all that would make it another store, see `is_finished`.

    Args:
        parts: The set and the settings; empty ones are left out.
        limit: How many locations are written, where that is limited.
    """
    return ", ".join(part for part in (*parts, "" if limit is None else f"first {limit}") if part)


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u" and values.dtype != dtype:
        values = np.clip(np.rint(values), 0, np.iinfo(dtype).max)
    return values.astype(dtype)


def estimate_bytes(num_locations: int, metas: Collection[StoreMeta], num_pixels: int) -> int:
    """Disk space of the stores, in bytes: the arrays of tiles of `num_pixels`, in whole pages."""
    values = [max(len(meta.bands), 1) * num_pixels * np.dtype(meta.dtype).itemsize for meta in metas]
    return num_locations * sum(meta.num_seasons * (value // _PAGE + 2) * _PAGE for meta, value in zip(metas, values))


def mean_pixels(locations: Sequence[Location], num_samples: int = 32) -> int:
    """Pixels of an average tile, from the headers of a few locations' first files."""
    shapes = [location_shape(location) for location in locations[:: max(1, len(locations) // num_samples)]]
    return int(np.mean([height * width for height, width in filter(None, shapes)] or [0]))


def refuse_incomplete(locations: Sequence[Location], num_seasons: int | Mapping[str, int]) -> None:
    """Refuse a listing in which modalities, ids or seasons do not match, before anything is read.

    Args:
        locations: The listing.
        num_seasons: Seasons wanted, in every modality or by modality.

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


def check_listing(stores: Mapping[Path, StoreMeta], locations: Sequence[Location], on_error: str) -> None:
    """Refuse a listing before anything is read, as `run` does; for a set of several parts, all before the first is run.

    Raises:
        ValueError: No location, or an id that no file of splits can hold; with `"stop"` also as `refuse_incomplete`,
            or the first orthophoto is of other bands than told.
    """
    if not locations:
        raise ValueError(f"{next(iter(stores)).parent}: no location to write into it")
    for name in (location.id for location in locations):
        if not name.isprintable() or name != name.strip() or not name or name.startswith("#"):
            raise ValueError(
                f"location {name!r}: an id is printable, has no blanks around it, begins with no #; rename it"
            )
        if (length := len(name.encode())) > MAX_ID_BYTES:
            raise ValueError(f"location {name!r}: an id is of at most {MAX_ID_BYTES} bytes, not {length}; shorten it")
    if on_error == "stop":
        refuse_incomplete(locations, {meta.modality: meta.num_seasons for meta in stores.values()})
        _refuse_other_bands(locations[0])


def _refuse_other_bands(location: Location) -> None:
    """Refuse an orthophoto whose header contradicts the order of bands told, before a store is begun with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for path in location.scenes.get("ortho", ()):
            check_bands(path, ORTHO, location.bands.get("ortho"))


def is_finished(stores: Mapping[Path, StoreMeta], locations: Iterable[Location] = ()) -> bool:
    """All stores are there, as they are described; said on standard output.

    Args:
        stores: Path of each store and the description wanted.
        locations: What they are to hold, as far as their description does not tell; whole, not cut into tiles.

    Raises:
        ValueError: A store that is there says something else of itself, or cannot be read; or all are there, without
            some of the locations.
    """
    there = [path for path in stores if path.exists()]
    for path in there:
        if told := LmdbReader(path).meta.difference(stores[path]):
            raise ValueError(f"{path}: finished with {told}; remove it, or choose another --out")
    if len(there) == len(stores):
        refuse_unknown(there[0].parent, [location.id for location in locations])
        print(f"{there[0].parent}: finished already, left as it is; changed files want another --out")
    return len(there) == len(stores)


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
        ValueError: As `check_listing`, `check_space`, `write_stores`.
    """
    out = next(iter(stores)).parent
    num_seasons = {meta.modality: meta.num_seasons for meta in stores.values()}
    check_listing(stores, locations, on_error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        wanted = estimate_bytes(len(locations), stores.values(), size * size if size else mean_pixels(locations))
        there = sum(f.stat().st_blocks * 512 for path in stores for f in partial_path(path).glob("*.mdb"))
        free = check_space(out, wanted - there)
        print(f"{len(locations)} locations x {max(num_seasons.values())} seasons ({', '.join(num_seasons)}) to {out}")
        print(f"disk: {wanted / 1e9:.3f} GB wanted, {free / 1e9:.1f} GB free")
        if not dry_run:
            print(write_stores(stores, locations, prepare, on_error, workers))
