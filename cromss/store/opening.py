"""The doors to the stores of all layouts: one store, or one modality of a part of a transfer set."""

import os
from pathlib import Path

from cromss.store.environment import reading
from cromss.store.folder import DATA_NAME, MANIFEST_NAME
from cromss.store.meta import META_KEY, StoreError
from cromss.store.published import PublishedReader
from cromss.store.reader import LmdbReader
from cromss.store.transfer import PublishedTransferReader, ToClassIds


def open_store(
    path: str | Path, modality: str | None = None, verify_checksums: bool = True
) -> LmdbReader | PublishedReader:
    """Open a store of our layout or of the published pretraining layout, told apart by what the environment holds.

    Args:
        path: Folder of the store.
        modality: Refuse a store of another modality.
        verify_checksums: As in `LmdbReader`; the published layout has no checksums.

    Raises:
        StoreError: As the reader of that layout.
    """
    folder = Path(path)
    if (folder / DATA_NAME).is_file() and not (folder / MANIFEST_NAME).exists():
        with reading(os.path.realpath(path), path, fresh=True) as txn:
            published = txn.get(META_KEY) is None and txn.stat()["entries"] > 0
        if published:
            return PublishedReader(path, modality)
    return LmdbReader(path, modality, verify_checksums)


def open_part(
    part: str | Path, modality: str, label_key: str = "", to_class_ids: ToClassIds | None = None
) -> LmdbReader | PublishedTransferReader:
    """Open one modality of one part (training or test) of a transfer set, in our layout or the published one.

    Args:
        part: Folder of `<modality>.lmdb` stores of ours, or a published LMDB, which has a `data.mdb` itself.
        modality: `"s1"`, `"s2"`, `"ortho"` ..., or `"labels"`.
        label_key: Key of the labels in the published LMDB: `"lbl"`, `"dw"` or `"osm"`.
        to_class_ids: Raw label codes of the published LMDB -> class ids; see `PublishedTransferReader`.

    Raises:
        StoreError: Neither of the two, or as the reader of that layout.
    """
    part = Path(part)
    if not part.is_dir():
        raise StoreError(f"{part}: no such folder; a part is a folder with {modality}.lmdb, or a published LMDB")
    if (part / DATA_NAME).is_file():
        key = label_key if modality == "labels" else modality
        if not key:
            raise StoreError(f"{part}: an LMDB, but none was published for this set; give a folder with labels.lmdb")
        return PublishedTransferReader(part, modality, key, to_class_ids if modality == "labels" else None)
    store = open_store(_store_of(part, modality), modality)
    if isinstance(store, PublishedReader):
        raise StoreError(
            f"{store.path}: a published pretraining store; a part has stores of ours, or is an LMDB itself"
        )
    return store


def _store_of(part: Path, modality: str) -> Path:
    """Folder of a modality's store; one that is not there has the line say what is."""
    path = part / f"{modality}.lmdb"
    found = sorted(entry.name for entry in part.iterdir())
    if not any(name.startswith(path.name) for name in found):
        there = ", ".join(found[:8]) or "nothing"
        raise StoreError(f"{part}: no {path.name} in it, nor {DATA_NAME} of a published LMDB; there is {there}")
    return path
