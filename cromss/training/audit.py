"""The label audit, from a pretrained twin and its stores to suspicion maps, tables and a picture sheet."""

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor
from tqdm import tqdm

from cromss.config import replace_text
from cromss.downloads.manifest import written
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
from cromss.layouts import check_out
from cromss.legends import IGNORE_INDEX
from cromss.panels import class_map, panel, picture
from cromss.settings.audit import AuditSettings
from cromss.tables import to_csv
from cromss.training.common import device_of, tell_left_out
from cromss.training.pretrained import Pretrained, open_pretrained
from cromss.training.twin import Seen, Twin, open_twin

_SCORES = {"both": "both modalities", "s1": "S1 alone", "s2": "S2 alone", "entropy": "entropy alone"}
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
        summary: The content of `audit.json`.
    """

    out: Path
    told: list[str]
    summary: dict[str, Any]


def audit(settings: AuditSettings) -> Result:
    """Audit the noisy labels of a set and write maps, tables and the picture sheet.

    Raises:
        ValueError: The checkpoint is no twin, or the stores do not fit it.
    """
    device = device_of(settings.accelerator)
    run = open_pretrained(settings.checkpoint, "checkpoint")
    out = Path(settings.out) if settings.out else _home(run) / "audit"
    check_out(out)
    twin = open_twin(run, settings.data_path, device)
    indices = twin.stacks.in_use()
    tell_left_out(twin.stacks)
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        tiles, doubts, counts = _examine(twin, indices, settings.threshold, out / "maps")
    ranked = np.sort(tiles[tiles["pixels"] > 0], order="mean", kind="stable")[::-1]
    if not len(ranked):
        raise ValueError(f"{twin.stacks.labels.path}: no pixel of the {len(indices)} locations has a noisy label")
    summary = _summary(settings, run, doubts, counts, len(indices))
    _write_tables(twin, ranked, doubts, out)
    sheet = _sheet(twin, ranked, settings.num_worst)
    with written(out / "worst.png") as partial_path:
        Image.fromarray(sheet).save(partial_path, format="PNG")
    replace_text(out / "audit.json", json.dumps(summary, indent=2) + "\n")
    return Result(out, _told(summary, settings.threshold), summary)


def _home(run: Pretrained) -> Path:
    """Folder of the run, or that of a lone checkpoint."""
    return run.path.parent.parent if run.path.parent.name == "checkpoints" else run.path.parent


def _examine(
    twin: Twin, indices: Sequence[int], threshold: float, maps: Path
) -> tuple[np.ndarray, Doubts, dict[str, np.ndarray]]:
    """Write the maps; rows `_TILE` of all tiles, sums over all pixels, and the counts of each score on exact labels."""
    num_seasons, num_classes = twin.stacks.labels.num_seasons, twin.stacks.num_classes
    tiles = np.zeros((len(indices), num_seasons), _TILE)
    total, counts = None, {}
    for place, index in enumerate(tqdm(indices, "audit", unit="location", disable=None)):
        seen = twin.look(index)
        score = suspicion(seen.logits, seen.labels)
        for season in range(num_seasons):
            one = slice(season, season + 1)
            logits = {modality: x[one] for modality, x in seen.logits.items()}
            doubts = count_doubts(logits, seen.labels[one], score[one], threshold, num_classes)
            total = total + doubts if total else doubts
            row = index, season, doubts.pixels.sum(), doubts.mean, doubts.share, doubts.most_suspected
            tiles[place, season] = row
            _write_map(maps / _map_name(twin.stacks.labels.location_id(index), season), score[season])
        for name, values in _scores(seen, score).items() if seen.exact is not None else ():
            counts[name] = counts.get(name, 0) + score_counts(values, seen.labels, seen.exact)
    return tiles.ravel(), total, counts


def _scores(seen: Seen, score: Tensor) -> dict[str, Tensor]:
    """The suspicion, and what it is measured against."""
    alone = {m: suspicion({m: x}, seen.labels) for m, x in seen.logits.items()}
    return {"both": score} | alone | {"entropy": prediction_entropy(seen.logits, seen.labels)}


def _map_name(location: str, season: int) -> str:
    """File name of a map; ids may hold slashes."""
    return f"{location.replace('%', '%25').replace('/', '%2F')}_{season}.tif"


def _write_map(path: Path, score: Tensor) -> None:
    """Suspicion `(H, W)` as a raster of uint8 percent, 255 where undefined; a store knows no place on Earth."""
    percent = (100 * score).round().nan_to_num(IGNORE_INDEX).byte().cpu().numpy()
    height, width = percent.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": IGNORE_INDEX, "compress": "deflate"}
    profile |= {"height": height, "width": width}
    with written(path) as partial_path, rasterio.open(partial_path, "w", **profile) as file:
        file.write(percent, 1)


def _write_tables(twin: Twin, ranked: np.ndarray, doubts: Doubts, out: Path) -> None:
    classes = twin.legend.classes
    for name, rows in (("classes", class_rows(doubts, classes)), ("confusion", confusion_rows(doubts, classes))):
        replace_text(out / f"{name}.csv", to_csv(rows))
    with written(out / "audit.csv") as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "season", "suspicion", "suspected_percent", "pixels", "most_suspected", "map"))
        rows.writerows(_tile_row(twin, *tile.item()) for tile in ranked)


def _tile_row(twin: Twin, index: int, season: int, pixels: int, mean: float, share: float, label: int) -> Sequence[Any]:
    location = twin.stacks.labels.location_id(index)
    name = twin.legend.classes[label] if label >= 0 else ""
    return location, season, round(mean, 4), round(100 * share, 2), pixels, name, f"maps/{_map_name(location, season)}"


def _sheet(twin: Twin, ranked: np.ndarray, count: int) -> np.ndarray:
    """Picture of the worst season of each of the worst locations."""
    _, first = np.unique(ranked["index"], return_index=True)
    rows, names, masks = [], [], []
    for tile in ranked[np.sort(first)[:count]]:
        index, season = int(tile["index"]), int(tile["season"])
        row, shown = _sheet_row(twin, twin.look(index), season)
        rows.append(row)
        masks += shown
        name = twin.stacks.labels.location_id(index)
        names.append(f"{name}, season {season}\nsuspicion {100 * tile['mean']:.0f} %")
    return panel(rows, twin.legend, names=names, masks=masks)


def _sheet_row(twin: Twin, seen: Seen, season: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Title -> picture of one tile, and the masks among them."""
    mean = torch.stack([x[season].float().softmax(0) for x in seen.logits.values()]).mean(0)
    masks = {"noisy label": seen.labels[season], "prediction": mean.argmax(0)}
    masks |= {} if seen.exact is None else {"exact label": seen.exact[season]}
    masks = {title: ids.cpu().numpy().astype(np.uint8) for title, ids in masks.items()}
    titles = {"s2": "Sentinel-2", "s1": "Sentinel-1"}
    row = {
        title: picture(seen.images[modality][season].cpu().numpy(), modality, twin.stacks.names[modality])
        for modality, title in titles.items()
    }
    row |= {title: class_map(ids, twin.legend) for title, ids in masks.items()}
    score = suspicion({m: x[season : season + 1] for m, x in seen.logits.items()}, seen.labels[season : season + 1])
    return row | {"suspicion": score[0].cpu().numpy()}, list(masks.values())


