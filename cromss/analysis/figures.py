"""Figures of layers in forward order: Fisher ratios, divergence of weights; encoder, decoder and head are shaded."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cromss.analysis.findings import LayerScore, fisher_caption, weights_caption

PART_COLOURS = {"encoder": "#0072b2", "decoder": "#e69f00", "head": "#009e73"}
"""Colour of each part (Okabe and Ito's, which the colour-blind can tell apart)."""

NOISY, EXACT = "#d55e00", "#222222"
"""Colours of the networks trained on noisy and on exact labels."""


def fisher_figure(scores: Sequence[LayerScore]) -> np.ndarray:
    """Fisher ratio of every layer of both networks, and below the one over the other; `(H, W, 3)` uint8."""
    figure = _figure(len(scores), 6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = range(len(scores))
    for name, colour, marker in (("exact", EXACT, "o"), ("noisy", NOISY, "s")):
        ratios = np.array([getattr(score, name) for score in scores])
        ratios[~(ratios > 0)] = np.nan  # has no place on a log axis
        top.plot(places, ratios, color=colour, marker=marker, markersize=3.5, label=f"trained on {name} labels")
    chance = np.array([score.chance if score.chance > 0 else np.nan for score in scores])
    top.plot(places, chance, color="#606060", marker="_", markersize=8, linestyle="", label="chance")
    top.set(ylabel="Fisher ratio\n(between-class / within-class scatter)", yscale="log")
    top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    top.yaxis.set_major_formatter("{x:g}")
    top.yaxis.set_minor_formatter(NullFormatter())
    bottom.axhline(1, color=EXACT, linewidth=0.8)
    bottom.plot(places, [score.ratio for score in scores], color=NOISY, marker="s", markersize=3.5)
    bottom.set(ylabel="noisy / exact\n(1: no harm)", ylim=(0, None))
    for axes in (top, bottom):
        _shade(axes, scores)
    _name_parts(top, scores)
    _name_layers(bottom, scores)
    top.legend(loc="best", fontsize=8, framealpha=0.9)
    return drawn(
        figure, "How well the layers tell the classes apart: Fisher ratio of their features", fisher_caption(scores)
    )


def weights_figure(scores: Sequence[LayerScore]) -> np.ndarray:
    """KL divergence of the weights of every layer, Gaussians and histograms; `(H, W, 3)` uint8."""
    figure = _figure(len(scores), 5.0)
    axes = figure.subplots()
    places = np.arange(len(scores))
    shown = {"gaussian": ("o", "Gaussians fitted to the weights"), "histogram": ("D", "histograms of the weights")}
    values = {name: np.array([getattr(score.weights, name) for score in scores]) for name in shown}
    chance = [score.weights.chance for score in scores]
    bottom = min([*chance, *(v for of in values.values() for v in of if 0 < v < np.inf)]) / 3
    colours = [PART_COLOURS[score.part] for score in scores]
    for shift, (name, (marker, label)) in zip((-0.17, 0.17), shown.items()):
        tops = np.clip(np.nan_to_num(values[name], posinf=np.nan), bottom, None)
        axes.vlines(places + shift, bottom, tops, colors=colours, linewidth=0.8)
        axes.scatter(
            places + shift, tops, 20, colours if name == "gaussian" else "white", marker, edgecolors=colours, zorder=3
        )
        axes.scatter([], [], 20, EXACT if name == "gaussian" else "white", marker, edgecolors=EXACT, label=label)
    axes.scatter(places + 0.17, chance, 60, "#606060", "_", label="at most, by chance, in independent networks")
    axes.set(ylabel="KL(noisy || exact), nats", yscale="log", ylim=(bottom, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _shade(axes, scores)
    _name_parts(axes, scores)
    _name_layers(axes, scores)
    return drawn(
        figure,
        "How far noisy labels drive the weights from those of exact ones: KL divergence",
        weights_caption(scores),
    )


def short_name(name: str) -> str:
    """Name of a layer for a figure: without its part, and the numbers that only say that it is wrapped."""
    part, _, place = name.partition(".")
    return part if part == "head" else re.sub(r"(?<!blocks)\.0$", "", place)


def drawn(figure: Figure, title: str, caption: str) -> np.ndarray:
    """A figure under its title and a line on its numbers as `(H, W, 3)` uint8."""
    figure.suptitle(f"{title}\n{caption}", fontsize=9.2, linespacing=1.6, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(num_layers: int, height: float) -> Figure:
    return Figure(figsize=(max(8.5, 2 + 0.17 * num_layers), height), dpi=120, layout="constrained")


def _shade(axes: Axes, scores: Sequence[LayerScore]) -> None:
    """Colour the background of runs of layers of one part, in `PART_COLOURS`."""
    for at, score in enumerate(scores):
        axes.axvspan(at - 0.5, at + 0.5, color=PART_COLOURS[score.part], alpha=0.13, linewidth=0)
    axes.set_xlim(-0.5, len(scores) - 0.5)
    axes.grid(axis="y", color="white", linewidth=0.8)
    axes.set_axisbelow(True)


def _name_parts(axes: Axes, scores: Sequence[LayerScore]) -> None:
    for part, colour in PART_COLOURS.items():
        places = [at for at, score in enumerate(scores) if score.part == part]
        if places:
            middle = float(np.mean(places))
            axes.text(middle, 1.01, part, color=colour, ha="center", transform=axes.get_xaxis_transform(), fontsize=9)


def _name_layers(axes: Axes, scores: Sequence[LayerScore]) -> None:
    names = [short_name(score.name) for score in scores]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_xlabel("layers from input to output")
