"""The label audit, from a pretrained network and its stores to suspicion maps, tables and a picture sheet."""

import csv
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor
from tqdm import tqdm

from cromss.config import replace_text
from cromss.downloads.manifest import written
from cromss.gpus import enough_gpu_memory
from cromss.label_audit import (
    Doubts,
    class_rows,
    confusion_rows,
    count_doubts,
    prediction_entropy,
    ranking,
    score_counts,
    suspicion,
)
from cromss.label_places import label_places
from cromss.layouts import check_out
from cromss.settings.audit import AuditSettings
from cromss.splits import place_of
from cromss.tables import to_csv
from cromss.training.audit_sheet import Worst, draw_sheet
from cromss.training.common import device_of, tell_left_out
from cromss.training.pretrained import Pretrained, open_pretrained
from cromss.training.suspicion_maps import SuspicionMaps, map_name
from cromss.training.whole_tiles import Seen, WholeTiles, open_tiles

SUMMARY_NAME = "audit.json"
"""Written last, and removed first: what it stands beside is whole."""

_SCORES = {
    "both": "both modalities",
    "s1": "S1 alone",
    "s2": "S2 alone",
    "ortho": "orthophotos alone",
    "entropy": "entropy alone",
}
_TILE = np.dtype(
    {
        "names": ["index", "season", "pixels", "mean", "share", "label"],
        "formats": ["i4", "i2", "i4", "f4", "f4", "i2"],
    }
)
"""What is kept of a tile: location, season, labelled pixels, mean suspicion, share suspected, class most suspected."""


class Result(NamedTuple):
    """What came out.

    Attributes:
        out: Folder of the maps, tables and pictures.
        told: What was found, line by line.
        summary: The content of `audit.json`: checkpoint, label store, counts, and scores on exact labels.
    """

    out: Path
    told: list[str]
    summary: dict[str, Any]


@enough_gpu_memory("say --accelerator cpu")
def audit(settings: AuditSettings) -> Result:
    """Audit the noisy labels of a set and write maps, tables and the picture sheet.

    Raises:
        ValueError: No checkpoint of pretraining, the stores do not fit it, or the folder has maps of other labels.
    """
    device = device_of(settings.accelerator)
    run = open_pretrained(settings.checkpoint, "checkpoint")
    out = Path(settings.out) if settings.out else _home(run) / "audit"
    check_out(out)
    tiles = open_tiles(run, settings.data_path, device)
    labels = tiles.stacks.labels
    places = label_places(labels.path, labels.meta, Path(settings.labels_path)) if settings.labels_path else None
    indices = tiles.stacks.in_use()
    tell_left_out(tiles.stacks)
    maps = SuspicionMaps(out / "maps", places)
    _refuse_other_maps(out, {map_name(labels.location_id(i), s) for i in indices for s in range(labels.num_seasons)})
    out.mkdir(parents=True, exist_ok=True)
    (out / SUMMARY_NAME).unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        rows, doubts, counts = _examine(tiles, indices, settings.threshold, maps)
    ranked = np.sort(rows[rows["pixels"] > 0], order="mean", kind="stable")[::-1]
    if not len(ranked):
        raise ValueError(f"{labels.path}: no pixel of the {len(indices)} locations has a noisy label")
    summary = _summary(settings, run, labels.path, doubts, counts, len(indices))
    _write_tables(tiles, ranked, doubts, out)
    sheet = draw_sheet(tiles, _worst(tiles, ranked, settings.num_worst))
    with written(out / "worst.png") as partial_path:
        Image.fromarray(sheet).save(partial_path, format="PNG")
    replace_text(out / SUMMARY_NAME, json.dumps(summary, indent=2) + "\n")
    return Result(out, _told(summary, settings.threshold, maps.told), summary)


def _home(run: Pretrained) -> Path:
    """Folder of the run, or that of a lone checkpoint."""
    return run.path.parent.parent if run.path.parent.name == "checkpoints" else run.path.parent


def _refuse_other_maps(out: Path, names: Set[str]) -> None:
    """Refuse a folder with maps that this audit would not write anew."""
    other = sorted(path for path in (out / "maps").glob("*.tif") if path.name not in names)
    if other:
        raise ValueError(f"--out {out}: {other[0]} is no map of this set; choose another folder, or remove {out}/maps")


