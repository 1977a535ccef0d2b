"""The results bench: its grid, its order of work, its tables, and what a kill leaves."""

import csv
import importlib.util
import json
import re
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from lightning.fabric.utilities.exceptions import MisconfigurationException
from processes import Script
from sets import PART, raw_arrays, write_ours

from cromss.settings.bench import BenchSettings, list_cells, read_grid
from cromss.training.run_folder import RunFolder

SCRIPT = REPOSITORY / "train_scripts" / "bench.py"
RECIPE = {"dataset": "DFC2020", "model_framework": "pspnet", "model_type": "resnet18", "epochs": 3}
GRID = {"sets": {"DFC2020": {"recipe": "recipe.yaml"}}, "weights": {"random": "random"}, "seeds": [0, 1, 2]}


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write(tmp_path):
    """Write recipes and a grid; returns the grid's path."""

    def write_grid(changes=None, recipe=None, **recipes):
        for name, content in {"recipe": RECIPE | (recipe or {}), **recipes}.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(GRID | (changes or {})))
        return path

    return write_grid


class FakeFinetune:
    """Instead of a training: scores drawn from the cell's name, in a run folder as the real one leaves it."""

    def __init__(self):
        self.names, self.before, self.told = [], lambda settings: None, {}

    def __call__(self, settings):
        self.before(settings)
        name = settings.runtime.name
        self.names.append(name)
        folder, rng = RunFolder(Path(settings.runtime.save_dir) / name), np.random.default_rng(list(name.encode()))
        folder.open(settings)
        scores = {key: float(rng.random()) for key in settings.data.task.scores}
        return folder.close(settings, scores | {"seconds": 1.5} | self.told)


@pytest.fixture
def fake(monkeypatch):
    trainer = FakeFinetune()
    monkeypatch.setattr("cromss.training.finetune", trainer)
    return trainer


@pytest.fixture
def start(bench, tmp_path):
    """Run the bench on a grid; returns its exit status."""
    return lambda grid, save_dir="out", **settings: bench.main(
        BenchSettings(grid=str(grid), save_dir=str(tmp_path / save_dir), **settings)
    )


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def names_of(grid, tmp_path):
    return [cell.settings.runtime.name for cell in list_cells(grid, str(tmp_path / "out"))]


def test_grid_is_the_product_of_its_axes(write, tmp_path):
    grid = write(
        {
            "sets": {
                "DFC2020": {"recipe": "recipe.yaml", "input_types": ["s1", "s2"], "heads": ["pspnet", "fpn"]},
                "OSCD": {"recipe": "oscd.yaml", "data_path": "some where", "flags": "--absent one"},
            },
            "weights": {"random": "random", "MoCo": {"s2": "m.pth", "flags": "--n_channels 9 --weight_source moco"}},
            "fractions": [10, 100],
            "normalizations": ["common", "native"],
            "encoder_states": ["frozen", "tuned"],
            "seeds": [3],
            "flags": "--batch_size 7",
        },
        oscd={"dataset": "OSCD", "model_framework": "unet"},
    )
    cells = list_cells(grid, "home")
    points = 2 * 2 * 2
    assert len(cells) == points * (2 * 2 + 2 * 1 + 2)  # random, two inputs and heads; MoCo, s2 alone; OSCD, both
    assert len({cell.settings.runtime.name for cell in cells}) == len(cells)
    for cell in cells:
        data, model, runtime = cell.settings.data, cell.settings.model, cell.settings.runtime
        assert (data.input_type, data.normalization, data.fraction) == (
            cell.input_type,
            cell.normalization,
            cell.fraction,
        )
        assert model.encoder_finetune_tag == {"frozen": "efix", "tuned": "etr"}[cell.encoder_state]
        assert (model.model_framework, runtime.seed) == (cell.head, (cell.seed,))
        assert (data.n_channels, model.weight_source) == ((9, "moco") if cell.weights == "MoCo" else (13, "auto"))
        assert model.weight_path == {"random": "random", "MoCo": "m.pth"}[cell.weights]
        assert (data.dataset, data.data_path, cell.settings.absent) == (
            ("OSCD", "some where", "one") if cell.set == "OSCD" else ("DFC2020", "", "skip")
        )
        assert (cell.settings.optimisation.batch_size, runtime.save_dir, runtime.devices) == (7, "home", 1)
        assert re.fullmatch(r"[\w.-]+", runtime.name)


