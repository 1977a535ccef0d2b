"""Training subsets: nested, the same everywhere, and a file that is believed only if it is of this set."""

import hashlib
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest

from cromss.splits import blocked_holdout, place_of, saved_order, take, training_order

FRACTIONS = (1, 5, 10, 25, 100)
IDS = [f"p{number}" for number in range(986)]


def shuffled(ids, seed):
    ids = list(ids)
    random.Random(seed).shuffle(ids)
    return ids


# The order


@pytest.mark.parametrize("seed", [0, 1, 42, 2**63])
def test_the_order_is_a_permutation_that_ignores_the_order_given(seed):
    order = training_order(IDS, seed)
    assert sorted(order) == sorted(IDS)
    assert all(training_order(shuffled(IDS, draw), seed) == order for draw in range(5))


def test_seeds_differ():
    orders = [training_order(IDS, seed) for seed in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    # Of two random 99-subsets of 986, 10 ids are expected in common, with a deviation of 3.
    common = [len(set(a[:99]) & set(b[:99])) for a, b in itertools.pairwise(orders)]
    assert 4 < np.mean(common) < 16


def test_the_order_is_fixed_for_ever():
    keyed = [(hashlib.sha256(f"7 {name}".encode()).hexdigest(), name) for name in ("b", "a", "é", "10", "9")]
    assert training_order(["a", "b", "9", "10", "é"], 7) == [name for _, name in sorted(keyed)]
    assert training_order(["p0", "p1", "p2", "p3"], 0) == ["p2", "p3", "p1", "p0"]


def test_left_out_ids_leave_the_others_in_order():
    kept = set(IDS[::3])
    assert training_order(sorted(kept), 3) == [name for name in training_order(IDS, 3) if name in kept]


def test_every_tile_is_as_likely():
    firsts = [set(training_order(IDS[:40], seed)[:10]) for seed in range(400)]
    counts = np.array([sum(name in chosen for chosen in firsts) for name in IDS[:40]])
    assert counts.sum() == 4000
    assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


BAD_IDS = [["a", "b", "a"], ["a", ""], ["a", "#b"], ["a", " b"], ["a", "b\n"], ["a", "b\nc"], ["a", "b\u2028c"]]


@pytest.mark.parametrize("ids", BAD_IDS)
def test_ids_that_no_file_can_hold(tmp_path, ids):
    for call in (lambda: training_order(ids, 0), lambda: saved_order(tmp_path / "order.txt", ids, 0)):
        with pytest.raises(ValueError, match=r"^tile ") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# The subsets


@pytest.mark.parametrize("num_ids", [1, 2, 14, 99, 100, 101, 986, 3574])
def test_subsets_are_nested_and_of_the_right_size(num_ids):
    order = training_order([f"p{number}" for number in range(num_ids)], 0)
    subsets = [take(order, fraction) for fraction in FRACTIONS]
    for fraction, subset in zip(FRACTIONS, subsets):
        assert len(subset) == -(-num_ids * fraction // 100)
        assert len(set(subset)) == len(subset)
    for smaller, larger in itertools.pairwise(subsets):
        assert set(smaller) <= set(larger)
    assert subsets[-1] == order


@pytest.mark.parametrize(
    ("fraction", "num_ids", "size"),
    [(0.1, 1000, 1), (0.1, 1001, 2), (0.7, 1000, 7), (1.1, 1000, 11), (16.1, 1000, 161), (1e-9, 50, 1), (33.3, 3, 1)],
)
def test_shares_are_exact_decimals(fraction, num_ids, size):
    assert len(take([str(number) for number in range(num_ids)], fraction)) == size


@pytest.mark.parametrize("count", [1, 100, 985, 986])
def test_counts(count):
    order = training_order(IDS, 5)
    assert take(order, count=count) == take(order, 100, count) == order[:count]
    assert set(take(order, 10)) <= set(take(order, count=100))


def test_neither_is_all():
    assert take(["b", "a"]) == take(["b", "a"], None, None) == ["b", "a"]


@pytest.mark.parametrize(
    ("fraction", "count", "line"),
    [
        (None, 4, r"--n_train 4: at least 1, and only 3 training tiles"),
        (None, 0, "--n_train 0: at least 1"),
        (None, -1, "--n_train -1: at least 1"),
        (0, None, "--fraction 0: percent, over 0"),
        (-1, None, "--fraction -1: percent"),
        (100.5, None, "--fraction 100.5: percent"),
        (float("nan"), None, "--fraction nan: percent"),
        (float("inf"), None, "--fraction inf: percent"),
        (10, 2, "--n_train 2: leave it out where --fraction is given"),
    ],
)
def test_impossible_subsets(fraction, count, line):
    with pytest.raises(ValueError, match=line):
        take(["a", "b", "c"], fraction, count)


# The file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "splits" / "DFC2020_seed3.txt"


def test_the_file_round_trips(path):
    order = saved_order(path, IDS, 3, "DFC2020")
    assert order == training_order(IDS, 3)
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# set: DFC2020", "# seed: 3", "# number: 986"]
    assert lines[3:] == order
    assert saved_order(path, shuffled(IDS, 1), 3) == order
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_is_believed_whatever_its_order_and_form(path):
    path.parent.mkdir()
    path.write_bytes(b"# mine\r\n\r\nc\r\n  a\t\r\n# between\r\nb")
    assert saved_order(path, ["a", "b", "c"], 9) == ["c", "a", "b"]


def test_ids_of_every_set(path):
    ids = ["-0.05_32.9-20190816", "beirut_r0_c12", "p7", "0000123", "naïve"]
    assert saved_order(path, ids, 0) == saved_order(path, ids[::-1], 0) == training_order(ids, 0)


FOREIGN = {
    "a foreign id": ("a\nb\nx\n", r"order\.txt line 3: 'x' is no tile of this set"),
    "an id too many": ("a\nb\nc\nd\n", r"line 4: 'd' is no tile"),
    "an id twice": ("# seed: 0\na\nb\na\nc\n", r"line 4: 'a' is on line 2 already"),
    "a missing id": ("c\nb\n", "has 2 of the 3 tiles of this set, 'a' is missing"),
    "cut in a line": ("# seed: 0\nc\nb\n# num", "'a' is missing"),
    "an empty file": ("", "has 0 of the 3 tiles"),
    "another case": ("A\nb\nc\n", "line 1: 'A' is no tile"),
    "two in a line": ("a b\nc\n", "line 1: 'a b' is no tile"),
    "another seed": ("# seed: 1\na\nb\nc\n", r"order\.txt: made with --split_seed 1, not 0"),
    "a long line": ("x" * 10_000, "line 1: '" + "x" * 80 + "' is no tile"),
}


@pytest.mark.parametrize(("content", "line"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_and_damaged_files(tmp_path, content, line):
    path = tmp_path / "order.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=line) as caught:
        saved_order(path, ["a", "b", "c"], 0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == content


def test_no_text_at_all(tmp_path):
    (tmp_path / "order.txt").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"order\.txt: not UTF-8 text"):
        saved_order(tmp_path / "order.txt", ["a"], 0)
    with pytest.raises(OSError, match=str(tmp_path)):
        saved_order(tmp_path, ["a"], 0)


def test_a_failed_write_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr("cromss.splits.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved_order(path, IDS, 0)
    assert not list(path.parent.iterdir())


def test_processes_that_start_together_agree(path):
    code = f"""
import sys
from pathlib import Path
from cromss.splits import saved_order
ids = [f"p{{number}}" for number in range(986)]
print("ready", flush=True)
sys.stdin.readline()
print(",".join(saved_order(Path({str(path)!r}), ids, 3)))
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert outputs == {",".join(training_order(IDS, 3))}
    assert [process.returncode for process in processes] == [0] * 4
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# Validation


@pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_the_last_tiles_are_held_out(share):
    num_held = round(share * 64)
    train, held = blocked_holdout(IDS[:64], share)
    assert (train, held) == (IDS[: 64 - num_held], IDS[64 - num_held : 64])


@pytest.mark.parametrize(
    ("location_id", "place"),
    [
        ("beirut_r0_c12", "beirut"),
        ("saclay_e_r128_c0", "saclay_e"),
        ("beirut", "beirut"),
        ("10.5_20.1-20190101", "10.5_20.1"),
        ("-3.5_40.25-20190405", "-3.5_40.25"),
        ("-103.99308536_-33.18-20230405", "-103.99308536_-33.18"),
        ("10_20-20190101T054639", "10.0_20.0"),
        ("10.50_020.0-20190101", "10.5_20.0"),
        ("-0.0_0-20190101", "0.0_0.0"),
        ("1.5e-05_-2e-7-20190101", "1.5e-05_-2e-07"),
        ("p7", "p7"),
        ("0000123", "0000123"),
        ("10.5_20.1", "10.5_20.1"),
        ("10.5_20.1-2019", "10.5_20.1-2019"),
        ("tile_20.1-20190101", "tile_20.1-20190101"),
        ("beirut_r0_c12_x", "beirut_r0_c12_x"),
        ("_r0_c0", "_r0_c0"),
        ("", ""),
    ],
)
def test_places(location_id, place):
    assert place_of(location_id) == place
    assert place_of(place) == place


def dated(*num_dates, sign=-1):
    """Ids of places, each on so many dates; the dates of a place do not follow each other."""
    places = [(f"{sign * number}.25_{20 + number}.5", count) for number, count in enumerate(num_dates, 1)]
    return [f"{place}-{2015 + year}0405" for year in range(9) for place, count in places if year < count]


@pytest.mark.parametrize(
    ("num_dates", "share", "held_places"),
    [((2, 2, 2), 0.1, {3}), ((2, 2, 2), 0.6, {3, 2}), ((1, 1, 4), 0.1, {3}), ((3, 1, 1), 0.5, {1}), ((2, 2), 0, set())],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_dates_of_a_place_stay_together(num_dates, share, held_places, sign):
    ids = dated(*num_dates, sign=sign)
    train, held = blocked_holdout(ids, share)
    assert held == [name for name in ids if abs(int(name.partition(".")[0])) in held_places]
    assert train == [name for name in ids if name not in held]


def test_no_place_is_split_however_often_it_was_seen():
    chance = random.Random(1)
    for _ in range(200):
        ids = shuffled(dated(*[chance.randint(1, 4) for _ in range(8)]), chance.random())
        train, held = blocked_holdout(ids, chance.uniform(0.05, 0.5))
        assert sorted(train + held) == sorted(ids)
        assert held
        assert not {name.rpartition("-")[0] for name in train} & {name.rpartition("-")[0] for name in held}


def cities(**num_tiles):
    return [f"{city}_r{tile // 3}_c{tile % 3}" for city, count in num_tiles.items() for tile in range(count)]


@pytest.mark.parametrize(
    ("num_tiles", "share", "held_cities"),
    [
        ({"abudhabi": 9, "beirut": 4, "mumbai": 2}, 0.1, {"mumbai"}),
        ({"abudhabi": 9, "beirut": 4, "mumbai": 2}, 0.4, {"mumbai", "beirut"}),
        ({"abudhabi": 9, "beirut": 4, "mumbai": 2}, 0.25, {"mumbai"}),  # 2 and 6 are as near to 4
        ({"abudhabi": 9, "beirut": 4, "mumbai": 2}, 0.34, {"mumbai", "beirut"}),
        ({"abudhabi": 2, "beirut": 12}, 0.1, {"beirut"}),  # one city at least
        ({"abudhabi": 2, "beirut": 12}, 0.0, set()),
        ({"saclay_e": 6, "saclay_w": 6}, 0.5, {"saclay_w"}),
    ],
)
def test_cities_stay_whole(num_tiles, share, held_cities):
    ids = cities(**num_tiles)
    train, held = blocked_holdout(ids, share)
    assert held == [name for name in ids if name.rsplit("_", 2)[0] in held_cities]
    assert train == [name for name in ids if name not in held]


def test_no_city_is_split_however_the_tiles_lie():
    chance = random.Random(0)
    for _ in range(300):
        ids = cities(**{name: chance.randint(1, 9) for name in chance.sample("abcdefgh", chance.randint(2, 8))})
        ids, share = shuffled(ids, chance.random()), chance.uniform(0, 0.5)
        try:
            train, held = blocked_holdout(ids, share)
        except ValueError:
            continue
        assert sorted(train + held) == sorted(ids)
        assert not {name[0] for name in train} & {name[0] for name in held}
        assert train
        assert bool(held) == (round(share * len(ids)) > 0)


@pytest.mark.parametrize("ids", [["p0"], [], cities(beirut=5), IDS[:3]])
def test_something_is_left_to_train_on(ids):
    with pytest.raises(ValueError, match=rf"--validation 0\.9: leaves none of the {len(ids)} tiles to train on"):
        blocked_holdout(ids, 0.9)
