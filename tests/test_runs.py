"""How a run trains: precision and loader processes by settings and machine."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from cromss.config import parse
from cromss.models import build_segmenter
from cromss.settings import MultiModalSettings, Optimisation, Runtime
from cromss.signals import StopRequested
from cromss.training.run_folder import RunFolder
from cromss.training.runs import (
    _left_together,
    _precision,
    _strategy,
    adapt_network,
    build_trainer,
    loader_processes,
    processes,
    requeue,
)


def runtime(flags: str) -> Runtime:
    return parse(MultiModalSettings, flags.split()).runtime


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine of so many GPUs and cores."""

    def pretend(gpus: int, cores: int = 32, bf16: bool = True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
        monkeypatch.setattr("cromss.training.runs.check_gpu", lambda: None)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)

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
def test_loader_processes_follow_gpus_and_cores(machine, slurm, flags, gpus, cores, wanted):
    slurm()
    machine(gpus, cores)
    assert loader_processes(runtime(flags)) == wanted


@pytest.mark.parametrize(
    ("variables", "gpus", "cores", "wanted"),
    [
        ({"NTASKS": 4, "CPUS_PER_TASK": 12}, 4, 12, 8),
        ({"NTASKS": 4, "CPUS_PER_TASK": 6}, 4, 6, 6),
        ({"NTASKS": 8, "CPUS_PER_TASK": 2}, 4, 64, 2),
        ({"NTASKS": 4}, 4, 64, 8),
        ({"NTASKS": 1, "CPUS_PER_TASK": 16}, 4, 16, 4),
    ],
)
def test_loader_processes_of_a_task_of_slurm_have_its_cores(machine, slurm, variables, gpus, cores, wanted):
    slurm(**variables)
    machine(gpus, cores)
    assert loader_processes(runtime("")) == wanted


def test_no_more_processes_than_cores_on_the_cpu(machine, slurm):
    slurm()
    machine(0, cores=2)
    with pytest.raises(ValueError, match="--devices 3: there are 2 CPU cores"):
        processes(runtime("--devices 3"))


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


@pytest.fixture
def slurm(monkeypatch):
    """Pretend a task of a SLURM job, with variables without their prefix."""

    def pretend(**variables: object):
        for name in os.environ:
            if name.startswith("SLURM_"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))

    return pretend


@pytest.mark.parametrize(
    ("variables", "flags", "wanted"),
    [
        ({}, "--devices 2", (1, 2)),
        ({"NTASKS": 1, "STEP_ID": 0, "NNODES": 1}, "--slurm", (1, 1)),
        ({"NTASKS": 2, "STEP_ID": 0, "NNODES": 1, "NTASKS_PER_NODE": 2}, "", (1, 2)),
        ({"NTASKS": 8, "STEP_ID": 0, "NNODES": 2, "NTASKS_PER_NODE": 4}, "--devices 4", (2, 4)),
    ],
)
def test_processes_are_those_that_slurm_has_started(slurm, variables, flags, wanted):
    slurm(**variables)
    assert processes(runtime(f"--accelerator cpu {flags}")) == wanted


@pytest.mark.parametrize(
    ("variables", "flags", "said"),
    [
        ({"NTASKS": 4}, "", "SLURM_NTASKS=4, but this is no SLURM task: start it with srun"),
        ({}, "--slurm", "--slurm, but this is no SLURM task"),
        ({"NTASKS": 2, "STEP_ID": 0, "NNODES": 1}, "", "2 tasks on 1 node.* --ntasks-per-node, as many on each"),
        ({"NTASKS": 5, "STEP_ID": 0, "NNODES": 2, "NTASKS_PER_NODE": 3}, "", "5 tasks on 2 node"),
        (
            {"NTASKS": 2, "STEP_ID": 0, "NNODES": 1, "NTASKS_PER_NODE": 2},
            "--devices 4",
            r"--devices 4: SLURM has started 2 task\(s\) a node; leave --devices out, or say --ntasks-per-node=4",
        ),
    ],
)
def test_wrong_launches_end_in_a_line(slurm, variables, flags, said):
    slurm(**variables)
    with pytest.raises(ValueError, match=said):
        processes(runtime(f"--accelerator cpu {flags}"))


