"""Who starts a training: processes and loader processes by machine, SLURM and torchrun; jobs that begin again."""

import os

import pytest

from cromss.config import parse
from cromss.settings import MultiModalSettings, Runtime
from cromss.training.launching import loader_processes, processes, requeue


def runtime(flags: str) -> Runtime:
    return parse(MultiModalSettings, flags.split()).runtime


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


def test_no_more_processes_than_cores_on_the_cpu(machine, slurm):
    slurm()
    machine(0, cores=2)
    with pytest.raises(ValueError, match="--devices 3: there are 2 CPU cores"):
        processes(runtime("--devices 3"))


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


@pytest.mark.parametrize(("world", "local", "wanted"), [(1, 1, (1, 1)), (4, 4, (1, 4)), (8, 4, (2, 4))])
def test_processes_are_those_that_torchrun_has_started(machine, slurm, monkeypatch, world, local, wanted):
    slurm()
    machine(8)
    for name, value in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, str(value))
    assert processes(runtime("")) == wanted


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
            r"--devices 4: SLURM has started 2 process\(es\) a node; leave --devices out, or say --ntasks-per-node=4",
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
            ValueError, match=r"of its 4 processes a node, this one sees 1 .* --gres=gpu:4 and without --gpus-per"
        ):
            processes(runtime(""))


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
    ("variables", "own_cores", "wanted"),
    [
        ({"NTASKS": 4, "CPUS_PER_TASK": 12}, 12, 8),
        ({"NTASKS": 4, "CPUS_PER_TASK": 6}, 6, 6),
        ({"NTASKS": 8, "CPUS_PER_TASK": 2}, 64, 2),
        ({"NTASKS": 4}, 6, 6),
        ({"NTASKS": 4}, 24, 6),
        ({"NTASKS": 1, "CPUS_PER_TASK": 16}, 16, 4),
    ],
)
def test_loader_processes_of_a_task_of_slurm_have_its_cores(machine, slurm, variables, own_cores, wanted):
    slurm(**variables)
    machine(4, cores=24, own_cores=own_cores)
    assert loader_processes(runtime("")) == wanted


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


@pytest.mark.parametrize(
    ("gpus", "flags", "said"),
    [
        (
            4,
            "",
            r"torchrun: of its 8 processes .* sees 4 GPU\(s\); .* or start fewer by --nproc_per_node",
        ),
        (8, "--devices 4", r"--devices 4: torchrun has started 8 process\(es\) .*, or say --nproc_per_node=4"),
    ],
)
def test_torchrun_may_not_start_more_than_there_are_or_others_than_told(machine, slurm, monkeypatch, gpus, flags, said):
    slurm()
    machine(gpus)
    for name, value in (("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "8"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        processes(runtime(flags))
