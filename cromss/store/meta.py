"""What a store says about itself, and the JSON that it is kept in."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
"""The position is the code in record headers: append only."""

DEFLATE = "deflate"
"""Compression of values, see `record`."""

UNSAID = {"classes": (), "colours": (), "compression": ""}
"""What older stores do not say of themselves, and what it is then."""

META_KEY = b"__meta__"

MAX_LOCATIONS = 10**8
"""Locations that keys of eight digits can tell apart."""


class StoreError(ValueError):
    """A store that cannot be read or written; one line says which, why, and what to do."""


@dataclass(frozen=True)
class StoreMeta:
    """What a store says about itself.

    Attributes:
        modality: `"s1"`, `"s2"`, `"ortho"`, `"labels"`, `"exact"` or a name of your own.
        bands: Band names in storage order; none for labels.
        dtype: NumPy name of the values' type, one of `DTYPES`.
        num_seasons: Arrays of each location.
        unit: Unit of the values, such as `"dB"`, `"DN"`, `"uint8 of mean +- 2 std"`, `"class id"`.
        legend: Name of the legend of labels.
        statistics: Statistics that belong to the values, such as `{"mean": [...], "std": [...]}`.
        source: Where the data come from.
        classes: Class names of labels, by class id.
        colours: Their hex colours.
        compression: `"deflate"`, or none.

    Raises:
        StoreError: Unknown dtype or compression, no season, or not one colour a class.
    """

    modality: str
    bands: tuple[str, ...]
    dtype: str
    num_seasons: int
    unit: str
    legend: str = ""
    statistics: Mapping[str, list[float]] = field(default_factory=dict)
    source: str = ""
    classes: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    compression: str = ""

    def __post_init__(self):
        for name in ("bands", "classes", "colours"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        statistics = {name: [float(value) for value in values] for name, values in self.statistics.items()}
        object.__setattr__(self, "statistics", statistics)
        if self.dtype not in DTYPES:
            raise StoreError(f"dtype {self.dtype!r} cannot be stored; choose one of {', '.join(DTYPES)}")
        if self.compression not in ("", DEFLATE):
            raise StoreError(f"compression {self.compression!r} is unknown; choose {DEFLATE!r} or none")
        if not isinstance(self.num_seasons, int) or self.num_seasons < 1:
            raise StoreError(f"num_seasons {self.num_seasons}: a location has at least one season")
        if len(self.colours) != len(self.classes) or not all(re.fullmatch("[0-9a-f]{6}", c) for c in self.colours):
            raise StoreError(f"colours {self.colours!r}: wanted are six hex digits for each of {self.classes!r}")

    def difference(self, wanted: "StoreMeta") -> str:
        """The first thing that is not as wanted, `"legend 'OSM', not 'DW'"`; empty where all is, or is not said."""
        for name in (f.name for f in fields(StoreMeta)):
            there, other = getattr(self, name), getattr(wanted, name)
            if there != other and (there or name not in ("classes", "colours")):
                return f"{name} {there!r}, not {other!r}"
        return ""


def ids_checksum(ids: Sequence[str]) -> str:
    """SHA-256 of ids, one per line."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def encode_meta(meta: StoreMeta, ids: Sequence[str] | None) -> bytes:
    """Value of `META_KEY`; `ids` of all locations, or `None` until the store is finished."""
    totals = {} if ids is None else {"num_locations": len(ids), "ids_sha256": ids_checksum(ids)}
    return json.dumps({"format": FORMAT_VERSION, **asdict(meta), **totals}).encode()


def decode_meta(value: bytes | memoryview | None, path: Path) -> tuple[StoreMeta, dict[str, Any]]:
    """Description of the store at `path`, and all entries of its `META_KEY`.

    Raises:
        StoreError: There is none, it is not a store's, or it is of a newer format.
    """
    where = f"{path}: {META_KEY.decode()}"
    entries = load_json(bytes(value or b""), where)
    try:
        told = UNSAID | entries
        return StoreMeta(**{f.name: told[f.name] for f in fields(StoreMeta)}), entries
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where} is not a store's ({error!r}); write it again") from error


def totals_of(described: Mapping[str, Any], path: Path) -> tuple[int, str]:
    """Number of locations and checksum of the ids, which a finished store has among the entries of its `META_KEY`.

    Raises:
        StoreError: They are not there, or of another kind.
    """
    count, checksum = described.get("num_locations"), described.get("ids_sha256")
    if type(count) is not int or not 0 < count <= MAX_LOCATIONS or not isinstance(checksum, str):
        told = f"num_locations {count!r:.40} and ids_sha256 {checksum!r:.80}"
        raise StoreError(f"{path}: {META_KEY.decode()}: {told} are not those of a finished store; write it again")
    return count, checksum


def load_json(raw: bytes, where: str) -> dict[str, Any]:
    """Entries of JSON of a format that can be read here.

    Raises:
        StoreError: It is not such JSON; the line begins with `where`.
    """
    try:
        entries = json.loads(raw)
        version = int(entries["format"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise StoreError(f"{where}: not the JSON of a store; copy or write the store again") from None
    if version > FORMAT_VERSION:
        raise StoreError(f"{where}: format {version}, but this version reads up to {FORMAT_VERSION}; update cromss")
    return entries
