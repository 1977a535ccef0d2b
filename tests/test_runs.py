"""How a run trains: precision, order of sums, what is asked of networks, and how it ends."""

import signal
from types import SimpleNamespace

import pytest
import torch

from cromss.config import parse
from cromss.models import build_segmenter
from cromss.settings import MultiModalSettings, Optimisation, Runtime
from cromss.signals import StopRequested
from cromss.training.run_folder import RunFolder
from cromss.training.runs import _left_together, _precision, _strategy, adapt_network, build_trainer


def runtime(flags: str) -> Runtime:
    return parse(MultiModalSettings, flags.split()).runtime


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


@pytest.mark.parametrize(
    ("flags", "gpus", "has_bf16", "wanted"),
    [
        ("", 1, True, "bf16-mixed"),
        ("", 1, False, "32-true"),
        ("", 0, True, "32-true"),
        ("--accelerator cpu", 1, True, "32-true"),
        ("--precision 32", 1, True, "32-true"),
        ("--amp", 1, False, "bf16-mixed"),
    ],
)
def test_precision_is_mixed_where_a_gpu_has_it_and_does_not_imitate_it(machine, flags, gpus, has_bf16, wanted):
    machine(gpus, bf16=has_bf16)
    assert _precision(runtime(flags)) == wanted


@pytest.mark.parametrize(
    ("flags", "gpus", "instructions", "device"),
    [
        ("--amp", 0, "fpu avx2 avx512f", "CPU"),
        ("--precision bf16", 0, "fpu avx2 avx512_bf16", ""),
        ("--precision bf16", 0, "fp asimd bf16", ""),
        ("--accelerator cpu --amp", 1, "fpu avx2", "CPU"),
        ("--amp", 1, "fpu avx512_bf16", "GPU"),
        ("", 0, "fpu avx2", ""),
    ],
)
def test_slow_imitations_of_bfloat16_are_told(
    machine, monkeypatch, tmp_path, capsys, flags, gpus, instructions, device
):
    machine(gpus, bf16=False)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {instructions}\n")
    monkeypatch.setattr("cromss.gpus._CPU", tmp_path / "cpuinfo")
    _precision(runtime(flags))
    said = capsys.readouterr().out
    assert said.startswith(f"warning: this {device} only imitates bfloat16") if device else not said


def test_full_and_mixed_precision_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        runtime("--precision 32 --amp")
    assert "--amp True: must be left out with --precision 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "nodes", "devices", "strategy"),
    [
        ("--accelerator cpu", 1, 1, "auto"),
        ("--accelerator cpu", 1, 2, "ddp"),
        ("--accelerator cpu", 1, 3, "ddp_find_unused_parameters_true"),
        ("--accelerator cpu", 2, 2, "ddp_find_unused_parameters_true"),
        ("", 1, 4, "ddp"),
        ("--deterministic", 1, 4, "ddp_find_unused_parameters_true"),
        ("", 2, 1, "ddp"),
    ],
)
def test_sums_of_three_gradients_and_more_keep_their_order_where_bits_count(machine, flags, nodes, devices, strategy):
    machine(4)
    assert _strategy(runtime(flags), nodes, devices, some_parameters_idle=False) == strategy


def test_batchnorm_over_processes_wants_gpus(machine):
    machine(0)
    with pytest.raises(ValueError, match="--sync_batchnorm: no GPU is visible to torch"):
        adapt_network(torch.nn.BatchNorm2d(3), runtime("--sync_batchnorm"), grad_checkpointing=False)
    with pytest.raises(SystemExit):
        runtime("--sync_batchnorm --accelerator cpu")


@pytest.mark.parametrize(
    ("encoder", "grad_checkpointing"), [("resnet18", False), ("tu-test_efficientnet", False), ("tu-test_resnet", True)]
)
def test_batchnorm_over_processes_changes_nothing_else(machine, encoder, grad_checkpointing):
    """Some of timm's hold the activation, too."""
    machine(2)
    torch.manual_seed(0)
    network = build_segmenter("fpn", encoder, 3, 4).eval()
    images, names = torch.randn(1, 3, 64, 64), network.state_dict().keys()
    with torch.no_grad():
        expected = network(images)
        adapt_network(network, runtime("--sync_batchnorm"), grad_checkpointing)
        torch.testing.assert_close(network(images), expected)
    assert network.state_dict().keys() == names
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(("error", "ended"), [(ValueError, True), (RuntimeError, True), (None, False)])
def test_who_fails_takes_the_processes_along_that_it_has_started(error, ended):
    """They may wait for it; those that stop by a signal do so together."""
    signals = []
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(kill=signals.append)))
    with pytest.raises(error or StopRequested), _left_together(trainer):
        raise error("wrong") if error else StopRequested(signal.SIGTERM, 3)
    assert signals == [signal.SIGKILL] * ended
