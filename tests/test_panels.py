"""Panels: what is drawn, named and explained."""

import numpy as np
import pytest

from cromss.legends import DW, IGNORE_INDEX, LEGENDS, Legend
from cromss.panels import class_map, mask_panel, most_frequent, panel

IDS = np.array([[0, 1], [8, IGNORE_INDEX]], np.uint8)
IMAGE = np.ones((2, 2, 3))


def explained(figure):
    """Legend entry -> its colour."""
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, (patch.get_facecolor() for patch in legend.get_patches()), strict=True))


def test_class_maps_have_the_colours_of_the_legend():
    red, green, blue = (int(DW.colours[8][at : at + 2], 16) for at in (0, 2, 4))
    assert class_map(IDS, DW)[1].tolist() == [[red, green, blue], [255, 255, 255]]


@pytest.mark.parametrize("legend", LEGENDS.values(), ids=LEGENDS.keys())
def test_ignored_pixels_are_explained_where_there_are_any(legend, figures):
    known = np.arange(legend.num_classes, dtype=np.uint8)[None]
    for ids in (known, np.append(known, [[IGNORE_INDEX]], axis=1)):
        panel([{"image": IMAGE, "label": class_map(ids, legend), "trust": np.ones((2, 2))}], legend)
    without, with_ignored = map(explained, figures)
    assert list(without) == list(legend.classes)
    assert list(with_ignored) == [*legend.classes, "unknown"]
    assert len(set(with_ignored.values())) == legend.num_classes + 1
    assert with_ignored["unknown"] == (1, 1, 1, 1)


def test_rows_and_columns_are_named(figures):
    maps = class_map(IDS, DW)
    image = panel([{"image": IMAGE, "label": maps}] * 2, DW, "DW, run", ["tile a", "tile b"])
    assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    (figure,) = figures
    assert figure.get_suptitle() == "DW, run"
    assert [text.get_text() for text in figure.axes[0].texts] == ["image", "label", "tile a", "tile b"]
    boxes = [box for text in figure.axes[0].texts for box in [text.get_window_extent()]]
    pictures = boxes_of_pictures(figure)
    assert not any(box.overlaps(picture) for box in boxes for picture in pictures)


def boxes_of_pictures(figure):
    """Places of the pictures, in pixels."""
    return [image.get_window_extent(figure.canvas.get_renderer()) for image in figure.axes[0].images]


def test_pictures_keep_their_shape(figures):
    panel([{"wide": np.ones((20, 40, 3)), "high": np.ones((90, 30, 3)), "square": np.ones((2, 2))}], DW)
    wide, high, square = boxes_of_pictures(figures[0])
    assert wide.width == pytest.approx(2 * wide.height)
    assert high.height == pytest.approx(3 * high.width)
    assert square.width == pytest.approx(square.height) == pytest.approx(wide.width) == pytest.approx(high.height)


def test_weights_have_a_bar_where_their_scale_is_told(figures):
    row = {"image": IMAGE, "label": class_map(IDS, DW), "trust": np.full((2, 2), 0.3)}
    for scale in ("", "trust in the label"):
        panel([row], DW, scale=scale)
    without, with_bar = ([ax for ax in figure.axes if not ax.images] for figure in figures)
    assert not without
    (bar,) = with_bar
    assert bar.get_xlabel() == "trust in the label"
    assert bar.get_xlim() == (0, 1)


def many_classes(num_classes, name="c{}"):
    """A legend of that many classes in greys."""
    names, greys = (tuple(form.format(i) for i in range(num_classes)) for form in (name, "{0:02x}{0:02x}{0:02x}"))
    return Legend("many", names, greys, {})


def test_only_classes_that_occur_are_explained(figures):
    mask_panel({"mask": {"a": IDS, "b": IDS}}, DW)
    assert list(explained(figures[0])) == [DW.classes[0], DW.classes[1], DW.classes[8], "unknown"]


def test_of_many_classes_the_most_frequent_are_explained(figures):
    ids = np.repeat(np.arange(200, dtype=np.uint8), [2] * 100 + [1] * 85 + [3] * 15)[None]
    mask_panel({"mask": {"a": ids}}, many_classes(200))
    assert list(explained(figures[0])) == [f"c{i}" for i in (*range(5), *range(185, 200))] + ["and 180 more"]


@pytest.mark.parametrize(("counts", "wanted"), [([0, 2, 0, 1], [1, 3]), ([1] * 30, range(20)), ([0, 0], [])])
def test_most_frequent_classes(counts, wanted):
    assert most_frequent(np.array(counts)).tolist() == list(wanted)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_legends_stay_inside_the_picture(columns, figures):
    ids = np.arange(40, dtype=np.uint8)[None].repeat(40, 0)
    mask_panel({"mask": {str(i): ids for i in range(columns)}}, many_classes(40, "land cover {}"))
    (figure,) = figures
    box = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 <= box.y1 <= min(picture.y0 for picture in boxes_of_pictures(figure))
    assert min(picture.height for picture in boxes_of_pictures(figure)) > 120


def test_titles_of_two_lines_have_room():
    cell = class_map(np.zeros((4, 4), np.uint8), DW)
    low, high = (panel([{column: cell}], DW, "title") for column in ("random", "random\nmIoU 19.3 %"))
    assert high.shape[0] == low.shape[0] + 15
