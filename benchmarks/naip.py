"""Real aerial images whose truth is at hand: how clean are the noisy labels that one modality selects?

python benchmarks/naip.py --data_path naip

NLCD, a map of 30 m, gives the noisy labels of tiles of 1 m (data_prepare/rules/nlcd.yaml), and their land cover the
exact ones. A ResNet-18 U-Net is pretrained on the noisy labels with selection by confidence, and by confidence and
agreement of the labels around, within 3 and within 10 m, for each seed. What is finished is not done again; results go
to benchmarks/naip.csv.
"""

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pages import markdown

from cromss.config import parse, replace_text, run
from cromss.settings import SingleModalSettings
from cromss.tables import summarise, to_csv

SCRIPTS = Path(__file__).resolve().parents[1] / "data_prepare"

SELECTIONS = {
    "confidence": "",
    "and agreement, sigma 3 px": "--sample_selection_agreement",
    "and agreement, sigma 10 px": "--sample_selection_agreement --label_smoothing_sigma 10",
}
"""What labels are selected by -> flags."""

COLUMNS = {
    "random": "all labels",
    "single_ortho": "selected labels",
    "error": "error of confidence",
    "miou": "mIoU on the training tiles",
}
"""Figures of a run -> titles."""


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
        --batch_size 4 --label_smoothing --sample_selection {SELECTIONS[selection]} --epochs {settings.epochs}
        --sample_selection_rmdown_epoch {max(1, 2 * settings.epochs // 5)} --learning_rate 1e-3 --lr_adjust_type cos
        --lr_adjust 1e-5 --validation 0.1 --seed {seed} --save_interval 1000 --display_interval 20
        --name {"".join(c for c in selection if c.isalnum())}_seed{seed}
    """
    place = ["--data_path", str(settings.save_dir / "stores"), "--save_dir", str(settings.save_dir)]
    return parse(SingleModalSettings, [*flags.split(), *place])


def row(settings: NaipBenchmark, selection: str, seed: int) -> dict[str, Any]:
    """What a pretraining selected in its last epoch, in percent."""
    from cromss.training import pretrain

    metrics = pretrain(pretraining(settings, selection, seed))
    found = {
        "random": metrics["clean/random"],
        "single_ortho": metrics["clean/single_ortho"],
        "error": metrics["calibration_error/single_ortho"],
        "miou": metrics["train/miou_ortho"],
    }
    told = {"selection": selection, "seed": seed, "epochs": settings.epochs, "date": date.today().isoformat()}
    return told | {key: round(100 * value, 3) for key, value in found.items()}


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of the means and sample standard deviations over the seeds."""
    lines = []
    for selection in dict.fromkeys(row["selection"] for row in rows):
        line = {"selected by, percent": selection}
        for key, title in COLUMNS.items():
            found = summarise([float(row[key]) for row in rows if row["selection"] == selection])
            line[title] = f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")
        lines.append(line)
    return markdown(lines)


if __name__ == "__main__":
    run(main, NaipBenchmark)
