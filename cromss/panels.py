"""Pictures of a batch for people: images, labels, predictions and trust, in the legend's colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cromss.legends import IGNORE_INDEX, Legend
from cromss.sensors import canonical_band

MAX_SHOWN = 20
"""Classes that a picture shows or explains at most."""


def optical_rgb(image: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Optical `(C, H, W)` -> `(H, W, 3)` natural colour, stretched to its 2 and 98 percentiles."""
    names = [canonical_band(band) for band in bands]
    natural = next((rgb for rgb in _NATURAL if set(rgb) <= set(names)), names[:1] * 3)
    wanted = [names.index(band) for band in natural]
    return _stretch(image[wanted].transpose(1, 2, 0))


def radar_rgb(image: np.ndarray) -> np.ndarray:
    """Sentinel-1 `(2, H, W)` -> `(H, W, 3)`: VV red, VH green, their difference blue."""
    vv, vh = image[0], image[1]
    return _stretch(np.stack([vv, vh, vv - vh + 0.5], axis=-1))


def picture(image: np.ndarray, modality: str, bands: Sequence[str]) -> np.ndarray:
    """`(H, W, 3)` picture of one modality's `(C, H, W)` image."""
    return radar_rgb(image) if modality == "s1" else optical_rgb(image, bands)


def class_map(ids: np.ndarray, legend: Legend) -> np.ndarray:
    """Class ids `(H, W)` -> `(H, W, 3)` uint8 in the legend's colours."""
    return legend.palette()[ids]


def most_frequent(counts: np.ndarray) -> np.ndarray:
    """Class ids that occur by their pixels `(K,)`, in order; the `MAX_SHOWN` most frequent where there are more."""
    ranked = np.argsort(-counts, kind="stable")
    return np.sort(ranked[: min(MAX_SHOWN, np.count_nonzero(counts))])


def panel(
    rows: Sequence[Mapping[str, np.ndarray]],
    legend: Legend,
    title: str = "",
    names: Sequence[str] = (),
    masks: Sequence[np.ndarray] = (),
    scale: str = "",
) -> np.ndarray:
    """Grid of pictures with column titles and the legend below.

    Args:
        rows: One mapping a row, column title -> `(H, W, 3)` picture (uint8 if from `class_map`), or
            `(H, W)` weights in [0, 1].
        legend: Classes and colours to explain; "unknown" joins them where a class map has ignored pixels.
        title: Above the grid.
        names: Of the rows, to stand at their left.
        masks: Class ids of the maps; only the classes in them are explained, at most `MAX_SHOWN` and how many more
            there are. All classes are without.
        scale: What the weights are, to stand at a colour bar of them; no bar without.

    Returns:
        `(H, W, 3)` uint8.
    """
    columns = list(rows[0])
    left = _GAP + 0.15 * max((name.count("\n") + 1 for name in names), default=0)
    top = 0.15 * (2 + max(column.count("\n") for column in columns))
    top += 0.1 + 0.17 * (title.count("\n") + 1) if title else 0
    width = left + _CELL * len(columns)
    unknown = any(map(_has_ignored, (image for row in rows for image in row.values())))
    handles = _legend_patches(legend, masks, unknown)
    longest = max(len(handle.get_label()) for handle in handles)
    beside = min(5, len(handles), max(1, int(width / (0.5 + 0.07 * longest))))
    below = max(0.6, 0.3 + 0.18 * -(-len(handles) // beside))
    height = top + _CELL * len(rows) + below + (_BAR if scale else 0)
    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    # inches from the top left
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    ax.set_axis_off()
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            _draw(ax, row[column], left + _CELL * (j + 0.5) - _GAP / 2, top + _CELL * (i + 0.5) - _GAP / 2)
    for j, column in enumerate(columns):
        ax.text(left + _CELL * (j + 0.5) - _GAP / 2, top - 0.05, column, fontsize=9, ha="center", va="bottom")
    for i, name in enumerate(names):
        ax.text(left - 0.05, top + _CELL * (i + 0.5), name, fontsize=7, rotation=90, ha="right", va="center")
    if scale:
        _add_bar(figure.add_axes((0.25, (below + 0.8 * _BAR) / height, 0.5, 0.1 / height)), scale)
    figure.legend(handles=handles, loc="lower center", ncols=beside, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def mask_panel(rows: Mapping[str, Mapping[str, np.ndarray]], legend: Legend) -> np.ndarray:
    """A `panel` of masks: name of a row -> title -> `(H, W)` uint8 class ids; the classes in them are explained."""
    maps = [{title: class_map(mask, legend) for title, mask in masks.items()} for masks in rows.values()]
    return panel(maps, legend, names=list(rows), masks=[mask for masks in rows.values() for mask in masks.values()])


def _draw(ax: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Draw a picture or weights, as large as a cell allows, around `(x, y)`."""
    height, width = (_CELL - _GAP) / max(image.shape[:2]) / 2 * np.array(image.shape[:2])
    extent = (x - width, x + width, y + height, y - height)
    ax.imshow(image, vmin=0, vmax=1, cmap=_WEIGHTS, interpolation="nearest", extent=extent, aspect="auto")
    ax.add_patch(Rectangle((x - width, y - height), 2 * width, 2 * height, fill=False, edgecolor=_FRAME, linewidth=0.5))


def _add_bar(ax: Axes, scale: str) -> None:
    """Colour bar of weights, and what they are."""
    bar = ax.figure.colorbar(ScalarMappable(cmap=_WEIGHTS), cax=ax, orientation="horizontal")
    bar.set_label(scale, fontsize=8)
    ax.tick_params(labelsize=7)


def _legend_patches(legend: Legend, masks: Sequence[np.ndarray], unknown: bool) -> list[Patch]:
    colours, shown, more = legend.palette() / 255, range(legend.num_classes), 0
    if masks:
        counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)[: legend.num_classes]
        shown = most_frequent(counts)
        more = np.count_nonzero(counts) - len(shown)
    entries = {legend.classes[i]: colours[i] for i in shown} | ({"unknown": colours[IGNORE_INDEX]} if unknown else {})
    patches = [Patch(facecolor=c, edgecolor=_FRAME, linewidth=0.5, label=name) for name, c in entries.items()]
    return patches + ([Patch(facecolor="none", edgecolor="none", label=f"and {more} more")] if more else [])


def _has_ignored(image: np.ndarray) -> bool:
    """Whether a class map (uint8 RGB, other than pictures and weights) has white pixels."""
    return image.dtype == np.uint8 and bool((image == 255).all(axis=-1).any())


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [2, 98], axis=(0, 1))
    return np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1)


_CELL, _GAP = 2.2, 0.1
"""Inches from picture to picture, and between them."""
_BAR = 0.5
"""Inches that a colour bar takes."""
_FRAME, _WEIGHTS = "#909090", "viridis"
_NATURAL = (("B4", "B3", "B2"), ("R", "G", "B"))
