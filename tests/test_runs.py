"""How a run trains: precision and loader processes by settings and machine."""

import os

import pytest
import torch

from cromss.config import parse
from cromss.settings import MultiModalSettings, Optimisation, Runtime
from cromss.training.run_folder import RunFolder
from cromss.training.runs import build_trainer, loader_processes


def runtime(flags: str) -> Runtime:
    return parse(MultiModalSettings, flags.split()).runtime


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine of so many GPUs and cores."""

    def pretend(gpus: int, cores: int = 32, bf16: bool = True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)

    return pretend


@pytest.mark.parametrize(
    ("flags", "precision", "deterministic"),
    [
        ("", "32-true", False),
        ("--amp", "bf16-mixed", False),
        ("--precision bf16", "bf16-mixed", False),
        ("--precision 32 --deterministic", "32-true", True),
    ],
)
def test_trainers_are_as_told_on_the_cpu(flags, precision, deterministic, tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    try:
        told = runtime(f"--accelerator cpu --devices 1 {flags}")
        trainer = build_trainer(told, Optimisation(epochs=3, accumulate=4), RunFolder(tmp_path), [])
        assert (trainer.precision, trainer.accumulate_grad_batches, trainer.max_epochs) == (precision, 4, 3)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.use_deterministic_algorithms(before)


def test_full_and_mixed_precision_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        runtime("--precision 32 --amp")
    assert "--amp True: must be left out with --precision 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "gpus", "cores", "wanted"),
    [
        ("", 0, 32, 0),
        ("--accelerator cpu", 4, 32, 0),
        ("", 1, 32, 8),
        ("", 8, 32, 4),
        ("", 8, 4, 0),
        ("--num_workers 3", 0, 2, 3),
        ("--num_workers 0", 1, 32, 0),
    ],
)
def test_loader_processes_follow_gpus_and_cores(machine, flags, gpus, cores, wanted):
    machine(gpus, cores)
    assert loader_processes(runtime(flags)) == wanted
