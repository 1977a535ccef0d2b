"""The run folder and the Trainer: where a run lives, how it goes on, and on which devices."""

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only

from cromss.callbacks import AtomicCheckpointIO, EpochTable, LastCheckpoint, SameBuffers, StepLimit, StepSeed
from cromss.config import replace_text, save_yaml, to_flat
from cromss.models.weights import open_checkpoint
from cromss.settings import Runtime

FREE_TO_CHANGE = frozenset(
    ("resume", "save_dir", "name", "accelerator", "devices", "slurm", "num_workers")
    + ("epochs", "max_steps", "save_interval", "display_interval", "save_maps")
)
"""Settings in which a run may differ from the one that it continues."""


@dataclass(frozen=True)
class RunFolder:
    """`<save_dir>/<name>/`: config.yaml, checkpoints/, metrics.csv, metrics.json, panels/, TensorBoard files."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Checkpoint of the end of the run; until then at most five minutes and an epoch behind."""
        return self.checkpoints / "last.ckpt"

    def newest(self) -> Path | None:
        """Newest checkpoint that a run can go on from, or `None`; says which it had to pass over."""
        there = [path for path in (self.last, *self.checkpoints.glob("epoch=*.ckpt")) if path.exists()]
        for path in sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                return whole_checkpoint(path)
            except ValueError as error:
                print(f"{error}; passing it over")
        return None

    def finished(self, settings: Any) -> dict[str, Any] | None:
        """Metrics of a finished run with these settings, or `None`.

        Raises:
            ValueError: The folder holds a longer run, or one with other settings.
        """
        runtime, optimisation = settings.runtime, settings.optimisation
        if runtime.resume != "auto" or not (self.path / "metrics.json").exists():
            return None
        self.refuse_other_settings(settings)
        metrics = _read(self.path / "metrics.json", json.loads, ("epochs", "max_steps"))
        if metrics["epochs"] > optimisation.epochs:
            raise ValueError(
                f"--epochs {optimisation.epochs}: {self.path} has finished {metrics['epochs']} epochs already"
            )
        same_length = (metrics["epochs"], metrics["max_steps"]) == (optimisation.epochs, runtime.max_steps)
        return metrics if same_length else None

    def open(self, settings: Any) -> Path | None:
        """Make the folder, write config.yaml, and say from which checkpoint to go on.

        Only the first of several processes touches the folder.

        `--resume auto` continues what is there, `none` moves it aside, a path continues that file.

        Raises:
            ValueError: The folder holds a run with other settings, or the path is no checkpoint.
        """
        resume, checkpoint = settings.runtime.resume, None
        if resume == "none":
            if rank_zero_only.rank == 0:
                self._move_aside()
        elif resume == "auto":
            self.refuse_other_settings(settings)
            checkpoint = self.newest()
        else:
            checkpoint = whole_checkpoint(Path(resume))
        done = open_checkpoint(checkpoint)["epoch"] + 1 if checkpoint else 0
        if done > settings.optimisation.epochs:
            raise ValueError(f"--epochs {settings.optimisation.epochs}: {checkpoint} has done {done} epochs already")
        if rank_zero_only.rank == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            save_yaml(settings, self.path / "config.yaml")
        return checkpoint

    def close(self, settings: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics.json, which marks the run as finished."""
        length = {"epochs": settings.optimisation.epochs, "max_steps": settings.runtime.max_steps}
        content = _without_nan({**length, **metrics})
        if rank_zero_only.rank == 0:
            replace_text(self.path / "metrics.json", json.dumps(content, indent=2) + "\n")
        return content

    def refuse_other_settings(self, settings: Any) -> None:
        """Raise ValueError when the folder holds a run that was started with other settings."""
        file = self.path / "config.yaml"
        if not file.exists():
            return
        before, now = _read(file, yaml.safe_load), to_flat(settings)
        changed = [k for k in now if k not in FREE_TO_CHANGE and before.get(k) != now[k]]
        if changed:
            shown = ", ".join(f"{key} {before.get(key)} -> {now[key]}" for key in changed[:4])
            raise ValueError(
                f"{self.path} holds a run with other settings ({shown}); choose another --name, or --resume none"
            )

    def _move_aside(self) -> None:
        if self.path.exists():
            count = 1
            while (aside := self.path.with_name(f"{self.path.name}.{count}")).exists():
                count += 1
            self.path.rename(aside)


def _without_nan(value: Any) -> Any:
    """NaN (a score of a class that is nowhere) is no JSON; it becomes `None`."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(file: Path, parse: Callable[[str], Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """A mapping from a file of the run folder, or a ValueError that names it."""
    try:
        content = parse(file.read_text())
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or not set(keys) <= content.keys():
        raise ValueError(f"{file}: damaged; delete it, or start afresh with --resume none")
    return content


def whole_checkpoint(path: Path) -> Path:
    """The path, if a training checkpoint can be read from it.

    Raises:
        ValueError: Missing, damaged, holding code, or weights alone.
    """
    if not path.is_file():
        raise ValueError(f"--resume {path}: no such checkpoint; auto and none are the other choices")
    content = open_checkpoint(path)
    if not isinstance(content, dict) or not {"state_dict", "optimizer_states", "loops"} <= content.keys():
        raise ValueError(f"--resume {path}: holds no training state; to start from weights use --init_s1, --init_s2")
    return path


def fit(trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        ValueError: The checkpoint is of another model.
    """
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError("--batch_size 1 is too small for crops of this --crop_size: BatchNorm wants more") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"--resume {checkpoint}: weights of another model ({first[:160]})") from error


