"""Figures of the analysis: what is drawn, named and said, whatever the numbers."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from cromss.analysis.figures import PART_COLOURS, fisher_figure, short_name, weights_figure
from cromss.analysis.findings import LayerScore, fisher_caption, weights_caption
from cromss.analysis.layers import Layer
from cromss.analysis.pictures import components_caption, principal_figure
from cromss.analysis.principal import Principal
from cromss.analysis.weight_divergence import Divergence
from cromss.legends import DW, IGNORE_INDEX

NAMES = {"encoder.conv1": "encoder", "encoder.layer2.0.downsample.0": "encoder"}
NAMES |= {"decoder.blocks.0.conv1.0": "decoder", "head.0": "head"}


def scores(noisy=0.5, exact=1.0, gaussian=1e-4, histogram=1e-3):
    told = Divergence(gaussian, histogram, 2e-3)
    return [LayerScore(name, part, noisy, exact, told, 100, 0.1) for name, part in NAMES.items()]


def shading(axes):
    return [to_hex(patch.get_facecolor()) for patch in axes.patches]


def test_fisher_ratios_by_layer(figures):
    rows = scores()
    image = fisher_figure(rows)
    assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    top, bottom = figures[0].axes
    assert [label.get_text() for label in bottom.get_xticklabels()] == [
        *("conv1", "layer2.0.downsample", "blocks.0.conv1", "head")
    ]
    drawn = {line.get_label(): line.get_ydata() for line in top.lines}
    assert {name: list(values) for name, values in drawn.items()} == {
        "trained on exact labels": [1.0] * 4,
        "trained on noisy labels": [0.5] * 4,
        "chance": [0.1] * 4,
    }
    assert list(bottom.lines[1].get_ydata()) == [0.5] * 4
    for axes in (top, bottom):
        assert shading(axes) == [PART_COLOURS[part] for part in NAMES.values()]
    assert [text.get_text() for text in top.texts] == ["encoder", "decoder", "head"]
    assert fisher_caption(rows) in figures[0].get_suptitle()


def test_divergences_by_layer(figures):
    rows = scores()
    weights_figure(rows)
    (axes,) = figures[0].axes
    assert shading(axes) == [PART_COLOURS[part] for part in NAMES.values()]
    points = [collection.get_offsets()[:, 1] for collection in axes.collections if len(collection.get_offsets()) == 4]
    assert [set(np.round(heights, 9)) for heights in points] == [{1e-4}, {1e-3}, {2e-3}]
    assert axes.get_yscale() == "log"
    assert weights_caption(rows) in figures[0].get_suptitle()


def test_whatever_the_numbers_there_is_a_figure():
    wild = (math.nan, math.inf, 0.0, 1e-300)
    assert fisher_figure([row for value in wild for row in scores(noisy=value) + scores(value, value)]).size
    assert weights_figure([row for value in wild[1:] for row in scores(gaussian=value, histogram=value)]).size
    for value in (math.nan, 0.0):
        assert fisher_figure(scores(value, value)).size
    assert weights_figure(scores(gaussian=0, histogram=0)).size


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("encoder.vit.blocks.0", "vit.blocks.0"),
        ("encoder.vit.blocks.10", "vit.blocks.10"),
        ("decoder.psp.blocks.1.1.0", "psp.blocks.1.1"),
        ("encoder.model.conv1.3", "model.conv1.3"),
        ("head.0", "head"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


def components(num_layers, seed=0):
    rng = np.random.default_rng(seed)
    maps = [torch.tensor(rng.random((2**i, 2**i)), dtype=torch.float32) for i in range(1, num_layers)]
    return [*(Principal(x, 0.5) for x in maps), Principal(torch.full((1, 1), 0.5), math.nan)]


@pytest.mark.parametrize("num_layers", [1, 2, 9])
def test_components_of_both_networks_with_names_and_shares(figures, num_layers):
    parts = ["encoder", "decoder", "head"]
    layers = [Layer(f"{parts[i % 3]}.block{i}.conv", parts[i % 3], nn.Identity()) for i in range(num_layers)]
    labels = np.zeros((16, 16), np.uint8)
    labels[:4], labels[4:8] = 6, IGNORE_INDEX
    image = principal_figure(
        np.ones((16, 16, 3)), labels, DW, layers, components(num_layers), components(num_layers, 1), "tile 7"
    )
    assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    (axes,) = figures[0].axes
    said = [text.get_text() for text in axes.texts]
    assert len(axes.images) == 2 + 2 * num_layers
    assert said.count("50 %") == 2 * (num_layers - 1)
    assert "nan %" not in said
    assert said.count("noisy") == said.count("exact") >= 1
    assert {"water", "built area", "unknown"} <= set(said)
    assert "trees" not in said
    names = [short_name(layer.name) if num_layers > 1 else "block0.conv" for layer in layers]
    assert [word for word in said if word.startswith("block")] == [
        *(("head" if name == "head" else name) for name in names if name.startswith("block"))
    ]
    assert "tile 7" in figures[0].get_suptitle()


def test_likeness_of_the_maps():
    layers = [Layer(f"{part}.conv", part, nn.Identity()) for part in ("encoder", "encoder", "decoder", "head")]
    rise = torch.linspace(0, 1, 16).reshape(4, 4)
    maps = [rise, rise, 1 - rise, torch.full((4, 4), 0.5)]
    noisy = [Principal(rise, 1.0)] * 4
    said = components_caption(layers, noisy, [Principal(x, 1.0) for x in maps])
    means = "encoder 1.00, decoder -1.00"
    assert said == f"Mean correlation of the two networks' maps, turned to agree: {means}; % = variance shown"
    assert "undefined" in components_caption(layers[-1:], noisy[:1], [Principal(maps[-1], math.nan)])
