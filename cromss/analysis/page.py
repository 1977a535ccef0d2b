"""The analysis on one page of Markdown."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cromss.analysis.findings import (
    LayerScore,
    PartScore,
    fisher_caption,
    in_percent,
    part_scores,
    verdict,
    weights_caption,
)

_HEAD = ("part", "layers", "Fisher ratio, noisy", "exact", "lost", "KL Gaussians", "KL histograms", "by chance")


def markdown(
    scores: Sequence[LayerScore],
    about: Mapping[str, str],
    accuracy: Mapping[str, Mapping[str, float]],
    pictures: Sequence[Path],
) -> str:
    """What was compared, what was found, and the figures.

    Args:
        scores: Numbers of all layers, input to output.
        about: What was compared: word -> value, in the order of the page.
        accuracy: Network (`"noisy"`, `"exact"`) -> `"oa"` and `"miou"` on the tiles, in [0, 1].
        pictures: Pictures of first principal components, in the folder of the page.
    """
    facts = [f"- {word}: {value}" for word, value in about.items()]
    scored = [
        f"- trained on {name} labels: overall accuracy {in_percent(of['oa'])}, mIoU {in_percent(of['miou'])}"
        for name, of in accuracy.items()
    ]
    most = sorted((s for s in scores if not math.isnan(s.ratio)), key=lambda score: score.ratio)[:5]
    worst = ", ".join(f"`{score.name}` {in_percent(1 - score.ratio)}" for score in most)
    blocks = [
        "# Layers under noisy labels",
        "\n".join(facts),
        "## Findings",
        "\n".join(f"- {sentence}" for sentence in finding(scores, accuracy)),
        f"Layers that lose most of their Fisher ratio: {worst or 'none has one'}.",
        _table(part_scores(scores)),
        "Fisher ratios are geometric means over layers, divergences medians in nats.",
        "On the exact labels of these tiles:",
        "\n".join(scored),
        "## Fisher ratio",
        f"![Fisher ratio of every layer](fisher.png)\n\n{fisher_caption(scores)}.",
        "Between-class over within-class scatter of a layer's features, classes from the exact labels. Grey dashes: "
        "chance, the same with the labels of another tile turned round; maps of few cells have much of it. Numbers of "
        "all layers: `fisher.csv`.",
        "## Weights",
        f"![KL divergence of the weights](weights.png)\n\n{weights_caption(scores)}.",
        "KL divergence of the weights trained on noisy labels from those trained on exact ones. Histograms of few "
        "weights differ by chance alone: the grey dashes say how much at most in independent networks; networks of one "
        "seed start from the same weights and lie below. Numbers of all layers: `weights.csv`.",
        *(["## First principal components", *_gallery(pictures)] if pictures else []),
        "## Before you conclude",
        "This is one pair of networks on few tiles. Train such pairs, noisy and exact under one seed, under several "
        "seeds, and believe what all of their pages show.",
    ]
    return "\n\n".join(blocks) + "\n"


def finding(scores: Sequence[LayerScore], accuracy: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The verdict, after a warning where exact labels have made no better network; arguments as in `markdown`."""
    noisy, exact = (accuracy[name]["miou"] for name in ("noisy", "exact"))
    if exact > noisy:
        return verdict(scores)
    warning = f"mIoU is {in_percent(noisy)} after noisy and {in_percent(exact)} after exact labels: no harm to place."
    return [f"Read with care: {warning}", *verdict(scores)]


def _table(parts: Sequence[PartScore]) -> str:
    rows = [
        (
            *(part.part, str(part.num_layers), f"{part.noisy:.3g}", f"{part.exact:.3g}", in_percent(part.loss)),
            *(f"{value:.2g}" for value in (part.gaussian, part.histogram, part.chance)),
        )
        for part in parts
    ]
    rules = ["---", *["---:"] * (len(_HEAD) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEAD, rules, *rows))


def _gallery(pictures: Sequence[Path]) -> list[str]:
    text = (
        "What a layer makes of a tile: its features projected on the direction in which they vary most, with the share "
        "of the variance that this shows. Signs are free: each map of the noisy network is turned towards that of the "
        "layer before, each of the exact one towards the noisy one's."
    )
    return [text, *(f"![{path.stem}]({path.name})" for path in pictures)]
