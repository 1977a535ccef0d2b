"""Counts of noisy against exact masks: naive loops, hand cases, planted noise, and what must not change them."""

import numpy as np
import pytest

from cromss.label_quality import MAX_DISTANCE, Quality, border_distance, compare

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = list(Quality.__dataclass_fields__)


def random_pair(rng, num_classes, shape, unlabelled=0.15):
    """Exact blocks of classes and noisy labels that agree with most of them, both with holes."""
    exact = rng.integers(0, num_classes, shape).astype(np.uint8)
    exact = np.where(rng.random(shape) < 0.7, exact[0, 0], exact).astype(np.uint8)
    noisy = np.where(rng.random(shape) < 0.6, exact, rng.integers(0, num_classes, shape)).astype(np.uint8)
    for mask in (noisy, exact):
        mask[rng.random(shape) < unlabelled] = 255
    return noisy, exact


def naive_distance(labels, reach):
    """Every pixel against every other."""
    distance = np.full(labels.shape, np.inf)
    for y, x in np.ndindex(labels.shape):
        for v, u in np.ndindex(labels.shape):
            if labels[y, x] != 255 and labels[v, u] not in (255, labels[y, x]):
                distance[y, x] = min(distance[y, x], np.hypot(v - y, u - x))
    return np.where(distance <= reach, distance, np.inf)


def naive_counts(noisy, exact, num_classes, reach):
    confusion = np.zeros((num_classes, num_classes), int)
    pixels, wrong = np.zeros((num_classes, reach + 1), int), np.zeros((num_classes, reach + 1), int)
    distance = naive_distance(exact, reach)
    for at in np.ndindex(exact.shape):
        if noisy[at] != 255 and exact[at] != 255:
            confusion[exact[at], noisy[at]] += 1
            step = next(i for i in range(reach + 1) if distance[at] <= i + 1 or i == reach)
            pixels[exact[at], step] += 1
            wrong[exact[at], step] += noisy[at] != exact[at]
    return confusion, pixels, wrong


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COUNTS)


@pytest.mark.parametrize("seed", range(12))
def test_distances_are_those_of_every_pair_of_pixels(seed):
    rng = np.random.default_rng(seed)
    shape, reach = tuple(rng.integers(1, 12, 2)), int(rng.integers(1, 15))
    _, labels = random_pair(rng, int(rng.integers(2, 5)), shape, unlabelled=(0, 0.2, 0.8)[seed % 3])
    np.testing.assert_allclose(border_distance(labels, reach), naive_distance(labels, reach), rtol=1e-15)


def test_distances_of_a_single_pixel_are_circles():
    labels = np.zeros((21, 31), np.uint8)
    labels[10, 15] = 1
    y, x = np.mgrid[:21, :31]
    circles = np.hypot(y - 10, x - 15)
    circles[10, 15] = 1
    np.testing.assert_allclose(border_distance(labels, 100), circles, rtol=1e-15)
    np.testing.assert_array_equal(np.isinf(border_distance(labels, 7)), circles > 7)


def test_unlabelled_pixels_make_no_border():
    labels = np.array([[0, 255, 0, 255, 255, 1, 255]], np.uint8)
    assert border_distance(labels, 9).tolist() == [[5, np.inf, 3, np.inf, np.inf, 3, np.inf]]
    assert np.isinf(border_distance(np.full((4, 4), 255, np.uint8), 3)).all()


