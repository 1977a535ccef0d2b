"""Checkpoints of a run that may be killed at any moment: whole files, written between steps, and at a signal."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cromss.gathering import largest_of_processes
from cromss.signals import TERMINATE, StopRequested, forget, listen, noted

_SAVE = 1
"""Says that a checkpoint is due, where processes agree by the largest number; signals have larger ones."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are whole or not there: written beside the target, synced, then renamed.

    Args:
        rotated: File whose last version is kept as `rotated_to`.
        rotated_to: Where it is kept.
    """

    def __init__(self, rotated: Path | None = None, rotated_to: Path | None = None) -> None:
        super().__init__()
        self.rotated, self.rotated_to = rotated, rotated_to

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path == self.rotated and path.exists():
                path.replace(self.rotated_to)
            temporary.replace(path)
        except (RuntimeError, OSError) as error:  # torch makes a RuntimeError of a short write
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                f"{path}: cannot be written, {free / 1e6:.0f} MB are free on its disk; make room, "
                "and the same command goes on from the last whole checkpoint"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` between two steps, when the one before is old, at the end, and when a signal asks to stop.

    All processes save, and stop, at the same step, if any of them is due or was sent the signal.

    Attributes:
        path: The file.
        interval_s: Age in seconds at which it is written again.
    """

    def __init__(self, path: Path, interval_s: float = 300) -> None:
        self.path, self.interval_s, self.saved_at = path, interval_s, time.monotonic()
        self.processes = self.batches = 0

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take SIGTERM from Lightning, which would lose what was done since the last checkpoint.

        Raises:
            ValueError: The run goes on within an epoch, whose samples were dealt to another number of processes, or in
                another number of batches.
        """
        for before, now, what in (
            (self.processes, trainer.world_size, "processes"),
            (self.batches, trainer.num_training_batches, "batches"),
        ):
            if before not in (0, now) and trainer.fit_loop.restarted_mid_epoch:
                raise ValueError(
                    f"{now} {what}: the checkpoint lies within an epoch of {before}; "
                    f"go on with {before}, or from one at the end of an epoch (--resume PATH)"
                )
        listen(TERMINATE)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save where it is due after a step, or the run ends there; the last step of an epoch is left to its end."""
        progress, accumulate = trainer.fit_loop.epoch_loop.batch_progress, trainer.accumulate_grad_batches
        if progress.current.ready % accumulate == 0 and not progress.is_last_batch:
            self._save_if_due(trainer, trainer.should_stop)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Save where it is due, and at the end of the run."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_if_due(trainer, trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop)
        elif trainer.is_global_zero:
            self.path.touch()  # newer than what others keep of the cut epoch: a longer run does the rest of it

    def state_dict(self) -> dict[str, Any]:
        """Number of processes that the samples of an epoch are dealt to, and of their batches."""
        return {"processes": self.processes, "batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until training starts."""
        self.processes, self.batches = state_dict["processes"], state_dict.get("batches", 0)

    def on_test_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take SIGTERM from Lightning once more, which would have processes wait for each other."""
        listen(TERMINATE)

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop where a signal asks any process for it: what was trained is saved, and the test is done again."""
        if number := largest_of_processes(noted(), trainer.strategy.root_device):
            forget()
            raise StopRequested(number, trainer.global_step)

    def _save_if_due(self, trainer: L.Trainer, is_end: bool = False) -> None:
        is_due = is_end or time.monotonic() - self.saved_at > self.interval_s
        number = largest_of_processes(noted() or _SAVE * is_due, trainer.strategy.root_device)
        if not number:
            return
        self.processes, self.batches = trainer.world_size, trainer.num_training_batches
        trainer.save_checkpoint(self.path)
        self.saved_at = time.monotonic()
        if number > _SAVE and not is_end:
            forget()
            raise StopRequested(number, trainer.global_step)
