"""The five transfer scripts really run, and learn; so do the benchmarks tabulate what they should."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from test_contract import run_script, transfer_settings

from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.tables import to_csv
from cromss.training import finetune

TINY = (
    "--synthetic_size 64 --crop_size 64 --batch_size 4 --epochs 6 --learning_rate 3e-3 --accelerator cpu --save_maps 0"
)


def load_benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", REPOSITORY / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def transfer_scripts():
    return load_benchmark("transfer_scripts")


@pytest.fixture(scope="module")
def vit_step():
    return load_benchmark("vit_step")


SHELL = {"SMALL": "1", "ENCODER": "tu-test_resnet"}


def test_a_script_runs_and_learns(tmp_path):
    told = {"SAVE_DIR": str(tmp_path), "PYTHON": sys.executable, "DATA": "", "OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in os.environ.items() if key not in ("HEAD", "FRACTION", "SEED")}
    script = str(REPOSITORY / "ft_scripts" / "ft_dfc2020.sh")
    done = subprocess.run(
        ["bash", script, "s2", "random", "frozen", "--name", "run", "--synthetic_tiles", "4", "2", *TINY.split()],
        env=kept | told | SHELL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_learnt(tmp_path / "run", DOWNSTREAM_SETS["DFC2020"])


@pytest.mark.parametrize("name", ["OSCD", "NYC"])  # the others are alike; benchmarks run all
def test_settings_of_the_other_scripts_run_and_learn(name, tmp_path):
    task = DOWNSTREAM_SETS[name]
    counts = ["2", "1"] if task.is_change else ["4", "2"]
    words = [task.modalities[-1], "random", "frozen", "--name", "run", "--synthetic_tiles", *counts, *TINY.split()]
    finetune(transfer_settings(f"ft_{name.lower()}.sh", words, tmp_path, SAVE_DIR=str(tmp_path), **SHELL))
    check_learnt(tmp_path / "run", task)


def check_learnt(run, task):
    """Scores are there, and the loss has fallen."""
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(key in metrics and (metrics[key] is None or 0 <= metrics[key] <= 1) for key in task.scores)
    assert metrics["oa"] is not None
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]


SENTINEL_SCRIPTS = ("ft_dfc2020.sh", "ft_dw.sh", "ft_osm.sh", "ft_oscd.sh")


@pytest.mark.parametrize(
    ("encoder", "bands"),
    [
        *(("vit_small_patch16_224", 13), ("vit_base_patch14_dinov2", 13), ("dofa_base_patch16_224", 92)),
        *(("satmae_large_patch8_96", 10), ("scalemae_large_patch16_224", 3)),
    ],
)
@pytest.mark.parametrize("script", SENTINEL_SCRIPTS)
def test_vits_come_with_upernet_and_the_bands_they_take(script, encoder, bands, tmp_path):
    for state in ("frozen", "tuned"):
        settings = transfer_settings(script, ["s2", "random", state], tmp_path, ENCODER=encoder, HEAD="")
        assert (settings.model.model_type, settings.model.model_framework) == (encoder, "upernet")
        assert settings.data.n_channels == bands


def test_vits_on_orthophotos_come_with_upernet_frozen_and_tuned(tmp_path):
    for state in ("frozen", "tuned"):
        settings = transfer_settings("ft_nyc.sh", ["ortho", "w", state], tmp_path, ENCODER="vit_small_patch16_224")
        assert settings.model.model_framework == "upernet"


@pytest.mark.parametrize("encoder", ["", "resnet34", "tu-resnet50", "vgg11", "mobilenet_v2"])
def test_other_encoders_keep_the_head_and_bands_of_the_set(encoder, tmp_path):
    heads = {"ft_dfc2020.sh": "pspnet", "ft_dw.sh": "deeplabv3plus", "ft_osm.sh": "fpn", "ft_oscd.sh": "unet"}
    for script, head in heads.items():
        settings = transfer_settings(script, [], tmp_path, ENCODER=encoder)
        assert (settings.model.model_type, settings.model.model_framework) == (encoder or "resnet50", head)
        assert settings.data.n_channels == 13


@pytest.mark.parametrize(
    ("environment", "encoder", "head"),
    [
        ({"HEAD": "upernet"}, "resnet50", "upernet"),
        ({"HEAD": "unet", "ENCODER": "resnet34"}, "resnet34", "unet"),
        ({"HEAD": "segmenter", "ENCODER": "vit_small_patch16_224"}, "vit_small_patch16_224", "segmenter"),
        ({"HEAD": "fpn", "ENCODER": "satmae_large_patch8_96"}, "satmae_large_patch8_96", "fpn"),
        ({"HEAD": "fpn", "SMALL": "1"}, "resnet18", "fpn"),
        ({"SMALL": "1", "ENCODER": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224", "upernet"),
        ({"SMALL": "1", "ENCODER": "scalemae_tiny_patch16_224"}, "scalemae_tiny_patch16_224", "upernet"),
        ({"SMALL": "1", "HEAD": "unet", "ENCODER": "dofa_tiny_patch16_224"}, "dofa_tiny_patch16_224", "unet"),
    ],
)
def test_head_of_the_environment(environment, encoder, head, tmp_path):
    settings = transfer_settings("ft_dw.sh", [], tmp_path, **environment)
    assert (settings.model.model_type, settings.model.model_framework) == (encoder, head)
    assert settings.optimisation.epochs == (20 if "SMALL" in environment else 50)


def test_flags_after_the_words_win_over_encoder_and_head(tmp_path):
    environment = {"ENCODER": "satmae_large_patch8_96", "HEAD": "unet"}
    flags = "--model_type vit_base_patch16_224 --model_framework fpn --n_channels 9"
    settings = transfer_settings("ft_dw.sh", ["s2", "random", "tuned", *flags.split()], tmp_path, **environment)
    assert (settings.model.model_type, settings.model.model_framework) == ("vit_base_patch16_224", "fpn")
    assert settings.data.n_channels == 9


def test_usage_tells_of_the_head(tmp_path):
    said = run_script("ft_dw.sh", ["--help"], tmp_path).stderr
    assert "\n  HEAD " in said
    assert "upernet for ViTs: vit_*, satmae_*, scalemae_*, dofa_*" in said
    assert "satmae_* takes 10 bands, scalemae_* 3, dofa_* 9 (RGB first)" in said


@pytest.mark.usefixtures("one_thread")
def test_small_vits_run(tmp_path):
    environment = {"SMALL": "1", "ENCODER": "satmae_tiny_patch16_96", "SAVE_DIR": str(tmp_path)}
    flags = [*TINY.split(), "--synthetic_tiles", "4", "2", "--epochs", "1", "--name", "run"]
    finetune(transfer_settings("ft_dfc2020.sh", ["s2", "random", "frozen", *flags], tmp_path, **environment))
    assert 0 <= json.loads((tmp_path / "run" / "metrics.json").read_text())["oa"] <= 1


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


def test_table_of_the_vit_benchmark(vit_step):
    measured = {"image_size": 224, "batch_size": 32, "grad_checkpointing": False, "steps": 30, "device": "a card"}
    measured |= {"torch": "2.6", "date": "2026-01-02"}
    small = measured | {"encoder": "resnet50", "ms": 50.0, "ms_iqr": 0.5, "images_per_s": 640.0, "peak_mib": 2000}
    large = measured | {"encoder": "vit", "ms": 125.0, "ms_iqr": 1.25, "images_per_s": 256.0, "peak_mib": 9000}
    rows = [vit_step.compared(row, small) for row in (small, large)]
    assert [(row["ms_ratio"], row["peak_mib_ratio"]) for row in rows] == [(1, 1), (2.5, 4.5)]
    title, _, _, _, first, second = vit_step.table(rows).splitlines()
    assert title == "### 2026-01-02, a card, torch 2.6: 32 images of 224 px"
    assert first == "| resnet50 | 50.0 (IQR 0.5) | 640.0 | 2000 | 1.00 x | 1.00 x |"
    assert second == "| vit | 125.0 (IQR 1.2) | 256.0 | 9000 | 2.50 x | 4.50 x |"


@pytest.mark.usefixtures("one_thread")
def test_vit_benchmark_measures_both_networks_and_adds_to_its_table(vit_step, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vit_step, "REFERENCE", "resnet18")
    monkeypatch.setattr(vit_step, "WARM_UP", 1)
    monkeypatch.setattr(vit_step.torch.cuda, "is_available", lambda: False)
    ticks = iter(range(100))
    monkeypatch.setattr(vit_step.time, "perf_counter", lambda: next(ticks) ** 2 / 1000)
    table = tmp_path / "steps.csv"
    table.write_text("encoder,ms\nearlier,1.5\n")
    vit_step.main(vit_step.ViTStep("vit_tiny_patch16_224", 32, 2, True, 2, table))
    with table.open(newline="") as file:
        earlier, *rows = csv.DictReader(file)
    assert (earlier["encoder"], earlier["ms"]) == ("earlier", "1.5")
    assert [row["encoder"] for row in rows] == ["resnet18", "vit_tiny_patch16_224"]
    assert [row["grad_checkpointing"] for row in rows] == ["False", "True"]
    # step n takes 4n + 1 ms, n from 0; of each network's three the first warms up
    assert [float(row["ms"]) for row in rows] == [7, 19]
    assert [float(row["ms_ratio"]) for row in rows] == [1, 2.71]
    assert float(rows[0]["images_per_s"]) == pytest.approx(2000 / 7, abs=0.1)
    assert {row["peak_mib"] for row in rows} == {""}
    assert all(row["torch"] and row["device"] and row["date"] for row in rows)
    assert "| vit_tiny_patch16_224 | 19.0 (IQR " in capsys.readouterr().out


def test_vit_benchmark_checkpoints_any_network_but_the_reference(vit_step):
    networks = [vit_step.build(vit_step.ViTStep("resnet18", 64, 2, flag), "resnet18") for flag in (False, True)]
    kept, recomputed = ([type(module) for module in network.modules()] for network in networks)
    assert sum(one is not other for one, other in zip(kept, recomputed, strict=True)) == 4
    with pytest.raises(ValueError, match="--grad_checkpointing: must be left out with --encoder resnet50"):
        vit_step.ViTStep("resnet50", grad_checkpointing=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "--image_size 0: must be at least 32"),
        ({"image_size": 31}, "--image_size 31: must be at least 32"),
        ({"batch_size": 1}, "--batch_size 1: must be at least 2"),
        ({"batch_size": -4}, "--batch_size -4: must be at least 2"),
        ({"steps": 1}, "--steps 1: must be at least 2"),
        ({"steps": 0}, "--steps 0: must be at least 2"),
    ],
)
def test_vit_benchmark_refuses_numbers_out_of_range(vit_step, settings, message):
    with pytest.raises(ValueError, match=message):
        vit_step.ViTStep(**settings)
