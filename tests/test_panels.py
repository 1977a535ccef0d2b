"""Panels: what is drawn, named and explained."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cromss.legends import DW, IGNORE_INDEX, LEGENDS
from cromss.panels import class_map, panel

IDS = np.array([[0, 1], [8, IGNORE_INDEX]], np.uint8)
IMAGE = np.ones((2, 2, 3))


@pytest.fixture
def figures(monkeypatch):
    """Figures made so far."""
    made, start = [], Figure.__init__

    def remember(figure, *arguments, **options):
        start(figure, *arguments, **options)
        made.append(figure)

    monkeypatch.setattr(Figure, "__init__", remember)
    return made


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
    assert [ax.get_ylabel() for ax in figure.axes] == ["tile a", "", "tile b", ""]
    assert [ax.get_title() for ax in figure.axes] == ["image", "label", "", ""]
