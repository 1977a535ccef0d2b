"""Pictures of label quality: what is written in the cells, which curves are drawn, and which colours."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cromss import quality_figures
from cromss.label_quality import compare
from cromss.legends import LEGENDS, NYC_LIDAR, OSM, Legend
from cromss.quality_figures import Example, confusion_picture, distance_picture, worst_picture

pytestmark = pytest.mark.usefixtures("one_thread")


def blocks(num_classes, size=96, seed=0):
    """Exact blocks of 12 x 12 px and noisy labels moved by two rows."""
    rng = np.random.default_rng(seed)
    exact = rng.integers(0, num_classes, (size // 12, size // 12)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
    return np.roll(exact, 2, axis=0), exact


def curves(axis):
    """Label -> line, of those with a label."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_cells_hold_the_shares_of_the_rows(figures):
    exact = np.repeat(np.uint8([0, 1]), [1000, 3])[None]
    noisy = np.where(np.arange(1003) < 250, 1, exact).astype(np.uint8)
    picture = confusion_picture(compare(noisy, exact, 3), ("trees", "built", "nowhere"))
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    (axis,) = figures[0].axes
    assert [text.get_text() for text in axis.texts] == ["75.0", "25.0", "", "", "100.0", "", "-", "-", "-"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["trees", "built", "nowhere"]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["trees (99.7%)", "built (0.3%)", "nowhere (0.0%)"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("noisy class", "exact class (of all pixels)")


def test_small_shares_are_not_written_as_none(figures):
    exact = np.zeros((1, 10000), np.uint8)
    noisy = (np.arange(10000) < 3).astype(np.uint8)[None]
    confusion_picture(compare(noisy, exact, 2), ("a", "b"))
    assert [text.get_text() for text in figures[0].axes[0].texts][:2] == ["100.0", "<0.1"]


@pytest.mark.parametrize("legend", LEGENDS.values(), ids=LEGENDS)
def test_cells_and_names_stay_inside_the_picture_and_apart(legend, figures):
    quality = compare(*blocks(legend.num_classes), legend.num_classes)
    confusion_picture(quality, legend.classes)
    (figure,) = figures
    renderer, (axis,) = figure.canvas.get_renderer(), figure.axes
    whole = figure.bbox
    labels = [axis.xaxis.label, axis.yaxis.label, axis.title, *axis.get_yticklabels(), *axis.get_xticklabels()]
    for text in [*labels, *axis.texts]:
        box = text.get_window_extent(renderer)
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text.get_text()
    cell = axis.get_window_extent(renderer).width / legend.num_classes
    assert max(text.get_window_extent(renderer).width for text in axis.texts) < 0.9 * cell


def test_curves_are_the_shares_of_wrong_pixels(figures):
    quality = compare(*blocks(4), 4, max_distance=4)
    distance_picture(quality, NYC_LIDAR)
    top, bottom = figures[0].axes
    found = curves(top)
    assert list(found) == ["all classes", *NYC_LIDAR.classes]
    for index, (name, colour) in enumerate(zip(NYC_LIDAR.classes, NYC_LIDAR.colours)):
        enough = quality.pixels[index, :4] >= quality_figures.FEWEST_PIXELS
        shares = np.where(enough, quality.wrong[index, :4] / np.maximum(quality.pixels[index, :4], 1), np.nan)
        np.testing.assert_allclose(found[name].get_ydata(), shares)
        np.testing.assert_array_equal(found[name].get_xdata(), [1, 2, 3, 4])
        assert to_hex(found[name].get_color()) == f"#{colour}"
    total = quality.wrong.sum(axis=0) / quality.pixels.sum(axis=0)
    np.testing.assert_allclose(found["all classes"].get_ydata(), total[:4])
    assert found["all classes"].get_linewidth() > 2 * found["trees"].get_linewidth()
    heights = [bar.get_height() for bar in bottom.patches]
    np.testing.assert_allclose(heights, quality.pixels.sum(axis=0) / quality.num_compared)
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["1", "2", "3", "4", "> 4"]


def test_neighbouring_classes_differ_in_more_than_colour(figures):
    distance_picture(compare(*blocks(13, size=360), 13), OSM)
    styles = [(line.get_linestyle(), line.get_color()) for line in curves(figures[0].axes[0]).values()][1:]
    assert len(set(styles)) == 13
    assert all(a[0] != b[0] for a, b in pairwise(styles))


@pytest.mark.parametrize("pixel_size", [None, 10.0])
def test_metres_are_told_where_they_are_known(pixel_size, figures):
    distance_picture(compare(*blocks(4), 4), NYC_LIDAR, pixel_size)
    top = figures[0].axes[0]
    assert [axis.get_xlabel() for axis in top.child_axes] == ([] if pixel_size is None else ["distance (m)"])
    if pixel_size:
        low, high = top.get_xlim()
        assert top.child_axes[0].get_xlim() == pytest.approx((10 * low, 10 * high))


def test_classes_with_few_pixels_are_not_drawn(figures):
    exact = np.zeros((60, 60), np.uint8)
    exact[:5, :5] = 1
    distance_picture(compare(exact, exact, 4, max_distance=3), NYC_LIDAR)
    assert list(curves(figures[0].axes[0])) == ["all classes", "background"]


@pytest.mark.parametrize("exact", [np.zeros((5, 5), np.uint8), np.eye(3, dtype=np.uint8)])
def test_masks_without_borders_or_of_few_pixels_are_drawn(exact):
    assert distance_picture(compare(exact, exact, 2), LEGENDS["OSCD"]).std() > 0


def test_wrong_pixels_are_black_and_unknown_ones_white(figures):
    exact, noisy = np.uint8([[0, 1, 255, 3]]), np.uint8([[0, 2, 1, 255]])
    worst_picture([Example("a", 0.5, noisy, exact)], NYC_LIDAR)
    (axis,) = figures[0].axes
    first, second, third = (image.get_array() for image in axis.images)
    palette = NYC_LIDAR.palette()
    np.testing.assert_array_equal(first, palette[exact])
    np.testing.assert_array_equal(second, palette[noisy])
    assert third[0, :, 0].tolist() == [225, 0, 255, 255]
    assert [text.get_text() for text in axis.texts][:3] == ["exact", "noisy", "wrong (black)"]


def test_long_names_are_shortened(figures):
    mask = np.zeros((4, 4), np.uint8)
    name = "0000012/20190704T054639_20190704T054831_T43RCP"
    worst_picture([Example(name, 0.123, mask, mask)], NYC_LIDAR)
    label = figures[0].axes[0].texts[-1].get_text()
    assert label == "0000012\n20190704T05463...054831_T43RCP\nOA 12.3 %"


def test_of_many_classes_the_most_frequent_are_drawn(figures):
    names = tuple(f"class {i}" for i in range(200))
    legend = Legend("many", names, tuple(f"{i:02x}40c0" for i in range(200)), {})
    rng = np.random.default_rng(3)
    exact = np.repeat(np.arange(200, dtype=np.uint8), [300] * 30 + [10] * 170)
    noisy = np.where(rng.random(exact.size) < 0.3, rng.permutation(exact), exact)
    exact, noisy = (mask[: len(mask) // 100 * 100].reshape(-1, 100) for mask in (exact, noisy))
    quality = compare(noisy, exact, 200)
    confusion_picture(quality, names)
    distance_picture(quality, legend)
    worst_picture([Example("a", 0.7, noisy, exact)], legend)
    heat_map, curve = figures[0].axes[0], figures[1].axes[0]
    counts = quality.confusion.sum(axis=0) + quality.confusion.sum(axis=1)
    shown = [names[i] for i in sorted(sorted(range(200), key=lambda i: (-counts[i], i))[:20])]
    assert [text.get_text() for text in heat_map.get_xticklabels()] == shown
    first = shown[0]
    share = quality.confusion[names.index(first), names.index(first)] / quality.confusion[names.index(first)].sum()
    assert heat_map.texts[0].get_text() == f"{100 * share:.1f}"
    assert set(curves(curve)) <= {"all classes", *shown}
    for text in (heat_map.get_title(), curve.get_legend().get_title().get_text()):
        assert text.endswith("\n(20 most frequent of 200)")
    (explained,) = figures[2].legends
    assert [text.get_text() for text in explained.get_texts()][20:] == ["and 180 more"]