@pytest.mark.parametrize(("visible", "fits"), [(1, False), (4, True), (8, True)])
def test_tasks_that_do_not_see_a_gpu_each_are_told_how(machine, slurm, visible, fits):
    """Lightning takes the GPU of a task's number, of those that it sees."""
    machine(visible)
    slurm(NTASKS=4, STEP_ID=0, NNODES=1, NTASKS_PER_NODE=4)
    if fits:
        assert processes(runtime("")) == (1, 4)
    else:
        with pytest.raises(
            ValueError, match=r"of its 4 tasks a node, this one sees 1 .* --gres=gpu:4 and without --gpus"
        ):
            processes(runtime(""))


@pytest.mark.parametrize(
    ("variables", "job"),
    [({"JOB_ID": 7}, "7"), ({"JOB_ID": 9, "ARRAY_JOB_ID": 8, "ARRAY_TASK_ID": 3}, "8_3")],
)
def test_jobs_are_requeued_by_one_process(slurm, variables, job, tmp_path, monkeypatch):
    slurm(**variables)
    control = tmp_path / "scontrol"
    control.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert requeue(is_first=True)
    assert requeue(is_first=False)
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_a_job_that_cannot_be_requeued_is_told(slurm, tmp_path, monkeypatch):
    slurm(JOB_ID=7)
    control = tmp_path / "scontrol"
    control.write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2\nexit 1\n")
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ValueError, match=r"job 7 cannot be requeued \(Requested operation .*\); submit it again to go"):
        requeue(is_first=True)
    slurm()
    assert not requeue(is_first=True)


def test_batchnorm_over_processes_wants_gpus(machine):
    machine(0)
    with pytest.raises(ValueError, match="--sync_batchnorm: no GPU is visible to torch"):
        adapt_network(torch.nn.BatchNorm2d(3), runtime("--sync_batchnorm"), grad_checkpointing=False)
    with pytest.raises(SystemExit):
        runtime("--sync_batchnorm --accelerator cpu")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_efficientnet", "tu-test_resnet"])
@pytest.mark.parametrize("grad_checkpointing", [True, False])
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


@pytest.mark.parametrize(
    ("gpus", "flags", "wanted"),
    [(1, "", (1, 1)), (4, "", (1, 4)), (4, "--devices 2", (1, 2)), (0, "", (1, 1)), (4, "--accelerator cpu", (1, 1))],
)
def test_processes_are_as_many_as_gpus_unless_told(machine, slurm, gpus, flags, wanted):
    slurm()
    machine(gpus)
    assert processes(runtime(flags)) == wanted


def test_more_processes_than_gpus_are_refused(machine, slurm):
    slurm()
    machine(2)
    with pytest.raises(ValueError, match="--devices 4: there are 2 GPUs"):
        processes(runtime("--devices 4"))


@pytest.mark.parametrize(("world", "local", "wanted"), [(1, 1, (1, 1)), (4, 4, (1, 4)), (8, 4, (2, 4))])
def test_processes_are_those_that_torchrun_has_started(machine, slurm, monkeypatch, world, local, wanted):
    slurm()
    machine(8)
    for name, value in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, str(value))
    assert processes(runtime("")) == wanted


@pytest.mark.parametrize(("error", "ended"), [(ValueError, True), (RuntimeError, True), (None, False)])
def test_who_fails_takes_the_processes_along_that_it_has_started(error, ended):
    """They may wait for it; those that stop by a signal do so together."""
    signals = []
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(kill=signals.append)))
    with pytest.raises(error or StopRequested), _left_together(trainer):
        raise error("wrong") if error else StopRequested(signal.SIGTERM, 3)
    assert signals == [signal.SIGKILL] * ended
