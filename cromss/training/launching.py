"""Who starts a training, and how many processes it is: by itself, by SLURM or by torchrun; jobs that begin again."""

import os
import subprocess

import torch
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from cromss.gpus import check_gpu
from cromss.settings import Runtime


def processes(runtime: Runtime) -> tuple[int, int]:
    """Nodes, and processes a node.

    Raises:
        ValueError: A wrong launch under SLURM or torchrun, more devices than there are, a GPU asked for where there is
            none, or one that cannot be used.
    """
    tasks = _slurm_tasks()
    if "SLURM_STEP_ID" not in os.environ and (runtime.slurm or tasks > 1):
        told = f"SLURM_NTASKS={tasks}" if tasks > 1 else "--slurm"
        raise ValueError(f"{told}, but this is no SLURM task: start it with srun")
    if runtime.accelerator != "cpu":
        check_gpu()
    if runtime.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("--accelerator gpu: no GPU is visible to torch; use cpu or auto")
    if TorchElasticEnvironment.detect():
        count, each = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return count // each, _checked(each, runtime, "torchrun", "--nproc_per_node")
    if "SLURM_STEP_ID" in os.environ and tasks > 1:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        if tasks % nodes or "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise ValueError(
                f"SLURM: {tasks} tasks on {nodes} node(s); start them with --ntasks-per-node, as many on each"
            )
        return nodes, _checked(tasks // nodes, runtime, "SLURM", "--ntasks-per-node")
    on_cpu = runtime.accelerator == "cpu" or not torch.cuda.is_available()
    there, kind = (_cores(), "CPU cores") if on_cpu else (torch.cuda.device_count(), "GPUs")
    if runtime.devices > there:
        raise ValueError(f"--devices {runtime.devices}: there are {there} {kind}")
    return 1, runtime.devices or (1 if on_cpu else there)


def _checked(each: int, runtime: Runtime, launcher: str, flag: str) -> int:
    """Processes that a launcher has started a node: `--devices` must not say otherwise, and each must see its GPU."""
    if runtime.devices not in (0, each):
        raise ValueError(
            f"--devices {runtime.devices}: {launcher} has started {each} process(es) a node; "
            f"leave --devices out, or say {flag}={runtime.devices}"
        )
    visible = 0 if runtime.accelerator == "cpu" else torch.cuda.device_count()
    if 0 < visible < each:
        raise ValueError(
            f"{launcher}: of its {each} processes a node, this one sees {visible} GPU(s); let each see one for each, "
            f"under SLURM with --gres=gpu:{each} and without --gpus-per-task and --gpu-bind, or start fewer by {flag}"
        )
    return each


def loader_processes(runtime: Runtime) -> int:
    """Loader processes of each training process: as told, or eight a GPU as far as there are cores.

    A task of SLURM has cores of its own: as many as `--cpus-per-task` says, or those that it is bound to.
    """
    if runtime.num_workers >= 0:
        return runtime.num_workers
    if runtime.accelerator == "cpu" or not torch.cuda.is_available():
        return 0
    told, cores = os.environ.get("SLURM_CPUS_PER_TASK"), _cores()
    if _slurm_tasks() > 1 and (told or cores < (os.cpu_count() or 1)):
        return min(8, int(told or cores))
    return min(8, cores // torch.cuda.device_count())


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", 1))


def _cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def requeue(is_first: bool) -> bool:
    """Have SLURM start the job of this process again, if it is in one; one of its processes asks for it.

    Raises:
        ValueError: SLURM refuses.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if is_first:
        try:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise ValueError(f"job {job} cannot be requeued ({said.strip()}); submit it again to go on") from None
    return True


def launcher_environment() -> list[ClusterEnvironment]:
    """Who started the processes, where Lightning must not go by SLURM's variables alone.

    In a job of a single task it would wait for more of them; of several, it would save and requeue within a step.
    """
    if TorchElasticEnvironment.detect():
        return []
    if os.environ.get("SLURM_NTASKS") == "1":
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)] if "SLURM_STEP_ID" in os.environ else []
