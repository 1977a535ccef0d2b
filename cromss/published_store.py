"""Reads the published layout of SSL4EO-S12@NoL in place, without ever unpickling; `open_store` picks the layout.

The layout is an LMDB folder with keys `str(index)`; a value is the pickle of `(bytes, shape, id)`, all seasons of a
location in one uint8 array, `(4, C, 264, 264)` or, for labels, `(4, 264, 264)`. Unpickling runs whatever code a file
names, so a small machine here executes the few opcodes such a value needs (protocols 2 to 5) and can build nothing
but bytes, text, integers and tuples of them. Pixels are not copied on the way: a season is sliced from the LMDB page.
"""

import math
import os
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from pickletools import code2op

import lmdb
import numpy as np

from cromss.store import (
    DATA_NAME,
    MANIFEST_NAME,
    META_KEY,
    LmdbReader,
    StoreError,
    StoreMeta,
    check_position,
    open_environment,
)

MAX_VALUE, MAX_OPCODES, MAX_TUPLE, MAX_ID = 1 << 30, 512, 16, 256
"""Limits of one value: its bytes, its opcodes (and so stack and memo), items of a tuple, characters of an id."""


class PublishedReader:
    """Reads a published LMDB; the interface of `LmdbReader`, and as safe in workers.

    Locations are the numeric keys in increasing order, so an index is the key wherever the keys have no holes.

    Args:
        path: Folder of the LMDB.
        modality: `"s1"`, `"s2"` or `"labels"`; for `None` told from the first record's shape.

    Attributes:
        meta: What is known about the values; the layout does not name its bands, so `bands` is empty.
        num_seasons: Seasons of each location.
        bytes_read: Bytes of pixels read so far by this reader.

    Raises:
        StoreError: No such LMDB, truncated, of another layout, or of another modality.
    """

    def __init__(self, path: str | Path, modality: str | None = None):
        self.path = Path(path)
        self.bytes_read = 0
        self._folder = os.path.realpath(path)
        if not (self.path / DATA_NAME).is_file():
            raise StoreError(f"{path}: no {DATA_NAME} in it; a published store is a folder that holds one")
        self._keys = _numeric_keys(open_environment(self._folder, fresh=True), self.path)
        with open_environment(self._folder).begin(buffers=True) as txn:
            shape = self._parse(txn, 0)[0].shape
        found = "labels" if len(shape) == 3 else "s1" if shape[1] == 2 else "s2"
        if modality in ("s1", "s2", "labels") and modality != found:
            raise StoreError(f"{path}: records of shape {shape} are {found!r}, but {modality!r} is wanted")
        self._leading, self.num_seasons = shape[:-2], shape[0]
        self.meta = _published_meta(modality or found, shape)

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, index: int, season: int) -> np.ndarray:
        """One season of a location, `(C, H, W)` or `(H, W)` uint8: a writable copy of its own.

        Raises:
            IndexError: No such location or season.
            StoreError: The record is not a published one, or damaged.
        """
        season = check_position(self.path, "season", season, self.num_seasons)
        with open_environment(self._folder).begin(buffers=True) as txn:
            return self._owned(self._array(txn, index)[season])

    def read_seasons(self, index: int) -> np.ndarray:
        """All seasons of a location, `(T, C, H, W)` or `(T, H, W)` uint8; errors as `read`."""
        with open_environment(self._folder).begin(buffers=True) as txn:
            return self._owned(self._array(txn, index))

    def location_id(self, index: int) -> str:
        """Id of a location; a number becomes the seven digits of SSL4EO-S12. Errors as `read`."""
        index = check_position(self.path, "location", index, len(self))
        with open_environment(self._folder).begin(buffers=True) as txn:
            return self._parse(txn, index)[1]

    def location_ids(self) -> list[str]:
        """Ids of all locations, in order; touches the first and last page of every record."""
        return [self.location_id(index) for index in range(len(self))]

    def _array(self, txn: lmdb.Transaction, index: int) -> np.ndarray:
        index = check_position(self.path, "location", index, len(self))
        array, _ = self._parse(txn, index)
        if array.shape[:-2] != self._leading:
            where = f"{self.path}: key {self._keys[index]}"
            raise StoreError(f"{where}: shape {array.shape}, expected {(*self._leading, 'H', 'W')}")
        return array

    def _parse(self, txn: lmdb.Transaction, index: int) -> tuple[np.ndarray, str]:
        key = str(self._keys[index])
        try:
            value = txn.get(key.encode())
            if value is None:
                raise StoreError("the record is missing")
            return parse_record(value)
        except (StoreError, lmdb.Error) as error:
            raise StoreError(f"{self.path}: key {key}: {error}") from None

    def _owned(self, view: np.ndarray) -> np.ndarray:
        self.bytes_read += view.nbytes
        return view.copy()


