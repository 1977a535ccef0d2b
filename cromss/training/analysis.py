"""The layer analysis of the first paper (arXiv 2402.16164), from two runs to figures and a page."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from cromss.analysis.figures import fisher_figure, weights_figure
from cromss.analysis.findings import LayerScore
from cromss.analysis.fisher import FisherRatio
from cromss.analysis.layers import Layer, list_layers, visit
from cromss.analysis.page import finding, markdown
from cromss.analysis.pictures import principal_figure
from cromss.analysis.principal import Principal, first_principal_component
from cromss.analysis.weight_divergence import divergence, weights_of
from cromss.callbacks import save_png
from cromss.config import replace_text, to_flat
from cromss.gpus import enough_gpu_memory
from cromss.metrics import confusion_matrix, likeliest, scores
from cromss.models.fusion import Pretrainer
from cromss.settings.analysis import AnalysisSettings
from cromss.settings.common import require
from cromss.tables import to_csv
from cromss.training.common import device_of
from cromss.training.held_out import Batch, Tiles, held_out_tiles
from cromss.training.pretrained import Pretrained, open_pretrained

_ALIKE = (
    *("input_type", "fusion_type", "use_common_feature", "n_channels", "n_classes"),
    *("model_type", "patch_size", "wavelengths", "place_pattern"),
)
"""Settings in which the two runs must agree: the network and the places follow from them."""

_ASIDE = frozenset(
    ("save_dir", "name", "resume", "accelerator", "devices", "slurm", "num_workers", "compile", "test_batch_size")
    + ("save_interval", "save_seconds", "keep_checkpoints", "display_interval", "cal_tr_acc", "gt_available")
    + ("grad_checkpointing",)
)
"""Settings whose differences say nothing about the networks."""


class Page(NamedTuple):
    """What came out.

    Attributes:
        path: The page, `analysis.md`; figures and tables lie beside it.
        finding: Whether the layers behave as those of the paper, sentence by sentence.
        scores: Numbers of all layers, input to output.
    """

    path: Path
    finding: list[str]
    scores: list[LayerScore]


@enough_gpu_memory("lower --batch_size, or say --accelerator cpu")
def analyse(settings: AnalysisSettings) -> Page:
    """Compare two runs layer by layer and write figures, tables and the page.

    Raises:
        ValueError: A run cannot be opened, the two are not of one kind, or the set has no exact labels, no tiles
            that both held out, or one class alone.
    """
    device = device_of(settings.accelerator)
    noisy, exact = open_pretrained(settings.noisy, "noisy"), open_pretrained(settings.exact, "exact")
    refuse_differences(noisy, exact)
    out = _folder(settings.out, noisy, exact)
    networks = {"noisy": noisy.network().to(device), "exact": exact.network().to(device)}
    branch = settings.branch or list(networks["noisy"].bands)[-1]
    encoders = networks["noisy"].encoders
    require(branch in encoders, "branch", branch, f"one of {', '.join(encoders)}, the branches of these runs")
    stride = encoders[branch].output_stride
    tiles = held_out_tiles(noisy, exact, branch, stride, settings.data_path, device).first(settings.num_tiles)
    first = next(tiles.batches(1))
    layers = {name: list_layers(network, branch, first.images) for name, network in networks.items()}
    ratios, accuracy = _measured(networks, layers, tiles, settings.batch_size)
    pairs = zip(layers["noisy"], layers["exact"], ratios["noisy"], ratios["exact"], ratios["chance"], strict=True)
    rows = [_score(*pair) for pair in pairs]
    pictures = _draw_components(networks, layers, tiles.first(settings.num_pictures), out)
    about = _about(noisy, exact, tiles, first, len(rows))
    _write(out, rows, markdown(rows, about, accuracy, pictures))
    return Page(out / "analysis.md", finding(rows, accuracy), rows)


def refuse_differences(noisy: Pretrained, exact: Pretrained) -> None:
    """Raise ValueError where two runs have networks, bands or classes of differing kind, naming the first such."""
    kinds = [{key: flat.get(key) for key in _ALIKE} for flat in map(to_flat, (noisy.settings, exact.settings))]
    if noisy.classes and exact.classes:
        kinds = [kind | {"classes": list(run.classes)} for kind, run in zip(kinds, (noisy, exact))]
    learned = [run.settings.data.experiment for run in (noisy, exact)]
    if learned == ["gt_labels", "ns_labels"]:
        raise ValueError(f"{noisy.name} learned exact labels and {exact.name} noisy ones; swap them")
    for key, value in kinds[0].items():
        if value != kinds[1][key]:
            raise ValueError(
                f"{noisy.name} and {exact.name} differ in {key}: {value} and {kinds[1][key]}; "
                "the layers of networks of one kind can be compared"
            )


def _measured(
    networks: Mapping[str, Pretrainer], layers: Mapping[str, Sequence[Layer]], tiles: Tiles, batch_size: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Fisher ratio of every layer of each network, and its scores on the exact labels."""
    num_classes = tiles.stacks.num_classes
    names = [layer.name for layer in layers["exact"]]
    ratios = {kind: {name: FisherRatio(num_classes) for name in names} for kind in (*networks, "chance")}
    counts = {name: torch.zeros(num_classes, num_classes, dtype=torch.int64) for name in networks}
    total = -(-len(tiles.indices) // batch_size)
    for batch in tqdm(tiles.batches(batch_size), "Fisher ratios", total=total, unit="batch", disable=None):
        for name, network in networks.items():
            wanted = [(ratios[name], batch.labels)]
            wanted += [(ratios["chance"], batch.labels.roll(1, 0).flip(-2, -1))] if name == "exact" else []
            see = partial(_update, wanted)
            logits = visit(network, tiles.branch, layers[name], batch.images, see)
            counts[name] += confusion_matrix(likeliest(logits), batch.labels, num_classes).cpu()
    num_present = int((counts["noisy"].sum(1) > 0).sum())
    if num_present < 2:
        raise ValueError(
            f"{tiles.stacks.exact.path}: {num_present} class(es) on the {len(tiles.indices)} tiles looked at; "
            "a Fisher ratio takes two or more, on more --num_tiles maybe"
        )
    computed = {name: [ratio.compute() for ratio in own.values()] for name, own in ratios.items()}
    return computed, {name: scores(count) for name, count in counts.items()}


def _update(wanted: Sequence[tuple[Mapping[str, FisherRatio], Tensor]], layer: Layer, features: Tensor) -> None:
    for ratios, labels in wanted:
        ratios[layer.name].update(features, labels)


def _score(layer: Layer, twin: Layer, noisy: float, exact: float, chance: float) -> LayerScore:
    """Numbers of a layer of the noisy network and its twin in the exact one."""
    own, other = weights_of(layer.module), weights_of(twin.module)
    return LayerScore(layer.name, layer.part, noisy, exact, divergence(own, other), len(own), chance)


def _draw_components(
    networks: Mapping[str, Pretrainer], layers: Mapping[str, Sequence[Layer]], tiles: Tiles, out: Path
) -> list[Path]:
    """A picture of first principal components for each tile."""
    paths = []
    for batch in tqdm(tiles.batches(1), "pictures", total=len(tiles.indices), unit="tile", disable=None):
        noisy = _components(networks["noisy"], tiles.branch, layers["noisy"], batch.images)
        exact = _components(networks["exact"], tiles.branch, layers["exact"], batch.images, noisy)
        (location,), (image,) = batch.ids, batch.pictures
        drawn = principal_figure(
            image,
            batch.labels[0].cpu().numpy(),
            tiles.legend,
            layers["noisy"],
            noisy,
            exact,
            f"tile {location}, trained on noisy labels above, on exact ones below",
        )
        paths.append(out / f"principal_{len(paths)}_{re.sub(r'[^A-Za-z0-9_.-]', '_', location)[-60:]}.png")
        save_png(drawn, paths[-1])
    return paths


def _components(
    network: Pretrainer, branch: str, layers: Sequence[Layer], image: Tensor, towards: Sequence[Principal] = ()
) -> list[Principal]:
    """Components of one image `(1, C, H, W)`, turned towards given ones, else each towards the one before."""
    found: list[Principal] = []

    def see(layer: Layer, features: Tensor) -> None:
        before = found[-1].map if found else image[0].mean(0)
        found.append(first_principal_component(features[0], towards[len(found)].map if towards else before))

    visit(network, branch, layers, image, see)
    return found


def _about(noisy: Pretrained, exact: Pretrained, tiles: Tiles, first: Batch, num_layers: int) -> dict[str, str]:
    """What was compared, for the page."""
    before, now = to_flat(noisy.settings), to_flat(exact.settings)
    differing = [f"{key} {before[key]} | {now[key]}" for key in before if key not in _ASIDE and before[key] != now[key]]
    height, width = first.labels.shape[-2:]
    return {
        "trained on noisy labels": f"`{noisy.path}`, {noisy.epochs} epochs",
        "trained on exact labels": f"`{exact.path}`, {exact.epochs} epochs",
        "settings that differ (noisy | exact)": ", ".join(differing) or "none",
        "network": f"{noisy.settings.model.model_type}, branch {tiles.branch}, {num_layers} layers",
        "tiles": f"{len(tiles.indices)} of {height} x {width} pixels that both held out, {tiles.legend.name} classes",
    }


def _write(out: Path, rows: Sequence[LayerScore], page: str) -> None:
    save_png(fisher_figure(rows), out / "fisher.png")
    save_png(weights_figure(rows), out / "weights.png")
    common = [{"layer": row.name, "part": row.part} for row in rows]
    ratios = [
        {"noisy": row.noisy, "exact": row.exact, "noisy_over_exact": row.ratio, "chance": row.chance} for row in rows
    ]
    weights = [{"num_weights": row.num_weights, **row.weights._asdict()} for row in rows]
    for name, numbers in (("fisher", ratios), ("weights", weights)):
        replace_text(out / f"{name}.csv", to_csv([a | b for a, b in zip(common, numbers)]))
    replace_text(out / "analysis.md", page)


def _folder(told: str, noisy: Pretrained, exact: Pretrained) -> Path:
    """Folder for the results, without pictures of an earlier analysis."""
    home, other = (
        run.path.parent.parent if run.path.parent.name == "checkpoints" else run.path for run in (noisy, exact)
    )
    out = Path(told) if told else (home if home.is_dir() else home.parent) / "analysis" / other.stem
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; a folder is wanted")
    out.mkdir(parents=True, exist_ok=True)
    for picture in out.glob("principal_*.png"):
        picture.unlink()
    return out
