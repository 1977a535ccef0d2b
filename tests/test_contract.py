"""Every command in the README, the scripts and the YAML files parses."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from typing import get_type_hints

import numpy as np
import pytest
from conftest import REPOSITORY, load_script

from cromss.config import parse
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.models.sources import native_normalization
from cromss.normalization import NORMALIZATIONS
from cromss.optimisers import schedule
from cromss.sensors import MODALITIES
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.settings.analysis import AnalysisSettings
from cromss.settings.audit import AuditSettings
from cromss.settings.bench import BenchSettings, list_cells
from cromss.settings.export import ExportSettings
from cromss.settings.mapping import MapSettings
from cromss.settings.release import ReleaseSettings, WeightsSettings
from cromss.tables import read_published
from cromss.training.downstream import downstream_bands

TRAINING = {
    "train_pretrain_mm.py": MultiModalSettings,
    "train_pretrain.py": SingleModalSettings,
    "finetune.py": FinetuneSettings,
    "bench.py": BenchSettings,
    "analyse_layers.py": AnalysisSettings,
    "release.py": ReleaseSettings,
    "weights.py": WeightsSettings,
    "export_onnx.py": ExportSettings,
    "audit_labels.py": AuditSettings,
    "predict_map.py": MapSettings,
}
SINGLE_MODAL = {"nyc.yaml": ("ortho", 4, "resnet18", 288), "s2dw.yaml": ("s2", 9, "resnet50", 256)}
CONFIGS = REPOSITORY / "train_scripts" / "configs"
README = (REPOSITORY / "README.md").read_text()


def python_commands(text):
    """(script, arguments) of every python command in a text."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for match in re.finditer(r"python3? ((?:train_scripts|data_prepare)/\S+\.py)([^`#|\n]*)", line):
            yield match[1], shlex.split(match[2])


COMMANDS = list(python_commands(README))


def test_readme_has_commands():
    assert {script for script, _ in COMMANDS} >= {
        "train_scripts/train_pretrain_mm.py",
        "train_scripts/train_pretrain.py",
    }


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=lambda value: str(value)[:60])
def test_readme_commands_parse(script, arguments, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    name = script.rpartition("/")[2]
    kind = TRAINING.get(name) or get_type_hints(load_script(name.removesuffix(".py")).main)["settings"]
    parse(kind, arguments)


@cache
def cells_of(grid):
    """Cells of a grid, listed once."""
    return list_cells(CONFIGS / grid, "runs/bench")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_configs_parse(path):
    if path.name.startswith("bench"):
        assert cells_of(path.name)
        return
    parse(_settings_of(path.name), ["--config", str(path)])


def _settings_of(config):
    if config.startswith(("ft_", "demo_finetune")):
        return FinetuneSettings
    return SingleModalSettings if config in SINGLE_MODAL else MultiModalSettings


RECIPES = {  # FACTS of the papers: head, encoder, crop
    "DFC2020": ("pspnet", "resnet50", 256),
    "DW": ("deeplabv3plus", "resnet50", 496),
    "OSM": ("fpn", "resnet50", 480),
    "OSCD": ("unet", "resnet50", 96),
    "NYC": ("unet", "resnet18", 288),
}


@pytest.mark.parametrize("dataset", RECIPES)
def test_recipes_are_the_published_ones(dataset):
    settings = parse(FinetuneSettings, ["--config", str(CONFIGS / f"ft_{dataset.lower()}.yaml")])
    data, model, optimisation = settings.data, settings.model, settings.optimisation
    assert (data.dataset, model.loss_type) == (dataset, "cd")
    assert (model.model_framework, model.model_type, data.crop_size) == RECIPES[dataset]
    assert (optimisation.batch_size, optimisation.epochs, optimisation.learning_rate) == (32, 50, 5e-4)
    assert (optimisation.optimizer, optimisation.scheduler_type) == ("adam", "cos")
    cosine = schedule("cos", optimisation.scheduler_values, optimisation.epochs, optimisation.learning_rate)
    rates = [5e-4 * cosine(epoch) for epoch in (0, 20, 40, 49)]
    assert rates == pytest.approx([5e-4, (5e-4 + 1e-5) / 2, 1e-5, 1e-5])
    assert data.n_train == (100 if dataset == "NYC" else 0)
    assert settings.runtime.test_batch_size == (1 if dataset == "OSCD" else 0)


@pytest.mark.parametrize("config", SINGLE_MODAL)
def test_single_modal_recipes_are_the_published_ones(config):
    settings = parse(SingleModalSettings, ["--config", str(CONFIGS / config)])
    data, model, optimisation = settings.data, settings.model, settings.optimisation
    assert (settings.input_type, data.n_classes, model.model_type, data.crop_size) == SINGLE_MODAL[config]
    assert (model.loss_type, data.rotate_share, data.experiment) == ("cd", 0, "ns_labels")
    assert (optimisation.optimizer, optimisation.learning_rate, optimisation.lr_adjust_type) == ("adam", 1e-3, "none")
    assert (optimisation.batch_size, optimisation.epochs) == (256, 100)
    assert not settings.smoothing.label_smoothing


@pytest.fixture(scope="module")
def published_cells():
    """Cells of the grid of the published tables."""
    return cells_of("bench_published.yaml")


def test_published_grid_follows_the_published_protocol(published_cells):
    for cell in published_cells:
        assert cell.settings.absent == "one"
        assert cell.settings.model.moving_batchnorm == (cell.encoder_state == "frozen")
        assert (cell.normalization, cell.fraction) == ("common", 100)


def test_published_grid_has_a_cell_for_every_published_row(published_cells):
    found = {
        (
            cell.set,
            cell.input_type,
            str(cell.settings.data.n_channels),
            cell.encoder_state,
            cell.weights.split(" 9B")[0],
        )
        for cell in published_cells
    }
    rows = read_published(REPOSITORY / "train_scripts" / "published_results.csv", ())
    for row in rows:
        bands = row["bands"] if row["input"] == "s2" else "13"
        assert (row["set"], row["input"], bands, row["encoder_state"], row["weights"]) in found


SOURCES_OF_VITS = {"random": "random", "MAE": "mae", "DINO": "dino", "SatMAE": "satmae", "SatMAE++": "satmae"}
SOURCES_OF_VITS |= {"ScaleMAE": "scalemae", "DOFA ViT-B": "dofa", "DOFA ViT-L": "dofa"}


def test_every_cell_of_the_vit_grid_can_be_normalised_as_its_weights_were():
    for cell in cells_of("bench_vit.yaml"):
        assert cell.normalization == "native"
        for modality, bands in downstream_bands(cell.settings.data).items():
            native = NORMALIZATIONS[native_normalization(SOURCES_OF_VITS[cell.weights], modality)]
            image = native(np.zeros((len(bands), 8, 8), np.float32), MODALITIES[modality], bands)
            assert image.shape == (len(bands), 8, 8)


@pytest.mark.parametrize("path", re.findall(r"`((?:cromss|data_prepare|train_scripts|tests)/[\w./]*)`", README))
def test_paths_in_the_readme_exist(path):
    assert (REPOSITORY / path).exists()


def test_slurm_script_parses_and_gives_each_task_its_cores(monkeypatch):
    """Which `srun` of SLURM 22.05 and later does not take from the job by itself."""
    monkeypatch.chdir(REPOSITORY)
    text = (REPOSITORY / "train_scripts" / "pretrain.slurm").read_text()
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in text
    ((script, arguments),) = python_commands(
        text.replace('"${1:?folder of the LMDB environments}"', "lmdb").replace('"${@:2}"', "")
    )
    assert parse(TRAINING[script.rpartition("/")[2]], arguments).runtime.slurm


SHOW = """#!/usr/bin/env bash
shift; printf '%s\\n' "$@"
"""


def run_script(script, arguments, tmp_path, **environment):
    """Run a bash script with an interpreter that prints the arguments it is given."""
    show = tmp_path / "show"
    show.write_text(SHOW)
    show.chmod(0o755)
    command = ["bash", str(REPOSITORY / "ft_scripts" / script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": str(show), **environment}
    )


def transfer_settings(script, arguments, tmp_path, **environment):
    """Settings that a transfer script gives to finetune.py."""
    result = run_script(script, arguments, tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    return parse(FinetuneSettings, result.stdout.splitlines())


SCRIPTS = {f"ft_{name.lower()}.sh": task for name, task in DOWNSTREAM_SETS.items()}


def test_every_set_has_its_script():
    assert {path.name for path in (REPOSITORY / "ft_scripts").glob("ft_*.sh")} == {*SCRIPTS, "ft_own.sh"}


def test_script_of_own_sets(tmp_path):
    """What they consist of is known once there are stores."""
    settings = transfer_settings("ft_own.sh", [], tmp_path)
    assert settings == parse(FinetuneSettings, ["--config", str(CONFIGS / "ft_own.yaml")])
    assert (settings.data.dataset, settings.data.input_type) == ("OWN", "s2")


@pytest.mark.parametrize("script", SCRIPTS)
def test_transfer_scripts_run_the_recipe(script, tmp_path):
    task = SCRIPTS[script]
    settings = transfer_settings(script, [], tmp_path)
    recipe = parse(FinetuneSettings, ["--config", str(CONFIGS / script.replace(".sh", ".yaml"))])
    assert settings == recipe
    assert settings.data.task is task
    for image in task.modalities:
        settings = transfer_settings(
            script, [image, "a b.ckpt", "frozen", "--epochs", "1"], tmp_path, DATA="some where"
        )
        assert (settings.data.input_type, settings.model.weight_path) == (image, "a b.ckpt")
        assert (settings.data.data_path, settings.model.encoder_finetune_tag) == ("some where", "efix")
        assert settings.optimisation.epochs == 1
    assert settings.data.crop_size == recipe.data.crop_size


@pytest.mark.parametrize("script", SCRIPTS)
def test_environment_of_transfer_scripts(script, tmp_path):
    first = SCRIPTS[script].modalities[0]
    environment = {"SEED": "0 1 2", "FRACTION": "10", "ENCODER": "resnet34", "SAVE_DIR": "else where", "SMALL": "1"}
    settings = transfer_settings(script, [first, "random", "tuned"], tmp_path, **environment)
    assert (settings.runtime.seed, settings.runtime.save_dir) == ((0, 1, 2), "else where")
    assert (settings.data.fraction, settings.data.n_train) == (10, 0)
    assert (settings.model.model_type, settings.model.encoder_finetune_tag) == ("resnet34", "etr")
    assert (settings.optimisation.epochs, settings.data.synthetic_size) == (20, 128)
    head = transfer_settings(script, [], tmp_path).model.model_framework
    assert settings.model.model_framework == ("deeplabv3plus" if script == "ft_nyc.sh" else head)


def test_stacked_inputs_in_transfer_scripts(tmp_path):
    for script in ("ft_dfc2020.sh", "ft_dw.sh", "ft_osm.sh"):
        assert transfer_settings(script, ["s12"], tmp_path).data.modalities == ("s1", "s2")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [["s3"], ["s2 s1"], ["--help"], ["", "random", "thawed"]])
def test_transfer_scripts_explain_themselves(script, arguments, tmp_path):
    result = run_script(script, arguments, tmp_path)
    assert result.returncode == 2
    assert f"usage: bash ft_scripts/{script} [" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("ft_nyc.sh", ["random"], {}, "'random' is no input (ortho)"),
        ("ft_dw.sh", ["s3"], {}, "'s3' is no input (s2, s1, s12)"),
        ("ft_dw.sh", ["s2", "random", "Tuned"], {}, "'Tuned' is neither frozen nor tuned"),
        ("ft_dw.sh", ["s2", "--epochs", "1"], {}, "'--epochs': flags follow after frozen|tuned"),
        ("ft_dw.sh", ["s2", "random", "--epochs", "1"], {}, "'--epochs': flags follow after frozen|tuned"),
        ("ft_osm.sh", [], {"SEED": "0,1"}, "SEED='0,1': separate seeds, whole numbers, by blanks"),
    ],
)
def test_transfer_scripts_say_which_word_is_wrong(script, arguments, environment, message, tmp_path):
    result = run_script(script, arguments, tmp_path, **environment)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}\nusage: bash ft_scripts/{script} [")
    assert not result.stdout


@pytest.mark.parametrize("python", ["nowhere/python", "false"])
def test_interpreters_without_the_packages_are_refused_in_a_line(python, tmp_path):
    result = run_script("ft_dw.sh", [], tmp_path, PYTHON=python)
    assert result.returncode == 1
    assert result.stderr == f"error: {python} lacks the packages; run make .venv/ready, or set PYTHON\n"
    assert not result.stdout


def test_change_detection_takes_sentinel_2_alone(tmp_path):
    assert run_script("ft_oscd.sh", ["s1"], tmp_path).returncode == 2


def test_transfer_scripts_take_paths_from_where_they_are_called(tmp_path):
    """Weights and folders are handed on as given; only the recipe is found beside the script."""
    result = run_script("ft_dw.sh", ["s2", "w.ckpt"], tmp_path, DATA="dw", SAVE_DIR="out")
    given = result.stdout.splitlines()
    assert given[given.index("--weight_path") + 1] == "w.ckpt"
    assert given[given.index("--data_path") + 1] == "dw"
    assert given[given.index("--config") + 1] == str(CONFIGS / "ft_dw.yaml")


DATA_SCRIPTS = (
    *("write_pretrain_lmdb", "write_downstream_lmdb", "write_oscd_lmdb", "write_oscd_pretrain_lmdb"),
    *("inspect_lmdb", "make_noisy_labels", "label_quality", "download_osm"),
)
TRAIN_SCRIPTS = (
    *("train_pretrain_mm", "train_pretrain", "finetune", "bench", "analyse_layers"),
    *("release", "weights", "audit_labels", "predict_map", "export_onnx"),
)
PYTHON_SCRIPTS = [
    *(f"train_scripts/{name}.py" for name in TRAIN_SCRIPTS),
    *(f"data_prepare/{name}.py" for name in DATA_SCRIPTS),
    *(f"benchmarks/{name}.py" for name in ("oscd", "naip", "transfer_scripts", "first_paper", "label_audit")),
]


HELP = """
import contextlib, io, json, pathlib, runpy, sys
told = {}
for script in sys.argv[1:]:
    sys.argv, text = [script, "--help"], io.StringIO()
    sys.path.insert(0, str(pathlib.Path(script).parent))
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    told[script] = text.getvalue(), [name for name in ("torch", "lightning") if name in sys.modules]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def helps():
    """Script -> what its --help prints, and slow packages that are imported by then; one process for all."""
    command = [sys.executable, "-c", HELP, *PYTHON_SCRIPTS]
    return json.loads(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("script", PYTHON_SCRIPTS)
def test_help_is_instant(script, helps):
    """No torch behind --help: its import alone takes seconds."""
    printed, slow = helps[script]
    assert not slow
    trains = script in {f"train_scripts/{name}.py" for name in TRAIN_SCRIPTS[:3]}
    assert ("runtime options" in printed) == trains
    assert "--config" in printed
