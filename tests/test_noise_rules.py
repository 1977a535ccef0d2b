"""Noise rules against loops over blocks, flood fills, planted matrices; ignored pixels."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from cromss.noise_rules import (
    Rule,
    apply_rules,
    check_confusion,
    coarsen,
    confuse,
    minimum_mapping_unit,
    shift_borders,
    translate,
)

MATRIX = [[0.7, 0.2, 0.1], [0.05, 0.95, 0], [0.5, 0.3, 0.2]]
RULES = [
    Rule("coarsen", {"pixels": 3}),
    Rule("minimum_mapping_unit", {"pixels": 7}),
    Rule("translate", {"rows": -2, "columns": 5}),
    Rule("shift_borders", {"pixels": 1.7, "scale": 4}),
    Rule("confuse", {"matrix": MATRIX, "patch": 2}),
]


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def blobs(*key: int, shape=(37, 41), num_classes: int = 3, holes: bool = True) -> np.ndarray:
    """Random patches of two sizes, with ignored ones."""
    draw = rng(*key)
    small = draw.integers(0, num_classes, shape, dtype=np.uint8)
    large = np.kron(draw.integers(0, num_classes, (8, 9)), np.ones((5, 5))).astype(np.uint8)[: shape[0], : shape[1]]
    labels = np.where(draw.random(shape) < 0.25, small, large)
    labels[draw.random(shape) < 0.08 * holes] = 255
    labels[3:9, 20:31] = 255 if holes else labels[3:9, 20:31]
    return labels


# coarsen


def naive_coarsen(labels: np.ndarray, pixels: int) -> np.ndarray:
    result = labels.copy()
    for r in range(0, labels.shape[0], pixels):
        for c in range(0, labels.shape[1], pixels):
            block = labels[r : r + pixels, c : c + pixels]
            votes = Counter(block[block != 255].tolist())
            winner = min(votes, key=lambda k: (-votes[k], k), default=255)
            result[r : r + pixels, c : c + pixels][block != 255] = winner
    return result


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 7, 30, 37, 40, 41, 1000, 10**9])
@pytest.mark.parametrize("holes", [False, True])
def test_coarsening_equals_loops_over_blocks(pixels, holes):
    labels = blobs(pixels % 101, holes=holes)
    np.testing.assert_array_equal(coarsen(labels, pixels), naive_coarsen(labels, pixels))


def test_ties_go_to_the_lower_class_and_empty_blocks_stay_ignored():
    labels = np.array([[2, 1, 255, 255, 3], [1, 2, 255, 255, 3], [0, 255, 255, 4, 1]], np.uint8)
    wanted = np.array([[1, 1, 255, 255, 3], [1, 1, 255, 255, 3], [0, 255, 255, 4, 1]], np.uint8)
    np.testing.assert_array_equal(coarsen(labels, 2), wanted)


# minimum mapping unit


def patches(labels: np.ndarray) -> tuple[np.ndarray, dict[int, int], dict[int, set[int]]]:
    """Flood fill: patch numbers (0 where ignored), their sizes, their neighbours."""
    number = np.zeros(labels.shape, int)
    beside = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    inside = {(r, c) for r in range(labels.shape[0]) for c in range(labels.shape[1]) if labels[r, c] != 255}
    for start in sorted(inside):
        waiting = [start] if number[start] == 0 else []
        fresh = number.max() + 1
        while waiting:
            place = waiting.pop()
            number[place] = fresh
            around = [(place[0] + dr, place[1] + dc) for dr, dc in beside]
            waiting += [p for p in around if p in inside and number[p] == 0 and labels[p] == labels[place]]
    touching = {n: set() for n in range(1, number.max() + 1)}
    for r, c in inside:
        for p in ((r, c + 1), (r + 1, c)):
            if p in inside and number[p] != number[r, c]:
                touching[number[r, c]].add(number[p])
                touching[number[p]].add(number[r, c])
    return number, Counter(number[number > 0].tolist()), touching


def admissible(patch: int, unit: int, sizes, touching, seen=frozenset()) -> set[int | None]:
    """Patches that may swallow this one; several where neighbours are equally large, `None` where none can."""
    if sizes[patch] >= unit:
        return {patch}
    if patch in seen or not touching[patch]:
        return {None}
    largest = max(sizes[n] for n in touching[patch])
    chains = (n for n in touching[patch] if sizes[n] == largest)
    return set().union(*(admissible(n, unit, sizes, touching, seen | {patch}) for n in chains))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", [2, 7, 40])
def test_mapping_unit_equals_a_flood_fill(seed, unit):
    labels = blobs(seed, unit, holes=seed % 2 == 0, shape=(24, 30))
    sieved = minimum_mapping_unit(labels, unit)
    number, sizes, touching = patches(labels)
    value = {n: int(labels[number == n][0]) for n in sizes}
    assert (sieved != labels).any()
    for n in sizes:
        found = set(sieved[number == n].tolist())
        allowed = {value[n if goal is None else goal] for goal in admissible(n, unit, sizes, touching)}
        assert len(found) == 1
        assert found <= allowed
    np.testing.assert_array_equal(sieved == 255, labels == 255)


def test_patches_of_the_unit_stay_and_smaller_ones_go():
    labels = np.zeros((20, 20), np.uint8)
    labels[2:5, 2:5] = 1
    labels[9:13, 9:11] = 2
    wanted = np.where(labels == 2, 0, labels)
    np.testing.assert_array_equal(minimum_mapping_unit(labels, 9), wanted)
    np.testing.assert_array_equal(minimum_mapping_unit(labels, 8), labels)


def test_diagonal_neighbours_are_other_patches():
    labels = np.zeros((6, 6), np.uint8)
    labels[[1, 2], [1, 2]] = 1
    assert minimum_mapping_unit(labels, 2).max() == 0


def test_a_patch_among_ignored_pixels_stays_whatever_its_size():
    labels = np.full((9, 9), 255, np.uint8)
    labels[4, 4] = 3
    labels[:2] = 1
    np.testing.assert_array_equal(minimum_mapping_unit(labels, 50), labels)


# shifts


@pytest.mark.parametrize(("pixels", "scale"), [(0.5, 8), (1.5, 8), (4.0, 2), (2.5, 30)])
def test_shifted_borders_leave_the_interiors(pixels, scale):
    labels = np.kron(rng(3).integers(0, 4, (3, 3)), np.ones((50, 50))).astype(np.uint8)
    noisy = shift_borders(labels, rng(1), pixels, scale)
    reach = int(np.ceil(3 * pixels))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(labels, reach, mode="edge"), (2 * reach + 1,) * 2)
    inner = windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))
    changed = noisy != labels
    assert inner.mean() > 0.2
    assert not changed[inner].any()
    assert changed.any()


def test_borders_move_by_the_stated_distance():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    moved = [shift_borders(ramp, rng(seed), 4, 6)[:, 20:-20].astype(float) - ramp[:, 20:-20] for seed in range(6)]
    assert np.mean(np.square(moved)) ** 0.5 == pytest.approx(4 / np.sqrt(2), rel=0.1)


def test_no_shift_changes_nothing():
    labels = blobs(0)
    np.testing.assert_array_equal(shift_borders(labels, rng(0), 0), labels)
    np.testing.assert_array_equal(translate(labels, 0, 0), labels)


def test_translation_by_hand():
    labels = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.uint8)
    np.testing.assert_array_equal(translate(labels, 1, 0), [[0, 1, 2], [0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(translate(labels, 0, -2), [[2, 2, 2], [5, 5, 5], [8, 8, 8]])
    np.testing.assert_array_equal(translate(labels, 10**9, -(10**9)), np.full((3, 3), 2))


def test_translated_pixels_keep_their_label_where_an_ignored_one_arrives():
    labels = np.array([[0, 255, 2, 3]], np.uint8)
    np.testing.assert_array_equal(translate(labels, 0, 1), [[0, 255, 2, 2]])


# confusion


@pytest.mark.parametrize("patch", [0, 1.5, 4])
def test_measured_confusion_is_the_planted_one(patch):
    counts = np.zeros((3, 3))
    for index in range(6):
        labels = rng(index).integers(0, 3, (300, 310), dtype=np.uint8)
        labels[:50] = 255
        noisy = confuse(labels, rng(7, index), MATRIX, patch)
        known = labels != 255
        assert (noisy[~known] == 255).all()
        np.add.at(counts, (labels[known], noisy[known]), 1)
    rates = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rates, MATRIX, atol=0.003 + 0.004 * patch)
    assert (rates[np.array(MATRIX) == 0] == 0).all()


def test_larger_patches_hang_together():
    labels = np.zeros((256, 256), np.uint8)
    alike = [(np.diff(confuse(labels, rng(2), MATRIX, patch)) == 0).mean() for patch in (0, 2, 8)]
    assert alike[0] == pytest.approx(0.7**2 + 0.2**2 + 0.1**2, abs=0.02)
    assert alike[0] + 0.1 < alike[1] < alike[2] - 0.02


def test_identity_changes_nothing():
    labels = blobs(4)
    np.testing.assert_array_equal(confuse(labels, rng(0), np.eye(3), 2), labels)


@pytest.mark.parametrize(
    ("rows", "first", "last"),
    [
        (np.full((3, 3), 0.3333333), [1, 0, 0], [2, 2, 1]),
        ([[0.9999995, 5e-7, 0], [0, 0, 1], [0.5, 0, 0.5]], [1, 2, 0], [1, 2, 0]),
        ([[0, 0.4999996, 0.5], [0.5, 0.4999996, 0], [0, 0.1, 0.9]], [1, 0, 1], [2, 0, 1]),
    ],
)
def test_the_extremes_of_chance_stay_among_possible_classes(monkeypatch, rows, first, last):
    labels = np.array([[0, 1, 2]], np.uint8)
    for chance, wanted in ((0, first), (1, last)):
        pair = np.zeros((1, 3)), np.full((1, 3), chance, np.float32)
        monkeypatch.setattr("cromss.noise_rules.uniform_pair", lambda *_, pair=pair: pair)
        np.testing.assert_array_equal(confuse(labels, rng(0), rows, 1), [wanted])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 0], [0]], "wanted numbers"),
        ([["a", "b"], ["c", "d"]], "wanted numbers"),
        (None, "shape"),
        (0.5, "shape"),
        ([0.5, 0.5], "shape"),
        ([[1, 0, 0], [0, 1, 0]], "shape"),
        ([[1.5, -0.5], [0, 1]], "value 1.5"),
        ([[float("nan"), 1], [0, 1]], "value nan"),
        ([[0.5, 0.5], [0.2, 0.7]], "row 1 sums to 0.9"),
        ([[0.5, 0.49999], [0, 1]], "row 0"),
        ([[50, 50], [0, 100]], "value 50"),
    ],
)
def test_no_confusion_matrices(matrix, message):
    with pytest.raises(ValueError, match=f"^confusion matrix: .*{message}"):
        check_confusion(matrix)


def test_classes_beyond_the_matrix_are_refused():
    with pytest.raises(ValueError, match=r"class id 3, .* rows for 0\.\.2"):
        confuse(np.array([[3]], np.uint8), rng(0), MATRIX, 1)


# all of them


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("seed", range(3))
def test_ignored_pixels_stay_and_never_spread(rule, seed):
    labels = blobs(seed)
    before = labels.copy()
    noisy = rule(labels, rng(seed))
    assert noisy.dtype == np.uint8
    np.testing.assert_array_equal(noisy == 255, labels == 255)
    assert set(np.unique(noisy)) <= {0, 1, 2, 255}
    assert (noisy != labels).any()
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(noisy, rule(labels, rng(seed)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_nothing_known_stays_nothing_known(rule):
    labels = np.full((11, 13), 255, np.uint8)
    np.testing.assert_array_equal(rule(labels, rng(0)), labels)


@pytest.mark.parametrize("rule", RULES[:4], ids=lambda rule: rule.name)
def test_renamed_classes_give_the_renamed_result(rule):
    labels = blobs(9, shape=(36, 39), num_classes=2, holes=False)  # odd blocks of two classes: no ties
    renamed = np.array([5, 2], np.uint8)
    np.testing.assert_array_equal(rule(renamed[labels], rng(1)), renamed[rule(labels, rng(1))])


def test_rules_apply_in_their_order():
    labels, draw = blobs(2), rng(8)
    wanted = translate(coarsen(labels, 3), -2, 5)
    wanted = confuse(shift_borders(wanted, draw, 1.7, 4), draw, MATRIX, 2)
    np.testing.assert_array_equal(apply_rules(labels, [RULES[i] for i in (0, 2, 3, 4)], rng(8)), wanted)
    np.testing.assert_array_equal(apply_rules(labels, [], rng(8)), labels)


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros((1, 2, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_rules_take_masks_only(labels):
    with pytest.raises(ValueError, match=r"labels: wanted \(H, W\) uint8"):
        apply_rules(labels, [], rng(0))


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3", None, float("nan"), 10**10, [3]])
@pytest.mark.parametrize("rule", [coarsen, minimum_mapping_unit])
def test_sizes_are_whole_numbers_from_one(rule, value):
    with pytest.raises(ValueError, match=r"pixels .*wanted a whole number of pixels, 1 to"):
        rule(blobs(0), value)


@pytest.mark.parametrize("value", [-0.1, True, "3", None, float("nan"), float("inf"), 1e10])
@pytest.mark.parametrize(
    "rule",
    [
        partial(shift_borders, blobs(0), rng(0)),
        lambda value: shift_borders(blobs(0), rng(0), 1, value),
        lambda value: confuse(blobs(0), rng(0), MATRIX, value),
    ],
    ids=["pixels", "scale", "patch"],
)
def test_lengths_are_numbers_from_zero(rule, value):
    with pytest.raises(ValueError, match="wanted a number of pixels, 0 to"):
        rule(value)


@pytest.mark.parametrize("value", [1.5, "1", None, False])
def test_translations_are_whole_numbers(value):
    for by in ((value, 0), (0, value)):
        with pytest.raises(ValueError, match="wanted a whole number"):
            translate(blobs(0), *by)


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (Rule("coarsen", {"pixels": 7}), True),
        (Rule("coarsen", {"pixels": 8}), False),
        (Rule("translate", {"rows": -4, "columns": 6}), True),
        (Rule("translate", {"rows": 5, "columns": 0}), False),
        (Rule("translate", {"rows": 0, "columns": -7}), False),
    ],
)
def test_rules_stay_inside_the_mask(rule, fits):
    labels, rng = np.zeros((5, 7), np.uint8), np.random.default_rng(0)
    if fits:
        assert apply_rules(labels, [rule], rng).shape == (5, 7)
    else:
        with pytest.raises(ValueError, match=rf"{rule.name} .*: wanted .* of the mask, 5 x 7"):
            apply_rules(labels, [rule], rng)
