"""The five transfer scripts really run, and learn; so do the benchmarks tabulate what they should."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.tables import to_csv

TINY = (
    "--synthetic_size 64 --crop_size 64 --batch_size 4 --epochs 6 --learning_rate 3e-3 --accelerator cpu --save_maps 0"
)


def load_benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", REPOSITORY / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def transfer_scripts():
    return load_benchmark("transfer_scripts")


@pytest.fixture(scope="module")
def oscd():
    return load_benchmark("oscd")


@pytest.mark.parametrize("name", DOWNSTREAM_SETS)
def test_scripts_run_and_learn(name, tmp_path):
    task = DOWNSTREAM_SETS[name]
    counts = ["2", "1"] if task.is_change else ["4", "2"]
    command = [
        "bash",
        str(REPOSITORY / "ft_scripts" / f"ft_{name.lower()}.sh"),
        task.modalities[-1],
        "random",
        "frozen",
    ]
    told = {"SMALL": "1", "SAVE_DIR": str(tmp_path), "PYTHON": sys.executable, "DATA": "", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [*command, "--name", "run", "--synthetic_tiles", *counts, *TINY.split()],
        env={key: value for key, value in os.environ.items() if key not in ("ENCODER", "FRACTION", "SEED")} | told,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(key in metrics and (metrics[key] is None or 0 <= metrics[key] <= 1) for key in task.scores)
    assert metrics["oa"] is not None
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]


def written_run(folder, losses, seconds):
    """A run folder as far as the benchmark reads it."""
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(to_csv([{"epoch": n, "train/loss": loss} for n, loss in enumerate(losses)]))
    (folder / "metrics.json").write_text(json.dumps({"seconds": seconds}))


def test_losses_and_times_are_those_of_the_run_folders(transfer_scripts, tmp_path, monkeypatch, capsys):
    seen = []

    def fake_run(command, env):
        seen.append(command)
        assert env["SMALL"] == "1"
        name = command[command.index("--name") + 1]
        written_run(transfer_scripts.Path(env["SAVE_DIR"]) / name, [3.0, 2.5, len(seen) / 10], 10.04 * len(seen))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(transfer_scripts.subprocess, "run", fake_run)
    results = tmp_path / "new" / "table.csv"
    transfer_scripts.main(transfer_scripts.TransferScripts(results))
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["input"]) for row in rows] == [
        *(("DFC2020", "s2"), ("DW", "s2"), ("OSM", "s2"), ("OSCD", "s2"), ("NYC", "ortho"))
    ]
    assert [(row["epochs"], row["first_loss"], row["last_loss"]) for row in rows][1] == ("3", "3.0", "0.2")
    assert [row["seconds"] for row in rows] == ["10.0", "20.1", "30.1", "40.2", "50.2"]
    assert {row["cores"] for row in rows} == {str(os.cpu_count())}
    said = capsys.readouterr().out
    assert "| OSCD | s2 | 3 | 3.0 | 0.4 | 40.2 |" in said
    assert f"{rows[0]['date']}, {os.cpu_count()} cores, torch {rows[0]['torch']}: 151 s in all" in said


def test_scripts_that_fail_stop_the_benchmark(transfer_scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer_scripts.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 3))
    with pytest.raises(ValueError, match=r"ft_dfc2020\.sh: ended with status 3"):
        transfer_scripts.main(transfer_scripts.TransferScripts(tmp_path / "table.csv"))
    assert not (tmp_path / "table.csv").exists()


def test_table_of_the_oscd_benchmark(oscd):
    scores = {"oa": 0.5, "iou": 0.25, "precision": float("nan"), "recall": None, "f1": 0.4}
    told = oscd.percent(scores)
    assert told == {"oa": 50.0, "iou": 25.0, "precision": None, "recall": None, "f1": 40.0}
    rows = [{"weights": "no change", "encoder": "", "seed": ""} | told]
    rows += [
        {"weights": "random", "encoder": state, "seed": seed} | told | {"iou": 20.0 + seed, "seconds": 7}
        for seed in (0, 2)
        for state in ("frozen", "tuned")
    ]
    text = to_csv([oscd.named_scores(row) for row in rows])
    head, first, second, *_ = text.splitlines()
    assert head == "weights,encoder,seed,OA,IoU,precision,recall,F1,seconds"
    assert (first, second) == ("no change,,,50.0,25.0,,,40.0,", "random,frozen,0,50.0,20.0,,,40.0,7")
    lines = [line.strip("| ").split(" | ") for line in oscd.report(rows).splitlines() if line.startswith("| ")]
    assert lines[0][:3] == ["weights", "frozen OA", "frozen IoU"]
    assert lines[2] == ["no change", *["**50.00** (1)", "**25.00** (1)", "-", "-", "**40.00** (1)"] * 2]
    assert lines[3][2] == lines[3][7] == "21.00 ± 1.41 (2)"


def test_stores_of_the_oscd_benchmark_are_left_to_their_scripts(oscd, tmp_path, monkeypatch):
    """They know their settings; a mark of being done would not."""
    commands = []
    monkeypatch.setattr(oscd.subprocess, "run", lambda command, check: commands.append(command))
    settings = oscd.OscdBenchmark(tmp_path / "raw", tmp_path / "labels", save_dir=tmp_path / "out")
    oscd.write_stores(settings)
    oscd.write_stores(settings)
    assert [command[1].rpartition("/")[2] for command in commands] == [
        *("write_oscd_lmdb.py", "write_oscd_pretrain_lmdb.py") * 2
    ]
    assert not (tmp_path / "out").exists()
