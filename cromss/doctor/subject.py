"""A store as the doctor sees it: opened although something is wrong with it, and read without giving up."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cromss.doctor.findings import Finding
from cromss.legend_files import stored_legend
from cromss.legends import NOL, Legend
from cromss.store import PublishedReader, StoreError, StoreMeta
from cromss.store.contents import record_key, scan_ids
from cromss.store.environment import reading
from cromss.store.exclusions import EXCLUDED_KEY, decode_exclusions
from cromss.store.folder import DATA_NAME, MANIFEST_NAME, read_manifest
from cromss.store.meta import META_KEY, decode_meta, ids_checksum
from cromss.store.pages import check_pages
from cromss.store.record import HEADER_SIZE, unpack_record


class Record(NamedTuple):
    """One array of a location, or the fault that it has instead.

    Attributes:
        values: `(C, H, W)` or `(H, W)`; `None` where it cannot be read.
        checksum: CRC-32 of the bytes as stored.
        header: The raw header, where the layout has one.
        fault: Code word and what is wrong.
    """

    values: np.ndarray | None
    checksum: int = 0
    header: bytes = b""
    fault: tuple[str, str] | None = None


@dataclass
class Subject:
    """One store, opened.

    Attributes:
        path: Its folder.
        meta: What it says about itself.
        ids: Id of every location.
        excluded: Index -> why it is out of use.
        dropped: Those of them whose records were deleted.
        published: It is of the published layout.
        read: Index -> one record a season.
        checksum: What its manifest says of all keys and headers; empty where there is none.
        findings: What opening it has shown.
    """

    path: Path
    meta: StoreMeta
    ids: list[str]
    excluded: Mapping[int, str]
    dropped: Collection[int]
    published: bool
    read: Callable[[int], list[Record]]
    checksum: str = ""
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def legend(self) -> Legend:
        """Classes of its labels; those of NoL where it names none."""
        return stored_legend(self.meta) or NOL

    def finding(self, code: str, what: str, index: int | None = None, season: int | None = None) -> Finding:
        """A finding in this store."""
        return Finding(code, str(self.path), what, index, "" if index is None else self.ids[index], season)


def open_subject(path: str | Path) -> Subject:
    """Open a store of our layout or of the published one.

    Raises:
        StoreError: It is truncated, unfinished, no store, does not describe itself, or has a page that LMDB could not
            read without a crash, so that nothing can be said.
    """
    path = Path(path)
    if not (path / DATA_NAME).is_file():
        return _ours(path)
    check_pages(path)
    if not (path / MANIFEST_NAME).exists():
        with reading(os.path.realpath(path), path, fresh=True) as txn:
            published = txn.get(META_KEY) is None and txn.stat()["entries"] > 0
        if published:
            return _published(path)
    return _ours(path)


def _ours(path: Path) -> Subject:
    manifest, folder = read_manifest(path), os.path.realpath(path)
    with reading(folder, path, fresh=True) as txn:
        meta, described = decode_meta(txn.get(META_KEY), path)
        ids = scan_ids(txn)
        there = decode_exclusions(txn.get(EXCLUDED_KEY), path, len(ids))
        entries = txn.stat()["entries"] - there.extra_entries
    subject = Subject(
        path,
        meta,
        ids,
        there.reasons,
        there.dropped,
        False,
        lambda index: _read_ours(folder, subject, index),
        manifest.get("checksum", ""),
    )
    if manifest.get("meta") != described:
        subject.findings.append(subject.finding("manifest", f"{MANIFEST_NAME} describes another store"))
    if ids_checksum(ids) != described.get("ids_sha256"):
        subject.findings.append(subject.finding("ids", f"the {len(ids)} ids are not those written (checksum differs)"))
    expected = manifest.get("entries")
    if entries != expected:
        subject.findings.append(subject.finding("entries", f"{entries} entries, {expected} were written"))
    if len(there.reasons) == len(ids):
        subject.findings.append(subject.finding("none-in-use", f"all {len(ids)} locations are out of use"))
    subject.findings += _same_ids(subject)
    return subject


def _published(path: Path) -> Subject:
    reader = PublishedReader(path)
    ids = []
    for index in range(len(reader)):
        try:
            ids.append(reader.location_id(index))
        except StoreError:  # told when the record is read
            ids.append("")
    subject = Subject(path, reader.meta, ids, {}, (), True, lambda index: _read_published(reader, index))
    subject.findings.append(subject.finding("published", "the published layout, checked as far as it can be"))
    subject.findings += _same_ids(subject)
    return subject


def _same_ids(subject: Subject) -> list[Finding]:
    twice = {name for name, count in Counter(subject.ids).items() if count > 1 and name}
    first = {name: subject.ids.index(name) for name in twice}
    return [
        subject.finding("same-id", f"the same id as index {first[name]}", index)
        for index, name in enumerate(subject.ids)
        if name in twice and index != first[name]
    ]


def _read_ours(folder: str, subject: Subject, index: int) -> list[Record]:
    return [_record(folder, subject, index, season) for season in range(subject.meta.num_seasons)]


def _record(folder: str, subject: Subject, index: int, season: int) -> Record:
    """One record, checked against itself and against what the store says."""
    meta = subject.meta
    try:
        with reading(folder, "the record") as txn:  # one that cannot be read spoils the transaction
            raw = txn.get(record_key(index, season))
            if raw is None:
                return Record(None, fault=("missing", "the record is missing"))
            header, values = unpack_record(raw)
            found = Record(np.array(values), header.checksum, bytes(raw[:HEADER_SIZE]))
    except StoreError as error:
        return Record(None, fault=("record", str(error).partition("; ")[0]))
    if header.location_id != subject.ids[index]:
        return found._replace(fault=("wrong-id", f"holds location {header.location_id!r}"))
    if header.dtype.name != meta.dtype:
        return found._replace(values=None, fault=("dtype", f"{header.dtype.name}, but the store holds {meta.dtype}"))
    bands = (len(meta.bands),) if meta.bands else ()
    if len(header.shape) != len(bands) + 2 or header.shape[:-2] != bands or 0 in header.shape:
        return found._replace(values=None, fault=("shape", f"shape {header.shape}, wanted {(*bands, 'H', 'W')}"))
    return found


def _read_published(reader: PublishedReader, index: int) -> list[Record]:
    try:
        return [Record(values, zlib.crc32(values.tobytes())) for values in reader.read_seasons(index)]
    except StoreError as error:
        return [Record(None, fault=("record", str(error).partition("; ")[0]))] * reader.num_seasons
