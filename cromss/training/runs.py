"""The Trainer of a run: how it trains, what it keeps, and on which devices."""

import logging
import os
import shlex
import shutil
import signal
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from timm.layers import convert_sync_batchnorm
from torch import nn

from cromss.callbacks import EpochTable, SameBuffers, StepLimit, StepSeed
from cromss.checkpointing import AtomicCheckpointIO, LastCheckpoint
from cromss.collation import enough_shared_memory
from cromss.gpus import deterministic_algorithms, enough_gpu_memory, has_bfloat16, imitates_bfloat16
from cromss.models.recomputation import recompute_activations
from cromss.models.weights import open_checkpoint
from cromss.progress import progress
from cromss.settings import Optimisation, Runtime
from cromss.signals import REQUEUE, StopRequested
from cromss.training.launching import launcher_environment, processes, requeue
from cromss.training.run_folder import RunFolder
from cromss.training.saved_state import SavedState, misfit


def fit(trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule, state: SavedState | None) -> None:
    """Train, from a saved state if there is one.

    Raises:
        ValueError: The checkpoint is of another model, or holds the state of another optimiser; or the GPU has too
            little memory.
    """
    if state:
        refuse_unfit(state.path, task, trainer)
    try:
        with (
            _left_together(trainer),
            enough_gpu_memory(_LESS_MEMORY),
            deterministic_algorithms(_NOT_DETERMINISTIC),
            enough_shared_memory(),
        ):
            trainer.fit(task, data, ckpt_path=state and state.path, weights_only=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "a batch of one tile is too small for this --crop_size: BatchNorm wants a larger --batch_size or more tiles"
        ) from error


_LESS_MEMORY = (
    "say --grad_checkpointing, or in validation a lower --test_batch_size, and the run goes on; or begin anew with a "
    "lower --batch_size, and --accumulate as much higher"
)
_NOT_DETERMINISTIC = "leave --deterministic out, or, of a ViT, say --image_size as large as --crop_size"


def score_test_set(trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule) -> None:
    """Score the test set; a run that is asked to stop there does it again."""
    with _left_together(trainer), enough_gpu_memory("lower --test_batch_size"), enough_shared_memory():
        trainer.test(task, data, verbose=False)


@contextmanager
def _left_together(trainer: L.Trainer) -> Iterator[None]:
    """End, with this process, those that it has started; or have SLURM start all again, where it asks for that."""
    try:
        yield
    except StopRequested as stop:
        if stop.signal == REQUEUE:
            stop.requeued = requeue(is_first=trainer.is_global_zero)
        raise
    except Exception:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # they may wait for this one, deaf to anything else
        raise


def refuse_unfit(checkpoint: Path, task: L.LightningModule, trainer: L.Trainer) -> None:
    """Raise ValueError where a task and its trainer cannot go on from a checkpoint; its weights are loaded."""
    content = open_checkpoint(checkpoint)
    if wrong := _other_progress(content, trainer):
        raise ValueError(f"--resume {checkpoint}: {wrong} is not what a training leaves there; another one is wanted")
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"--resume {checkpoint}: weights of another model ({first[:160]})") from error
    if not optimiser_fits(content, task.configure_optimizers()):
        raise ValueError(
            f"--resume {checkpoint}: its optimiser state is that of other settings or of another version; "
            "start afresh with --resume none"
        )


def _other_progress(content: Mapping[str, Any], trainer: L.Trainer) -> str:
    """The first entry of loops or callbacks in a checkpoint that is not as the trainer leaves it; empty for none.

    Of another version of Lightning entries may be missing.
    """
    loops, callbacks = content["loops"], content.get("callbacks", {})
    states = {c.state_key: c.state_dict() for c in trainer.callbacks if c.state_key in callbacks}
    loop = {"fit_loop": trainer.fit_loop.state_dict()}
    if content["pytorch-lightning_version"] != L.__version__:
        states = {name: _shared(state, callbacks[name]) for name, state in states.items()}
        loop = {"fit_loop": _shared(loop["fit_loop"], loops.get("fit_loop", {}))}
    return misfit(loops, loop, "loops") or misfit(callbacks, states, "callbacks")


def _shared(wanted: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wanted.items() if key in told}


