"""The five transfer scripts in small, one after the other: does the training loss fall, and how long do they take?

python benchmarks/transfer_scripts.py

SMALL=1: ResNet-18 on synthetic tiles, encoder random and frozen. Results go to benchmarks/transfer_scripts.csv.
"""

import csv
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cromss.config import replace_text, run
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.tables import to_csv

SCRIPTS = Path(__file__).resolve().parents[1] / "ft_scripts"


@dataclass(frozen=True)
class TransferScripts:
    """Losses and times of the transfer scripts with SMALL=1."""

    results: Path = Path("benchmarks/transfer_scripts.csv")
    """Table to write."""


def main(settings: TransferScripts) -> None:
    """Run the scripts, write the table and print it."""
    machine = {"cores": os.cpu_count(), "torch": version("torch"), "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory() as home:
        rows = [{"set": name, **transferred(name, Path(home)), **machine} for name in DOWNSTREAM_SETS]
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    replace_text(settings.results, to_csv(rows))
    print(table(rows))


def transferred(name: str, home: Path) -> dict[str, Any]:
    """Run the script of a set, with its first input, and return what `measured` finds.

    Raises:
        ValueError: The script failed.
    """
    script, image = SCRIPTS / f"ft_{name.lower()}.sh", DOWNSTREAM_SETS[name].modalities[-1]
    environment = os.environ | {"SMALL": "1", "SAVE_DIR": str(home), "DATA": ""}
    done = subprocess.run(["bash", str(script), image, "random", "frozen", "--name", name], env=environment)
    if done.returncode:
        raise ValueError(f"{script}: ended with status {done.returncode}")
    return {"input": image} | measured(home / name)


def measured(folder: Path) -> dict[str, Any]:
    """Epochs, training loss of the first and the last of them, and wall time in seconds of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    seconds = json.loads((folder / "metrics.json").read_text())["seconds"]
    ends = {"first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4)}
    return {"epochs": len(losses), **ends, "seconds": round(seconds, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the losses and times, under the machine and the date."""
    first, columns = rows[0], ("set", "input", "epochs", "first_loss", "last_loss", "seconds")
    lines = [columns, ["---"] * len(columns), *([str(row[key]) for key in columns] for row in rows)]
    total = sum(row["seconds"] for row in rows)
    title = f"{first['date']}, {first['cores']} cores, torch {first['torch']}: {total:.0f} s in all"
    return "\n".join((f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines)))


if __name__ == "__main__":
    run(main, TransferScripts)
