"""Fuzzing of what reads files from anybody: mutated records, metadata, pickled values and YAML.

    python benchmarks/fuzz.py --executions 100000 --seed 0

The readers may refuse what they read in one line of their own, and nothing else: what raises another error, takes over
a second or too much memory is written to `tests/corpus/<target>/<sha>.bin`, where the tests read it from then on.
"""

import hashlib
import json
import pickle
import random
import re
import resource
import signal
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from cromss.config import run
from cromss.legend_files import read_legend
from cromss.rule_files import read_rules
from cromss.scene_names import read_ids
from cromss.store.exclusions import decode_exclusions
from cromss.store.meta import StoreError, StoreMeta, decode_meta, encode_meta, load_json, totals_of
from cromss.store.opcodes import RecordForm, parse_record
from cromss.store.record import HEADER_SIZE, pack_record, unpack_record
from cromss.yaml_files import read_yaml

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
MOST_SECONDS, MOST_MEGABYTES = 1.0, 64
"""Time of one execution, and memory beyond the most held before."""

STORE = Path("a.lmdb")
FORMS = (RecordForm(), RecordForm(("float32", "float64"), (3,), True), RecordForm(("uint8",), (2, 3), True))


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        read: Bytes -> whatever they mean.
        seeds: Sound ones.
        seal: Makes checksums right again, so that mutations come further in.
        error: What it may raise.
        share: Mutants that it gets, beside those of others; YAML is slow to read.
    """

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    seal: Callable[[bytes], bytes] = bytes
    error: type[ValueError] = StoreError
    share: int = 4


@dataclass(frozen=True)
class Fuzz:
    """Mutate, read, and keep what the readers do not stand."""

    executions: int = 100_000
    """Mutants, spread over the targets."""
    seed: int = 0
    """Seed of the mutations."""
    target: Literal[
        "all", "record", "metadata", "exclusions", "manifest", "opcodes", "yaml", "legend", "rules", "ids"
    ] = "all"
    """One reader only."""
    corpus: Path = CORPUS
    """Folder of the findings."""


def main(settings: Fuzz) -> int:
    """Fuzz, print executions a second by target, and say how many findings were kept; 1 where there are any."""
    with tempfile.TemporaryDirectory() as folder:
        targets = targets_in(Path(folder))
        chosen = list(targets) if settings.target == "all" else [settings.target]
        kept, shares = 0, sum(targets[name].share for name in chosen)
        for name in chosen:
            start, count = time.perf_counter(), -(-settings.executions * targets[name].share // shares)
            mutated = mutants(targets[name], settings.seed, count)
            found = set()
            for raw in tqdm(mutated, name, count, unit="execution", disable=None):
                if told := finding(targets[name], raw):
                    found.add(told)
                    keep(settings.corpus / name, raw)
            kept += len(found)
            print(
                f"{name}: {count} executions, {count / (time.perf_counter() - start):.0f} a second",
                *sorted(found),
                sep="\n  ",
            )
    print(f"{kept} kinds of findings")
    return int(kept > 0)


def targets_in(folder: Path) -> dict[str, Target]:
    """All readers by name; `folder` takes the files of those that read files."""
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    records = [pack_record("0000007", array.astype(dtype), deflate) for dtype in ("u1", "f4") for deflate in (0, 1)]
    meta = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "dB", statistics={"mean": [-12.5, -20.0]}, source="a")
    labels = StoreMeta("labels", (), "uint8", 1, "class id", "DW", classes=("a", "b"), colours=("000000", "ffffff"))
    metas = [encode_meta(meta, ["a", "b"]), encode_meta(labels, ["a"]), encode_meta(meta, None)]
    reasons = {"format": 1, "reasons": {"0": "bad", "3": "worse"}, "dropped": [3], "num_missing": 4}
    manifest = {"format": 1, "entries": 11, "bytes": 3000, "checksum": "ab", "meta": json.loads(metas[0])}
    values = [(bytes(24), (2, 3, 4), "0000007"), (bytes(96), (2, 3, 4), np.int64(7)), (bytes(24), (6, 4))]
    legend = b"classes: {other: b4aaa0, trees: 1b6b3a}\ncodes: {1: other, 2: trees}\nignored: [0]\nname: mine\n"
    rules = (
        legend + b"rules: [{coarsen: 3}, {translate: [1, -2]}, {confuse: {matrix: [[0.9, 0.1], [0, 1]], patch: 4}}]\n"
    )
    yaml = b"a: &a [1, 0x1f, 1.5, .inf, yes, ~, 2020-01-01]\nb: {<<: {c: 'd'}, e: *a}\n"
    yaml += b'f: !!str |\n  g\n  h\n? i\n: "\\x41"\n'
    scene = "20190704T054639_20190704T054831_T43RCP"
    ids = f"id,season1,season2\n0000001,{scene},{scene}2\n2,{scene},{scene}3\n".encode()

    def file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
        return lambda raw: (folder / name).write_bytes(raw) and read(folder / name)

    plain = partial(Target, error=ValueError, share=1)
    return {
        "record": Target(unpack_record, records, resealed),
        "metadata": Target(lambda raw: totals_of(decode_meta(raw, STORE)[1], STORE), metas),
        "exclusions": Target(lambda raw: decode_exclusions(raw, STORE, 5), [json.dumps(reasons).encode()]),
        "manifest": Target(lambda raw: load_json(raw, "manifest.json"), [json.dumps(manifest, indent=1).encode()]),
        "opcodes": Target(_parsed, [pickle.dumps(value, protocol) for value in values for protocol in (2, 3, 4, 5)]),
        "yaml": plain(file(lambda path: read_yaml(path, "config"), "a.yaml"), [yaml, legend, rules]),
        "legend": plain(file(lambda path: read_legend(str(path), "codes"), "legend.yaml"), [legend]),
        "rules": plain(file(read_rules, "rules.yaml"), [rules]),
        "ids": plain(file(read_ids, "ids.csv"), [ids]),
    }


def _parsed(raw: bytes) -> None:
    """A pickled value, read in every form; the last one decides."""
    for form in FORMS[:-1]:
        try:
            parse_record(raw, form)
        except StoreError:
            continue
    parse_record(raw, FORMS[-1])


def mutants(target: Target, seed: int, count: int) -> Iterator[bytes]:
    """So many mutated seeds."""
    rng = random.Random(seed)
    for _ in range(count):
        raw = rng.choice(target.seeds)
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            raw = rng.choice(MUTATIONS)(rng, raw, rng.choice(target.seeds))[: 1 << 16]
        yield target.seal(raw) if rng.random() < 0.7 else raw


def flip(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Some bytes become others."""
    new = bytearray(raw)
    for _ in range(rng.choice((1, 1, 3, 10)) if raw else 0):
        new[rng.randrange(len(new))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(new)


def truncate(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """The end is missing, or the begin."""
    at = rng.randint(0, len(raw))
    return raw[:at] if rng.random() < 0.8 else raw[at:]


def splice(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """A part of another one comes in, or takes the place of what was there."""
    at, begin = rng.randint(0, len(raw)), rng.randint(0, len(other))
    part = other[begin : begin + rng.randint(0, 40)]
    return raw[:at] + part + raw[at + rng.choice((0, len(part))) :]


def repeat(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """A part many times."""
    at = rng.randint(0, len(raw))
    part = raw[at : at + rng.choice((1, 1, 2, 5, 20))]
    return raw[:at] + part * rng.choice((2, 3, 50, 1000)) + raw[at:]


def grow(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """A number becomes a larger one, or none: of digits where there are any, else of four bytes."""
    found = list(re.finditer(rb"\d+", raw))
    if found and rng.random() < 0.7:
        number = rng.choice(found)
        return raw[: number.start()] + rng.choice(NUMBERS) + raw[number.end() :]
    at = rng.randint(0, max(0, len(raw) - 4))
    return raw[:at] + struct.pack("<I", rng.choice((0, 1 << 31, (1 << 32) - 1, 1 << 20))) + raw[at + 4 :]


def name(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """A word of some meaning to a reader comes in."""
    at = rng.randint(0, len(raw))
    return raw[:at] + rng.choice(WORDS) + raw[at:]


MUTATIONS = (flip, truncate, splice, repeat, grow, name)
NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"9" * 30,
    b"9" * 5000,
    b"0x" + b"f" * 300,
    b"1:59:59",
    b"[1]",
    b"null",
)
WORDS = (
    *(
        b"\0",
        b"\xff",
        b"\n",
        b"\r",
        b"[",
        b"{",
        b'"',
        b"'",
        b"&a ",
        b"*a ",
        b"<<: ",
        b"!!int ",
        b"!!binary ",
        b"? ",
        b"- ",
    ),
    *(
        b"!!timestamp ",
        b"!!python/object:os.system ",
        b"!!set ",
        b"%YAML 9\n---\n",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"\xc2\x85",
    ),
    *(
        b"(",
        b"t",
        b"\x85",
        b"\x86",
        b"\x94",
        b"2",
        b"0",
        b"cos\nsystem\n",
        b"R",
        b"b",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    ),
)


def resealed(raw: bytes) -> bytes:
    """A record whose checksums are right."""
    if len(raw) < HEADER_SIZE:
        return raw
    payload = struct.pack("<I", zlib.crc32(raw[HEADER_SIZE:]))
    return raw[:4] + struct.pack("<I", zlib.crc32(payload + raw[12:HEADER_SIZE])) + payload + raw[12:]


def finding(target: Target, raw: bytes) -> str:
    """What a reader did that it may not; empty where it read or refused."""
    peak, start = _peak(), time.process_time()
    told = _told(target, raw)
    seconds, megabytes = time.process_time() - start, (_peak() - peak) / 1024
    if not told and seconds > MOST_SECONDS:
        told = f"takes over {MOST_SECONDS:g} s"
    return told or (f"takes over {MOST_MEGABYTES} MB" if megabytes > MOST_MEGABYTES else "")


def _told(target: Target, raw: bytes) -> str:
    signal.setitimer(signal.ITIMER_REAL, 20 * MOST_SECONDS)
    try:
        target.read(raw)
    except target.error as error:
        own = type(error) is target.error and str(error) and str(error).splitlines() == [str(error)]
        return "" if own else f"{type(error).__name__} of {len(str(error).splitlines())} lines: {str(error)[:100]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]!r}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _give_up(*_: object) -> None:
    raise TimeoutError("no end")


signal.signal(signal.SIGALRM, _give_up)


def keep(folder: Path, raw: bytes) -> Path:
    """Write a finding under its checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(raw).hexdigest()[:16]}.bin"
    path.write_bytes(raw)
    return path


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    run(main, Fuzz)