def _examine(
    tiles: WholeTiles, indices: Sequence[int], threshold: float, maps: SuspicionMaps
) -> tuple[np.ndarray, Doubts, dict[str, np.ndarray]]:
    """Write the maps; rows `_TILE` of all tiles, sums over all pixels, and the counts of each score on exact labels."""
    num_seasons, num_classes = tiles.stacks.labels.num_seasons, tiles.stacks.num_classes
    rows = np.zeros((len(indices), num_seasons), _TILE)
    total, counts = None, {}
    for place, index in enumerate(tqdm(indices, "audit", unit="location", disable=None)):
        seen, location = tiles.look(index), tiles.stacks.labels.location_id(index)
        score = suspicion(seen.logits, seen.labels)
        for season in range(num_seasons):
            one = slice(season, season + 1)
            logits = {modality: x[one] for modality, x in seen.logits.items()}
            doubts = count_doubts(logits, seen.labels[one], score[one], threshold, num_classes)
            total = total + doubts if total else doubts
            row = index, season, doubts.pixels.sum(), doubts.mean, doubts.share, doubts.most_suspected
            rows[place, season] = row
            maps.write(score[season].cpu().numpy(), location, season)
        for name, values in _scores(seen, score).items() if seen.exact is not None else ():
            counts[name] = counts.get(name, 0) + score_counts(values, seen.labels, seen.exact)
    return rows.ravel(), total, counts


def _scores(seen: Seen, score: Tensor) -> dict[str, Tensor]:
    """The suspicion, and what it is measured against."""
    alone = {m: suspicion({m: x}, seen.labels) for m, x in seen.logits.items()}
    both = {"both": score} if len(alone) > 1 else {}
    return both | alone | {"entropy": prediction_entropy(seen.logits, seen.labels)}


def _write_tables(tiles: WholeTiles, ranked: np.ndarray, doubts: Doubts, out: Path) -> None:
    classes = tiles.legend.classes
    for name, rows in (("classes", class_rows(doubts, classes)), ("confusion", confusion_rows(doubts, classes))):
        replace_text(out / f"{name}.csv", to_csv(rows))
    with written(out / "audit.csv") as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "season", "suspicion", "suspected_percent", "pixels", "most_suspected", "map"))
        rows.writerows(_tile_row(tiles, *tile.item()) for tile in ranked)


def _tile_row(
    tiles: WholeTiles, index: int, season: int, pixels: int, mean: float, share: float, label: int
) -> Sequence[Any]:
    location = tiles.stacks.labels.location_id(index)
    name = tiles.legend.classes[label] if label >= 0 else ""
    return location, season, round(mean, 4), round(100 * share, 2), pixels, name, f"maps/{map_name(location, season)}"


def _worst(tiles: WholeTiles, ranked: np.ndarray, count: int) -> list[Worst]:
    """The worst season of each of the worst locations; those of other places go before neighbours of one shown."""
    _, first = np.unique(ranked["index"], return_index=True)
    worst = ranked[np.sort(first)]
    ids = [tiles.stacks.labels.location_id(index) for index in worst["index"].tolist()]
    shown, turns = Counter(), []
    for place in map(place_of, ids):
        turns.append(shown[place])
        shown[place] += 1
    return [_shown(tiles, ids[row], worst[row]) for row in np.argsort(turns, kind="stable")[:count]]


def _shown(tiles: WholeTiles, location: str, tile: np.void) -> Worst:
    label = tile["label"]
    doubted = f"\nmost doubted: {tiles.legend.classes[label]}" if label >= 0 else ""
    season = int(tile["season"])
    name = f"{location}, season {season}\nmean suspicion {tile['mean']:.2f}{doubted}"
    return Worst(int(tile["index"]), season, name)


def _summary(
    settings: AuditSettings,
    run: Pretrained,
    labels: Path,
    doubts: Doubts,
    counts: Mapping[str, np.ndarray],
    num_locations: int,
) -> dict[str, Any]:
    summary = {
        "checkpoint": str(run.path),
        "labels": str(labels),
        "threshold": settings.threshold,
        "locations": num_locations,
        "labelled_pixels": int(doubts.pixels.sum()),
        "suspected_pixels": int(doubts.suspected.sum()),
    }
    if not counts:
        return summary
    right, wrong = (int(count) for count in counts["entropy"].sum(1))
    scores = {name: ranking(counted) for name, counted in counts.items()}
    return summary | {"exact": {"compared_pixels": right + wrong, "wrong_pixels": wrong, "scores": scores}}


def _told(summary: Mapping[str, Any], threshold: float, maps: str) -> list[str]:
    labelled, suspected = summary["labelled_pixels"], summary["suspected_pixels"]
    told = [
        f"{summary['locations']} locations: {suspected / labelled:.1%} of {labelled:,} labelled pixels "
        f"have a suspicion of {threshold:g} or more",
        maps,
    ]
    if "exact" not in summary:
        return [*told, "no exact labels: how well suspicion finds wrong labels is not known"]
    compared, wrong = summary["exact"]["compared_pixels"], summary["exact"]["wrong_pixels"]
    head = f"{'ranked by':<16}{'AUC':>8}{'top 1 %':>9}{'top 5 %':>9}"
    lines = [
        f"{title:<16}" + "".join(f"{_percent(value):>{width}}" for value, width in zip(scores.values(), (8, 9, 9)))
        for name, title in _SCORES.items()
        if (scores := summary["exact"]["scores"].get(name))
    ]
    if not compared:
        return [*told, "no pixel has both a noisy and an exact label"]
    return [*told, f"{wrong / compared:.1%} of {compared:,} compared pixels are labelled wrong", head, *lines]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
