"""The run folder and the Trainer: where a run lives, how it goes on, and on which devices."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from cromss.callbacks import AtomicCheckpointIO, EpochTable, LastCheckpoint
from cromss.config import save_yaml, to_flat
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
        """Checkpoint of the last epoch."""
        return self.checkpoints / "last.ckpt"

    def finished(self, settings: Any) -> dict[str, Any] | None:
        """Metrics of a finished run with these settings, or `None`."""
        runtime, optimisation = settings.runtime, settings.optimisation
        if runtime.resume != "auto" or not (self.path / "metrics.json").exists():
            return None
        self.refuse_other_settings(settings)
        metrics = json.loads((self.path / "metrics.json").read_text())
        same_length = (metrics["epochs"], metrics["max_steps"]) == (optimisation.epochs, runtime.max_steps)
        return metrics if same_length else None

    def open(self, settings: Any) -> Path | None:
        """Make the folder, write config.yaml, and say from which checkpoint to go on.

        Only the first of several processes touches the folder.

        `--resume auto` continues what is there, `none` moves it aside, a path continues that file.

        Raises:
            ValueError: The folder holds a run with other settings, or the path is no file.
        """
        resume, checkpoint = settings.runtime.resume, None
        if resume == "none":
            if rank_zero_only.rank == 0:
                self._move_aside()
        elif resume == "auto":
            self.refuse_other_settings(settings)
            checkpoint = self.last if self.last.exists() else None
        else:
            checkpoint = Path(resume)
            if not checkpoint.is_file():
                raise ValueError(f"--resume {resume}: no such checkpoint; auto and none are the other choices")
        if rank_zero_only.rank == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            save_yaml(settings, self.path / "config.yaml")
        return checkpoint

    def close(self, settings: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics.json, which marks the run as finished."""
        length = {"epochs": settings.optimisation.epochs, "max_steps": settings.runtime.max_steps}
        content = {**length, **metrics}
        if rank_zero_only.rank == 0:
            (self.path / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
        return content

    def refuse_other_settings(self, settings: Any) -> None:
        """Raise ValueError when the folder holds a run that was started with other settings."""
        file = self.path / "config.yaml"
        if not file.exists():
            return
        before, now = yaml.safe_load(file.read_text()), to_flat(settings)
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


def build_trainer(
    runtime: Runtime, epochs: int, folder: RunFolder, callbacks: Sequence[L.Callback], best: str, mode: str
) -> L.Trainer:
    """Trainer that logs to TensorBoard and metrics.csv and keeps the last, the best and every n-th checkpoint.

    Args:
        runtime: Where and how to run.
        epochs: Number of epochs.
        folder: Run folder.
        callbacks: Further callbacks.
        best: Metric of the best checkpoint; empty for none.
        mode: `"min"` or `"max"` of `best`.
    """
    _quieten()
    nodes, devices = _processes(runtime)
    keep = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    saving = [
        LastCheckpoint(folder.last),
        ModelCheckpoint(**keep, filename="{epoch:04d}", every_n_epochs=runtime.save_interval, save_top_k=-1),
    ]
    if best:
        saving.append(ModelCheckpoint(**keep, filename="best", monitor=best, mode=mode, save_weights_only=True))
    return L.Trainer(
        accelerator=runtime.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if nodes * (devices if isinstance(devices, int) else 1) > 1 else "auto",
        precision="bf16-mixed" if runtime.amp else "32-true",
        max_epochs=epochs,
        max_steps=runtime.max_steps,
        limit_train_batches=runtime.limit_batches or None,
        limit_val_batches=runtime.limit_batches or None,
        limit_test_batches=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder.path, name="", version=""),
        callbacks=[
            *saving,
            EpochTable(folder.path / "metrics.csv"),
            LearningRateMonitor("epoch"),
            TQDMProgressBar(refresh_rate=1),
            *callbacks,
        ],
        plugins=[AtomicCheckpointIO()],
    )


def _quieten() -> None:
    """Drop what Lightning says on every start and nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("treespec", "many workers", "in eval mode at the start", "length of `list`", "is not empty"):
        warnings.filterwarnings("ignore", f".*{message}")


def _processes(runtime: Runtime) -> tuple[int, int | str]:
    """Nodes, and processes a node."""
    if "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return nodes, int(os.environ.get("SLURM_NTASKS", nodes)) // nodes
    if runtime.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("--accelerator gpu: no GPU is visible to torch; use cpu or auto")
    on_cpu = runtime.accelerator == "cpu" or not torch.cuda.is_available()
    return 1, runtime.devices or (1 if on_cpu else "auto")
