"""Real aerial images whose truth is at hand: how clean are the noisy labels that one modality selects?

python benchmarks/naip.py --data_path naip

NLCD, a map of 30 m, gives the noisy labels of tiles of 1 m (data_prepare/rules/nlcd.yaml), and their land cover the
exact ones. A ResNet-18 U-Net is pretrained on the noisy labels with selection by confidence, and by confidence and
agreement of the labels around, with a Gaussian of 3 and of 10 m, for each seed. What it selects in the last epochs is
compared. What is finished is not done again; results go to benchmarks/naip.csv.
"""

import csv
import itertools
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pages import cell, gain_cell, markdown

from cromss.config import parse, replace_text, run
from cromss.settings import SingleModalSettings
from cromss.tables import to_csv

SCRIPTS = Path(__file__).resolve().parents[1] / "data_prepare"

SELECTIONS = {
    "confidence": "",
    "and agreement, sigma 3 px": "--sample_selection_agreement",
    "and agreement, sigma 10 px": "--sample_selection_agreement --label_smoothing_sigma 10",
}
"""What labels are selected by -> flags."""

COLUMNS = {
    "clean/random": "clean labels of all",
    "clean/single_ortho": "of the selected",
    "train/miou_ortho": "mIoU in training",
}
"""Column of metrics.csv -> title; the network is scored against exact labels."""

LAST = 10
"""Epochs that figures are means of."""


@dataclass(frozen=True)
class NaipBenchmark:
    """Selection of real noisy labels, against exact ones."""

    data_path: Path
    """Folder of tiles <scene>-<number>/ with naip_new.tif, nlcd.tif and landcover.tif."""
    save_dir: Path = Path("runs/naip_benchmark")
    """Folder of labels, stores and runs."""
    results: Path = Path("benchmarks/naip.csv")
    """Table to write."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining."""
    epochs: int = 40
    """Epochs of pretraining."""


def main(settings: NaipBenchmark) -> None:
    """Write labels and stores, pretrain, and tabulate."""
    write_stores(settings)
    rows = []
    for seed, selection in itertools.product(settings.seed, SELECTIONS):
        rows.append(row(settings, selection, seed))
        replace_text(settings.results, to_csv(rows))
    print(report(rows))


def write_stores(settings: NaipBenchmark) -> None:
    """Noisy labels and stores; the scripts leave finished ones alone."""
    tiles, noisy, rules = settings.data_path, settings.save_dir / "noisy", SCRIPTS / "rules"
    make = ["--data_path", tiles, "--pattern", "*/nlcd.tif", "--rules", rules / "nlcd.yaml", "--out", noisy]
    write = ["--layout", "tiles", "--data_path", tiles, "--out", settings.save_dir / "stores"]
    write += ["--modalities", "ortho", "labels", "exact", "--ortho_pattern", "naip_new.tif"]
    write += ["--band_order", "R", "G", "B", "NIR", "--labels_path", noisy, "--label_pattern", "*.tif"]
    write += ["--label_codes", noisy / "legend.yaml", "--exact_pattern", "landcover.tif"]
    write += ["--exact_codes", rules / "landcover.yaml"]
    for script, flags in (("make_noisy_labels", make), ("write_pretrain_lmdb", write)):
        subprocess.run([sys.executable, *map(str, (SCRIPTS / f"{script}.py", *flags))], check=True)


def pretraining(settings: NaipBenchmark, selection: str, seed: int) -> SingleModalSettings:
    """Settings of a pretraining; the ramp of the selection takes two fifths of it, as published."""
    flags = f"""
        --input_type ortho --n_classes 3 --gt_available --cal_tr_acc --model_type resnet18 --crop_size 128
        --batch_size 3 --sample_selection {SELECTIONS[selection]} --epochs {settings.epochs}
        --sample_selection_rmdown_epoch {max(1, 2 * settings.epochs // 5)} --learning_rate 1e-3 --lr_adjust_type cos
        --lr_adjust 1e-5 --validation 0.1 --seed {seed} --save_interval 1000 --display_interval 20
        --name {"".join(c for c in selection if c.isalnum())}_seed{seed}
    """
    place = ["--data_path", str(settings.save_dir / "stores"), "--save_dir", str(settings.save_dir)]
    return parse(SingleModalSettings, [*flags.split(), *place])


def row(settings: NaipBenchmark, selection: str, seed: int) -> dict[str, Any]:
    """Figures of a pretraining, in percent."""
    from cromss.training import pretrain

    folder = Path(pretrain(pretraining(settings, selection, seed))["checkpoint"]).parents[1]
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))[-LAST:]
    found = {title: statistics.mean(100 * float(epoch[key]) for epoch in epochs) for key, title in COLUMNS.items()}
    told = {"selected by": selection, "seed": seed, "epochs": settings.epochs, "date": date.today().isoformat()}
    return told | {title: round(value, 3) for title, value in found.items()}


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of means and sample standard deviations over the seeds, and of gains over the first way."""
    lines = []
    for way in SELECTIONS:
        line = {"selected by": way}
        for title in COLUMNS.values():
            line[title] = cell(by_seed(rows, way, title).values())
        for title in list(COLUMNS.values())[1:]:
            plain = by_seed(rows, next(iter(SELECTIONS)), title)
            ours = by_seed(rows, way, title)
            line[f"{title}, gain"] = "" if ours == plain else gain_cell(ours, plain)
        lines.append(line)
    return markdown(lines)


def by_seed(rows: Sequence[Mapping[str, Any]], way: str, title: str) -> dict[int, float]:
    """Seed -> figure."""
    return {row["seed"]: row[title] for row in rows if row["selected by"] == way}


if __name__ == "__main__":
    run(main, NaipBenchmark)
