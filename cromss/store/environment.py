"""LMDB environments, for reading one per process and folder, and transactions whose errors name the store."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb

from cromss.store.folder import DATA_NAME
from cromss.store.meta import StoreError
from cromss.store.pages import PathGuard

_Fingerprint = tuple[int, ...]
_environments: dict[str, tuple[_Fingerprint, lmdb.Environment | None, PathGuard]] = {}
_opening = threading.RLock()


def _forget_environments() -> None:
    """Leave the environments to the process that was forked; what is known of the pages holds here, too."""
    for folder, (fingerprint, _, guard) in _environments.items():
        _environments[folder] = fingerprint, None, guard
    _views.forget()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_forget_environments)


class GuardedTransaction:
    """A read transaction that looks at the pages it is about to read, which LMDB trusts; StoreError as `PathGuard`."""

    def __init__(self, txn: lmdb.Transaction, guard: PathGuard) -> None:
        self._txn, self._guard, self.stat = txn, guard, txn.stat

    def get(self, key: bytes) -> memoryview | None:
        """Value of a key."""
        self._guard.check(key)
        return self._txn.get(key)

    @contextmanager
    def cursor(self) -> Iterator["GuardedCursor"]:
        """A cursor, until the block ends."""
        with self._txn.cursor() as cursor:
            yield GuardedCursor(cursor, self._guard)


class GuardedCursor:
    """What of a cursor is needed, each step of which LMDB can take: the leaf after the present one is looked at."""

    def __init__(self, cursor: lmdb.Cursor, guard: PathGuard) -> None:
        self._cursor, self._guard, self.key = cursor, guard, cursor.key

    def first(self) -> bool:
        """Go to the first entry, if there is one."""
        return self.set_range(b"")

    def set_range(self, key: bytes) -> bool:
        """Go to the first entry from this key on, if there is one."""
        self._guard.check(key, and_next=True)
        return self._cursor.set_range(key) if key else self._cursor.first()

    def iternext(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Keys and values from here on, while nothing else moves the cursor."""
        next_leaf: bytes | None = b""
        for key, value in self._cursor.iternext():
            if next_leaf is not None and bytes(key) >= next_leaf:
                next_leaf = self._guard.check(bytes(key), and_next=True)
            yield key, value


class _Views(threading.local):
    """The block of `views` that a thread is in.

    Attributes:
        end: Ends the transactions with the block; `None` outside of one.
        transactions: Those begun in it.
    """

    def __init__(self) -> None:
        self.end: ExitStack | None = None
        self.transactions: dict[lmdb.Environment, GuardedTransaction] = {}

    def transaction(self, env: lmdb.Environment, guard: PathGuard) -> GuardedTransaction:
        """The one in an environment, begun when first asked for."""
        if env not in self.transactions:
            self.transactions[env] = GuardedTransaction(self.end.enter_context(env.begin(buffers=True)), guard)
        return self.transactions[env]

    def forget(self) -> None:
        """Leave the transactions to the process that was forked."""
        self.transactions.clear()
        if self.end is not None:
            self.end.pop_all()


_views = _Views()


@contextmanager
def views() -> Iterator[None]:
    """A block in which readers may give this thread read-only views of LMDB's pages: none may be used after it."""
    if are_views_given():
        yield
        return
    with ExitStack() as _views.end:
        try:
            yield
        finally:
            _views.end = None
            _views.transactions.clear()


def are_views_given() -> bool:
    """Whether this thread is in a block of `views`."""
    return _views.end is not None


@contextmanager
def reading(folder: str, where: object, fresh: bool = False) -> Iterator[GuardedTransaction]:
    """A guarded `transaction` in the read-only environment of a folder; errors are its.

    There is one a process: LMDB allows no second, and none may cross a fork.

    Args:
        folder: Real path of the store.
        where: What is being read, to begin the line of an error.
        fresh: Open it again if the file has been replaced since.

    Raises:
        StoreError: Not an LMDB file, a truncated or a damaged one.
    """
    env, guard = _shared(folder, fresh)
    if are_views_given() and not fresh:
        try:
            with _errors_of(where):
                yield _views.transaction(env, guard)
        except StoreError:
            _views.transactions.pop(env, None)  # a record that cannot be read spoils the transaction
            raise
    else:
        with transaction(env, where) as txn:
            yield GuardedTransaction(txn, guard)


@contextmanager
def transaction(env: lmdb.Environment, where: object) -> Iterator[lmdb.Transaction]:
    """Read transaction; the values it yields are views of LMDB's pages, valid until it ends.

    Args:
        env: The environment.
        where: What is being read, to begin the line of an error.

    Raises:
        StoreError: LMDB cannot read, for instance because a page is damaged.
    """
    with _errors_of(where), env.begin(buffers=True) as txn:
        yield txn


@contextmanager
def _errors_of(where: object) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise StoreError(f"{where}: cannot be read ({error}); copy or write the store again") from error


def _shared(folder: str, fresh: bool) -> tuple[lmdb.Environment, PathGuard]:
    with _opening:
        known, env, guard = _environments.get(folder, (None, None, None))
        if env is None or (fresh and known != _fingerprint(folder)):
            _environments.pop(folder, None)
            env = None  # closed by this
            _leave_abandoned()
            env, found = open_environment(folder, readonly=True), _fingerprint(folder)
            guard = guard if guard and known == found else PathGuard(Path(folder))
            _environments[folder] = found, env, guard
        return env, guard


def forget_environment(folder: str) -> None:
    """Close this process's environment of a folder, before the folder is opened for writing.

    No transaction may be open in it; readers open it again when they read.
    """
    with _opening:
        _, env, _ = _environments.pop(folder, (None, None, None))
        if env:
            env.close()


def _fingerprint(folder: str) -> _Fingerprint:
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

    Each holds files open. LMDB knows it by the inodes of its data and of its lock file, which is not held open, so that
    a new file may have its inode once the store is gone.
    """
    with _opening:
        abandoned = [folder for folder in _environments if not os.path.exists(os.path.join(folder, DATA_NAME))]
        for folder in abandoned:
            del _environments[folder]
    return bool(abandoned)
