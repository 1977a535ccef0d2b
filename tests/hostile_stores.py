"""Hostile stores: ours and the published layouts, damaged or made to harm."""

import builtins
import json
import os
import pickle
import struct
import tempfile
import zlib
from functools import cache, partial
from pathlib import Path

import lmdb
import numpy as np
from hostile import Case
from published_lmdb import Evil, record
from stores import META

from cromss.store import LmdbWriter, open_part, open_store
from cromss.store.record import HEADER_SIZE, pack_record

SEASONS, SHAPE = 4, (2, 40, 40)
PUBLISHED = (2, 2, 40, 40)
DEEP = b'{"format": ' + b"[" * 100_000


@cache
def sound() -> tuple[bytes, bytes]:
    """`data.mdb` and the manifest of a small store of ours; values have pages of their own."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s1.lmdb"
        with LmdbWriter(path, META) as writer:
            for index in range(3):
                writer.write(f"{index:07d}", list(rng.integers(0, 256, (SEASONS, *SHAPE), np.uint8)))
            writer.finish()
        return (path / "data.mdb").read_bytes(), (path / "manifest.json").read_bytes()


@cache
def published() -> bytes:
    """`data.mdb` of the published layout."""
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), {str(i).encode(): record(bytes(6400), PUBLISHED, f"{i:07d}") for i in range(3)})
        return (Path(folder) / "data.mdb").read_bytes()


def put(path, entries, **options):
    with lmdb.open(str(path), lock=False, sync=False, map_size=1 << 28, max_dbs=2) as env:
        database = env.open_db(options.pop("key"), **options) if options else None
        with env.begin(write=True, db=database) as txn:
            for key, value in entries.items():
                txn.delete(key) if value is None else txn.put(key, value)
    return path


def files(folder, data=None, manifest=None, name="s1.lmdb"):
    """A store of these files; `None` leaves one out."""
    path = folder / name
    path.mkdir()
    for file, content in (("data.mdb", data), ("manifest.json", manifest)):
        if content is not None:
            (path / file).write_bytes(content)
    return path


def ours(folder, data=None, manifest=None):
    """Our store, with another file in it."""
    return files(folder, *(there if new is None else new for there, new in zip(sound(), (data, manifest))))


def changed(folder, key, value):
    """Our store, with another value under a key."""
    return put(ours(folder), {key: value})


def described(folder, **entries):
    """Our store, with other entries in what it says of itself; both copies agree."""
    manifest = json.loads(sound()[1])
    meta = {key: value for key, value in (manifest["meta"] | entries).items() if value is not ...}
    path = ours(folder, manifest=json.dumps(manifest | {"meta": meta}).encode())
    return put(path, {b"__meta__": json.dumps(meta).encode()})


def excluded(folder, **entries):
    told = {"format": 1, "reasons": {"0": "bad"}, "dropped": [], "num_missing": 0} | entries
    return changed(folder, b"__excluded__", json.dumps(told).encode())


def header(place, layout, *values, payload=bytes(3200)):
    """A record with other values in its header, whose checksum is right."""
    raw = bytearray(pack_record("0000000", np.zeros(SHAPE, np.uint8))[:HEADER_SIZE] + payload)
    struct.pack_into("<I", raw, 8, zlib.crc32(payload))
    struct.pack_into(layout, raw, place, *values)
    struct.pack_into("<I", raw, 4, zlib.crc32(raw[8:HEADER_SIZE]))
    return bytes(raw)


def read_ours(path):
    """As a training reads it, every record."""
    store = open_store(path, "s1")
    store.location_ids()
    for index in range(len(store)):
        store.location_id(index)
        store.read(index, 0)
        store.read_seasons(index)


def read_part(path):
    """As a transfer reads a part of its set."""
    for modality in ("s1", "labels"):
        reader = open_part(path, modality, "dw")
        for index in range(len(reader)):
            reader.read_seasons(index)


JSONS = {
    "empty": b"",
    "zeros": bytes(100),
    "binary": b"\xff\xfe\x00\x81",
    "text": b"a store",
    "list": b"[1]",
    "number": b"1",
    "nothing": b"null",
    "deep": DEEP,
    "long number": b'{"format": ' + b"9" * 5000 + b"}",
    "infinite": b'{"format": 1e999}',
    "nan": b'{"format": NaN}',
    "newer": b'{"format": 99}',
    "without format": b"{}",
    "cut": b'{"format": 1, "meta": {"mod',
    "format list": b'{"format": [1]}',
    "code": pickle.dumps(Evil(os.system, "true")),
}

METAS = {
    "modality list": {"modality": ["s1"]},
    "modality none": {"modality": None},
    "other modality": {"modality": "s2"},
    "bands number": {"bands": 2},
    "bands missing": {"bands": ...},
    "one band": {"bands": ["VV"]},
    "dtype object": {"dtype": "O"},
    "dtype list": {"dtype": ["uint8"]},
    "dtype other": {"dtype": "float64"},
    "seasons text": {"num_seasons": "4"},
    "seasons zero": {"num_seasons": 0},
    "seasons huge": {"num_seasons": 10**12},
    "seasons endless": {"num_seasons": 10**30},
    "seasons fraction": {"num_seasons": 3.5},
    "seasons infinite": {"num_seasons": float("inf")},
    "statistics list": {"statistics": [1]},
    "statistics text": {"statistics": {"mean": "ab"}},
    "statistics deep": {"statistics": {"mean": [[1]]}},
    "classes without colours": {"classes": ["a"]},
    "colours number": {"classes": ["a"], "colours": [3]},
    "compression": {"compression": "lzma"},
    "compression list": {"compression": ["deflate"]},
    "locations missing": {"num_locations": ...},
    "locations negative": {"num_locations": -1},
    "locations text": {"num_locations": "3"},
    "locations endless": {"num_locations": 10**30},
    "locations more": {"num_locations": 4},
    "locations none": {"num_locations": None},
    "ids missing": {"ids_sha256": ...},
    "ids other": {"ids_sha256": "0" * 64},
    "ids number": {"ids_sha256": 3},
}

EXCLUSIONS = {
    "reasons list": {"reasons": ["0"]},
    "reasons empty": {"reasons": {}},
    "reasons text": {"reasons": {"a": "b"}},
    "beyond": {"reasons": {"7": "b"}},
    "negative": {"reasons": {"-1": "b"}},
    "dropped others": {"dropped": [2]},
    "dropped text": {"dropped": "ab"},
    "missing text": {"num_missing": "many"},
    "missing infinite": {"num_missing": float("inf")},
    "missing wrong": {"num_missing": 5},
}

RECORDS = {
    "gone": None,
    "empty": b"",
    "short": bytes(50),
    "header alone": pack_record("0000000", np.zeros(SHAPE, np.uint8))[:HEADER_SIZE],
    "one byte less": pack_record("0000000", np.zeros(SHAPE, np.uint8))[:-1],
    "one byte more": pack_record("0000000", np.zeros(SHAPE, np.uint8)) + b"\0",
    "pickled code": pickle.dumps(Evil(os.system, "true")),
    "pickled record": record(bytes(3200), (1, *SHAPE)),
    "magic": b"CSLX" + pack_record("0000000", np.zeros(SHAPE, np.uint8))[4:],
    "form 3": header(12, "B", 3),
    "form 0": header(12, "B", 0),
    "dtype code": header(13, "B", 200),
    "other dtype": header(12, "<BBBB4I", 1, 1, 3, 7, *SHAPE, 0),
    "5 dimensions": header(14, "B", 5),
    "no dimension": header(14, "B", 0),
    "one dimension": header(14, "<BB4I", 1, 7, 3200, 0, 0, 0),
    "two dimensions": header(14, "<BB4I", 2, 7, 80, 40, 0, 0),
    "four dimensions": header(14, "<BB4I", 4, 7, 1, *SHAPE),
    "other bands": header(14, "<BB4I", 3, 7, 4, 20, 40, 0),
    "shape bomb": header(16, "<4I", *[2**32 - 1] * 3, 0),
    "shape wraps": header(14, "<BB4I", 4, 7, 2**31, 2**31, 4, 3200),
    "other size": header(14, "<BB4I", 3, 7, 2, 20, 80, 0),
    "no pixels": header(14, "<BB4I", 3, 7, 2, 0, 40, 0, payload=b""),
    "zero shape": header(16, "<4I", 0, 0, 0, 0, payload=b""),
    "deflate bomb": header(12, "<BBBB4I", 2, 0, 3, 7, 2, 24_000, 24_000, 0, payload=bytes(1_200_000)),
    "deflated lies": header(12, "<BBBB4I", 2, 0, 3, 7, *SHAPE, 0, payload=zlib.compress(bytes(64_000_000), 9)),
    "deflated short": header(12, "<BBBB4I", 2, 0, 3, 7, *SHAPE, 0, payload=zlib.compress(bytes(3000))),
    "deflated tail": header(12, "<BBBB4I", 2, 0, 3, 7, *SHAPE, 0, payload=zlib.compress(bytes(3200)) + b"a"),
    "deflated noise": header(12, "<BBBB4I", 2, 0, 3, 7, *SHAPE, 0, payload=b"\x78\x01" + bytes(range(200))),
    "header checksum": b"CSLR" + bytes(4) + pack_record("0000000", np.zeros(SHAPE, np.uint8))[8:],
    "values checksum": pack_record("0000000", np.zeros(SHAPE, np.uint8))[:-1] + b"\1",
}

CODES = {
    "system": Evil(os.system, "true"),
    "eval": Evil(builtins.eval, "1"),
    "exec": Evil(builtins.exec, "1"),
    "import": Evil(__import__, "os"),
    "open": Evil(builtins.open, "/dev/null"),
    "array": np.zeros(3),
    "object array": np.array([{}], dtype=object),
    "path": Path("a"),
    "list": [1, 2],
    "bytearray": bytearray(3),
    "float": 1.5,
}

PICKLES = {
    **{f"{name} {protocol}": pickle.dumps(code, protocol) for name, code in CODES.items() for protocol in (0, 4)},
    **{f"{name} within": record(location_id=code) for name, code in CODES.items()},
    "empty": b"",
    "stop": b"\x80\x04.",
    "text": b"I1\n.",
    "endless frame": b"\x80\x04\x95" + b"\xff" * 8,
    "2 GB claimed": b"\x80\x04\x8e" + (2**31).to_bytes(8, "little") + b"ab.",
    "memo bomb": b"\x80\x04" + b"(" + b"r\xff\xff\xff\x7f" * 3 + b".",
    "many marks": b"\x80\x04" + b"(" * 5000 + b".",
    "many dups": b"\x80\x04)" + b"2" * 5000 + b".",
    "shape bomb": record(bytes(24), (2**31, 2**31, 2**31, 4)),
    "negative shape": record(bytes(24), (-2, -3, 2, 2)),
    "zero shape": record(b"", (0, 2, 2, 2)),
    "wide number": record(bytes(24), (2**80, 1, 1, 1)),
    "two dimensions": record(bytes(24), (4, 6)),
    "id that climbs": record(bytes(24), (2, 2, 2, 3), "../../a"),
    "id of lines": record(bytes(24), (2, 2, 2, 3), "a\nb"),
    "id too long": record(bytes(24), (2, 2, 2, 3), "a" * 10_000),
    "no id": pickle.dumps((bytes(24), (2, 2, 2, 3))),
}

KEYS = {
    "integer keys": ({struct.pack("N", i): bytes(9) for i in range(3)}, {"key": b"a", "integerkey": True}),
    "several values": ({b"0": record(bytes(16), (2, 2, 2, 2))}, {"key": b"0", "dupsort": True}),
    "another database": ({b"0": b"a"}, {"key": b"inner"}),
    "binary keys": ({bytes([i, 0, 255]): b"a" for i in range(5)}, {}),
    "longest keys": ({b"k" * 511: b"a"}, {}),
    "huge numbers": ({b"9" * 300: b"a", b"0": b"b"}, {}),
    "signs": ({b"-1": b"a", b"+1": b"b", b"\xd9\xa1": b"c"}, {}),
    "no entries": ({}, {}),
}

PARTS = {
    "no labels": {"s1_0": record(bytes(96), (2, 3, 4), "s1_a")},
    "hole": {"s1_0": record(bytes(96), (2, 3, 4), "s1_a"), "s1_2": record(bytes(96), (2, 3, 4), "s1_b")},
    "size": {"s1_0": record(bytes(97), (2, 3, 4), "s1_a")},
    "another shape": {"s1_0": record(bytes(96), (2, 3, 4), "s1_a"), "s1_1": record(bytes(48), (1, 3, 4), "s1_b")},
    "code": {"s1_0": pickle.dumps(Evil(os.system, "true"))},
    "label of 3 bands": {
        "s1_0": record(bytes(96), (2, 3, 4), "s1_a"),
        "dw_0": record(bytes(36), (3, 3, 4), "dw_a"),
    },
}


def cut(make, share, folder):
    data = sound()[0] if make is ours else published()
    end = share if isinstance(share, int) else int(len(data) * share)
    return make(folder, data[:end])


def odd(kind, folder):
    """A folder that is no store."""
    path = folder / "s1.lmdb"
    match kind:
        case "file":
            path.write_bytes(sound()[0])
        case "unfinished":
            (folder / "s1.lmdb.partial").mkdir()
        case "data folder":
            (files(folder, manifest=sound()[1]) / "data.mdb").mkdir()
        case "link to nothing":
            (files(folder, manifest=sound()[1]) / "data.mdb").symlink_to(folder / "nothing")
        case "link to itself":
            (files(folder, manifest=sound()[1]) / "data.mdb").symlink_to(path / "data.mdb")
        case "pipe":
            os.mkfifo(files(folder, manifest=sound()[1]) / "data.mdb")
        case "manifest pipe":
            os.mkfifo(files(folder, sound()[0]) / "manifest.json")
        case "manifest folder":
            (files(folder, sound()[0]) / "manifest.json").mkdir()
        case "empty folder":
            path.mkdir()
    return path


def flipped(place, value, folder):
    """Our store with other bytes at a place, most of them in pages of the tree."""
    data = bytearray(sound()[0])
    data[place : place + len(value)] = value
    return ours(folder, bytes(data))


def other_file(content, folder):
    return files(folder, content, sound()[1])


CUTS = (0, 1, 15, 100, 4095, 4096, 4097, 8191, 8192, 8193, 12_288, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
NO_LMDB = {
    "zeros": bytes(65_536),
    "text": b"this is no store\n" * 1000,
    "noise": np.random.default_rng(0).bytes(65_536),
    "ones": b"\xff" * 65_536,
    "magic alone": sound()[0][:64] + bytes(65_536),
    "page of 64 KB": sound()[0][:40] + struct.pack("<I", 1 << 16) + sound()[0][44:],
    "page of 1 byte": sound()[0][:40] + struct.pack("<I", 1) + sound()[0][44:],
}
KINDS = ("missing", "file", "unfinished", "empty folder", "data folder", "link to nothing", "link to itself", "pipe")


def _cases():
    apart = partial(Case, read=read_ours, apart=True)
    for name, content in JSONS.items():
        yield f"manifest {name}", apart(partial(ours, manifest=content))
        yield f"meta {name}", apart(partial(changed, key=b"__meta__", value=content))
    for name, entries in METAS.items():
        yield f"described {name}", apart(partial(described, **entries))
    for name, entries in EXCLUSIONS.items():
        yield f"excluded {name}", apart(partial(excluded, **entries))
    for name, value in RECORDS.items():
        yield f"record {name}", apart(partial(changed, key=b"00000001/2", value=value))
    for share in CUTS:
        yield f"ours cut {share}", apart(partial(cut, ours, share))
        yield f"published cut {share}", apart(partial(cut, files, share))
    for kind in (*KINDS, "manifest pipe", "manifest folder"):
        yield f"store {kind}", apart(partial(odd, kind))
    for name, content in NO_LMDB.items():
        yield f"no lmdb: {name}", apart(partial(other_file, content))
    for name, (entries, options) in KEYS.items():
        yield f"keys: {name}", apart(lambda folder, e=entries, o=options: put(files(folder), e, **o.copy()))
    for name, value in PICKLES.items():
        yield f"pickle {name}", apart(lambda folder, v=value: put(files(folder, published()), {b"1": v}))
    for name, entries in PARTS.items():
        raw = {key.encode(): value for key, value in entries.items()}
        yield f"part {name}", Case(lambda folder, r=raw: put(files(folder), r), read_part, apart=True)


CASES = dict(_cases())
