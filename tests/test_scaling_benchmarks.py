"""Benchmarks of start-up, of the exchange of gradients, of machines and of scaling, on small things."""

import csv
import io
import os
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, load_script
from processes import FORKS

HOME = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def beside():
    """Benchmarks import what lies beside them."""
    sys.path.insert(0, str(HOME))
    yield
    sys.path.remove(str(HOME))


def table(path):
    """(what, way) -> value."""
    with path.open(newline="") as file:
        return {(row["what"], row["way"]): float(row["value"]) for row in csv.DictReader(file)}


def test_what_is_started_tells_of_its_first_batch_and_of_its_loader_processes(tmp_path, monkeypatch, capsys):
    start_up = load_script("start_up", HOME)
    flags = f"--crop_size {start_up.SIDE} --num_workers 2 --accelerator cpu --data_path"
    monkeypatch.setattr("sys.argv", ["-c", *flags.split(), str(start_up.write_set(tmp_path / "set", 20))])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    exec(start_up._LOAD, {})
    seconds, workers = capsys.readouterr().out.splitlines()
    assert 0 < float(seconds) < 60
    assert len({*workers.split()} - {str(os.getpid())}) == 2


def test_memory_is_what_a_process_has_written():
    start_up = load_script("start_up", HOME)
    before = start_up.memory_mb(os.getpid())
    held = np.ones(50_000_000, np.uint8)
    grown = [now - then for now, then in zip(start_up.memory_mb(os.getpid()), before)]
    assert grown == pytest.approx([held.nbytes / 1e6] * 2, abs=5)


def test_sets_are_started_in_turn_and_told_apart(tmp_path, monkeypatch):
    start_up, asked = load_script("start_up", HOME), []
    monkeypatch.setattr(start_up, "help_seconds", lambda: 0.5)
    monkeypatch.setattr(start_up, "start", lambda home, workers: asked.append(home.name) or (len(asked), 2, 3, 4))
    start_up.main(start_up.StartUp(locations=(20, 30), rounds=3, results=tmp_path / "start_up.csv"))
    assert asked == ["20", "30"] * 3
    assert table(tmp_path / "start_up.csv") == {
        ("--help", ""): 0.5,
        ("first batch, from the start", "20 locations"): 3,
        ("first batch, from the start", "30 locations"): 4,
        ("first batch, from the imports", "20 locations"): 2,
        ("first batch, from the imports", "30 locations"): 2,
        ("loader process, anonymous", "20 locations"): 3,
        ("loader process, anonymous", "30 locations"): 3,
        ("loader process, its own", "20 locations"): 4,
        ("loader process, its own", "30 locations"): 4,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["start_up.csv"]


def test_steps_in_two_processes_and_in_one(tmp_path):
    ddp = load_script("ddp_overhead", HOME)
    settings = ddp.DdpOverhead(encoder="tu-test_resnet", batch_size=4, crop_size=32, rounds=2)
    seconds, megabytes = ddp.timed(settings, FORKS)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(
        (ddp.APART, ddp.TOGETHER, ddp.ONE, ddp.SUM), 2
    )
    parameters = sum(parameter.numel() for parameter in ddp.network(settings).parameters())
    assert megabytes == pytest.approx(4 * parameters / 1e6)


def test_gradients_that_are_no_mean_are_refused(monkeypatch):
    ddp = load_script("ddp_overhead", HOME)
    other = torch.tensor([3.0, 5.0])
    monkeypatch.setattr(ddp.dist, "all_reduce", lambda tensor: tensor.add_(other))
    ddp.check_mean(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 2.0]))
    with pytest.raises(AssertionError):
        ddp.check_mean(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))


def test_rates_of_a_machine_are_of_what_was_moved(tmp_path, monkeypatch):
    limits = load_script("machine_limits", HOME)
    monkeypatch.setattr(limits, "seconds", lambda work: work() is work or 2.0)
    assert limits.copy_rates(10, 2) == [0.005, 0.005]
    assert limits.product_rates(100, 1) == [2 * 100**3 / 1e9 / 2]
    assert limits.read_rates(tmp_path / "file", 5, 1) == [0.004]
    assert (tmp_path / "file").stat().st_size == 8_000_000


def test_limits_of_a_machine_are_written(tmp_path):
    limits = load_script("machine_limits", HOME)
    small = {"megabytes": 8, "side": 64, "file_megabytes": 8, "rounds": 2}
    limits.main(limits.MachineLimits(**small, results=tmp_path / "limits.csv"))
    found = table(tmp_path / "limits.csv")
    assert {what for what, _ in found} == {"memory copy", "float32 matrix product", "sequential read"}
    assert all(value > 0 for value in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["limits.csv"]
