"""What the numbers of all layers say: means of the parts, growth with depth, sentences and tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cromss.analysis.layers import PARTS
from cromss.analysis.weight_divergence import Divergence


@dataclass(frozen=True)
class LayerScore:
    """Numbers of one layer in the twins.

    Attributes:
        name: Its name, see `cromss.analysis.layers.Layer`.
        part: Its part of the network.
        noisy: Fisher ratio in the network trained on noisy labels.
        exact: Fisher ratio in the network trained on exact labels.
        weights: Divergence of the noisy network's weights from the exact one's.
        num_weights: Number of weights.
        chance: Fisher ratio of the exact network's features with the labels of other places.
    """

    name: str
    part: str
    noisy: float
    exact: float
    weights: Divergence
    num_weights: int
    chance: float = math.nan

    @property
    def ratio(self) -> float:
        """Noisy over exact Fisher ratio; NaN where one of them is undefined, zero or infinite."""
        both = self.noisy > 0 and self.exact > 0 and math.isfinite(self.noisy + self.exact)
        return self.noisy / self.exact if both else math.nan


@dataclass(frozen=True)
class PartScore:
    """Numbers of one part of the network.

    Attributes:
        part: `"encoder"`, `"decoder"` or `"head"`.
        num_layers: Its layers.
        noisy: Geometric mean of the noisy network's Fisher ratios.
        exact: Geometric mean of the exact network's.
        gaussian: Median KL divergence of the Gaussians.
        histogram: Median KL divergence of the histograms.
        chance: Median of what chance makes of the latter.
    """

    part: str
    num_layers: int
    noisy: float
    exact: float
    gaussian: float
    histogram: float
    chance: float

    @property
    def loss(self) -> float:
        """Share of the Fisher ratio that is lost to the noisy labels; negative where it is higher."""
        return 1 - self.noisy / self.exact


def part_scores(scores: Sequence[LayerScore]) -> list[PartScore]:
    """Numbers of the parts that there are; layers without a Fisher ratio do not count in its means."""
    return [_of_part(part, own) for part in PARTS if (own := [score for score in scores if score.part == part])]


def depth_correlation(harms: Sequence[float]) -> float:
    """Spearman's rank correlation of the harm done to layers, input to output, with their place.

    1 where every layer is harmed more than the one before; NaN with fewer than three finite harms, or equal ones.
    """
    known = np.array(harms, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 3 or np.ptp(known) == 0:
        return math.nan
    ranks = [(known < harm).sum() + (known == harm).sum() / 2 for harm in known]
    return float(np.corrcoef(ranks, np.arange(len(known)))[0, 1])


def fisher_growth(scores: Sequence[LayerScore]) -> float:
    """`depth_correlation` of the lost share of Fisher ratio."""
    return depth_correlation([1 - score.ratio for score in scores])


def fisher_caption(scores: Sequence[LayerScore]) -> str:
    """One line on the Fisher ratios."""
    changed = ", ".join(f"the {part.part} {lost(part.loss)}" for part in part_scores(scores))
    return f"Under noisy labels {changed}; rank correlation with depth {signed(fisher_growth(scores))}"


def weights_caption(scores: Sequence[LayerScore]) -> str:
    """One line on the weights."""
    medians = ", ".join(f"{part.part} {part.gaussian:.2g}" for part in part_scores(scores))
    growth = depth_correlation([score.weights.gaussian for score in scores])
    return f"Median of the Gaussians: {medians}; rank correlation with depth {signed(growth)}"


def lost(share: float) -> str:
    """`0.123` -> `loses 12 %`, `-0.123` -> `gains 12 %`."""
    if math.isnan(share):
        return "has none"
    return f"{'loses' if share >= 0 else 'gains'} {in_percent(abs(share))}"


def in_percent(share: float) -> str:
    """`0.123` -> `12 %`."""
    return "undefined" if math.isnan(share) else f"{100 * share:.0f} %"


def signed(correlation: float) -> str:
    """`0.5` -> `+0.50`."""
    return "undefined" if math.isnan(correlation) else f"{correlation:+.2f}"


def verdict(scores: Sequence[LayerScore]) -> list[str]:
    """The two findings of the paper (arXiv 2402.16164), and whether they are seen here.

    It found the encoder nearly unharmed (here: it loses less than a tenth of its Fisher ratio), and harm that grows
    towards the output (here: from part to part; from layer to layer with a rank correlation over 0.3).
    """
    parts, growth = part_scores(scores), fisher_growth(scores)
    losses = [part.loss for part in parts]
    if len(parts) < 2 or math.isnan(sum(losses)):
        return ["The Fisher ratios are undefined in too many layers to say anything."]
    grows = losses == sorted(losses) and losses[-1] > max(losses[0], 0)
    changed = ", ".join(f"the {part.part} {lost(part.loss)}" for part in parts)
    return [
        f"Encoder nearly unharmed (under a tenth): {_yes(losses[0] < 0.1)}, it {lost(losses[0])} of its Fisher ratio.",
        f"Harm that grows towards the output, part by part: {_yes(grows)}, {changed}.",
        f"The same layer by layer (over 0.3): {_yes(growth > 0.3)}, the loss has a rank correlation of "
        f"{signed(growth)} with depth.",
    ]


def _yes(seen: bool) -> str:
    return "yes, as in the paper" if seen else "no, unlike the paper"


def _of_part(part: str, scores: Sequence[LayerScore]) -> PartScore:
    known = [score for score in scores if not math.isnan(score.ratio)]
    means = [_geometric_mean([getattr(score, name) for score in known]) for name in ("noisy", "exact")]
    medians = np.median([score.weights for score in scores], axis=0).tolist()
    return PartScore(part, len(scores), *means, *medians)


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else math.nan