def test_five_by_five_by_hand():
    exact = np.array([[0, 0, 0, 1, 1]] * 4 + [[0, 0, 0, 1, 255]], np.uint8)
    noisy = np.array([[0, 0, 1, 1, 1]] * 3 + [[0, 0, 0, 0, 1], [2, 0, 0, 255, 1]], np.uint8)
    quality = compare(noisy, exact, num_classes=3, max_distance=2)
    assert quality.confusion.tolist() == [[11, 3, 1], [1, 7, 0], [0, 0, 0]]
    assert quality.pixels.tolist() == [[5, 5, 5], [4, 4, 0], [0, 0, 0]]
    assert quality.wrong.tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert (quality.num_masks, quality.num_pixels, quality.num_compared, quality.num_wrong) == (1, 25, 23, 5)
    assert (quality.unlabelled_noisy, quality.unlabelled_exact, quality.max_distance) == (1, 1, 2)
    scores = quality.scores()
    assert scores["oa"] == pytest.approx(18 / 23)
    assert scores["precision"].tolist() == pytest.approx([11 / 12, 7 / 10, 0])
    assert scores["recall"].tolist() == pytest.approx([11 / 15, 7 / 8, np.nan], nan_ok=True)
    assert scores["precision_mean"] == pytest.approx((11 / 12 + 7 / 10) / 3)
    assert scores["aa"] == pytest.approx((11 / 15 + 7 / 8) / 2)
    assert scores["iou"].tolist() == pytest.approx([11 / 16, 7 / 11, 0])


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_a_loop_over_pixels(seed):
    rng = np.random.default_rng(100 + seed)
    num_classes, reach = int(rng.integers(2, 6)), int(rng.integers(1, 6))
    noisy, exact = random_pair(rng, num_classes, (9, 13))
    quality = compare(noisy, exact, num_classes, reach)
    for found, wanted in zip(
        (quality.confusion, quality.pixels, quality.wrong), naive_counts(noisy, exact, num_classes, reach)
    ):
        np.testing.assert_array_equal(found, wanted)
    assert (quality.unlabelled_noisy, quality.unlabelled_exact) == ((noisy == 255).sum(), (exact == 255).sum())
    scores = quality.scores()
    for k in range(num_classes):
        labelled, true = (noisy == k) & (exact != 255), (exact == k) & (noisy != 255)
        both, either = (labelled & true).sum(), (labelled | true).sum()
        assert scores["precision"][k].item() == pytest.approx(both / labelled.sum())
        assert scores["recall"][k].item() == pytest.approx(both / true.sum())
        assert scores["iou"][k].item() == pytest.approx(both / either)


@pytest.mark.parametrize("near", [True, False])
def test_planted_noise_is_found_where_it_was_planted(near):
    exact = np.zeros((40, 40), np.uint8)
    exact[:, 20:] = 1
    distance = np.minimum(np.abs(np.arange(40) - 19), np.abs(np.arange(40) - 20)) + 1
    chosen = np.broadcast_to(distance <= 3 if near else distance > 6, exact.shape)
    quality = compare(np.where(chosen, 1 - exact, exact), exact, 2, max_distance=8)
    assert quality.num_wrong == chosen.sum()
    wanted = np.where((np.arange(9) < 3) if near else (np.arange(9) >= 6), quality.pixels, 0)
    np.testing.assert_array_equal(quality.wrong, wanted)


def test_swapping_the_masks_swaps_precision_and_recall():
    noisy, exact = random_pair(np.random.default_rng(3), 4, (12, 12))
    there, back = compare(noisy, exact, 4).scores(), compare(exact, noisy, 4).scores()
    assert there["precision"].tolist() == back["recall"].tolist()
    assert there["iou"].tolist() == back["iou"].tolist()


def test_permuted_classes_permute_the_rows():
    noisy, exact = random_pair(np.random.default_rng(4), 4, (12, 15))
    order = np.array([2, 0, 3, 1])
    renamed = np.full(256, 255, np.uint8)
    renamed[order] = np.arange(4)
    a, b = compare(noisy, exact, 4), compare(renamed[noisy], renamed[exact], 4)
    np.testing.assert_array_equal(b.confusion, a.confusion[np.ix_(order, order)])
    np.testing.assert_array_equal(b.wrong, a.wrong[order])
    np.testing.assert_array_equal(b.pixels, a.pixels[order])


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.transpose, np.rot90])
def test_turned_masks_count_the_same(turn):
    noisy, exact = random_pair(np.random.default_rng(5), 3, (11, 14))
    assert equal(compare(noisy, exact, 3), compare(turn(noisy), turn(exact), 3))


