"""Pictures of a batch for people: images, labels, predictions and trust, in the legend's colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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
    columns, width = list(rows[0]), 2.2 * len(rows[0])
    unknown = any(map(_has_ignored, (image for row in rows for image in row.values())))
    handles = _legend_patches(legend, masks, unknown)
    longest = max(len(handle.get_label()) for handle in handles)
    beside = min(5, len(handles), max(1, int(width / (0.5 + 0.07 * longest))))
    below = max(1.1, 0.3 + 0.18 * -(-len(handles) // beside))
    height = 2.2 * len(rows) + below + (0.6 if scale else 0)
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, row_axes in zip(rows, axes):
        for column, ax in zip(columns, row_axes):
            ax.imshow(row[column], vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color=_FRAME, linewidth=0.5)
    for column, ax in zip(columns, axes[0]):
        ax.set_title(column, fontsize=9)
    for name, ax in zip(names, axes[:, 0]):
        ax.set_ylabel(name, fontsize=7)
    if scale:
        weights = next(image for ax in axes.flat for image in ax.images if image.get_array().ndim == 2)
        bar = figure.colorbar(weights, ax=axes, location="bottom", shrink=0.6, aspect=50, pad=0.01)
        bar.set_label(scale, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    figure.legend(handles=handles, loc="outside lower center", ncols=beside, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def mask_panel(rows: Mapping[str, Mapping[str, np.ndarray]], legend: Legend) -> np.ndarray:
    """A `panel` of masks: name of a row -> title -> `(H, W)` uint8 class ids; the classes in them are explained."""
    maps = [{title: class_map(mask, legend) for title, mask in masks.items()} for masks in rows.values()]
    return panel(maps, legend, names=list(rows), masks=[mask for masks in rows.values() for mask in masks.values()])


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


_FRAME = "#909090"
_NATURAL = (("B4", "B3", "B2"), ("R", "G", "B"))
