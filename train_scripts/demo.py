"""The whole path on a laptop: make a synthetic world, pretrain, transfer, score, draw.

Everything lands in runs/demo; what is there already is used again.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cromss.config import exit_with, parse
from cromss.downstream_sets import CLASS_SCORES
from cromss.legends import DFC2020
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.start_up import fast_imports

HOME = Path("runs/demo")
CONFIGS = Path(__file__).parent / "configs"
SELECTION = ["--sample_selection", "--sample_selection_rmdown_epoch", "9"]


def main() -> None:
    """Pretrain CromSS and a single-modal model, transfer both and random weights, and show the scores."""
    with fast_imports():
        from cromss.training import finetune, pretrain

    place = ["--save_dir", str(HOME)]
    pretraining = ["--config", str(CONFIGS / "demo_pretrain.yaml"), *place]
    say(1, "pretrain CromSS: twin Sentinel-1 and Sentinel-2 encoders on noisy labels, middle fusion")
    twins = pretrain(parse(MultiModalSettings, [*pretraining, *SELECTION, "--name", "pretrain_cromss"]))
    say(2, "pretrain a single-modal model: Sentinel-2 on the same noisy labels")
    single = pretrain(parse(SingleModalSettings, [*pretraining, "--input_type", "s2", "--name", "pretrain_single"]))
    say(3, "transfer to exact labels (DFC2020-like), encoder frozen and tuned")
    weights = {"random": "random", "single-modal": single["checkpoint"], "CromSS": twins["checkpoint"]}
    rows = []
    for name, path in weights.items():
        for kind, tag in (("frozen", "efix"), ("tuned", "etr")):
            print(f"\n{name}, {kind}")
            run = f"finetune_{name.lower()}_{kind}"
            flags = ["--weight_path", path, "--encoder_finetune_tag", tag, "--name", run, *place]
            metrics = finetune(parse(FinetuneSettings, ["--config", str(CONFIGS / "demo_finetune.yaml"), *flags]))
            rows.append({"weights": name, "encoder": kind} | {key: metrics[key] for key in CLASS_SCORES} | {"run": run})
    report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table, write it as CSV, and draw the panel."""
    from cromss.callbacks import save_png

    with (HOME / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{'weights':14}{'encoder':10}" + "".join(f"{name:>8}" for name in CLASS_SCORES.values()))
    for row in rows:
        print(f"{row['weights']:14}{row['encoder']:10}" + "".join(f"{100 * row[key]:8.2f}" for key in CLASS_SCORES))
    print("\npercent, on every pixel of the test tiles; one seed, so small differences mean nothing")
    save_png(draw(rows), HOME / "panel.png")
    print(f"table    {HOME / 'scores.csv'}\npicture  {HOME / 'panel.png'}\nruns     tensorboard --logdir {HOME}")


def draw(rows: list[dict[str, Any]], num_tiles: int = 4) -> np.ndarray:
    """Test tiles in rows: image, exact label, and the map from each encoder; `(H, W, 3)` uint8."""
    from cromss.panels import class_map, panel, picture
    from cromss.training.downstream import downstream_data

    settings = parse(FinetuneSettings, ["--config", str(CONFIGS / "demo_finetune.yaml"), "--save_dir", str(HOME)])
    test = downstream_data(settings).test
    shown = []
    for index in range(0, len(test), len(test) // num_tiles)[:num_tiles]:
        sample = test[index]
        tiles = {
            "Sentinel-2 image": picture(sample["s2"] / 255, "s2", test.names["s2"]),
            "exact label": class_map(sample["labels"][0], DFC2020),
        }
        for row in rows:
            title = f"{row['weights']}, {row['encoder']}\nmIoU {100 * row['miou']:.1f} %"
            tiles[title] = np.asarray(Image.open(HOME / row["run"] / "maps" / f"{sample['id']}.png"))
        shown.append(tiles)
    return panel(shown, DFC2020, "Land cover of test tiles, mapped from encoders with different pretraining")


def say(step: int, what: str) -> None:
    """Announce a step."""
    print(f"\n[{step}/3] {what}", flush=True)


def guarded() -> None:
    """Run the demo; where an older one with other settings is in the way, say what to do."""
    try:
        main()
    except ValueError as error:
        raise ValueError(f"{error}; for the demo, remove {HOME}") from error


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(f"{__doc__}\nIt takes no arguments.")
    exit_with(guarded)
