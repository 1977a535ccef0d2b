"""The pages of a `data.mdb`, looked at before LMDB does, which trusts them: damage there would end in a bus error.

The layout is that of LMDB 0.9: two meta pages, the newer of which counts, and the pages of two B-trees, one of free
pages and one of entries. Values too long for a leaf have pages of their own.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from cromss.store.folder import DATA_NAME
from cromss.store.meta import StoreError

_HEADER = struct.Struct("<Q2xHHH")  # number, flags, end of the offsets of nodes, begin of the nodes
_LONG_HEADER = struct.Struct("<Q2xHI")  # number, flags, pages
_NUMBER = struct.Struct("<Q")
_META = struct.Struct("<16xII16x")  # magic, version
_TREE = struct.Struct("<IHH32xQ")  # size of a page, flags, depth, root
_ENDS = struct.Struct("<QQ")  # last page, transaction
_META_SIZE = _META.size + 2 * _TREE.size + _ENDS.size

_FORMAT = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_MOST_LEVELS, _NO_PAGE = 32, (1 << 64) - 1
_MISPLACED = "outside the file, or used twice"
_NODE_HEADER = 8
"""Bytes of a node before its key: four words, of size or child page, flags, and size of the key."""


class _Tree(NamedTuple):
    page_size: int
    flags: int
    depth: int
    root: int


class _Meta(NamedTuple):
    free: _Tree
    entries: _Tree
    last: int
    transaction: int


def check_pages(folder: Path, replaced: Callable[[bytes], bool] | None = None) -> None:
    """Refuse a store that LMDB could not read without a crash or, with `replaced`, not write without harm to the rest.

    Some 20,000 pages are looked at in a store of 250,000 locations; long values are not read.

    Args:
        folder: Folder of the store.
        replaced: Key -> whether its value is about to be replaced or deleted; `None` for reading.

    Raises:
        StoreError: Not an LMDB file, truncated, or damaged; the line names the page.
    """
    pages, meta = _open_pages(folder)
    walk = _Walk(pages)
    walk.check_entries(meta.entries, replaced or (lambda key: False))
    if replaced:
        walk.check_free(meta.free)


class PathGuard:
    """Looks at the pages that lead to a key before LMDB does: at branches when it is made, at each leaf once.

    Args:
        folder: Folder of the store.

    Raises:
        StoreError: Not an LMDB file, truncated, or damaged; the line names the page.
    """

    def __init__(self, folder: Path) -> None:
        self._pages, meta = _open_pages(folder)
        self._firsts, self._leaves = self._pages.leaves(meta.entries)
        self._unchecked = bytearray(b"\1" * len(self._leaves))

    def check(self, key: bytes, and_next: bool = False) -> bytes | None:
        """The leaf that a key is in, or would be, and the one after it; StoreError as above.

        Returns:
            What the keys of the leaf after it begin at, or `None`.
        """
        place = max(bisect_right(self._firsts, key) - 1, 0)
        for leaf in range(place, min(place + 1 + and_next, len(self._leaves))):
            if self._unchecked[leaf]:
                self._pages.check_leaf(self._leaves[leaf])
                self._unchecked[leaf] = 0
        return self._firsts[place + 1] if place + 1 < len(self._firsts) else None


def _open_pages(folder: Path) -> tuple["_Pages", "_Meta"]:
    path = folder / DATA_NAME
    meta = _newer_meta(path)
    needed, size = (meta.last + 1) * meta.free.page_size, path.stat().st_size
    if needed > size:
        raise StoreError(f"{path}: truncated, {size} bytes of {needed}; copy or write the store again")
    return _Pages(path, np.asarray(np.memmap(path, np.uint8, "r", shape=needed)), meta.free.page_size), meta


def _newer_meta(path: Path) -> _Meta:
    with path.open("rb") as file:
        head = file.read(_META_SIZE)
        size = _TREE.unpack_from(head.ljust(_META_SIZE), _META.size)[0]
        if not 256 <= size <= 1 << 15 or size & (size - 1):
            _refuse(path, 0, "this is no LMDB file")
        file.seek(size)
        metas = [_meta(path, page, part) for page, part in enumerate((head, file.read(_META_SIZE)))]
    if metas[1].free.page_size != size:
        _refuse(path, 1, "pages of another size")
    return max(metas, key=lambda meta: meta.transaction)


def _meta(path: Path, page: int, head: bytes) -> _Meta:
    if len(head) < _META_SIZE or _META.unpack_from(head) != _FORMAT:
        _refuse(path, page, "this is no LMDB file")
    free, entries = (_Tree(*_TREE.unpack_from(head, _META.size + tree * _TREE.size)) for tree in (0, 1))
    return _Meta(free, entries, *_ENDS.unpack_from(head, _META.size + 2 * _TREE.size))


def _refuse(path: Path, page: int, what: str) -> NoReturn:
    raise StoreError(f"{path}: page {page} is damaged ({what}); copy or write the store again")


class _Pages:
    """The pages of a file.

    Args:
        path: The file.
        flat: Its bytes, `(N,)` uint8.
        page_size: Bytes of a page.
    """

    def __init__(self, path: Path, flat: np.ndarray, page_size: int):
        self.path, self.flat, self.page_size = path, flat, page_size
        self.count = len(flat) // page_size

    def leaves(self, tree: _Tree) -> tuple[list[bytes], list[int]]:
        """What the keys of each leaf begin at, and its number, in order; branches are looked at."""
        self.check_kind(tree)
        found: list[tuple[bytes, int]] = []
        seen: set[int] = set()
        waiting = [] if tree.root == _NO_PAGE else [(b"", tree.root, tree.depth)]
        while waiting:
            first, page, level = waiting.pop()
            if page >= self.count or page in seen:
                _refuse(self.path, page, _MISPLACED)
            seen.add(page)
            if level == 1:
                found.append((first, page))
                continue
            at, low, high, flags, key_size = self.nodes(page, _BRANCH)
            begins = (page * self.page_size + at + _NODE_HEADER).tolist()
            keys = [self.flat[b : b + size].tobytes() for b, size in zip(begins, key_size.tolist())]
            children = (low | high << 16 | flags << 32).tolist()
            waiting += [(key, child, level - 1) for key, child in zip([first, *keys[1:]], children)][::-1]
        firsts = [first for first, _ in found]
        if any(key >= after for key, after in pairwise(firsts)):
            _refuse(self.path, tree.root, "the order of keys below it")
        return firsts, [page for _, page in found]

    def check_kind(self, tree: _Tree) -> None:
        """Refuse a tree of another kind or too deep."""
        if tree.flags:
            _refuse(self.path, 0, "keys of another kind")
        if tree.depth > _MOST_LEVELS:
            _refuse(self.path, 0, f"{tree.depth} levels of pages")

    def check_leaf(self, page: int) -> None:
        """Refuse a leaf that is damaged or whose values are outside the file."""
        at, low, high, flags, key_size = self.nodes(page, _LEAF)
        values = (page * self.page_size + at + _NODE_HEADER + key_size)[flags == 1]
        first = self.flat[values[:, np.newaxis] + np.arange(_NUMBER.size)].view("<u8")[:, 0]
        count = (_HEADER.size + (low | high << 16)[flags == 1] - 1) // self.page_size + 1
        if (first < 2).any() or (first > np.maximum(self.count - count, 0)).any():
            _refuse(self.path, page, "where its values are")

    def nodes(self, page: int, kind: int) -> tuple[np.ndarray, ...]:
        """Where the nodes of a page begin in it, and their four words, `(N,)` each."""
        row = self.flat[page * self.page_size : (page + 1) * self.page_size]
        number, flags, lower, upper = _HEADER.unpack_from(row)
        fewest = 2 if kind == _BRANCH else 1
        if (number, flags) != (page, kind) or not _HEADER.size + 2 * fewest <= lower <= upper <= len(row) or lower % 2:
            _refuse(self.path, page, "its header")
        at = row[_HEADER.size : lower].view("<u2").astype(np.int64)
        if (at % 2).any() or at.min() < upper or at.max() + _NODE_HEADER > len(row):
            _refuse(self.path, page, "where its nodes are")
        words = row.view("<u2")[at // 2 + np.arange(4)[:, np.newaxis]].astype(np.int64)
        low, high, flags, key_size = words
        values = np.where(flags == 1, _NUMBER.size, low | high << 16) if kind == _LEAF else 0
        sizes = (_NODE_HEADER + key_size + values + 1) // 2 * 2
        if (at + sizes).max() > len(row) or sizes.sum() != len(row) - upper or (kind == _LEAF and flags.max() > 1):
            _refuse(self.path, page, "its nodes")
        return at, *words


class _Walk:
    """Looks at the pages of both trees, and that none is used twice."""

    def __init__(self, pages: _Pages):
        self.pages, self.path, self.flat, self.page_size = pages, pages.path, pages.flat, pages.page_size
        self.used = np.zeros(pages.count, bool)
        self.used[:2] = True

    def check_entries(self, tree: _Tree, replaced: Callable[[bytes], bool]) -> None:
        """The tree of entries; the pages of long values only where these are `replaced`."""
        self.pages.check_kind(tree)
        for key, value, size, is_long in self._entries(tree):
            if is_long:
                self._take_long(value, size, check=replaced(self.flat[key:value].tobytes()))

    def check_free(self, tree: _Tree) -> None:
        """The tree of free pages, none of which may be in use."""
        for _, value, size, is_long in self._entries(tree):
            begin = self._take_long(value, size, check=True) if is_long else value
            count, *numbers = self.flat[begin : begin + size // 8 * 8].view("<u8").tolist() or (0,)
            if count > len(numbers):
                _refuse(self.path, value // self.page_size, f"{count} free pages in {size} bytes")
            for number in numbers[:count]:
                self._take(number)

    def _entries(self, tree: _Tree) -> Iterator[tuple[int, int, int, bool]]:
        """Position of key and value of every entry, size of the value, and whether it is long."""
        if tree.depth > _MOST_LEVELS:
            _refuse(self.path, 0, f"{tree.depth} levels of pages")
        waiting = [] if tree.root == _NO_PAGE else [(tree.root, tree.depth)]
        while waiting:
            page, level = waiting.pop()
            self._take(page)
            at, low, high, flags, key_size = self.pages.nodes(page, _LEAF if level == 1 else _BRANCH)
            if level == 1:
                key = page * self.page_size + at + _NODE_HEADER
                yield from zip(*(a.tolist() for a in (key, key + key_size, low | high << 16, flags == 1)))
            else:
                waiting += [(child, level - 1) for child in (low | high << 16 | flags << 32).tolist()]

    def _take_long(self, value: int, size: int, check: bool) -> int:
        """Where a long value of so many bytes begins; the number of its first page is at `value`."""
        (first,), count = _NUMBER.unpack_from(self.flat, value), (_HEADER.size + size - 1) // self.page_size + 1
        self._take(first, count)
        begin = first * self.page_size
        if check:
            *header, there = _LONG_HEADER.unpack_from(self.flat, begin)
            if header != [first, _OVERFLOW] or there < count:
                raise StoreError(
                    f"{self.path}: page {first} is damaged, and what it holds cannot be deleted; leave it out with "
                    "--repair mark, or copy or write the store again"
                )
            self._take(first + count, there - count)  # left over from a longer value
        return begin + _LONG_HEADER.size

    def _take(self, first: int, count: int = 1) -> None:
        """Pages that now have their use."""
        if first + count > len(self.used) or self.used[first : first + count].any():
            _refuse(self.path, first, _MISPLACED)
        self.used[first : first + count] = True
