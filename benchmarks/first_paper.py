"""Single-modal pretraining on noisy labels, on the synthetic sets: better than random weights, worse than exact labels?

python benchmarks/first_paper.py

The two settings of arXiv 2402.16164 in small, ResNet-18: orthophotos with labels as from LiDAR (nyc.yaml), then the
NYC-like set; Sentinel-2 with labels as of Dynamic World (s2dw.yaml), then the DFC2020- and OSCD-like sets. Each encoder
starts from random weights, from noisy and from exact labels of the pretraining set, and is frozen or tuned, for each
seed. What is finished is not done again; results go to benchmarks/first_paper.csv.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cromss.config import read, replace_text, run
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.settings import FinetuneSettings, SingleModalSettings
from cromss.tables import tabulate, to_csv, to_markdown

CONFIGS = Path(__file__).resolve().parents[1] / "train_scripts" / "configs"
"""Folder of the recipes."""

PRETRAINING = {"NYC": "nyc", "DFC2020": "s2dw", "OSCD": "s2dw"}
"""Downstream set -> recipe of the pretraining."""

LABELS = {"random": None, "noisy labels": "ns_labels", "exact labels": "gt_labels"}
"""Start of the encoder -> labels that it is pretrained on."""

STATES = {"frozen": "efix", "tuned": "etr"}
"""State of the encoder -> value of --encoder_finetune_tag."""


@dataclass(frozen=True)
class FirstPaper:
    """Encoders from noisy and exact labels against random ones."""

    save_dir: Path = Path("runs/first_paper")
    """Folder of stores and runs."""
    results: Path = Path("benchmarks/first_paper.csv")
    """Table to write, of the sets and seeds asked for."""
    sets: tuple[Literal["NYC", "DFC2020", "OSCD"], ...] = ("NYC", "DFC2020", "OSCD")
    """Downstream sets."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining and transfer."""
    pretrain_epochs: int = 30
    """Epochs of pretraining."""
    epochs: int = 20
    """Epochs of transfer."""

    def __post_init__(self) -> None:
        for flag in ("sets", "seed", "pretrain_epochs", "epochs"):
            if not getattr(self, flag):
                raise ValueError(f"--{flag}: at least 1 is wanted")


def main(settings: FirstPaper) -> None:
    """Pretrain, transfer, and tabulate."""
    rows = list(measured(settings))
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    replace_text(settings.results, to_csv(rows))
    print(report(rows))


def measured(settings: FirstPaper) -> Iterator[dict[str, Any]]:
    """A row for every seed, set, start and state of the encoder."""
    from cromss.training import finetune, pretrain

    for seed in settings.seed:
        for name in settings.sets:
            for start, labels in LABELS.items():
                path = (
                    pretrain(pretraining(settings, PRETRAINING[name], labels, seed))["checkpoint"] if labels else start
                )
                for state in STATES:
                    metrics = finetune(transfer(settings, name, state, start, path, seed))
                    scores = {key: percent(metrics[key]) for key in DOWNSTREAM_SETS[name].scores}
                    row = {"set": name, "weights": start, "encoder_state": state, "seed": seed} | scores
                    yield row | {"seconds": round(metrics["seconds"])}


def percent(score: float | None) -> float | None:
    """A score in percent; `None` where it is not defined."""
    return None if score is None else round(100 * score, 3)


def pretraining(settings: FirstPaper, recipe: str, labels: str, seed: int) -> SingleModalSettings:
    """Settings of a pretraining on noisy (`ns_labels`) or exact labels (`gt_labels`)."""
    flags = f"""
        --config {CONFIGS / recipe}.yaml --experiment {labels} --gt_available --model_type resnet18
        --synthetic_locations 48 --crop_size 128 --validation 0.15 --batch_size 8 --num_workers 0
        --epochs {settings.pretrain_epochs} --seed {seed} --devices 1
        --name {recipe}_{labels}_{settings.pretrain_epochs}epochs_seed{seed} --display_interval 10 --save_interval 1000
    """
    return read(SingleModalSettings, [*flags.split(), "--save_dir", str(settings.save_dir)])


def transfer(settings: FirstPaper, name: str, state: str, start: str, path: str, seed: int) -> FinetuneSettings:
    """Settings of a transfer with the recipe of the set; NYC is U-Net frozen and DeepLabv3+ tuned, as published."""
    head = ["--model_framework", "deeplabv3plus"] if (name, state) == ("NYC", "tuned") else []
    tiles = "12 8" if name == "OSCD" else "24 32"
    flags = f"""
        --config {CONFIGS}/ft_{name.lower()}.yaml --model_type resnet18 --n_train 0 --synthetic_tiles {tiles}
        --synthetic_size 128 --crop_size 96 --batch_size 8 --learning_rate 1e-3 --epochs {settings.epochs}
        --encoder_finetune_tag {STATES[state]} --seed {seed} --devices 1
        --name {name}_{start.split()[0]}_{settings.pretrain_epochs}epochs_{state}_seed{seed} --save_interval 1000
    """
    return read(FinetuneSettings, [*flags.split(), *head, "--weight_path", path, "--save_dir", str(settings.save_dir)])


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables, one a set, of the means and sample standard deviations over the seeds."""
    tables = []
    for name in dict.fromkeys(row["set"] for row in rows):
        told = [{**row, "encoder": "", "source": ""} for row in rows if row["set"] == name]
        title = f"synthetic {name}: percent, mean ± sample standard deviation"
        tables.append(to_markdown(tabulate(title, told, DOWNSTREAM_SETS[name].scores)))
    return "\n\n".join(tables)


if __name__ == "__main__":
    run(main, FirstPaper)
