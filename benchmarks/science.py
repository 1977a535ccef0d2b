"""Does it work? Ways to pretrain on noisy labels of the synthetic world, whose truth is known, side by side.

python benchmarks/science.py --grid reduced

Each encoder is pretrained for every kind and level of noise and every seed, then transferred, frozen, tuned and under a
linear probe. What is finished is not done again, and --part 2/4 does the second of four parts; results go to
benchmarks/science.csv and benchmarks/science_selection.csv. --tables makes the tables and figures of RESULTS.md.
"""

import csv
import json
import os
import platform
import random
import re
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from science_grid import (
    CO_TEACHING,
    GRIDS,
    WAYS,
    Cell,
    Grid,
    Start,
    cells,
    pretrained_name,
    pretraining,
    settings_hash,
    starts,
    transfer,
)
from science_tables import write_page

from cromss.config import replace_text, run
from cromss.downstream_sets import CLASS_SCORES
from cromss.settings.common import require
from cromss.settings.pretraining import PretrainSettings
from cromss.synthetic import WORLD_HASH, WORLD_VERSION
from cromss.tables import to_csv

RECORD = "science.json"
"""File of a run folder with what is known of a cell."""

EPOCHS_TOLD = 11
"""Number of epochs of which a selection is told."""

KEYS = ("grid", "method", "noise", "level", "seed", "input", "state", "fraction")
SELECTION_KEYS = ("grid", "method", "noise", "level", "seed", "epoch", "class")
"""What tells rows apart."""

RIVALS = ("random", "single_s1", "single_s2", "cross_s1", "cross_s2")
"""Selections."""


@dataclass(frozen=True)
class Science:
    """Grid of ways to pretrain on noisy labels, on the synthetic world."""

    grid: Literal["full", "reduced", "ablation", "ideas", "tiny"] = "reduced"
    """full: hours on a GPU; reduced: under an hour of two processes (--part) on two cores; ablation: CromSS-mid with
    one thing changed each, a quarter of an hour; ideas: changes that were tried, as long; tiny: seconds, to try it."""
    save_dir: Path = Path("runs/science")
    """Parent of stores and runs."""
    results: Path = Path("benchmarks/science.csv")
    """Table to write; what is there of other grids stays. That of the selection lies beside it, tiny in --save_dir."""
    page: Path = Path("RESULTS.md")
    """Page of the tables."""
    part: str = "1/1"
    """Share of the encoders to do: 2/4 for the second of four processes."""
    tables: bool = False
    """Make the tables and figures from the results, and run nothing."""

    def __post_init__(self) -> None:
        numbers = re.fullmatch(r"(\d+)/(\d+)", self.part)
        legal = numbers is not None and 1 <= int(numbers[1]) <= int(numbers[2])
        require(legal, "part", self.part, "a part and their number, such as 2/4")

    @property
    def home(self) -> Path:
        """Folder of stores and runs of this grid, with these settings, on this world."""
        return self.save_dir / f"{self.grid}_{settings_hash(self.grid)}_world{WORLD_VERSION}_{WORLD_HASH}"

    @property
    def mine(self) -> list[Start]:
        """The encoders of this part, drawn by lot: noises take unequal times."""
        part, parts = map(int, self.part.split("/"))
        listed = starts(GRIDS[self.grid])
        return random.Random(0).sample(listed, len(listed))[part - 1 :: parts]

    @property
    def files(self) -> tuple[Path, Path]:
        """Tables of the transfers, and of the selection."""
        path = self.home / self.results.name if self.grid == "tiny" else self.results
        return path, path.with_name(f"{path.stem}_selection{path.suffix}")


def main(settings: Science) -> int:
    """Pretrain, transfer, and tabulate; or make the tables. 1 if a run failed."""
    if not settings.tables:
        return do(settings)
    rows, selection = (comparable(read(path)) for path in settings.files)
    write_page(settings.page, rows, selection, settings.results.parent)
    return 0


def do(settings: Science) -> int:
    """Do what is not done, and say how long it will take; where a run fails, the other encoders go on."""
    grid, mine, begun, failed = GRIDS[settings.grid], settings.mine, time.monotonic(), []
    for number, start in enumerate(mine):
        passed = time.monotonic() - begun
        left = f", about {passed / number * (len(mine) - number) / 60:.0f} min to come" if number else ""
        print(f"\n[{number + 1}/{len(mine)}] {start.name} ({passed / 60:.0f} min passed{left})", flush=True)
        try:
            for cell in cells(grid, start):
                record(settings, grid, cell)
        except (ValueError, RuntimeError) as error:
            failed.append(f"failed: {start.name}: {error}")
            print(failed[-1], flush=True)
        collect(settings, grid)
    print("\n".join([*failed, f"tables   {', '.join(map(str, settings.files))}"]))
    return int(bool(failed))