def open_store(path: str | Path, modality: str | None = None) -> LmdbReader | PublishedReader:
    """Open a store of either layout, told apart by what the environment holds.

    Args:
        path: Folder of the store.
        modality: Refuse a store of another modality.

    Raises:
        StoreError: As the reader of that layout.
    """
    folder = Path(path)
    if (folder / DATA_NAME).is_file() and not (folder / MANIFEST_NAME).exists():
        with open_environment(os.path.realpath(path), fresh=True).begin() as txn:
            published = txn.get(META_KEY) is None and txn.stat()["entries"] > 0
        if published:
            return PublishedReader(path, modality)
    return LmdbReader(path, modality)


def parse_record(value: bytes | memoryview) -> tuple[np.ndarray, str]:
    """Array (a read-only view of `value`) and id of a published value.

    Raises:
        StoreError: Anything but a pickled `(bytes, shape, id)` that fits together.
    """
    if len(value) > MAX_VALUE:
        raise StoreError(f"{len(value)} bytes; a published record has at most {MAX_VALUE}")
    record = _Machine(memoryview(value).toreadonly()).run()
    if not isinstance(record, tuple) or len(record) != 3:
        raise StoreError("not a tuple (bytes, shape, id)")
    payload, shape, location_id = record
    if not isinstance(payload, bytes | memoryview) or not isinstance(shape, tuple):
        raise StoreError("not a tuple (bytes, shape, id)")
    if len(shape) not in (3, 4) or not all(type(size) is int and size > 0 for size in shape):
        raise StoreError("the shape is not (T, C, H, W) or (T, H, W) of positive integers")
    if math.prod(shape) != len(payload):
        raise StoreError(f"shape {shape} takes {math.prod(shape)} bytes, the record has {len(payload)}")
    return np.frombuffer(payload, np.uint8).reshape(shape), _location_id(location_id)


def _location_id(value: object) -> str:
    if type(value) is int:
        return f"{value:07d}"
    if isinstance(value, str) and 0 < len(value) <= MAX_ID:
        return value
    raise StoreError(f"the id is neither an integer nor text of 1 to {MAX_ID} characters")


def _numeric_keys(env: lmdb.Environment, path: Path) -> range | list[int]:
    try:
        with env.begin() as txn, txn.cursor() as cursor:
            keys = [bytes(key) for key in cursor.iternext(keys=True, values=False)]
    except lmdb.Error as error:
        raise StoreError(f"{path}: the keys cannot be read ({error}); copy it again") from error
    numbers = sorted(int(key) for key in keys if key.isdigit() and len(key) < 19 and (key == b"0" or key[:1] != b"0"))
    if not numbers:
        shown = ", ".join(repr(key[:32].decode(errors="replace")) for key in keys[:3]) or "none at all"
        raise StoreError(f"{path}: neither a store of ours nor a published one; its keys are {shown}")
    return range(len(numbers)) if numbers[-1] == len(numbers) - 1 else numbers


def _published_meta(modality: str, shape: tuple[int, ...]) -> StoreMeta:
    labels = len(shape) == 3
    return StoreMeta(
        modality=modality,
        bands=(),
        dtype="uint8",
        num_seasons=shape[0],
        unit="class id" if labels else "uint8 of mean +- 2 std",
        legend="NoL" if labels else "",
        source="SSL4EO-S12@NoL, published layout",
    )


class _Function(Enum):
    """The functions a record may name: recognised by name, never imported, never called."""

    ENCODE = "bytes of latin-1 text (protocol 2)"
    DTYPE = "a NumPy dtype"
    SCALAR = "a NumPy scalar of a dtype and bytes"


_FUNCTIONS = {
    ("_codecs", "encode"): _Function.ENCODE,
    ("numpy", "dtype"): _Function.DTYPE,
    ("numpy.core.multiarray", "scalar"): _Function.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Function.SCALAR,
}


@dataclass
class _IntegerType:
    """A NumPy integer dtype; a record states its byte order last."""

    size: int
    signed: bool
    order: str = "little"