def test_counts_of_two_sets_add_up():
    rng = np.random.default_rng(6)
    parts = [compare(*random_pair(rng, 3, shape), 3, 5) for shape in ((7, 9), (4, 4), (1, 8))]
    assert equal(sum(parts[1:], parts[0]), parts[0] + (parts[2] + parts[1]))
    whole = parts[0] + parts[1]
    assert (whole.num_masks, whole.num_pixels) == (2, 63 + 16)
    np.testing.assert_array_equal(whole.confusion, parts[0].confusion + parts[1].confusion)


@pytest.mark.parametrize(("num_classes", "max_distance"), [(4, 5), (3, 6)])
def test_counts_of_other_classes_or_distances_do_not_add(num_classes, max_distance):
    mask = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{num_classes} classes up to {max_distance} px do not add"):
        compare(mask, mask, 3, 5) + compare(mask, mask, num_classes, max_distance)


def test_a_mask_of_one_class_lies_beyond_every_distance():
    exact = np.full((6, 6), 1, np.uint8)
    quality = compare(np.eye(6, dtype=np.uint8), exact, 2, max_distance=3)
    assert quality.pixels.tolist() == [[0, 0, 0, 0], [0, 0, 0, 36]]
    assert quality.wrong.tolist() == [[0, 0, 0, 0], [0, 0, 0, 30]]


def test_nothing_in_common_is_nothing_compared():
    exact = np.where(np.arange(16).reshape(4, 4) % 2, 0, 255).astype(np.uint8)
    noisy = np.where(exact == 255, 0, 255).astype(np.uint8)
    quality = compare(noisy, exact, 2)
    assert (quality.num_compared, quality.unlabelled_noisy, quality.unlabelled_exact) == (0, 8, 8)
    assert np.isnan(quality.scores()["oa"])


def test_types_and_views_do_not_matter():
    noisy, exact = random_pair(np.random.default_rng(7), 4, (9, 9))
    wanted = compare(noisy, exact, 4)
    assert equal(wanted, compare(noisy.astype(np.int64), exact.astype(np.uint16), 4))
    assert equal(wanted, compare(np.asfortranarray(noisy), np.stack([exact, exact], axis=-1)[..., 0], 4))


GOOD = np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("noisy", "exact", "options", "message"),
    [
        (GOOD.astype(float), GOOD, {}, "noisy mask: integer class ids .* float64"),
        (GOOD, GOOD.astype(np.float32), {}, "exact mask: integer class ids .* float32"),
        (GOOD, GOOD.astype(bool), {}, "exact mask: .* bool"),
        (GOOD[None], GOOD, {}, "noisy mask: .* shape"),
        (GOOD, GOOD[:0], {}, "exact mask: .* shape"),
        (GOOD + 3, GOOD, {}, r"noisy mask: class ids lie in 0..2, or 255; found 3"),
        (GOOD, GOOD + 254, {}, "exact mask: .* found 254"),
        (GOOD, GOOD.astype(int) - 1, {}, "exact mask: .* found -1"),
        (GOOD, GOOD[:2], {}, r"sizes differ: noisy \(3, 3\), exact \(2, 3\)"),
        (GOOD, GOOD, {"max_distance": 0}, "max_distance 0"),
        (GOOD, GOOD, {"max_distance": MAX_DISTANCE + 1}, "max_distance 1001"),
    ],
)
def test_bad_masks_are_refused(noisy, exact, options, message):
    with pytest.raises(ValueError, match=message):
        compare(noisy, exact, 3, **options)


def test_ids_outside_are_refused_where_the_other_mask_has_no_class():
    exact, noisy = GOOD.copy(), GOOD.copy()
    exact[0, 0], noisy[0, 0] = 255, 9
    with pytest.raises(ValueError, match="found 9"):
        compare(noisy, exact, 3)


def test_the_longest_distance_does_not_overflow():
    labels = np.zeros((1, MAX_DISTANCE + 3), np.uint8)
    labels[0, 0] = 1
    assert border_distance(labels, MAX_DISTANCE)[0, -3:].tolist() == [MAX_DISTANCE, np.inf, np.inf]
    assert border_distance(labels.T, MAX_DISTANCE)[-3:, 0].tolist() == [MAX_DISTANCE, np.inf, np.inf]
