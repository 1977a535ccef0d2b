"""The folder of a store: its files, its name until it is finished, and writes that survive a power cut."""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from cromss.store.meta import StoreError, load_json

DATA_NAME, MANIFEST_NAME, LOCK_NAME = "data.mdb", "manifest.json", "writer.lock"


def partial_path(path: str | Path) -> Path:
    """Where a store lies until it is finished."""
    return Path(path).with_name(Path(path).name + ".partial")


def read_manifest(path: Path) -> dict[str, Any]:
    """Manifest of a finished store.

    Raises:
        StoreError: No such folder, unfinished, incomplete, or not a store's manifest.
    """
    if path.suffix == ".partial" or (not path.exists() and partial_path(path).is_dir()):
        raise StoreError(f"{path}: the store is unfinished; run its writer again with the same settings to resume")
    if not path.is_dir():
        raise StoreError(f"{path}: no such folder; a store is a folder with {DATA_NAME} and {MANIFEST_NAME}")
    for name in (DATA_NAME, MANIFEST_NAME):
        if not (path / name).is_file():
            if stores := sorted(file.parent.name for file in path.glob(f"*/{MANIFEST_NAME}")):
                raise StoreError(f"{path}: a folder of stores, where one of them is wanted: {', '.join(stores)}")
            raise StoreError(f"{path}: no {name} in it, so this is no finished store; copy it whole or write it again")
    return load_json((path / MANIFEST_NAME).read_bytes(), str(path / MANIFEST_NAME))


def lock_folder(folder: Path) -> IO:
    """Lock a folder for writing until the file returned is closed, or its process ends.

    Raises:
        StoreError: Another process holds the lock.
    """
    return lock_file(folder / LOCK_NAME, str(folder))


def lock_file(path: Path, where: str) -> IO:
    """Make and lock a file until what is returned is closed, or its process ends.

    Args:
        path: The file.
        where: What it locks, to begin the line of an error.

    Raises:
        StoreError: Another process holds the lock.
    """
    lock = open(path, "w")  # noqa: SIM115
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # a file system without locks is no reason to stop
            lock.close()
            raise StoreError(f"{where}: another process is writing it; wait for it or stop it") from None
    return lock


def write_synced(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON and wait until it is on the disk."""
    with open(path, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries (new, renamed, removed) are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
