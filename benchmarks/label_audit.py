"""How well the label audit finds wrong labels: by both modalities of a twin, by each alone, by entropy alone.

python benchmarks/label_audit.py

Twins of ResNet-18 U-Nets, middle and late fusion, pretrained with CromSS on the noisy labels of the synthetic set,
whose exact labels are known; then the audit of all its labels, for each seed. What is finished is not done again;
results go to benchmarks/label_audit.csv.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cromss.config import read, replace_text, run
from cromss.settings import MultiModalSettings
from cromss.settings.audit import AuditSettings
from cromss.tables import summarise, to_csv

FUSIONS = {"mid": "middle fusion", "late": "late fusion"}
RANKED_BY = {"both": "both modalities", "s1": "Sentinel-1 alone", "s2": "Sentinel-2 alone", "entropy": "entropy alone"}
SCORES = ("auc", "precision_at_1_percent", "precision_at_5_percent")


@dataclass(frozen=True)
class AuditBenchmark:
    """Suspicion of noisy labels against exact ones."""

    save_dir: Path = Path("runs/audit_benchmark")
    """Folder of stores and runs."""
    results: Path = Path("benchmarks/label_audit.csv")
    """Table to write."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining."""
    locations: int = 24
    """Locations of the synthetic set."""
    epochs: int = 40
    """Epochs of pretraining."""

    def __post_init__(self) -> None:
        for flag in ("seed", "epochs"):
            if not getattr(self, flag):
                raise ValueError(f"--{flag}: at least 1 is wanted")


def main(settings: AuditBenchmark) -> None:
    """Pretrain, audit, and tabulate."""
    from cromss.training import pretrain

    settings.results.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in settings.seed:
        for fusion in FUSIONS:
            metrics = pretrain(pretraining(settings, fusion, seed))
            found = exact_scores(settings.save_dir / name_of(settings, fusion, seed), metrics["checkpoint"])
            told = {"fusion": fusion, "seed": seed, "seconds": round(metrics["seconds"])}
            rows += [told | row for row in percent(found)]
            replace_text(settings.results, to_csv(rows))
    print(report(rows))


def name_of(settings: AuditBenchmark, fusion: str, seed: int) -> str:
    """Run folder; runs of other lengths or sets have others."""
    return f"{fusion}_{settings.locations}_locations_{settings.epochs}_epochs_seed{seed}"


def pretraining(settings: AuditBenchmark, fusion: str, seed: int) -> MultiModalSettings:
    """Settings of twins pretrained with all of the method: smoothing, selection, consistency."""
    flags = f"""
        --fusion_type {fusion} --model_type resnet18 --crop_size 128 --batch_size 4
        --sample_selection --sample_selection_rmdown_epoch {max(1, settings.epochs // 2)} --label_smoothing
        --learning_rate 1e-3 --lr_adjust_type cos --lr_adjust 1e-5 --epochs {settings.epochs}
        --validation 0.1 --synthetic_locations {settings.locations} --seed {seed} --devices 1 --num_workers 0
        --name {name_of(settings, fusion, seed)} --display_interval 0 --save_interval 1000
    """
    return read(MultiModalSettings, [*flags.split(), "--save_dir", str(settings.save_dir)])


def exact_scores(folder: Path, checkpoint: str) -> Mapping[str, Any]:
    """What the audit of a run says against exact labels; a finished audit of this checkpoint is read."""
    from cromss.training.audit import SUMMARY_NAME, audit

    done = folder / "audit" / SUMMARY_NAME
    summary = json.loads(done.read_text()) if done.is_file() else {}
    if summary.get("checkpoint") != checkpoint:
        summary = audit(AuditSettings(checkpoint)).summary
    return summary["exact"]


def percent(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a score that ranks, in percent, with the share of all labels that are wrong."""
    wrong = found["wrong_pixels"] / found["compared_pixels"]
    for name in RANKED_BY:
        scores = {key: found["scores"][name][key] for key in SCORES} | {"wrong": wrong}
        yield {"ranked_by": name} | {key: round(100 * value, 3) for key, value in scores.items()}


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table: AUC, and precision at the top 1 and 5 %, mean and sample standard deviation over the seeds."""
    lines = [["ranked by", *FUSIONS.values()], ["---"] * (1 + len(FUSIONS))]
    for name, title in RANKED_BY.items():
        lines.append([title, *(cell(rows, fusion, name) for fusion in FUSIONS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(rows: Sequence[Mapping[str, Any]], fusion: str, ranked_by: str) -> str:
    """The scores of one way to rank."""
    group = [row for row in rows if (row["fusion"], row["ranked_by"]) == (fusion, ranked_by)]
    told = (summarise([float(row[key]) for row in group]) for key in SCORES)
    return ", ".join("-" if x is None else f"{x.mean:.1f}" + ("" if x.std is None else f" ± {x.std:.1f}") for x in told)


if __name__ == "__main__":
    run(main, AuditBenchmark)
