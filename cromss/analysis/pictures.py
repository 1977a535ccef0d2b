"""First principal components of all layers as one picture: the two networks above each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cromss.analysis.figures import PART_COLOURS, drawn, short_name
from cromss.analysis.layers import PARTS, Layer
from cromss.analysis.principal import Principal
from cromss.legends import IGNORE_INDEX, Legend
from cromss.panels import class_map

_SIDE = 1.15
"""Side of a map on the page, in inches; lengths below are in sides."""
_GAP, _NAMES, _ROWS, _BIG = 0.06, 0.34, 0.24, 2.3


def principal_figure(
    image: np.ndarray,
    labels: np.ndarray,
    legend: Legend,
    layers: Sequence[Layer],
    noisy: Sequence[Principal],
    exact: Sequence[Principal],
    title: str,
) -> np.ndarray:
    """Image and labels at the left; then, layer by layer, the map of either network.

    Args:
        image: `(H, W, 3)` in [0, 1].
        labels: Exact class ids `(H, W)`.
        legend: Their classes.
        layers: Layers in forward order.
        noisy: Component of each in the network trained on noisy labels.
        exact: The same in the one trained on exact labels.
        title: Above all.

    Returns:
        `(H, W, 3)` uint8.
    """
    bands = max(1, round((len(layers) / 3) ** 0.5))
    columns = -(-len(layers) // bands)
    height_of_band = 2 + _GAP + _NAMES
    width, height = _BIG + 0.4 + _ROWS + columns * (1 + _GAP), max(bands * height_of_band + 0.1, 2 * _BIG + 1.9)
    figure = Figure(figsize=(width * _SIDE, (height + 0.85) * _SIDE), dpi=110)
    axes = figure.add_axes((0.008, 0.3 / (height + 0.85), 0.984, height / (height + 0.85)))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    axes.set_anchor("N")
    _tile(axes, image, labels, legend)
    left = _BIG + 0.4 + _ROWS
    for at, layer in enumerate(layers):
        x, y = left + at % columns * (1 + _GAP), at // columns * height_of_band + _NAMES
        _pair(axes, x, y, layer, noisy[at], exact[at])
        if at % columns == 0:
            for row, name in ((0, "noisy"), (1 + _GAP, "exact")):
                axes.text(left - 0.06, y + row + 0.5, name, rotation=90, ha="right", va="center", fontsize=8)
    parts = {layer.part for layer in layers}
    frames = [Patch(facecolor=c, label=f"layers of the {part}") for part, c in PART_COLOURS.items() if part in parts]
    figure.legend(handles=frames, loc="lower center", ncols=3, frameon=False, fontsize=9)
    return drawn(figure, f"First principal component of every layer: {title}", components_caption(layers, noisy, exact))


def components_caption(layers: Sequence[Layer], noisy: Sequence[Principal], exact: Sequence[Principal]) -> str:
    """One line on how much the maps of the two networks are alike."""
    alike = {part: [] for part in PARTS}
    for layer, pair in zip(layers, zip(noisy, exact)):
        alike[layer.part].append(_correlation(*(component.map.numpy().ravel() for component in pair)))
    means = ", ".join(f"{part} {np.nanmean(values):.2f}" for part, values in alike.items() if np.isfinite(values).any())
    return f"Mean correlation of the two networks' maps, turned to agree: {means or 'undefined'}; % = variance shown"


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else np.nan


def _pair(axes: Axes, x: float, y: float, layer: Layer, noisy: Principal, exact: Principal) -> None:
    """The two maps of a layer, noisy above exact, with its name and the shares of variance."""
    colour = PART_COLOURS[layer.part]
    axes.text(x + 0.5, y - 0.04, _in_lines(short_name(layer.name)), ha="center", va="bottom", fontsize=6.5)
    for row, component in ((y, noisy), (y + 1 + _GAP, exact)):
        _place(axes, component.map.numpy(), x, row, 1, colour, 2.2)
        share = "" if np.isnan(component.share) else f"{100 * component.share:.0f} %"
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
        axes.text(x + 0.96, row + 0.95, share, ha="right", va="bottom", fontsize=6, bbox=box)


def _tile(axes: Axes, image: np.ndarray, labels: np.ndarray, legend: Legend) -> None:
    """The image, its labels and their classes, one below the other."""
    for y, name, shown in ((_NAMES, "image", image), (2 * _NAMES + _BIG, "exact labels", class_map(labels, legend))):
        axes.text(_BIG / 2, y - 0.04, name, ha="center", va="bottom", fontsize=8)
        _place(axes, shown, 0, y, _BIG, "#909090", 0.8)
    classes = [*legend.classes, *[""] * (IGNORE_INDEX - legend.num_classes), "unknown"]
    y = 2 * (_NAMES + _BIG) + 0.08
    for at, class_id in enumerate(np.unique(labels)):
        left, top = at % 2 * _BIG / 2, y + at // 2 * 0.17
        colour = legend.palette()[class_id] / 255
        axes.add_patch(Rectangle((left, top), 0.12, 0.12, facecolor=colour, edgecolor="#909090", linewidth=0.5))
        axes.text(left + 0.17, top + 0.06, classes[class_id], va="center", fontsize=6.5, parse_math=False)


def _place(axes: Axes, shown: np.ndarray, x: float, y: float, side: float, colour: str, line: float) -> None:
    extent = (x, x + side, y + side, y)
    axes.imshow(shown, extent=extent, vmin=0, vmax=1, cmap="viridis", interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=colour, linewidth=line))


def _in_lines(name: str) -> str:
    """A dotted name, the last word of a long one on a line of its own."""
    front, _, last = name.rpartition(".")
    return f"{front}\n{last}" if front and len(name) > 20 else name
