"""Batches: what is in them, and that memory is used again only when nothing holds it."""

import copy
import gc
import io
import itertools
import multiprocessing
import os
import threading
import weakref

import numpy as np
import pytest
import torch
from stores import make_ids, make_images, write_store
from torch.utils.data import DataLoader

from cromss.collation import BatchSlots, LateSamples, collate, enough_shared_memory
from cromss.legends import IGNORE_INDEX
from cromss.store import LmdbReader
from cromss.store.environment import forget_environment

COUNT = 40


class Tiles:
    """Tiles that are told from each other by their values, the size of which may change from tile to tile."""

    def __init__(self, sides=(8,)):
        self.sides = sides

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        side = self.sides[index % len(self.sides)]
        image = np.full((2, side, side), index, np.uint8)
        real, labels = image.astype(np.float32) / 2, np.full((3, side, side), index % 9, np.uint8)
        return {"s1": image, "s2": real, "labels": labels, "season": index % 4, "id": f"{index:07d}", "size": (side, 1)}


def loader(workers, sides=(8,), slots=4, **options):
    options |= {"persistent_workers": True} if workers and "persistent_workers" not in options else {}
    return DataLoader(Tiles(sides), 2, num_workers=workers, collate_fn=BatchSlots(slots), **options)


def expected(sides=(8,)):
    return [collate([Tiles(sides)[i], Tiles(sides)[i + 1]]) for i in range(0, COUNT, 2)]


def assert_same(batches, wanted):
    assert len(batches) == len(wanted)
    for one, other in zip(batches, wanted):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert torch.equal(one[name], value) if isinstance(value, torch.Tensor) else one[name] == value
            assert not isinstance(value, torch.Tensor) or one[name].dtype == value.dtype