def record(settings: Science, grid: Grid, cell: Cell) -> None:
    """Pretrain and transfer one cell, and keep its row in its run folder, unless it is there."""
    file = settings.home / cell.name / RECORD
    if file.exists():
        return
    from cromss.training import finetune

    if WAYS[cell.start.method] is None:
        weights, metrics = "random", {}
    else:
        metrics = pretraining_metrics(cell.start.method, pretraining(grid, cell.start, cell.input, settings.home))
        weights = metrics["checkpoint"]
    told = transfer(grid, cell, weights, settings.home)
    if cell.state == "probe":
        from probe import probe

        found = probe(told)
    else:
        found = finetune(told)
    replace_text(file, json.dumps(row(settings.grid, cell, metrics, found) | where(settings.grid), indent=1) + "\n")


def pretraining_metrics(method: str, settings: PretrainSettings) -> dict[str, Any]:
    """Metrics of a pretraining."""
    if method == CO_TEACHING:
        from coteaching import co_teach

        return co_teach(settings)
    from ideas import change_of

    from cromss.training import pretrain

    return pretrain(settings, change_of(method))


def row(grid: str, cell: Cell, pretrained: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, scores in percent; the pretrained ones on held-out places, against exact labels."""
    kind, level = cell.start.noise
    values = (grid, cell.start.method, kind, level, cell.start.seed, cell.input, cell.state, cell.fraction)
    scores = {key: percent(found[key]) for key in CLASS_SCORES}
    by_class = {f"iou {name}": percent(value) for name, value in found["iou"].items()}
    pretrained = {"pretrained_miou": percent(pretrained.get(f"val/miou_{cell.input}"))}
    told = {key: getattr(GRIDS[grid], key) for key in ("encoder", "locations", "crop", "batch", "epochs", "steps")}
    counts = {"train_tiles": found["train_tiles"], "seconds": round(found["seconds"], 1)}
    return dict(zip(KEYS, values)) | scores | by_class | pretrained | counts | told


def percent(score: float | None) -> float | None:
    """A score in percent; `None` where it is not defined."""
    return None if score is None else round(100 * score, 3)


def where(grid: str) -> dict[str, Any]:
    """World, settings, machine and date of a result."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    machine = gpu or f"{platform.machine()}, {os.cpu_count()} cores"
    return origin(grid) | {"machine": machine, "torch": torch.__version__, "date": date.today().isoformat()}


def collect(settings: Science, grid: Grid) -> None:
    """Bring the tables up to date with the run folders of all parts."""
    listed = starts(grid)
    records = [settings.home / cell.name / RECORD for start in listed for cell in cells(grid, start)]
    rows = [json.loads(path.read_text()) for path in records if path.exists()]
    selection = [line for start in listed for line in selection_rows(settings, grid, start)]
    for path, found, keys in zip(settings.files, (rows, selection), (KEYS, SELECTION_KEYS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, to_csv(merged(comparable(read(path)), found, keys)))


def selection_rows(settings: Science, grid: Grid, start: Start) -> Iterator[dict[str, Any]]:
    """What a finished pretraining selected, in percent, by epoch, and by class in the last."""
    method = WAYS[start.method]
    folders = dict.fromkeys(settings.home / pretrained_name(start, m) for m in grid.inputs) if method else {}
    if method is None or not method.selects or not all((folder / "metrics.json").exists() for folder in folders):
        return
    epochs = [dict(ChainMap(*rows)) for rows in zip(*(read(folder / "metrics.csv") for folder in folders))]
    for epoch in sorted({round(i * (len(epochs) - 1) / (EPOCHS_TOLD - 1)) for i in range(EPOCHS_TOLD)}):
        found, is_last = epochs[epoch], epoch == len(epochs) - 1
        for name in ["all", *(class_names(found) if is_last else ())]:
            told = (settings.grid, start.method, *start.noise, start.seed, int(found["epoch"]), name)
            yield dict(zip(SELECTION_KEYS, told)) | selected(found, name) | origin(settings.grid)


def class_names(metrics: Mapping[str, str]) -> list[str]:
    """Classes whose clean share an epoch tells."""
    return sorted(key.partition("/")[2] for key in metrics if key.startswith("clean_random/"))


def selected(metrics: Mapping[str, str], name: str) -> dict[str, float | None]:
    """Selection -> clean share of a class, or of `all`, and then the calibration error of each modality, in percent."""
    keys = {kind: f"clean/{kind}" if name == "all" else f"clean_{kind}/{name}" for kind in RIVALS}
    keys |= {f"error_{m}": f"calibration_error/{m}" if name == "all" else "" for m in ("s1", "s2")}
    return {column: percent(float(metrics[key])) if metrics.get(key) else None for column, key in keys.items()}


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def comparable(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows of the world as it is drawn now, and of the grids as they are."""
    return [dict(row) for row in rows if all(row[key] == str(value) for key, value in origin(row["grid"]).items())]


def origin(grid: str) -> dict[str, Any]:
    """What is recorded of the world, and of the settings of a grid."""
    return {"world": WORLD_VERSION, "hash": WORLD_HASH, "settings": settings_hash(grid)}


def merged(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[Mapping[str, Any]]:
    """New rows, and after them the old ones of other keys."""
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in (*new, *old):
        rows.setdefault(tuple(str(row[key]) for key in keys), row)
    return list(rows.values())


if __name__ == "__main__":
    run(main, Science)