def build_trainer(
    runtime: Runtime,
    epochs: int,
    folder: RunFolder,
    callbacks: Sequence[L.Callback],
    best: str = "",
    some_parameters_idle: bool = False,
) -> L.Trainer:
    """Trainer that logs to TensorBoard and metrics.csv and keeps the last, every n-th and the best checkpoint.

    Args:
        runtime: Where and how to run.
        epochs: Number of epochs.
        folder: Run folder.
        callbacks: Further callbacks.
        best: Loss whose lowest value marks the best checkpoint; empty for none.
        some_parameters_idle: Parameters that train later have no gradient in the beginning.
    """
    _quieten()
    nodes, devices = processes(runtime)
    keep = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    saving = [
        LastCheckpoint(folder.last),
        ModelCheckpoint(**keep, filename="{epoch:04d}", every_n_epochs=runtime.save_interval, save_top_k=-1),
    ]
    if best:
        saving.append(ModelCheckpoint(**keep, filename="best", monitor=best, save_weights_only=True))
    return L.Trainer(
        accelerator=runtime.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(nodes, devices, some_parameters_idle),
        precision="bf16-mixed" if runtime.amp else "32-true",
        max_epochs=epochs,
        limit_train_batches=runtime.limit_batches or None,
        limit_val_batches=runtime.limit_batches or None,
        limit_test_batches=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder.path, name="", version=""),
        callbacks=[
            StepSeed(first_seed(runtime)),
            SameBuffers(),
            EpochTable(folder.path / "metrics.csv"),
            *saving,
            *([StepLimit(runtime.max_steps)] if runtime.max_steps > 0 else []),
            TQDMProgressBar(refresh_rate=1),
            *callbacks,
        ],
        plugins=[AtomicCheckpointIO(), *_environment()],
    )


def first_seed(runtime: Runtime) -> int:
    """The seed of a run; transfer keeps its seeds as a tuple."""
    return runtime.seed if isinstance(runtime.seed, int) else runtime.seed[0]


def _strategy(nodes: int, devices: int | str, some_parameters_idle: bool) -> str:
    several = nodes > 1 or (torch.cuda.device_count() if devices == "auto" else devices) > 1
    if not several:
        return "auto"
    return "ddp_find_unused_parameters_true" if some_parameters_idle else "ddp"


def _quieten() -> None:
    """Drop what Lightning says on every start and nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "treespec",
        "many workers",
        "in eval mode at the start",
        "length of `list`",
        "is not empty",
        "monitored key",
    ):
        warnings.filterwarnings("ignore", f".*{message}")


def processes(runtime: Runtime) -> tuple[int, int | str]:
    """Nodes, and processes a node.

    Raises:
        ValueError: A wrong launch under SLURM, or a GPU asked for where there is none.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if "SLURM_STEP_ID" not in os.environ and (runtime.slurm or tasks > 1):
        told = f"SLURM_NTASKS={tasks}" if tasks > 1 else "--slurm"
        raise ValueError(f"{told}, but this is no SLURM task: start it with srun")
    if runtime.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("--accelerator gpu: no GPU is visible to torch; use cpu or auto")
    if "SLURM_STEP_ID" in os.environ and tasks > 1:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return nodes, tasks // nodes
    on_cpu = runtime.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and runtime.devices > (os.cpu_count() or 1):
        raise ValueError(f"--devices {runtime.devices}: this machine has {os.cpu_count()} CPU cores")
    return 1, runtime.devices or (1 if on_cpu else "auto")


def _environment() -> list[ClusterEnvironment]:
    """Inside a SLURM job of a single task, Lightning must not wait for more of them."""
    return [LightningEnvironment()] if os.environ.get("SLURM_NTASKS") == "1" else []