def test_heads_of_a_set_stand_for_the_recipes_own(write):
    entry = {"recipe": "recipe.yaml", "heads": ["upernet"], "flags": "--model_type vit_tiny_patch16_224"}
    cells = list_cells(write({"sets": {"DFC2020": entry}}), "runs")
    assert {cell.settings.model.model_framework for cell in cells} == {"upernet"}


@pytest.mark.parametrize(
    ("fractions", "n_train"),
    [([10, 100], {10: 0, 100: 0}), ([100, 10], {10: 0, 100: 0}), ([100], {100: 5}), ([10], {10: 0})],
)
def test_beside_other_fractions_all_tiles_are_those_of_the_set(fractions, n_train, write):
    grid = write({"fractions": fractions}, recipe={"n_train": 5})
    assert {cell.fraction: cell.settings.data.n_train for cell in list_cells(grid, "home")} == n_train


def test_saved_orders_are_for_the_fractions_that_need_them(write):
    grid = write({"fractions": [10, 100]}, recipe={"split_file": "order.txt"})
    found = {cell.fraction: cell.settings.data.split_file for cell in list_cells(grid, "home")}
    assert found == {10: "order.txt", 100: ""}


def test_flags_of_frozen_encoders_spare_tuned_ones(write):
    cells = list_cells(write({"frozen_flags": "--moving_batchnorm"}), "home")
    assert {(cell.encoder_state, cell.settings.model.moving_batchnorm) for cell in cells} == {
        ("frozen", True),
        ("tuned", False),
    }


