"""Reads a pickled `(bytes, shape, id)`, or one without id, and never unpickles it.

Unpickling runs whatever code a file names. So a small machine here executes the few opcodes that such a value needs
(protocols 2 to 5), and can build nothing but bytes, text, integers, and tuples of them. Pixels are not copied on the
way: they stay a view of the value.
"""

import math
from dataclasses import dataclass
from enum import Enum
from pickletools import code2op

import numpy as np

from cromss.store.meta import StoreError

MAX_VALUE, MAX_OPCODES, MAX_TUPLE, MAX_ID = 1 << 30, 512, 16, 256
"""Limits of one value: its bytes, its opcodes (and so stack and memo), items of a tuple, characters of an id."""


@dataclass(frozen=True)
class RecordForm:
    """What the records of a published layout hold.

    Attributes:
        dtypes: NumPy names of the types that values can have, little-endian; a record does not name its own, its
            bytes a value tell which it is.
        dimensions: Numbers of dimensions that a shape can have.
        id_optional: Records may be without id.
    """

    dtypes: tuple[str, ...] = ("uint8",)
    dimensions: tuple[int, ...] = (3, 4)
    id_optional: bool = False


def parse_record(value: bytes | memoryview, form: RecordForm) -> tuple[np.ndarray, str | None]:
    """Array (a read-only view of `value`) and id of a published value; `None` where it has no id.

    Raises:
        StoreError: Anything but a pickled `(bytes, shape, id)`, or `(bytes, shape)`, of this form.
    """
    _bounded("record size", len(value), MAX_VALUE)
    match _Machine(memoryview(value).toreadonly()).run():
        case (bytes() | memoryview() as payload, tuple() as shape, location_id):
            return _array(payload, shape, form), _location_id(location_id)
        case (bytes() | memoryview() as payload, tuple() as shape) if form.id_optional:
            return _array(payload, shape, form), None
    raise StoreError(f"not a tuple (bytes, shape, id){' or (bytes, shape)' if form.id_optional else ''}")


def _array(payload: bytes | memoryview, shape: tuple, form: RecordForm) -> np.ndarray:
    if len(shape) not in form.dimensions or not all(type(size) is int and size > 0 for size in shape):
        raise StoreError(f"the shape is not {' or '.join(map(str, form.dimensions))} positive integers")
    count = math.prod(shape)
    for dtype in map(np.dtype, form.dtypes):
        if count * dtype.itemsize == len(payload):
            return np.frombuffer(payload, dtype.newbyteorder("<")).reshape(shape)
    sizes = " or ".join(f"{count * np.dtype(name).itemsize} bytes of {name}" for name in form.dtypes)
    raise StoreError(f"shape {shape} takes {sizes}, the record has {len(payload)}")


def _location_id(value: object) -> str:
    if type(value) is int:
        return f"{value:07d}"
    if isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable() and not {"/", "\\"} & set(value):
        return value
    raise StoreError(f"the id is neither an integer nor text of 1 to {MAX_ID} printable characters without slashes")


def _bounded(what: str, value: int, most: int) -> int:
    if value > most:
        raise StoreError(f"{what} {value}, but at most {most} is read")
    return value


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
        for _ in range(MAX_OPCODES):
            start, name = self.position, "STOP"
            try:
                code = self.take(1)[0]
                name = _NAMES.get(code, f"{code:#04x}")
                if name == "STOP":
                    return self.result()
                self.step(name)
            except (StoreError, IndexError, KeyError, UnicodeError) as error:
                reason = error if isinstance(error, StoreError) else "works on what is not there or is no text"
                raise StoreError(f"opcode {name} at byte {start}: {reason}") from None
        raise StoreError(f"more than {MAX_OPCODES} opcodes")

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
            self.stack.append(self.integer(_bounded("integer size", self.integer(1), 8), signed=True))
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
        """Execute the opcodes that frame, group and combine values, and refuse all others."""
        match name:
            case "PROTO":
                _bounded("protocol", self.integer(1), 5)
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

    def line(self) -> str:
        text, newline, _ = bytes(self.value[self.position : self.position + 64]).partition(b"\n")
        self.take(len(text) + len(newline))
        return text.decode("ascii")

    def push_tuple(self, start: int) -> None:
        """Replace the stack from `start` on by a tuple; tuples are short and at most two deep."""
        if start < 0:
            raise IndexError
        items = tuple(self.stack[start:])
        _bounded("tuple size", len(items), MAX_TUPLE)
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
                _bounded("text size", self.encoded, len(self.value))
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
