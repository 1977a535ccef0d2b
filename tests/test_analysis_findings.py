"""Means of the parts, growth with depth, and what is said of them."""

import itertools
import math

import numpy as np
import pytest

from cromss.analysis.findings import (
    LayerScore,
    depth_correlation,
    fisher_caption,
    in_percent,
    lost,
    part_scores,
    verdict,
    weights_caption,
)
from cromss.analysis.weight_divergence import Divergence

NAN = math.nan


def layers(encoder, decoder, head=(), exact=2.0, divergences=None):
    """Layers whose noisy network has these shares of the exact one's Fisher ratio."""
    shares = [("encoder", r) for r in encoder] + [("decoder", r) for r in decoder] + [("head", r) for r in head]
    told = divergences or [1e-3] * len(shares)
    return [
        LayerScore(f"{part}.{at}.conv", part, share * exact, exact, Divergence(kl, 2 * kl, 0.01), 100)
        for at, ((part, share), kl) in enumerate(zip(shares, told))
    ]


def test_parts_have_geometric_means_and_medians():
    scores = layers([1, 0.25], [0.5, 0.5, 0.5], divergences=[1e-3, 3e-3, 5e-3, math.inf, 7e-3])
    encoder, decoder = part_scores(scores)
    assert (encoder.part, encoder.num_layers, decoder.part, decoder.num_layers) == ("encoder", 2, "decoder", 3)
    assert (encoder.noisy, encoder.exact, encoder.loss) == pytest.approx((1, 2, 0.5))
    assert (encoder.gaussian, encoder.histogram, encoder.chance) == pytest.approx((2e-3, 4e-3, 0.01))
    assert decoder.gaussian == 7e-3


@pytest.mark.parametrize("without", [NAN, 0.0, math.inf, -1.0])
def test_layers_without_a_ratio_do_not_count(without):
    scores = layers([0.5, without, 0.5], [1])
    assert math.isnan(scores[1].ratio)
    assert part_scores(scores)[0].loss == pytest.approx(0.5)
    assert part_scores(scores)[0].num_layers == 3
    (alone,) = part_scores(layers([without], []))
    assert math.isnan(alone.loss)


def naive_spearman(values):
    """Pairs in order less pairs out of order make ranks; NumPy correlates them with the places."""
    ranks = [sum(other < value for other in values) for value in values]
    ranks = [r + (values.count(v) - 1) / 2 for r, v in zip(ranks, values)]
    return np.corrcoef(ranks, range(len(values)))[0, 1]


@pytest.mark.parametrize(
    "values", [[0.1, 0.5, 0.2, 0.9], [1.0, 1.0, 2.0, 0.0], *itertools.permutations([1.0, 2.0, 3.0])]
)
def test_correlation_of_ranks(values):
    values = list(values)
    assert depth_correlation(values) == pytest.approx(naive_spearman(values))
    assert depth_correlation([math.exp(value) for value in values]) == pytest.approx(naive_spearman(values))
    assert depth_correlation([NAN, *values, math.inf]) == pytest.approx(naive_spearman(values))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [NAN, 1.0, 2.0, NAN], [3.0, 3.0, 3.0, 3.0]])
def test_no_correlation(values):
    assert math.isnan(depth_correlation(values))


@pytest.mark.parametrize(
    ("scores", "seen", "words"),
    [
        (layers([1, 0.98, 0.99], [0.9, 0.8, 0.7], [0.6]), "yyy", ("loses 1 %", "loses 20 %", "+0.96")),
        (layers([1, 1.02, 1.01], [0.9, 0.8, 0.7]), "yyy", ("gains 1 %", "loses 20 %", "+0.83")),
        (layers([0.7, 0.7, 0.7], [0.6, 0.5, 0.4]), "nyy", ("loses 30 %", "loses 51 %")),
        (layers([2, 2, 2], [1.9, 1.8, 1.7]), "yny", ("gains 100 %", "gains 80 %")),
        (layers([0.95, 0.95, 0.96], [1, 1.1, 1.2]), "ynn", ("loses 5 %", "gains 10 %", "-0.99")),
        (layers([0.92, 0.93, 0.94], [0.9, 0.98, 0.7]), "yyn", ("loses 7 %", "loses 15 %", "+0.20")),
        (layers([1, 1, 0.9], [0.7, 0.8, 0.7], [0.9]), "yny", ("loses 3 %", "loses 27 %", "loses 10 %")),
    ],
)
def test_the_verdict_is_that_of_the_numbers(scores, seen, words):
    said = verdict(scores)
    assert "".join("y" if "yes, as in the paper" in line else "n" for line in said) == seen
    assert all(word in " ".join(said) for word in words)


@pytest.mark.parametrize("scores", [layers([NAN] * 3, [0.5] * 3), layers([0.5] * 3, [])])
def test_no_verdict_without_numbers(scores):
    assert verdict(scores) == ["The Fisher ratios are undefined in too many layers to say anything."]


def test_captions():
    scores = layers([1, 1], [0.5, 0.5], [NAN], divergences=[1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert fisher_caption(scores).startswith(
        "Under noisy labels the encoder loses 0 %, the decoder loses 50 %, the head"
    )
    assert "head has none" in fisher_caption(scores)
    assert weights_caption(scores) == (
        "Median of the Gaussians: encoder 0.0015, decoder 0.0035, head 0.005; rank correlation with depth +1.00"
    )
    assert "undefined" in weights_caption(layers([1], [1]))
    assert (lost(-0.2), lost(NAN), in_percent(0.126), in_percent(NAN)) == (
        "gains 20 %",
        "has none",
        "13 %",
        "undefined",
    )


def test_equal_networks_are_unharmed():
    assert [line.split(": ")[1].split(",")[0] for line in verdict(layers([1, 1], [1, 1]))] == ["yes", "no", "no"]
    assert "undefined" in verdict(layers([1, 1], [1, 1]))[2]