def test_shared_flags_may_need_the_weights_of_the_cells(write):
    grid = write({"weights": {"MoCo": "m.pth"}, "flags": "--weight_source moco"})
    assert {cell.settings.model.weight_source for cell in list_cells(grid, "home")} == {"moco"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, r"unknown key 'seed'; did you mean 'seeds'\?"),
        (
            {"sets": {"A": {"recipe": "recipe.yaml", "path": "x"}}},
            r"sets: A: unknown key 'path'; did you mean 'data_path'",
        ),
        ({"sets": {"A": {"data_path": "x"}}}, "sets: A: recipe is missing"),
        ({"sets": {"A": "recipe.yaml"}}, "sets: A: expected a mapping, got 'recipe.yaml'"),
        ({"sets": {"A": {"recipe": "other.yaml"}}}, r"sets: A: --config .*other.yaml: No such file"),
        ({"sets": {}}, "sets: expected a mapping of names"),
        ({"weights": ["random"]}, "weights: expected a mapping of names"),
        ({"weights": {"MoCo": {"s3": "x"}}}, "weights: MoCo: unknown key 's3'; known: path, s1, s2, s12"),
        ({"weights": {"MoCo": {"flags": "--epochs 1"}}}, "weights: MoCo: no path"),
        ({"weights": {"MoCo": 3}}, "weights: MoCo: expected a mapping, got 3"),
        ({"weights": {"MoCo": {"s1": "x"}}}, "no cells; do the weights have a path"),
        ({"seeds": ["one"]}, "seeds: wants int, got 'one'"),
        ({"seeds": [True]}, "seeds: wants int, got True"),
        ({"seeds": [1, 1]}, "share the run folder DFC2020_s2_random_pspnet_frozen_common_100pct_seed1"),
        ({"seeds": [-1]}, "DFC2020, random: --seed -1: must be at least 0"),
        ({"seeds": []}, "no cells"),
        ({"fractions": [0]}, "--fraction 0"),
        ({"encoder_states": ["thawed"]}, "encoder_states thawed: must be frozen, tuned, or both"),
        ({"normalizations": ["none"]}, "DFC2020, random: .*normalization"),
        ({"flags": "--epoch 3"}, "DFC2020: .*--epoch"),
        ({"flags": "--epochs 'three"}, "flags .*three.*: no closing quotation"),
        ({"frozen_flags": "--epochs 'three"}, "flags .*three.*: no closing quotation"),
        ({"flags": "--moving_batchnorm"}, "DFC2020, random: --moving_batchnorm"),
    ],
)
def test_wrong_grids_are_refused_before_anything_runs(changes, message, write, start, fake):
    with pytest.raises(ValueError, match=message) as caught:
        start(write(changes))
    assert "grid.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not fake.names


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object:os.system {}", ""])
def test_files_that_are_no_grid_are_refused(text, tmp_path):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"grid\.yaml"):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(ValueError, match="nowhere"):
        read_grid(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("twice", "line", "key"),
    [
        ("weights: {a: random, a: imagenet}", 2, "a"),
        ("weights:\n  a: random\n  b: imagenet\n  a: {s2: x}", 5, "a"),
        ("weights: {a: random}\nweights: {b: random}", 3, "weights"),
        ("weights: {1: random, '1': imagenet}", 2, "1"),
        ("weights: {a: {s2: x, flags: '', s2: y}}", 2, "s2"),
    ],
)
def test_names_given_twice_are_refused_with_their_line(twice, line, key, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(f"sets: {{DFC2020: {{recipe: recipe.yaml}}}}\n{twice}\n")
    with pytest.raises(ValueError, match=rf"grid\.yaml: .*\(line {line}: '{key}' is given twice\); mend it$"):
        read_grid(path)


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_wrong_parts_are_refused(part):
    with pytest.raises(ValueError, match="--part"):
        BenchSettings(grid="x", part=part)


def test_results_and_tables_are_those_of_the_run_folders(write, start, fake, tmp_path):
    grid = write({"weights": {"random": "random", "mine": "a.ckpt"}})
    assert start(grid) == 0
    assert fake.names == names_of(grid, tmp_path)
    rows = table(tmp_path / "out" / "results.csv")
    assert [Path(row["run"]).name for row in rows] == fake.names
    for row in rows:
        metrics = json.loads((Path(row["run"]) / "metrics.json").read_text())
        assert [float(row[key]) for key in ("oa", "aa", "miou", "mf1")] == [
            100 * metrics[key] for key in ("oa", "aa", "miou", "mf1")
        ]
        assert (row["status"], row["reason"], row["seconds"]) == ("done", "", "1.5")
    written = (tmp_path / "out" / "tables.md").read_text()
    latex = (tmp_path / "out" / "tables.tex").read_text().replace("$\\pm$", "±")
    for weights in ("random", "mine"):
        for state in ("frozen", "tuned"):
            group = [float(r["miou"]) for r in rows if (r["weights"], r["encoder_state"]) == (weights, state)]
            cell = f"{np.mean(group):.2f}[*}}]* ± {np.std(group, ddof=1):.2f}"
            assert re.search(cell, written)
            assert re.search(cell, latex)


def test_published_rows_stand_beside_real_tiles_alone(write, start, fake, tmp_path):
    assert start(write()) == 0
    written = (tmp_path / "out" / "tables.md").read_text()
    assert "not comparable with published results" in written
    assert "arXiv" not in written
    assert "| weights | frozen OA |" in written
    assert start(write({"sets": {"DFC2020": {"recipe": "recipe.yaml", "data_path": "dfc"}}}), save_dir="real") == 0
    written = (tmp_path / "real" / "tables.md").read_text()
    assert "| CromSS-mid (published, arXiv 2405.01217) | resnet50 | 69.56 | 54.61 | 42.52 | 54.12 | 70.41 |" in written
    assert "not comparable" not in written


def test_scores_are_told_as_cells_end_and_files_at_the_end(bench, write, start, fake, tmp_path, capsys):
    seen = []

    def look(settings):
        seen.append([(tmp_path / "out" / name).exists() for name in ("results.csv", "tables.md", "tables.tex")])

    fake.before, fake.told = look, {"oa": 0.12345, "miou": None}
    assert start(write()) == 0
    assert seen == [[False] * 3] + [[True] * 3] * 5
    said = capsys.readouterr().out
    assert len(re.findall(r"^OA 12\.35 %  AA \d+\.\d\d %  mIoU -  mF1 \d+\.\d\d %$", said, re.MULTILINE)) == 6
    home = tmp_path / "out"
    assert f"written: {home}/results.csv, {home}/tables.md, {home}/tables.tex\n" in said


def test_finished_cells_are_not_done_again(write, start, fake):
    grid = write()
    start(grid)
    first = list(fake.names)
    assert start(grid) == 0
    assert fake.names == first
    assert start(write({"seeds": [0, 1, 2, 3]})) == 0
    assert [name[-5:] for name in fake.names[len(first) :]] == ["seed3", "seed3"]


def test_interrupted_bench_goes_on_with_what_is_left(write, start, fake, tmp_path):
    def interrupt(settings):
        if len(fake.names) == 2:
            raise KeyboardInterrupt

    grid, fake.before = write(), interrupt
    with pytest.raises(KeyboardInterrupt):
        start(grid)
    statuses = [row["status"] for row in table(tmp_path / "out" / "results.csv")]
    assert statuses == ["done", "done"] + ["missing"] * 4
    fake.before = lambda settings: None
    assert start(grid) == 0
    assert fake.names == names_of(grid, tmp_path)


def test_cell_that_fails_does_not_stop_the_others(write, start, fake, tmp_path, capsys):
    def fail(settings):
        if "tuned" in settings.runtime.name and settings.runtime.seed == (1,):
            raise ValueError("weights.pth: not\n a checkpoint")

    grid, fake.before = write(), fail
    assert start(grid) == 1
    assert "5 done, 1 failed, 0 missing" in capsys.readouterr().out
    (failed,) = [row for row in table(tmp_path / "out" / "results.csv") if row["status"] == "failed"]
    assert failed["reason"] == "ValueError: weights.pth: not a checkpoint"
    assert (failed["encoder_state"], failed["seed"], failed["miou"]) == ("tuned", "1", "")
    assert "(2)" in (tmp_path / "out" / "tables.md").read_text()
    assert start(grid, tables=True) == 1
    capsys.readouterr()
    start(grid, dry_run=True)
    assert f"failed  {Path(failed['run']).name}: ValueError: weights.pth: not a checkpoint\n" in capsys.readouterr().out
    fake.before = lambda settings: None
    assert start(grid) == 0
    assert len(fake.names) == 6
    assert {row["status"] for row in table(tmp_path / "out" / "results.csv")} == {"done"}


def contents(folder):
    """File -> its bytes, of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("recipe", "now", "told", "tables"),
    [
        ({}, {"learning_rate": 0.1}, "learning_rate 0.0005 -> 0.1", True),
        ({}, {"epochs": 2}, "epochs 3 -> 2", False),
        ({}, {"epochs": 5}, "epochs 3 -> 5", False),
        ({"scheduler_type": "none"}, {"scheduler_type": "none", "epochs": 2}, "epochs 3 -> 2", False),
    ],
)
def test_other_settings_are_refused_before_anything_is_overwritten(
    recipe, now, told, tables, write, start, fake, tmp_path, capsys
):
    home = tmp_path / "out"
    assert start(write(recipe=recipe)) == 0
    before, grid = contents(home), write({"seeds": [0, 1, 2, 3]}, recipe=now)
    with pytest.raises(ValueError, match="other settings") as caught:
        start(grid, tables=tables)
    assert str(caught.value) == (f"6 cells in {home} were run with other settings ({told}); choose another --save_dir")
    assert contents(home) == before
    assert len(fake.names) == 6
    capsys.readouterr()
    assert start(grid, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == (["other"] * 3 + ["missing"]) * 2
    assert lines[0] == f"other   {fake.names[0]}: {told}"


def test_longer_recipes_continue_the_runs(write, start, fake):
    constant = {"scheduler_type": "none"}
    assert start(write(recipe=constant)) == 0
    assert start(write(recipe=constant | {"epochs": 5})) == 0
    assert len(fake.names) == 12


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) exited\nunexpectedly"),
        lmdb.Error("s2.lmdb: MDB_CORRUPTED"),
        MisconfigurationException("no such strategy"),
        KeyError("state_dict"),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_unforeseen_errors_are_told_and_stop_no_other_cell(error, write, start, fake, tmp_path):
    def fail(settings):
        if settings.runtime.seed == (0,):
            raise error

    fake.before = fail
    assert start(write({"encoder_states": ["frozen"]})) == 1
    rows = table(tmp_path / "out" / "results.csv")
    assert [row["status"] for row in rows] == ["failed", "done", "done"]
    text = (Path(rows[0]["run"]) / "failure.txt").read_text()
    reason, rest = text.split("\n\n", 1)
    assert reason == rows[0]["reason"] == f"{type(error).__name__}: {' '.join(str(error).split())}".strip()
    assert rest.startswith("Traceback (most recent call last):")
    assert "raise error" in rest


@pytest.mark.parametrize("flags", ["--resume none", "--resume elsewhere.ckpt"])
def test_benches_end_whatever_their_flags_say_of_resuming(flags, write, start, fake):
    grid = write({"flags": flags})
    assert start(grid) == 0
    assert start(grid) == 0
    assert len(fake.names) == 6


def test_tables_tell_training_tiles_where_they_differ(write, start, fake, tmp_path):
    def tell(settings):
        fake.told = {"train_tiles": 246 if settings.data.fraction < 100 else 986}
        if settings.runtime.seed == (2,) and settings.data.fraction < 100:
            raise ValueError("no luck")

    fake.before = tell
    assert start(write({"fractions": [25, 100]})) == 1
    rows = table(tmp_path / "out" / "results.csv")
    tiles = {("25", "246"), ("25", ""), ("100", "986")}
    assert {(f"{float(row['fraction']):g}", row["train_tiles"]) for row in rows} == tiles
    written = (tmp_path / "out" / "tables.md").read_text()
    head, *lines = [line.strip("| ").split(" | ") for line in written.splitlines() if line.startswith("| ")]
    at = head.index("train_tiles")
    assert [line[at] for line in lines if line[0] == "random"] == ["246", "986"]
    assert start(write({"fractions": [100]})) == 0
    assert "train_tiles" not in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize("parts", [2, 7])
def test_parts_cover_the_grid_once_and_anyone_writes_the_tables(parts, write, start, fake, tmp_path):
    grid = write()
    for part in range(1, parts + 1):
        assert start(grid, part=f"{part}/{parts}") == 0
    assert sorted(fake.names) == sorted(names_of(grid, tmp_path))
    written = (tmp_path / "out" / "tables.md").read_text()
    assert start(grid, tables=True) == 0
    assert len(fake.names) == 6
    assert (tmp_path / "out" / "tables.md").read_text() == written


def test_dry_run_lists_the_cells_and_leaves_nothing(write, start, fake, tmp_path, capsys):
    grid = write()
    assert start(grid, dry_run=True) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["missing", name] for name in names_of(grid, tmp_path)
    ]
    assert not fake.names
    assert not (tmp_path / "out").exists()


def test_undefined_scores_are_dashes(write, start, fake, tmp_path):
    fake.told = {"miou": float("nan")}
    assert start(write()) == 0
    rows = table(tmp_path / "out" / "results.csv")
    assert {(row["status"], row["miou"]) for row in rows} == {("done", "")}
    (line,) = [line for line in (tmp_path / "out" / "tables.md").read_text().splitlines() if "| random |" in line]
    assert [cell == "-" for cell in line.strip("| ").split(" | ")[-8:]] == [False, False, True, False] * 2


@pytest.mark.parametrize(
    ("seconds", "done", "cells", "told"),
    [
        (0, 0, 4, "0:00:00 passed"),
        (600, 2, 5, "0:10:00 passed, about 0:15:00 to come"),
    ],
)
def test_remaining_time_is_that_of_the_cells_so_far(bench, seconds, done, cells, told):
    assert bench.told_time(seconds, done, cells) == told


def test_killed_bench_redoes_and_loses_nothing(write, start, tmp_path):
    rng = np.random.default_rng(2)
    for part, count in (("train", 6), ("test", 4)):
        write_ours(tmp_path / "stores" / part, raw_arrays(count, rng), PART)
    small = {
        "model_type": "tu-test_resnet",
        "crop_size": 64,
        "batch_size": 3,
        "accelerator": "cpu",
        "save_maps": 0,
        "epochs": 1,
    }
    sets = {"DFC2020": {"recipe": "recipe.yaml", "data_path": str(tmp_path / "stores")}}
    grid = write({"sets": sets, "encoder_states": ["tuned"], "seeds": [0, 1]}, recipe=small)
    names, killed, whole = names_of(grid, tmp_path), tmp_path / "killed", tmp_path / "whole"
    command = (tmp_path / "log", SCRIPT, "--grid", grid, "--save_dir", killed)
    process = Script(*command).process
    wait_for(killed / names[1] / "config.yaml", process)
    process.kill()
    process.join()
    first = killed / names[0] / "metrics.json"
    kept = first.read_text(), first.stat().st_mtime_ns
    assert [(killed / name / "metrics.json").exists() for name in names] == [True, False]
    said = Script(*command).wait()
    assert "1 of 2 cells are finished already" in said
    assert (first.read_text(), first.stat().st_mtime_ns) == kept
    assert start(grid, "whole") == 0
    rows = [
        [{key: row[key] for key in row.keys() - {"seconds", "run"}} for row in table(folder / "results.csv")]
        for folder in (killed, whole)
    ]
    assert {row["status"] for row in rows[0]} == {"done"}
    assert rows[0] == rows[1]
    assert (killed / "tables.md").read_text() == (whole / "tables.md").read_text()


def wait_for(path, process, patience_s=100):
    deadline = time.monotonic() + patience_s
    while not path.exists():
        assert process.is_alive(), "the bench ended before it could be killed"
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)