def optimiser_fits(content: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether an optimiser, and its schedule, can take over the state in a checkpoint.

    Optimisers know their parameters by position alone, so that the groups must be as large and the shapes equal.

    Args:
        content: The checkpoint, with `"optimizer_states"` and `"lr_schedulers"`.
        made: What `configure_optimizers` returns: `"optimizer"`, and `"lr_scheduler"` where there is one.
    """
    saved, groups = content["optimizer_states"], made["optimizer"].param_groups
    schedules = [made["lr_scheduler"].state_dict()] if "lr_scheduler" in made else []
    if len(saved) != 1 or list(map(_kind, saved[0]["param_groups"])) != list(map(_kind, groups)):
        return False
    if list(map(_num_factors, content["lr_schedulers"])) != list(map(_num_factors, schedules)):
        return False
    return _shapes_fit(saved[0]["state"], [parameter for group in groups for parameter in group["params"]])


def _shapes_fit(state: Mapping[int, Mapping[str, Any]], parameters: Sequence[torch.Tensor]) -> bool:
    """Whether what is kept of each parameter (position -> name -> tensor) has its shape, but for the step."""
    return all(
        name == "step" or value is None or value.shape == parameters[position].shape
        for position, kept in state.items()
        for name, value in kept.items()
    )


def _kind(group: Mapping[str, Any]) -> tuple[int, bool]:
    """Number of parameters of a group, and whether they are Adam's."""
    return len(group["params"]), "betas" in group


def _num_factors(schedule: Mapping[str, Any]) -> int:
    """Groups of which a schedule keeps the factor; 0 where it is of another kind."""
    return len(schedule.get("lr_lambdas", ()))


def build_trainer(
    runtime: Runtime,
    optimisation: Optimisation,
    folder: RunFolder,
    callbacks: Sequence[L.Callback],
    best: str = "",
    some_parameters_idle: bool = False,
    state: SavedState | None = None,
) -> L.Trainer:
    """Trainer that logs to TensorBoard and metrics.csv and keeps the last, every n-th and the best checkpoint.

    Args:
        runtime: Where and how to run.
        optimisation: Number of epochs, and of batches a step.
        folder: Run folder.
        callbacks: Further callbacks.
        best: Loss whose lowest value marks the best checkpoint; empty for none.
        some_parameters_idle: Parameters that train later have no gradient in the beginning.
        state: What is gone on from; what TensorBoard holds of later steps is dropped.
    """
    quieten()
    nodes, devices = processes(runtime)
    precision = _precision(runtime)
    torch.backends.cudnn.allow_tf32 = precision != "32-true"  # which by default keeps 10 bits of 23 in convolutions
    keep = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    newest = {"monitor": "epoch", "mode": "max", "save_top_k": runtime.keep_checkpoints or -1}
    saving = [
        *([ModelCheckpoint(**keep, filename="best", monitor=best, save_weights_only=True)] if best else []),
        ModelCheckpoint(**keep, filename="{epoch:04d}", every_n_epochs=runtime.save_interval, **newest),
        LastCheckpoint(folder.last, runtime.save_seconds),  # after the others, of which it knows and at which it stops
    ]
    return L.Trainer(
        accelerator=runtime.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(runtime, nodes, devices, some_parameters_idle),
        precision=precision,
        deterministic=runtime.deterministic,
        benchmark=not runtime.deterministic,
        max_epochs=optimisation.epochs,
        accumulate_grad_batches=optimisation.accumulate,
        limit_train_batches=runtime.limit_batches or None,
        limit_val_batches=runtime.limit_batches or None,
        limit_test_batches=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
        logger=TensorBoardLogger(
            folder.path, name="", version="", flush_secs=5, purge_step=state.steps if state else 0
        ),
        callbacks=[
            StepSeed(first_seed(runtime)),
            SameBuffers(),
            EpochTable(folder.path / "metrics.csv"),
            *saving,
            *([StepLimit(runtime.max_steps)] if runtime.max_steps > 0 else []),
            progress(),
            *callbacks,
        ],
        plugins=[AtomicCheckpointIO(folder.last, folder.previous), *launcher_environment()],
    )


def adapt_network(network: nn.Module, runtime: Runtime, grad_checkpointing: bool) -> None:
    """What settings ask of a network beside its kind: the names of its weights stay.

    Raises:
        ValueError: See `compile_network`, or BatchNorm is to span processes without a GPU.
    """
    if runtime.sync_batchnorm:
        if not torch.cuda.is_available():
            raise ValueError(
                "--sync_batchnorm: no GPU is visible to torch, and on the CPU there is none such; leave it out"
            )
        convert_sync_batchnorm(network)
    if grad_checkpointing:
        recompute_activations(network)
    compile_network(network, runtime)


def compile_network(network: nn.Module, runtime: Runtime) -> None:
    """Let a network compile itself at its first batch if --compile asks for it; the names of its weights stay.

    Raises:
        ValueError: There is no C++ compiler, or no headers of Python for it.
    """
    if not runtime.compile:
        return
    compiler, headers = os.environ.get("CXX") or "g++", sysconfig.get_path("include")
    advice = "install it, or leave --compile out"
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise ValueError(f"--compile: there is no C++ compiler {compiler} in PATH (CXX names another); {advice}")
    if not Path(headers, "Python.h").exists():
        raise ValueError(f"--compile: there is no Python.h in {headers} (python3-dev); {advice}")
    network.compile()


def _precision(runtime: Runtime) -> str:
    told, on_cpu = runtime.amp or runtime.precision == "bf16", _on_cpu(runtime)
    if told and imitates_bfloat16(on_cpu):
        device = "CPU" if on_cpu else "GPU"
        print(
            f"warning: this {device} only imitates bfloat16, which can take tens of times as long as full precision; "
            "leave --precision bf16 and --amp out"
        )
    by_default = runtime.precision == "auto" and not on_cpu and has_bfloat16()
    return "bf16-mixed" if told or by_default else "32-true"


def _on_cpu(runtime: Runtime) -> bool:
    return runtime.accelerator == "cpu" or not torch.cuda.is_available()


def first_seed(runtime: Runtime) -> int:
    """The seed of a run; transfer keeps its seeds as a tuple."""
    return runtime.seed if isinstance(runtime.seed, int) else runtime.seed[0]


def _strategy(runtime: Runtime, nodes: int, devices: int, some_parameters_idle: bool) -> str:
    """Of several processes, `ddp`; where bits count, with gradients summed in the same order in all steps.

    In the first step of a process, that of one gone on from too, `ddp` puts gradients together otherwise than in later
    ones, unless it looks for idle parameters, so that sums of more than two differ in their last bits.
    """
    count = nodes * devices
    if count < 2:
        return "auto"
    ordered = count > 2 and (_on_cpu(runtime) or runtime.deterministic)
    return "ddp_find_unused_parameters_true" if some_parameters_idle or ordered else "ddp"


def quieten() -> None:
    """Drop what Lightning says on every start and nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "treespec",
        "many workers",
        "in eval mode at the start",
        "length of `list`",
        "is not empty",
        "monitored key",
        "`srun` command is available",
        "dataloader is not resumable",
        "It is recommended to use `self.log",  # what is logged is reduced over the processes before
    ):
        warnings.filterwarnings("ignore", f".*{message}")
