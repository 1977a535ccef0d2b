"""Hostile weights files: code inside, other objects inside, bombs, broken containers and broken headers."""

import argparse
import collections
import datetime
import enum
import io
import json
import os
import pickle
import struct
import zipfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from foreign import Attack, encoder, mid
from hostile import Case
from safetensors.torch import save

from cromss.models.weights import inspect, load_encoder


class Colour(enum.Enum):
    """Stands for any class of a training script."""

    RED = 1


@cache
def network():
    return encoder()


def load(path):
    """As a training loads an encoder."""
    load_encoder(network(), path)


def opened(path):
    """As `weights.py inspect` opens a file."""
    inspect(path)


@cache
def saved(zipped=True) -> bytes:
    """A published checkpoint."""
    file = io.BytesIO()
    torch.save(mid(), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@cache
def tensors() -> bytes:
    """Plain tensors as `.safetensors`."""
    return save({"conv1.weight": torch.ones(64, 13, 7, 7), "bn1.weight": torch.ones(64)})


def put(content, folder, name="w.ckpt"):
    (folder / name).write_bytes(content() if callable(content) else content)
    return folder / name


def holding(content, folder, zipped=True):
    content = content(folder) if callable(content) else content
    torch.save(content, folder / "w.ckpt", _use_new_zipfile_serialization=zipped)
    return folder / "w.ckpt"


def changed(change, folder):
    """Tensors that fit the network but for one."""
    state = {name: torch.ones_like(tensor) for name, tensor in network().state_dict().items()}
    change(state)
    torch.save(state, folder / "w.ckpt")
    return folder / "w.ckpt"


def resealed(change, folder):
    """A checkpoint whose zip has other members: name -> content -> content, or `None` to leave it out."""
    with zipfile.ZipFile(io.BytesIO(saved())) as there, zipfile.ZipFile(folder / "w.ckpt", "w") as new:
        for name in there.namelist():
            if (content := change(name.partition("/")[2], there.read(name))) is not None:
                new.writestr(name, content)
    return folder / "w.ckpt"


def bomb(folder):
    """A zip of 40 KB whose pickle is of 40 MB."""
    with zipfile.ZipFile(folder / "w.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", b"\x80\x02" + b"N0" * 20_000_000 + b".")
        file.writestr("w/version", "3")
    return folder / "w.ckpt"


def sealed(header, body=b"", size=None):
    """A `.safetensors` file of this header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + body


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}}


def fill(name, value):
    def change(state):
        state[name] = value(state[name])

    return change


HELD = {
    "code": lambda folder: Attack(folder / "ran"),
    "code in settings": lambda folder: mid() | {"hyper_parameters": argparse.Namespace(x=Attack(folder / "ran"))},
    "code in a key": lambda folder: {"state_dict": {}, "callbacks": {"a": Attack(folder / "ran")}},
    "namespace": argparse.Namespace(a=1),
    "path": {"state_dict": {"a": torch.ones(2)}, "path": Path("a")},
    "array": {"state_dict": {"a": np.ones(2)}},
    "array beside": {"state_dict": {"a": torch.ones(2)}, "mean": np.ones(2)},
    "scalar": {"state_dict": {"a": torch.ones(2)}, "lr": np.float64(0.1)},
    "enum": {"state_dict": {"a": torch.ones(2)}, "colour": Colour.RED},
    "date": {"state_dict": {"a": torch.ones(2)}, "date": datetime.date(2020, 1, 1)},
    "defaultdict": {"state_dict": {"a": torch.ones(2)}, "d": collections.defaultdict(list)},
    "module": lambda folder: torch.nn.Linear(2, 2),
    "function": {"state_dict": {"a": torch.ones(2)}, "f": os.path.join},
    "nothing": None,
    "number": 3,
    "list": [torch.ones(2)],
    "empty": {},
    "numbers as names": {1: torch.ones(2)},
    "texts": {"state_dict": {"a": "b"}},
    "complex": {"state_dict": {"a": torch.ones(2, dtype=torch.complex64)}},
    "sparse": {"state_dict": {"a": torch.eye(2).to_sparse()}},
    "nested": {"state_dict": {"state_dict": {"a": torch.ones(2)}}},
}

FITTING = {
    "wrong shape": fill("conv1.weight", lambda t: t[:, :5]),
    "one missing": lambda state: state.pop("layer3.0.conv1.weight"),
    "one more": lambda state: state.update({"layer3.0.other": torch.ones(1)}),
    "transposed": fill("layer1.0.conv1.weight", lambda t: t[:32]),
    "scalar": fill("layer1.0.conv1.weight", lambda t: torch.ones(())),
    "not a number": fill("layer1.0.conv1.weight", lambda t: t * torch.nan),
    "infinite": fill("bn1.running_var", lambda t: t * torch.inf),
    "integers": fill("layer1.0.conv1.weight", lambda t: t.int()),
    "claimed shape": fill("conv1.weight", lambda t: torch.ones(1).expand(64, 2**20, 7, 7)),
    "no dimension": fill("conv1.weight", lambda t: torch.ones(())),
    "no channel": fill("conv1.weight", lambda t: torch.ones(64, 0, 7, 7)),
    "complex": fill("layer1.0.conv1.weight", lambda t: t.to(torch.complex64)),
    "sparse": fill("layer1.0.conv1.weight", lambda t: t.to_sparse()),
}

SEALS = {
    "no pickle": lambda name, content: None if name == "data.pkl" else content,
    "empty pickle": lambda name, content: b"" if name == "data.pkl" else content,
    "cut pickle": lambda name, content: content[: len(content) // 2] if name == "data.pkl" else content,
    "no data": lambda name, content: None if name.startswith("data/") else content,
    "other pickle": lambda name, content: pickle.dumps([1]) if name == "data.pkl" else content,
    "code in the pickle": lambda name, content: b"cos\nsystem\n(S'true'\ntR." if name == "data.pkl" else content,
    "script": lambda name, content: b"cbuiltins\neval\n(S'1'\ntR." if name == "data.pkl" else content,
    "big memo": lambda name, content: b"\x80\x02Nr\xff\xff\xff\x7f." if name == "data.pkl" else content,
    "long integer": lambda name, content: b"\x80\x02\x8b\xff\xff\xff\x7f" if name == "data.pkl" else content,
    "long text": lambda name, content: b"\x80\x02X\xff\xff\xff\x7f" if name == "data.pkl" else content,
    "version": lambda name, content: b"99999999999999999999" if name == "version" else content,
}

HEADERS = {
    "empty": b"",
    "7 bytes": bytes(7),
    "no header": bytes(8),
    "endless header": sealed(b"{}", size=2**63),
    "header beyond": sealed(b"{}", size=100),
    "no JSON": sealed(b"not a header"),
    "binary": sealed(b"\xff\xfe\x00"),
    "list": sealed([]),
    "deep": sealed(b'{"a":' * 50_000),
    "no offsets": sealed({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "beyond": sealed(entry(end=800, shape=(200,)), bytes(8)),
    "backwards": sealed(entry(begin=8, end=0), bytes(8)),
    "negative": sealed(entry(begin=-8), bytes(8)),
    "hole": sealed(entry(begin=8, end=16), bytes(16)),
    "shape": sealed(entry(shape=(3,)), bytes(8)),
    "shape wraps": sealed(entry(shape=(2**32, 2**32, 2)), bytes(8)),
    "shape text": sealed(entry(shape="ab"), bytes(8)),
    "dtype": sealed(entry(dtype="O"), bytes(8)),
    "no tensors": sealed({}),
    "metadata number": sealed({"__metadata__": {"cromss": 3}} | entry(), bytes(8)),
    "card no JSON": sealed({"__metadata__": {"cromss": "{"}} | entry(), bytes(8)),
    "card deep": sealed({"__metadata__": {"cromss": "[" * 10**5}} | entry(), bytes(8)),
    "same twice": sealed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32"', bytes(8)),
    "more behind": sealed(entry(), bytes(9)),
}

OTHERS = {
    "empty": b"",
    "text": b"weights\n" * 100,
    "zeros": bytes(10_000),
    "noise": np.random.default_rng(0).bytes(10_000),
    "json": b'{"state_dict": {}}',
    "html": b"<!DOCTYPE html><html>Not Found</html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n",
    "tar": b"data".ljust(257, b"\0") + b"ustar\0",
    "zip of nothing": b"PK\x05\x06" + bytes(18),
    "pickled code": pickle.dumps(Attack(Path("/dev/null"))),
    "pickled list": pickle.dumps([1, 2]),
    "pickle without end": b"\x80\x02" + b"(" * 100_000,
    "old magic": pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    + pickle.dumps(1001, 2)
    + pickle.dumps({}, 2)
    + b"cos\nsystem\n.",
}


def odd(kind, folder):
    path = folder / "w.ckpt"
    match kind:
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to(folder / "nothing")
        case "link to itself":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
    return path


CUTS = (0.001, 0.1, 0.5, 0.9, 0.99, 0.9999)


def _cases():
    for name, content in HELD.items():
        for zipped in (True, False):
            yield f"holds {name}{'' if zipped else ', old'}", Case(partial(holding, content, zipped=zipped), opened)
    for name, change in FITTING.items():
        yield f"tensors: {name}", Case(partial(changed, change), load)
    for name, change in SEALS.items():
        yield f"zip: {name}", Case(partial(resealed, change), load, apart=True)
    for name, content in HEADERS.items():
        yield f"safetensors: {name}", Case(partial(put, content, name="w.safetensors"), load, apart=True)
    for name, content in OTHERS.items():
        yield f"no weights: {name}", Case(partial(put, content), opened, apart=True)
        yield f"no safetensors: {name}", Case(partial(put, content, name="w.safetensors"), opened, apart=True)
    for share in CUTS:
        for zipped in (True, False):
            content = lambda share=share, zipped=zipped: saved(zipped)[: int(len(saved(zipped)) * share)]  # noqa: E731
            yield f"cut {share}{'' if zipped else ', old'}", Case(partial(put, content), load, apart=True)
        content = lambda share=share: tensors()[: int(len(tensors()) * share)]  # noqa: E731
        yield f"safetensors cut {share}", Case(partial(put, content, name="w.safetensors"), load, apart=True)
    for kind in ("missing", "folder", "link to nothing", "link to itself", "pipe"):
        yield f"place: {kind}", Case(partial(odd, kind), load)
    yield "zip bomb", Case(bomb, opened, apart=True)


CASES = dict(_cases())
