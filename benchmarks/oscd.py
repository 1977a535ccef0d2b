"""Real OSCD: change detection from random weights and from encoders pretrained on noisy labels of the same cities.

python benchmarks/oscd.py --data_path oscd --labels_path oscd_dw

Single-modal noisy-label pretraining (ResNet-18 U-Net) on both dates of the ten training cities with Dynamic World
labels, then change detection on four other cities (the development split of the fourteen official training cities),
encoder frozen and tuned, with few and all labels, for each seed. Every transfer takes about as many steps. What is
finished is not done again: once the stores are written, seeds can be shared among processes (--seed 0 --results
runs/oscd_0.csv), and the whole command then gathers them. Results go to benchmarks/oscd.csv.
"""

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import gain_cell, markdown

from cromss.config import parse, replace_text, run
from cromss.downstream_sets import CHANGE_SCORES
from cromss.settings import FinetuneSettings, SingleModalSettings
from cromss.settings.bench import ENCODER_TAGS
from cromss.store import open_part
from cromss.tables import STATES, tabulate, to_csv, to_markdown

SELECTED = "--sample_selection --sample_selection_rmdown_epoch {ramp}"
STARTS = {
    "random": None,
    "noisy labels": "",
    "noisy labels, selection": SELECTED,
    "noisy labels, selection by agreement": f"{SELECTED} --sample_selection_agreement",
}
"""Start -> flags of its pretraining; `None` for none."""

TUNED = ("random", "noisy labels")
"""Starts whose encoder is tuned, too."""

BATCH = 8
"""Samples a step."""

SCRIPTS = Path(__file__).resolve().parents[1] / "data_prepare"


@dataclass(frozen=True)
class OscdBenchmark:
    """Noisy-label pretraining against random weights on real OSCD."""

    data_path: Path
    """Folder of the raw set."""
    labels_path: Path
    """Folder of the noisy labels, <city>_<1 or 2>.tif with class ids 0..8 of the NoL legend."""
    save_dir: Path = Path("runs/oscd_benchmark")
    """Folder of stores and runs."""
    results: Path = Path("benchmarks/oscd.csv")
    """Table to write."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining and transfer."""
    fraction: tuple[float, ...] = (10, 100)
    """Percent of the training tiles of the change set."""
    pretrain_epochs: int = 20
    """Epochs of pretraining."""
    steps: int = 100
    """Steps of a transfer, about, whatever the fraction."""
    weights: tuple[str, ...] = tuple(STARTS)
    """Starts to compare."""


def main(settings: OscdBenchmark) -> None:
    """Write the stores, pretrain, transfer, and tabulate."""
    write_stores(settings)
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    rows = baselines(settings.save_dir / "change" / "test")
    for seed, weights in itertools.product(settings.seed, settings.weights):
        path = "random" if STARTS[weights] is None else pretrained(settings, weights, seed)
        states = STATES if weights in TUNED else STATES[:1]
        for state, fraction in itertools.product(states, settings.fraction):
            rows.append(transferred(settings, weights, path, state, fraction, seed))
            replace_text(settings.results, to_csv([named_scores(row) for row in rows]))
    print(report(rows), gains([named_scores(row) for row in rows]), sep="\n")


def write_stores(settings: OscdBenchmark) -> None:
    """Stores of the change set and of the pretraining set; the scripts leave finished ones alone."""
    for name, script, flags in (
        ("change", "write_oscd_lmdb.py", []),
        ("noisy", "write_oscd_pretrain_lmdb.py", ["--labels_path", settings.labels_path]),
    ):
        place = ["--data_path", settings.data_path, "--out", settings.save_dir / name, "--split", "development"]
        subprocess.run([str(part) for part in (sys.executable, SCRIPTS / script, *place, *flags)], check=True)


def pretrained(settings: OscdBenchmark, weights: str, seed: int) -> str:
    """Checkpoint of a single-modal pretraining on the noisy labels of the training cities."""
    from cromss.training import pretrain

    flags = f"""
        {STARTS[weights].format(ramp=max(1, 2 * settings.pretrain_epochs // 5))}
        --input_type s2 --model_type resnet18 --crop_size 64 --batch_size {BATCH} --learning_rate 1e-3
        --lr_adjust_type cos --lr_adjust 1e-5 --epochs {settings.pretrain_epochs} --validation 0.05 --seed {seed}
        --name pretrain_{slug(weights)}_seed{seed} --display_interval 20 --save_interval 1000
    """
    place = ["--data_path", str(settings.save_dir / "noisy"), "--save_dir", str(settings.save_dir)]
    return pretrain(parse(SingleModalSettings, [*flags.split(), *place]))["checkpoint"]


