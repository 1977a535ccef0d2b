"""Progress of a training: a bar on a terminal; lines in a log, where a bar would be a line for each step."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar


def progress() -> ProgressBar:
    """What shows progress where standard output goes."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return TQDMProgressBar(refresh_rate=1) if is_terminal else ProgressLines()


class ProgressLines(ProgressBar):
    """A line at the end of each epoch of training, and one every `seconds` within what takes longer.

    `epoch 3 of 100, batch 64 of 64, 1.8 a second: train/loss_step 1.31, val/miou_s1 0.242`

    Training goes on where nobody listens any more.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds, self.enabled = seconds, True
        self.told = self.began = self.stepped = time.monotonic()
        self.steps = 0

    def disable(self) -> None:
        """Print nothing, as all processes but the first."""
        self.enabled = False

    def on_train_start(self, *_: Any) -> None:
        """Take the pace from here; a run that goes on within an epoch does not start one."""
        self.began, self.steps = time.monotonic(), 0

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell batch, pace and metrics where it is time to."""
        self.stepped, self.steps = time.monotonic(), self.steps + 1
        if self._is_time():
            self._tell_training(trainer, batch_idx + 1)

    def on_validation_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Tell the batch where it is time to."""
        if self._is_time():
            self._tell(f"validation, batch {batch_idx + 1} of {sum(trainer.num_val_batches)}")

    def on_test_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Tell the batch where it is time to."""
        if self._is_time():
            self._tell(f"test, batch {batch_idx + 1} of {sum(trainer.num_test_batches)}")

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Tell pace and metrics at the end of the epoch."""
        if self.enabled:
            self._tell_training(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def _is_time(self) -> bool:
        return self.enabled and time.monotonic() - self.told >= self.seconds

    def _tell_training(self, trainer: L.Trainer, batch: int) -> None:
        pace = self.steps / max(self.stepped - self.began, 1e-9)
        place = (
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, batch {batch} of {self.total_train_batches}"
        )
        metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items())
        self._tell(f"{place}, {pace:.3g} a second: {metrics}")

    def _tell(self, line: str) -> None:
        self.told = time.monotonic()
        try:
            print(line, flush=True)
        except OSError:
            self.enabled = False
