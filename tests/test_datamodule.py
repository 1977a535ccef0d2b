"""Splits and samplers."""

from types import SimpleNamespace

import pytest

from cromss.datamodule import EpochSampler, StacksData, hold_out


@pytest.mark.parametrize(("count", "share", "held"), [(100, 0.1, 10), (4, 0.01, 1), (2, 0.9, 1), (3, 0.5, 2)])
def test_hold_out_parts(count, share, held):
    train, val = hold_out(range(count), share, seed=0)
    assert len(val) == held
    assert sorted(train + val) == list(range(count))


def test_hold_out_follows_the_seed():
    assert hold_out(range(50), 0.2, 1) == hold_out(range(50), 0.2, 1)
    assert hold_out(range(50), 0.2, 1) != hold_out(range(50), 0.2, 2)


def test_one_location_cannot_be_split():
    with pytest.raises(ValueError, match=r"cannot be split .*; more places are wanted, or a --place_pattern that"):
        hold_out(range(1), 0.1, 0)


def test_training_order_is_a_function_of_seed_and_epoch():
    epoch = 0
    sampler = EpochSampler(range(20), True, seed=3, position=lambda: (epoch, 0))
    first = list(sampler)
    assert list(sampler) == first
    assert sorted(draw.index for draw in first) == list(range(20))
    epoch = 1
    second = list(sampler)
    assert [d.index for d in second] != [d.index for d in first]
    assert {d.epoch for d in second} == {1}


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 6, 7, 20])
def test_scoring_counts_every_location_once_over_all_processes(num_processes, count):
    shards = [
        list(EpochSampler(range(count), False, rank=r, num_processes=num_processes)) for r in range(num_processes)
    ]
    assert len({len(shard) for shard in shards}) == 1
    counted = sorted(draw.index for shard in shards for draw in shard if draw.counted)
    assert counted == list(range(count))


def test_training_shards_are_disjoint_and_of_equal_length():
    shards = [list(EpochSampler(range(10), True, rank=r, num_processes=3)) for r in range(3)]
    assert [len(shard) for shard in shards] == [4, 4, 4]
    assert {draw.index for shard in shards for draw in shard} == set(range(10))


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 13))
def test_processes_have_the_batches_of_one_and_no_location_twice(num_processes, batch_size, count):
    def loader(size, rank=0, world_size=1):
        data = StacksData([], None, None, range(count), (), size)
        place, began = {"global_rank": rank, "world_size": world_size}, SimpleNamespace(ready=0, processed=0)
        epochs, batches = SimpleNamespace(current=began), SimpleNamespace(batch_progress=SimpleNamespace(current=began))
        data.trainer = SimpleNamespace(**place, fit_loop=SimpleNamespace(epoch_progress=epochs, epoch_loop=batches))
        return data.train_dataloader()

    shards = [loader(batch_size, rank, num_processes) for rank in range(num_processes)]
    assert {len(shard) for shard in shards} == {len(loader(batch_size * num_processes))}
    if count >= batch_size * num_processes:
        drawn = [draw.index for shard in shards for draw in shard.sampler]
        assert len(set(drawn)) == len(drawn)


def test_tiles_of_a_place_are_held_out_together():
    places = [f"city{i // 4}" for i in range(20)]
    train, val = hold_out(places, 0.2, seed=3)
    assert sorted(train + val) == list(range(20))
    assert len(val) == 4
    assert {places[i] for i in val}.isdisjoint({places[i] for i in train})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("sizes", "share", "held"),
    [
        ((90, 10), 0.1, (10,)),
        ((50, 50), 0.01, (50,)),
        ((60, 30, 10), 0.01, (10,)),
        ((3, 3, 3, 3), 0.5, (3, 3)),
        ((2, 98), 0.9, (2, 98)),
    ],
)
def test_held_out_places_are_chosen_by_their_locations(sizes, share, held, seed):
    places = [place for place, size in enumerate(sizes) for _ in range(size)]
    _, val = hold_out(places, share, seed)
    found = [places.count(place) for place in dict.fromkeys(places[i] for i in val)]
    assert set(found) <= set(held)
    assert 0 < len(found) < len(sizes)
