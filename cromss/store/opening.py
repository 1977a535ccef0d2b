"""One door to the stores of both layouts."""

import os
from pathlib import Path

from cromss.store.environment import reading
from cromss.store.folder import DATA_NAME, MANIFEST_NAME
from cromss.store.meta import META_KEY
from cromss.store.published import PublishedReader
from cromss.store.reader import LmdbReader


def open_store(
    path: str | Path, modality: str | None = None, verify_checksums: bool = True
) -> LmdbReader | PublishedReader:
    """Open a store of either layout, told apart by what the environment holds.

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
