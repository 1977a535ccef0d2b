"""The label quality report as pictures: confusion matrix, noise by distance to class borders, the worst masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cromss.label_quality import Quality
from cromss.legends import IGNORE_INDEX, Legend
from cromss.panels import MAX_SHOWN, class_map, most_frequent, panel

FEWEST_PIXELS = 200
"""Pixels of a class at a distance, below which their share of wrong ones says little and is not drawn."""

_DASHES = ("-", "--", "-.", ":")
_GREY, _RIGHT = "#707070", 225
_DARK = 65
"""Percentage from which cells are dark."""

_LONGEST_NAME = 30


@dataclass(frozen=True)
class Example:
    """A pair of masks to show.

    Attributes:
        name: Of the location.
        oa: Share of its compared pixels that are right.
        noisy: `(H, W)` uint8 class ids.
        exact: `(H, W)` uint8 class ids.
    """

    name: str
    oa: float
    noisy: np.ndarray
    exact: np.ndarray


def confusion_picture(quality: Quality, classes: Sequence[str]) -> np.ndarray:
    """The confusion matrix as a heat map: of the pixels of each exact class, the percentage with each noisy class.

    Args:
        quality: The counts.
        classes: Names by class id; of more than `MAX_SHOWN` the most frequent are drawn.
    """
    shown, note = _shown(quality)
    classes, totals = [classes[i] for i in shown], quality.confusion.sum(axis=1)[shown]
    confusion = quality.confusion[np.ix_(shown, shown)]
    percent = np.full(confusion.shape, np.nan)
    np.divide(100 * confusion, totals[:, None], out=percent, where=totals[:, None] > 0)
    names = 0.08 * max(map(len, classes))
    figure = _figure(1.6 + names + 0.62 * len(classes), 1.4 + 0.7 * names + 0.46 * len(classes))
    axis = figure.subplots()
    axis.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        colour = "white" if value > _DARK else "black"
        axis.text(column, row, _cell(value), ha="center", va="center", fontsize=8, color=colour)
    shares = totals / max(quality.num_compared, 1)
    axis.set_yticks(range(len(classes)), [f"{name} ({share:.1%})" for name, share in zip(classes, shares)], fontsize=8)
    axis.set_xticks(range(len(classes)), classes, fontsize=8, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_title(f"% of the pixels of each exact class{note}", fontsize=9)
    axis.set_xlabel("noisy class", fontsize=9)
    axis.set_ylabel("exact class (of all pixels)", fontsize=9)
    axis.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    return _pixels(figure)


def distance_picture(quality: Quality, legend: Legend, pixel_size: float | None = None) -> np.ndarray:
    """Share of wrong pixels by distance to the nearest class border, above how many pixels lie there.

    Args:
        quality: The counts.
        legend: Names and colours of the classes; of more than `MAX_SHOWN` the most frequent are drawn.
        pixel_size: Side of a pixel in metres, if known.
    """
    figure = _figure(7.2, 5.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    pixels, wrong = quality.pixels.sum(axis=0), quality.wrong.sum(axis=0)
    last = int(np.flatnonzero(pixels).max(initial=0)) + 1
    _draw_shares(top, wrong, pixels, 1, label="all classes", color="black", linewidth=3.5)
    shown, note = _shown(quality)
    for index, dashes in zip(shown, cycle(_DASHES)):
        name, colour = legend.classes[index], f"#{legend.colours[index]}"
        style = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "marker": ".", "markersize": 5}
        _draw_shares(top, quality.wrong[index], quality.pixels[index], FEWEST_PIXELS, label=name, **style)
    top.set_ylabel("wrong pixels")
    top.set_ylim(0, None)
    top.yaxis.set_major_formatter(_in_percent)
    top.legend(
        title=f"exact class, where it has\n{FEWEST_PIXELS} pixels or more{note}",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        handlelength=3,
    )
    bottom.bar(np.arange(1, len(pixels) + 1), pixels / max(quality.num_compared, 1), width=0.8, color=_GREY)
    bottom.set_ylabel("of all pixels")
    bottom.yaxis.set_major_formatter(_in_percent)
    bottom.set_xlabel("distance to the nearest class border of the exact mask (px)")
    bottom.set_xlim(0.4, last + 0.6)
    _name_distances(bottom, quality.max_distance, last)
    if pixel_size is not None:
        metres = top.secondary_xaxis("top", functions=(lambda px: px * pixel_size, lambda m: m / pixel_size))
        metres.set_xlabel("distance (m)")
    for axis in (top, bottom):
        axis.spines[["right", "top"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4")
        axis.set_axisbelow(True)
    return _pixels(figure)


def worst_picture(examples: Sequence[Example], legend: Legend) -> np.ndarray:
    """`(H, W, 3)` uint8 picture with a row an example: exact mask, noisy mask, and the wrong pixels in black.

    Args:
        examples: At least one.
        legend: Classes of the masks.
    """
    rows = [_row(example, legend) for example in examples]
    names = [f"{_short(example.name)}\nOA {100 * example.oa:.1f} %" for example in examples]
    masks = [mask for example in examples for mask in (example.exact, example.noisy)]
    return panel(rows, legend, names=names, masks=masks)


def _shown(quality: Quality) -> tuple[Sequence[int], str]:
    """Class ids to draw, and what to say of it in a line of its own: all, or the most frequent of many."""
    num_classes = len(quality.confusion)
    if num_classes <= MAX_SHOWN:
        return range(num_classes), ""
    shown = most_frequent(quality.confusion.sum(axis=0) + quality.confusion.sum(axis=1))
    return shown, f"\n({len(shown)} most frequent of {num_classes})"


def _row(example: Example, legend: Legend) -> Mapping[str, np.ndarray]:
    compared = (example.noisy != IGNORE_INDEX) & (example.exact != IGNORE_INDEX)
    grey = np.where(example.noisy == example.exact, _RIGHT, 0)
    errors = np.where(compared, grey, 255).astype(np.uint8)
    maps = {"exact": class_map(example.exact, legend), "noisy": class_map(example.noisy, legend)}
    return maps | {"wrong (black)": np.stack([errors] * 3, axis=-1)}


def _short(name: str) -> str:
    """A name that fits beside a row: a line for each part of a path, the middle of long ones left out."""
    half = _LONGEST_NAME // 2
    parts = (
        part if len(part) <= _LONGEST_NAME else f"{part[: half - 1]}...{part[2 - half :]}" for part in name.split("/")
    )
    return "\n".join(parts)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _pixels(figure: Figure) -> np.ndarray:
    """`(H, W, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_shares(axis: Axes, wrong: np.ndarray, pixels: np.ndarray, fewest: int, **style) -> None:
    """A line over the distances with that many pixels or more; what lies beyond the last one is a dot."""
    shares = np.full(len(pixels), np.nan)
    np.divide(wrong, pixels, out=shares, where=pixels >= fewest)
    if np.isfinite(shares).any():
        axis.plot(np.arange(1, len(shares)), shares[:-1], **style)
        axis.plot(len(shares), shares[-1], marker="o", markersize=2.5 + style["linewidth"], color=style["color"])


def _name_distances(axis: Axes, reach: int, last: int) -> None:
    """Whole distances that fit, and `> reach` where pixels lie beyond it."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100) if last <= 12 * step or step == 100)
    ticks = [1, *range(max(step, 2), min(last, reach) + 1, step)]
    if last > reach:
        ticks = [tick for tick in ticks if tick <= reach + 1 - step] + [reach + 1]
    axis.set_xticks(ticks, [f"> {reach}" if tick > reach else str(tick) for tick in ticks])


def _in_percent(share: float, _position: int) -> str:
    return f"{100 * share:g}%"


def _cell(percent: float) -> str:
    """A percentage in a cell: one decimal, nothing for none, a dash for a class without pixels."""
    if np.isnan(percent):
        return "-"
    return "" if percent == 0 else f"{percent:.1f}" if percent >= 0.05 else "<0.1"
