"""Twin ViTs pretrained with CromSS on the synthetic set, under a frozen encoder: do they beat random ones?

python benchmarks/vit_pretraining.py

ViT-small/16 twins, middle and late fusion, on the noisy labels of the synthetic pretraining set; then UPerNet on the
frozen Sentinel-2 encoder and the exact labels of the synthetic DFC2020-like set, for each seed. What is finished is
not done again; results go to benchmarks/vit_pretraining.csv.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cromss.config import read, replace_text, run
from cromss.downstream_sets import CLASS_SCORES
from cromss.settings import FinetuneSettings, MultiModalSettings
from cromss.tables import tabulate, to_csv, to_markdown

STARTS = ("random", "mid", "late")


@dataclass(frozen=True)
class ViTBenchmark:
    """CromSS-pretrained ViTs against random ones."""

    save_dir: Path = Path("runs/vit_benchmark")
    """Folder of stores and runs."""
    results: Path = Path("benchmarks/vit_pretraining.csv")
    """Table to write."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of pretraining and transfer."""
    encoder: str = "vit_small_patch16_224"
    """Encoder."""
    crop_size: int = 96
    """Side of the training crops, in pixels."""
    pretrain_epochs: int = 40
    """Epochs of pretraining."""
    epochs: int = 20
    """Epochs of transfer."""

    def __post_init__(self) -> None:
        for flag in ("seed", "crop_size", "pretrain_epochs", "epochs"):
            if not getattr(self, flag):
                raise ValueError(f"--{flag}: at least 1 is wanted")


def main(settings: ViTBenchmark) -> None:
    """Pretrain, transfer, and tabulate."""
    from cromss.training import finetune, pretrain

    transfer(settings, "random", "random", 0)  # what is wrong with the settings is said before anything runs
    pretraining(settings, "mid", 0)
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in settings.seed:
        for start in STARTS:
            path = "random" if start == "random" else pretrain(pretraining(settings, start, seed))["checkpoint"]
            metrics = finetune(transfer(settings, start, path, seed))
            scores = {key: round(100 * metrics[key], 3) for key in CLASS_SCORES}
            rows.append({"weights": start, "seed": seed} | scores | {"seconds": round(metrics["seconds"])})
            replace_text(settings.results, to_csv(rows))
    print(report(rows))


def pretraining(settings: ViTBenchmark, fusion: str, seed: int) -> MultiModalSettings:
    """Settings of twins pretrained with all of the method: smoothing, selection, consistency."""
    ramp = settings.pretrain_epochs // 2
    flags = f"""
        --fusion_type {fusion} --model_type {settings.encoder} --drop_path 0.1 --crop_size {settings.crop_size}
        --sample_selection --sample_selection_rmdown_epoch {ramp} --label_smoothing
        --optimizer adamw --weight_decay 0.05 --learning_rate 5e-4 --lr_adjust_type cos --lr_adjust 1e-6
        --warmup_epochs {settings.pretrain_epochs // 10} --epochs {settings.pretrain_epochs} --batch_size 8
        --validation 0.1 --synthetic_locations 48 --seed {seed} --devices 1
        --name {fusion}_seed{seed} --display_interval 20 --save_interval 1000
    """
    return read(MultiModalSettings, [*flags.split(), "--save_dir", str(settings.save_dir)])


def transfer(settings: ViTBenchmark, start: str, path: str, seed: int) -> FinetuneSettings:
    """Settings of a transfer with a frozen encoder."""
    flags = f"""
        --dataset DFC2020 --model_framework upernet --model_type {settings.encoder} --crop_size {settings.crop_size}
        --synthetic_tiles 24 32 --encoder_finetune_tag efix --epochs {settings.epochs} --batch_size 8
        --learning_rate 5e-4 --seed {seed} --devices 1 --name {start}_frozen_seed{seed} --save_interval 1000
    """
    return read(FinetuneSettings, [*flags.split(), "--weight_path", path, "--save_dir", str(settings.save_dir)])


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of the means and sample standard deviations over the seeds."""
    told = [{**row, "encoder": "", "encoder_state": "frozen", "source": ""} for row in rows]
    return to_markdown(
        tabulate("synthetic DFC2020, UPerNet: percent, mean ± sample standard deviation", told, CLASS_SCORES)
    )


if __name__ == "__main__":
    run(main, ViTBenchmark)