_INTEGER_TYPES = {f"{kind}{size}": (size, kind == "i") for kind in "iu" for size in (1, 2, 4, 8)}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_INTEGERS = {"BININT1": (1, False), "BININT2": (2, False), "BININT": (4, True)}
_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}
_TEXTS = {"SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_PUTS = {"BINPUT": 1, "LONG_BINPUT": 4}
_MEMO_GETS = {"BINGET": 1, "LONG_BINGET": 4}
_NAMES = {ord(code): opcode.name for code, opcode in code2op.items()}


class _Machine:
    """Executes the opcodes of one value; what it builds is bounded by the value's own size, never by claimed sizes."""

    def __init__(self, value: memoryview):
        self.value, self.position, self.encoded = value, 0, 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """The object that the value describes, with byte strings as views.

        Raises:
            StoreError: Names the opcode and its place.
        """
        for executed in count():
            start, name = self.position, "STOP"
            try:
                code = self.take(1)[0]
                name = _NAMES.get(code, f"{code:#04x}")
                if executed >= MAX_OPCODES:
                    raise StoreError(f"more than {MAX_OPCODES} opcodes")
                if name == "STOP":
                    return self.result()
                self.step(name)
            except (StoreError, IndexError, KeyError, UnicodeError) as error:
                reason = error if isinstance(error, StoreError) else "works on what is not there or is no text"
                raise StoreError(f"opcode {name} at byte {start}: {reason}") from None

    def result(self) -> object:
        if len(self.stack) != 1 or self.position != len(self.value):
            raise StoreError(f"leaves {len(self.stack)} objects and {len(self.value) - self.position} bytes")
        return self.stack.pop()

    def step(self, name: str) -> None:
        """Execute the opcodes that hold values; `step_structure` has the rest."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _INTEGERS:
            self.stack.append(self.integer(*_INTEGERS[name]))
        elif name == "LONG1":
            self.stack.append(self.integer(self.bounded(self.integer(1), 8), signed=True))
        elif name in _BYTES:
            self.stack.append(self.take(self.integer(_BYTES[name])))
        elif name in _TEXTS:
            self.stack.append(str(self.take(self.integer(_TEXTS[name])), "utf-8"))
        elif name in _MEMO_PUTS:
            self.memo[self.integer(_MEMO_PUTS[name])] = self.stack[-1]
        elif name in _MEMO_GETS:
            self.stack.append(self.memo[self.integer(_MEMO_GETS[name])])
        elif name in _TUPLES:
            self.push_tuple(len(self.stack) - _TUPLES[name])
        else:
            self.step_structure(name)

    def step_structure(self, name: str) -> None:
        match name:
            case "PROTO":
                self.bounded(self.integer(1), 5)
            case "FRAME":
                self.take(8)
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                self.push_tuple(self.marks.pop())
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GLOBAL":
                self.push_function(self.line(), self.line())
            case "STACK_GLOBAL":
                function, module = self.stack.pop(), self.stack.pop()
                self.push_function(module, function)
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(self.applied(function, arguments))
            case "BUILD":
                self.set_byte_order(self.stack.pop(), self.stack[-1])
            case _:
                raise StoreError("not allowed; a published record is bytes, a shape and an id")

    def take(self, size: int) -> memoryview:
        """View of the next `size` bytes."""
        left = len(self.value) - self.position
        if size > left:
            raise StoreError(f"wants {size} bytes of the {left} left; the record is truncated or damaged")
        self.position += size
        return self.value[self.position - size : self.position]

    def integer(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def bounded(self, value: int, most: int) -> int:
        if value > most:
            raise StoreError(f"{value} is more than {most}")
        return value

    def line(self) -> str:
        text, newline, _ = bytes(self.value[self.position : self.position + 64]).partition(b"\n")
        self.take(len(text) + len(newline))
        return text.decode("ascii")

    def push_tuple(self, start: int) -> None:
        """Replace the stack from `start` on by a tuple; tuples are short and at most two deep."""
        if start < 0:
            raise IndexError
        items = tuple(self.stack[start:])
        self.bounded(len(items), MAX_TUPLE)
        if any(isinstance(inner, tuple) for item in items if isinstance(item, tuple) for inner in item):
            raise StoreError("tuples nested too deep")
        self.stack[start:] = [items]

    def push_function(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise StoreError("names a function by something else than text")
        if (module, name) not in _FUNCTIONS:
            raise StoreError(f"names {module[:40]!r} {name[:40]!r}, which is not allowed and was not run")
        self.stack.append(_FUNCTIONS[module, name])

    def applied(self, function: object, arguments: object) -> object:
        """What one of the known functions would return for these arguments."""
        match function, arguments:
            case _Function.ENCODE, (str(text), "latin1"):
                self.encoded += len(text)
                self.bounded(self.encoded, len(self.value))
                return text.encode("latin-1")
            case _Function.DTYPE, (str(code), *_) if code in _INTEGER_TYPES:
                return _IntegerType(*_INTEGER_TYPES[code])
            case _Function.SCALAR, (_IntegerType() as kind, bytes() | memoryview() as raw) if len(raw) == kind.size:
                return int.from_bytes(raw, kind.order, signed=kind.signed)
        raise StoreError("not allowed; only NumPy integers and latin-1 bytes are made from parts")

    def set_byte_order(self, state: object, kind: object) -> None:
        match kind, state:
            case _IntegerType(), (int(), "<" | ">" | "|" as order, *_):
                kind.order = "big" if order == ">" else "little"
            case _:
                raise StoreError("not allowed; only the byte order of a NumPy integer is set")