def transferred(
    settings: OscdBenchmark, weights: str, path: str, state: str, fraction: float, seed: int
) -> dict[str, Any]:
    """Row of one transfer to change detection; BatchNorm statistics of a frozen encoder move, as in the paper's."""
    from cromss.training import finetune

    tiles = len(open_part(settings.save_dir / "change" / "train", "labels"))
    epochs = math.ceil(settings.steps / max(1, math.ceil(tiles * fraction / 100) // BATCH))
    flags = f"""
        --dataset OSCD --model_framework unet --model_type resnet18 --crop_size 64 --batch_size {BATCH} --loss_type cd
        --encoder_finetune_tag {ENCODER_TAGS[state]} {"--moving_batchnorm" if state == "frozen" else ""}
        --fraction {fraction:g} --split_seed {seed} --epochs {epochs} --learning_rate 1e-3 --test_batch_size 1
        --seed {seed} --save_maps -1 --save_interval 1000
        --name {slug(weights)}_{state}_{fraction:g}pc_seed{seed}
    """
    place = ["--data_path", str(settings.save_dir / "change"), "--save_dir", str(settings.save_dir)]
    metrics = finetune(parse(FinetuneSettings, [*flags.split(), *place, "--weight_path", path]))
    coordinates = {"weights": weights, "encoder": state, "fraction": fraction, "seed": seed}
    return coordinates | percent(metrics) | {"seconds": round(metrics["seconds"])}


def baselines(part: Path) -> list[dict[str, Any]]:
    """Rows of calling every test pixel changed, and none."""
    import numpy as np

    from cromss.metrics import change_scores

    labels = open_part(part, "labels")
    changed = unchanged = 0
    for index in range(len(labels)):
        mask = labels.read(index, 0)
        changed, unchanged = changed + np.sum(mask == 1), unchanged + np.sum(mask == 0)
    counts = {"all change": [[0, unchanged], [0, changed]], "no change": [[unchanged, 0], [changed, 0]]}
    return [
        {"weights": name, "encoder": "", "fraction": "", "seed": ""} | percent(change_scores(np.array(confusion)))
        for name, confusion in counts.items()
    ]


def slug(name: str) -> str:
    """Name without spaces and commas."""
    return re.sub(r"\W+", "_", name)


def percent(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Scores of change detection in percent; `None` where they are undefined."""
    known = {key: scores[key] for key in CHANGE_SCORES if scores[key] is not None and math.isfinite(scores[key])}
    return {key: round(100 * known[key], 3) if key in known else None for key in CHANGE_SCORES}


def named_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the scores under their names for people."""
    return {CHANGE_SCORES.get(key, key): value for key, value in row.items()}


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of the means and sample standard deviations over the seeds; baselines have no encoder."""
    told = [
        {**row, "encoder": "", "encoder_state": state, "source": ""}
        for row in rows
        for state in ([row["encoder"]] if row["encoder"] else STATES)
    ]
    return to_markdown(
        tabulate("OSCD, development split: percent, mean ± sample standard deviation", told, CHANGE_SCORES)
    )


def gains(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of the differences in IoU between runs of the same seed, from the rows of the CSV."""
    found: dict[tuple[str, str, float], dict[int, float]] = {}
    for row in rows:
        if row["encoder"]:
            found.setdefault((row["weights"], row["encoder"], row["fraction"]), {})[row["seed"]] = row["IoU"]
    columns = dict.fromkeys((state, fraction) for _, state, fraction in found)
    lines = []
    for other, ours in itertools.pairwise(STARTS):
        line = {"points of IoU": f"{ours}, against {other}"}
        for state, fraction in columns:
            pair = (found.get((name, state, fraction), {}) for name in (ours, other))
            line[f"{state}, {fraction:g} %"] = gain_cell(*pair)
        lines.append(line)
    return markdown(lines)


if __name__ == "__main__":
    run(main, OscdBenchmark)
