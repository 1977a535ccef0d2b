"""LMDB environments, for reading one per process and folder, and transactions whose errors name the store."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb

from cromss.store.folder import DATA_NAME
from cromss.store.meta import StoreError

_environments: dict[str, tuple[tuple[int, ...], lmdb.Environment]] = {}
_opening = threading.RLock()


def _forget_environments() -> None:
    _environments.clear()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_forget_environments)


def reading(folder: str, where: object, fresh: bool = False) -> AbstractContextManager[lmdb.Transaction]:
    """A `transaction` in the `shared_environment` of a folder; arguments and errors are theirs."""
    return transaction(shared_environment(folder, fresh), where)


@contextmanager
def transaction(env: lmdb.Environment, where: object) -> Iterator[lmdb.Transaction]:
    """Read transaction; the values it yields are views of LMDB's pages, valid until it ends.

    Args:
        env: The environment.
        where: What is being read, to begin the line of an error.

    Raises:
        StoreError: LMDB cannot read, for instance because a page is damaged.
    """
    try:
        with env.begin(buffers=True) as txn:
            yield txn
    except lmdb.Error as error:
        raise StoreError(f"{where}: cannot be read ({error}); copy or write the store again") from error


def shared_environment(folder: str, fresh: bool = False) -> lmdb.Environment:
    """Read-only environment of a folder, one per process: LMDB allows no second, and none may cross a fork.

    Args:
        folder: Real path of the store.
        fresh: Open it again if the file has been replaced since.

    Raises:
        StoreError: Not an LMDB file, or a truncated one.
    """
    with _opening:
        if fresh and folder in _environments and _environments[folder][0] != _fingerprint(folder):
            del _environments[folder]
        if folder not in _environments:
            _environments[folder] = _fingerprint(folder), open_environment(folder, readonly=True)
        return _environments[folder][1]


def forget_environment(folder: str) -> None:
    """Close this process's environment of a folder, before the folder is opened for writing.

    No transaction may be open in it; readers open it again when they read.
    """
    with _opening:
        if folder in _environments:
            _environments.pop(folder)[1].close()


def _fingerprint(folder: str) -> tuple[int, ...]:
    found = os.stat(os.path.join(folder, DATA_NAME))
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_environment(folder: str | Path, **options) -> lmdb.Environment:
    """Environment of the caller's own, without LMDB's lock file.

    Args:
        folder: Folder of the store.
        options: Options of `lmdb.open`.

    Raises:
        StoreError: Not an LMDB file, or shorter than its pages, where reading would end in a bus error.
    """
    data = os.path.join(folder, DATA_NAME)
    try:
        env = _opened(str(folder), options)
    except lmdb.Error as error:
        raise StoreError(f"{data}: cannot be opened ({error}); copy or write the store again") from error
    needed, size = (env.info()["last_pgno"] + 1) * env.stat()["psize"], os.path.getsize(data)
    if needed > size:
        env.close()
        raise StoreError(f"{data}: truncated, {size} bytes of {needed}; copy or write the store again")
    return env


def _opened(folder: str, options: dict) -> lmdb.Environment:
    try:
        return lmdb.open(folder, lock=False, **options)
    except lmdb.Error as error:
        if "already open" not in str(error) or not _leave_abandoned():
            raise
        return lmdb.open(folder, lock=False, **options)


def _leave_abandoned() -> bool:
    """Let go of environments whose store is gone, if there are any.

    LMDB knows an environment by the inodes of its data and of its lock file. The lock file is not held open, so that a
    new file may have its inode once the store is gone.
    """
    with _opening:
        abandoned = [folder for folder in _environments if not os.path.exists(os.path.join(folder, DATA_NAME))]
        for folder in abandoned:
            del _environments[folder]
    return bool(abandoned)
