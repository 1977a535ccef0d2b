"""Damaged pages: LMDB, which would crash, never comes to them; a line names the page; no repair spreads the harm."""

import random
import shutil
import struct

import lmdb
import numpy as np
import pytest
from stores import make_images, write_store

from cromss.store import LmdbReader, StoreError
from cromss.store.pages import check_pages
from cromss.store.repair import exclude

PAGE, BRANCH, LEAF = 4096, 1, 2


@pytest.fixture
def data(tmp_path):
    """The file of a store with two levels of pages, the second of which holds the records."""
    return write_store(tmp_path / "s1", make_images(120)) / "data.mdb"


def newer_meta(content):
    """First page of the tree of free pages and of that of entries."""
    at = max((0, PAGE), key=lambda at: struct.unpack_from("<Q", content, at + 144))
    return struct.unpack_from("<Q", content, at + 80)[0], struct.unpack_from("<Q", content, at + 128)[0]


def overwritten(content, page, new, offset=0):
    at = page * PAGE + offset
    return content[:at] + new + content[at + len(new) :]


def refusal(folder):
    try:
        check_pages(folder)
    except StoreError as error:
        return str(error)


def stat_of(path):
    with lmdb.open(str(path.parent), readonly=True, lock=False) as env:
        return env.stat()


@pytest.mark.parametrize("seed", range(6))
def test_sound_files_pass(tmp_path, seed):
    draw = random.Random(seed)
    with lmdb.open(str(tmp_path), lock=False, map_size=1 << 28) as env:
        check_pages(tmp_path, lambda key: True)
        for _ in range(6):
            with env.begin(write=True) as txn:
                for _ in range(200):
                    key, size = str(draw.randrange(1000)).encode(), draw.choice([0, 1, 6, 100, 1500, 2100, 5000, 20000])
                    txn.delete(key) if draw.random() < 0.4 else txn.put(key, draw.randbytes(size))
            check_pages(tmp_path, lambda key: True)


def test_every_page_of_the_tree_is_looked_at(data):
    content, stat, refused = data.read_bytes(), stat_of(data), []
    for page in range(2, len(content) // PAGE):
        data.write_bytes(overwritten(content, page, b"\xff" * 16))
        if line := refusal(data.parent):
            assert line == f"{data}: page {page} is damaged (its header); copy or write the store again"
            refused.append(content[page * PAGE + 10])
    assert (refused.count(BRANCH), refused.count(LEAF)) == (stat["branch_pages"], stat["leaf_pages"])
    assert stat["branch_pages"] == 1


def test_random_damage_is_refused_or_harmless(data):
    """Without the check, this ends in a bus error."""
    content, draw, passed = data.read_bytes(), random.Random(0), 0
    pages = [page for page in range(2, len(content) // PAGE) if content[page * PAGE + 10] in (BRANCH, LEAF)]
    for _ in range(200):
        page, offset = draw.choice(pages), draw.choice([0, 8, 16, 40, draw.randrange(PAGE)])
        new = draw.choice([b"\xff", b"\0", draw.randbytes(1)]) * draw.choice([1, 2, 60, PAGE])
        data.write_bytes(overwritten(content, page, new[: PAGE - offset], offset))
        if refusal(data.parent):
            continue
        passed += 1
        with lmdb.open(str(data.parent), readonly=True, lock=False) as env, env.begin(buffers=True) as txn:
            assert sum(len(bytes(value)) for _, value in txn.cursor()) < len(content)
    assert 0 < passed < 150


def test_readers_see_damage_before_lmdb_does(data, tmp_path):
    """Without the guard, some of these end in a bus error; pages that no key leads to are never looked at."""
    content, draw, refused = data.read_bytes(), random.Random(1), 0
    pages = [page for page in range(2, len(content) // PAGE) if content[page * PAGE + 10] in (BRANCH, LEAF)]
    wanted = [LmdbReader(data.parent).read(index, 1) for index in range(120)]
    for number in range(40):
        page, offset = draw.choice(pages), draw.choice([0, 8, 16, 40, draw.randrange(PAGE)])
        new = draw.choice([b"\xff", b"\0", draw.randbytes(1)]) * draw.choice([1, 2, 60, PAGE])
        damaged = shutil.copytree(data.parent, tmp_path / f"{number}")
        (damaged / "data.mdb").write_bytes(overwritten(content, page, new[: PAGE - offset], offset))
        try:
            reader = LmdbReader(damaged)
            reader.location_ids()
            for index in range(120):
                np.testing.assert_array_equal(reader.read(index, 1), wanted[index])
        except StoreError:
            refused += 1
    assert 10 < refused < 40


def test_a_page_that_leads_to_itself_is_refused(data):
    content = data.read_bytes()
    _, entries = newer_meta(content)
    (node,) = struct.unpack_from("<H", content, entries * PAGE + 16)
    data.write_bytes(overwritten(content, entries, struct.pack("<H", entries), node))
    with pytest.raises(StoreError, match=rf"page {entries} is damaged \((outside the file, or used twice|its header)"):
        LmdbReader(data.parent)


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (16, b"\0" * 4, "page 0 is damaged"),
        (40, b"\0" * 4, "page 0 is damaged"),
        (40, b"\0\x80\1\0", "page 0 is damaged"),
        (PAGE + 16, b"x" * 8, "page 1 is damaged"),
        (PAGE + 40, b"\0\x08\0\0", "page 1 is damaged"),
    ],
)
def test_damaged_meta_pages_are_refused(data, offset, new, message):
    data.write_bytes(overwritten(data.read_bytes(), 0, new, offset))
    with pytest.raises(StoreError, match=message):
        check_pages(data.parent)


def test_other_files_are_refused(data):
    content = data.read_bytes()
    for wrong, message in (
        (b"", "page 0 is damaged"),
        (b"no LMDB file" * 1000, "page 0 is damaged"),
        (content[:4200], "page 1 is damaged"),
        (content[:-PAGE], f"truncated, {len(content) - PAGE} bytes of {len(content)}"),
    ):
        data.write_bytes(wrong)
        with pytest.raises(StoreError, match=message):
            check_pages(data.parent)


def test_no_repair_takes_a_page_in_use_for_a_free_one(data):
    exclude(data.parent, {1: "why"}, drop=True)
    content = data.read_bytes()
    free, entries = newer_meta(content)
    (node,) = struct.unpack_from("<H", content, free * PAGE + 16)
    first_free = node + 8 + 8 + 8  # after the node's header, its key, and the number of pages
    data.write_bytes(overwritten(content, free, struct.pack("<Q", entries), first_free))
    damaged = data.read_bytes()
    check_pages(data.parent)
    with pytest.raises(StoreError, match=f"page {entries} is damaged .*used twice"):
        exclude(data.parent, {2: "why"})
    assert data.read_bytes() == damaged