@pytest.fixture
def pinning(monkeypatch):
    """Loaders copy batches as for a GPU, to memory that here is not pinned; names of the threads that do so."""
    threads = set()

    def copied(memory, device=None):
        threads.add(threading.current_thread().name)
        return memory.clone()

    here = {"is_available": True, "current_accelerator": torch.device("cuda"), "current_device_index": 0}
    for name, answer in here.items():
        monkeypatch.setattr(torch.accelerator, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda number: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", copied)
    return threads


@pytest.mark.parametrize("sides", [(8,), (8, 12, 9)], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_by_another_thread_which_gives_their_memory_back(pinning, workers, sides):
    tiles = loader(workers, sides, pin_memory=True)
    for _ in range(2):
        assert_same(list(tiles), expected(sides))
    if torch.__version__ < "2.7" and not pinning:
        pytest.skip("this PyTorch asks for a real GPU")
    assert (pinning == {threading.main_thread().name}) is (workers == 0)
    assert pinning
    assert not any(memory[0] for memory in tiles.collate_fn._mapped.values())


@pytest.mark.parametrize("words", ["unable to allocate shared memory(shm) for file </torch_1>: No space", "other"])
def test_too_little_shared_memory_ends_in_a_line(monkeypatch, words):
    def share(memory):
        raise RuntimeError(words)

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    foreseen = "/dev/shm is too small .* --shm-size 8g.*, or lower --num_workers or --batch_size$"
    known = "shared memory" in words
    with (
        pytest.raises(ValueError if known else RuntimeError, match=foreseen if known else words),
        enough_shared_memory(),
    ):
        next(iter(loader(1)))


class Read:
    """Tiles that are read from a store, which remembers the arrays that it gave."""

    def __init__(self, reader):
        self.reader, self.given = reader, []

    def __len__(self):
        return len(self.reader)

    def __getitem__(self, index):
        image = self.reader.read(index, 0)
        self.given.append(image)
        return {"s1": image, "season": 0, "id": self.reader.location_id(index)}


@pytest.mark.parametrize("workers", [0, 1])
def test_late_samples_go_from_the_pages_to_the_batch_and_stay_there(tmp_path, workers):
    images = make_images(8)
    tiles = Read(LmdbReader(write_store(tmp_path / "s1.lmdb", images)))
    late = LateSamples(tiles)
    assert len(late) == 8
    *_, ask = late
    assert not tiles.given
    assert ask()["s1"].flags.owndata
    batches = list(DataLoader(late, 4, num_workers=workers, collate_fn=BatchSlots()))
    assert not any(view.flags.owndata for view in tiles.given[1:])
    assert len(tiles.given) == (1 if workers else 9)
    del tiles.given[:]
    forget_environment(os.path.realpath(tmp_path / "s1.lmdb"))
    np.testing.assert_array_equal(torch.cat([batch["s1"] for batch in batches]), images[:, 0])
    assert [name for batch in batches for name in batch["id"]] == make_ids(8)
    batches[0]["s1"] += 1


def test_batches_of_mixed_sizes_are_padded():
    def sample(size):
        return {
            "s1": np.ones((2, size, size), np.uint8),
            "labels": np.zeros((1, size, size), np.uint8),
            "season": 0,
            "id": "a",
        }

    batch = collate([sample(8), sample(12)])
    assert batch["s1"].shape == (2, 2, 12, 12)
    assert batch["s1"].min() == 1
    assert (batch["labels"][0, 0, 8:] == IGNORE_INDEX).all()
    assert torch.equal(batch["season"], torch.tensor([0, 0]))
    assert batch["id"] == ["a", "a"]


@pytest.mark.parametrize("sides", [(8, 12), (8, 8, 8, 8, 24, 24)])
@pytest.mark.parametrize(("workers", "slots"), [(0, 4), (1, 0), (1, 1), (2, 1), (2, 4)])
def test_batches_that_are_all_held_are_those_of_the_samples(workers, slots, sides):
    batches = loader(workers, sides, slots)
    for _ in range(2):
        assert_same(list(batches), expected(sides))


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_other_ways_to_start_a_process(context):
    assert_same(list(loader(1, multiprocessing_context=context)), expected())


def test_processes_that_end_with_the_epoch_leave_their_batches():
    batches = loader(2, persistent_workers=False)
    first, second = list(batches), list(batches)
    del batches
    gc.collect()
    assert_same(first, expected())
    assert_same(second, expected())


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_is_used_again(workers):
    batches = loader(workers)
    places = [batch["s1"].data_ptr() for _ in range(3) for batch in batches]
    assert len(places) == 3 * COUNT // 2
    assert len(set(places)) <= 4 * workers
    assert batches.collate_fn._mapped


def test_without_slots_nothing_is_kept():
    batches = loader(1, slots=0)
    assert_same(list(batches), expected())
    assert not batches.collate_fn._mapped


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("hold", [lambda x: x, lambda x: x[1:], lambda x: x.view(-1)[5:9], lambda x: x.numpy()[0]])
def test_what_is_held_stays(workers, hold):
    batches = loader(workers, slots=2)
    kept = [(hold(batch["s1"]), hold(batch["s1"].clone())) for batch in itertools.islice(batches, 0, None, 3)]
    for _ in batches:
        pass
    for held, copied in kept:
        np.testing.assert_array_equal(held, copied)


def test_a_graph_holds_its_batch():
    weight = torch.ones((), requires_grad=True)
    batches = loader(1, slots=1)
    losses = [(weight * batch["s2"]).sum() for batch in batches]
    totals = [batch["s2"].sum() for batch in expected()]
    for loss, total in zip(losses, totals):
        weight.grad = None
        loss.backward()
        assert weight.grad == total


def test_an_epoch_that_is_left_early_spoils_none_after_it():
    batches = loader(2)
    kept = list(itertools.islice(batches, 3))
    assert_same(list(batches), expected())
    assert_same(kept, expected()[:3])


def test_a_batch_that_fails_takes_no_slot():
    class Odd(Tiles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"season": sample["season"] if index % 4 else "winter"}

    batches = DataLoader(Odd(), 2, num_workers=1, collate_fn=BatchSlots(1), persistent_workers=True)
    for _ in range(2):
        kept, found = iter(batches), []
        for number, wanted in enumerate(expected()):
            if number % 2:
                found += [next(kept)]
                assert_same(found[-1:], [wanted])
            else:
                with pytest.raises(TypeError):
                    next(kept)
        assert len({one["s1"].data_ptr() for one in found}) == len(found)


def test_copies_have_slots_of_their_own():
    first = loader(1)
    second = copy.deepcopy(first)
    assert_same(list(second), expected())
    assert_same(list(first), expected())
    del first
    assert_same(list(second), expected())


def test_a_fork_that_lets_go_of_a_batch_frees_no_slot():
    batches = loader(1, slots=1)
    held = iter(batches)
    kept = next(held)
    process = multiprocessing.get_context("fork").Process(target=kept.clear)
    process.start()
    process.join()
    list(held)
    assert_same([kept], expected()[:1])


@pytest.mark.parametrize("workers", [0, 1])
def test_tensors_of_a_batch_are_apart(workers):
    batch, weight = next(iter(loader(workers))), torch.ones((), requires_grad=True)
    loss = (weight * batch["s2"]).sum()
    batch["labels"] += 1
    loss.backward()
    assert weight.grad == expected()[0]["s2"].sum()
    file = io.BytesIO()
    torch.save(batch["s1"], file)
    assert file.tell() < 2 * 2 * 8 * 8 + 2000


@pytest.mark.parametrize("workers", [0, 1])
def test_arrays_of_any_kind(workers):
    class Kinds:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            grid = np.arange(16.0).reshape(4, 4)
            kinds = grid[::-1], grid.T, grid[::2, 1:3], grid.astype(">f4"), grid.astype("f4" if index else "f8")
            return {f"kind{i}": kind for i, kind in enumerate(kinds)}

    (batch,) = DataLoader(Kinds(), 2, num_workers=workers, collate_fn=BatchSlots())
    for i, name in enumerate(f"kind{i}" for i in range(5)):
        wanted = np.stack([Kinds()[0][name], Kinds()[1][name]])
        np.testing.assert_array_equal(batch[name], wanted)
        assert batch[name].dtype == (torch.float32 if i == 3 else torch.float64)


def test_two_loaders_of_one_collation_do_not_mix():
    shared = BatchSlots()
    both = [DataLoader(Tiles(), 2, num_workers=1, collate_fn=shared) for _ in range(2)]
    pairs = list(zip(*both))
    for one, other in pairs:
        assert_same([one], [other])
    assert_same([one for one, _ in pairs], expected())


def test_batches_may_be_written_to():
    for batch, wanted in zip(loader(1), expected()):
        batch["s1"] += 1
        assert torch.equal(batch["s1"], wanted["s1"] + 1)


def test_memory_goes_with_its_loader():
    batches = loader(1)
    kept = next(iter(batches))
    mapped = [weakref.ref(array) for array in batches.collate_fn._mapped.values()]
    assert mapped
    del batches
    gc.collect()
    assert_same([kept], expected()[:1])
    del kept
    gc.collect()
    assert [array() for array in mapped] == [None] * len(mapped)