def _summary(
    settings: AuditSettings, run: Pretrained, doubts: Doubts, counts: Mapping[str, np.ndarray], num_locations: int
) -> dict[str, Any]:
    summary = {
        "checkpoint": str(run.path),
        "threshold": settings.threshold,
        "locations": num_locations,
        "labelled_pixels": int(doubts.pixels.sum()),
        "suspected_pixels": int(doubts.suspected.sum()),
    }
    if not counts:
        return summary
    right, wrong = (int(count) for count in counts["both"].sum(1))
    scores = {name: ranking(counted) for name, counted in counts.items()}
    return summary | {"exact": {"compared_pixels": right + wrong, "wrong_pixels": wrong, "scores": scores}}


def _told(summary: Mapping[str, Any], threshold: float) -> list[str]:
    labelled, suspected = summary["labelled_pixels"], summary["suspected_pixels"]
    told = [
        f"{summary['locations']} locations: {suspected / labelled:.1%} of {labelled:,} labelled pixels "
        f"have a suspicion of {threshold:g} or more"
    ]
    if "exact" not in summary:
        return [*told, "no exact labels: how well suspicion finds wrong labels is not known"]
    compared, wrong = summary["exact"]["compared_pixels"], summary["exact"]["wrong_pixels"]
    head = f"{'ranked by':<16}{'AUC':>8}{'top 1 %':>9}{'top 5 %':>9}"
    lines = [
        f"{title:<16}" + "".join(f"{_percent(value):>{width}}" for value, width in zip(scores.values(), (8, 9, 9)))
        for name, title in _SCORES.items()
        for scores in [summary["exact"]["scores"][name]]
    ]
    if not compared:
        return [*told, "no pixel has both a noisy and an exact label"]
    return [*told, f"{wrong / compared:.1%} of {compared:,} compared pixels are labelled wrong", head, *lines]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
