"""Leaving locations of a finished store out of use, and taking them back, without writing the rest again."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import lmdb

from cromss.store.contents import record_key
from cromss.store.environment import forget_environment, open_environment
from cromss.store.exclusions import EXCLUDED_KEY, Exclusions, decode_exclusions
from cromss.store.folder import DATA_NAME, LOCK_NAME, lock_folder
from cromss.store.meta import META_KEY, StoreError, decode_meta, totals_of
from cromss.store.pages import check_pages

_SLACK = 1 << 26
"""Bytes by which the map of a store may grow for its exclusions, before it is doubled."""


def exclude(path: str | Path, reasons: Mapping[int, str], drop: bool = False) -> None:
    """Leave locations of a finished store out of use, beside those that are left out already.

    Args:
        path: Folder of the store.
        reasons: Index -> why.
        drop: Delete their records too; their ids stay.

    Raises:
        StoreError: Another process writes the store, the disk is full, or a page is damaged; nothing has changed then.
    """
    deleted = {record_key(index, 0)[:-1] for index in reasons} if drop else ()

    def change(txn: lmdb.Transaction, known: Exclusions, num_seasons: int) -> Exclusions:
        for index, season in product(reasons if drop else (), range(num_seasons)):
            txn.delete(record_key(index, season))
        dropped = known.dropped | frozenset(reasons if drop else ())
        return Exclusions({**reasons, **known.reasons}, dropped)

    _rewrite(Path(path), change, deleted)


def readmit(path: str | Path) -> list[int]:
    """Take back into use all locations but those whose records were dropped; returns these. Errors as `exclude`."""
    kept: list[int] = []

    def change(txn: lmdb.Transaction, known: Exclusions, num_seasons: int) -> Exclusions:
        kept[:] = sorted(known.dropped)
        return Exclusions({index: known.reasons[index] for index in kept}, known.dropped)

    _rewrite(Path(path), change)
    return kept


def _rewrite(
    path: Path, change: Callable[[lmdb.Transaction, Exclusions, int], Exclusions], deleted: Collection[bytes] = ()
) -> None:
    """Replace the exclusions of a store by what `change` makes of them, in one transaction.

    Args:
        path: Folder of the store.
        change: The transaction, what is left out, and the number of seasons -> what is to be left out; how many of
            their records are missing is counted here.
        deleted: What stands before the season in the keys that `change` deletes.
    """
    forget_environment(os.path.realpath(path))
    lock = lock_folder(path)
    try:
        check_pages(path, lambda key: key == EXCLUDED_KEY or key[: key.find(b"/") + 1] in deleted)
        env = open_environment(path, map_size=os.path.getsize(path / DATA_NAME) + _SLACK)
        with env:
            _commit(env, path, change)
    finally:
        (path / LOCK_NAME).unlink(missing_ok=True)
        lock.close()


def _commit(env: lmdb.Environment, path: Path, change: Callable[..., Exclusions]) -> None:
    while True:
        try:
            with env.begin(write=True, buffers=True) as txn:
                meta, described = decode_meta(txn.get(META_KEY), path)
                known = decode_exclusions(txn.get(EXCLUDED_KEY), path, totals_of(described, path)[0])
                wanted = change(txn, known, meta.num_seasons)
                keys = (record_key(*place) for place in product(wanted.reasons, range(meta.num_seasons)))
                wanted = replace(wanted, num_missing=sum(_is_missing(env, txn, key) for key in keys))
                txn.put(EXCLUDED_KEY, wanted.encode()) if wanted.reasons else txn.delete(EXCLUDED_KEY)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])
        except lmdb.Error as error:
            raise StoreError(f"{path}: cannot be repaired ({error}); copy or write the store again") from error


def _is_missing(env: lmdb.Environment, txn: lmdb.Transaction, key: bytes) -> bool:
    """Whether there is no such record; one that cannot be read is there, and spoils only a transaction of its own."""
    try:
        with env.begin(parent=txn, write=True, buffers=True) as child:
            return child.get(key) is None
    except lmdb.CorruptedError:
        return False
