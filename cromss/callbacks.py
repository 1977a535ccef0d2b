"""What happens beside training: the epoch table, schedules, seeds, pictures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cromss.panels import class_map, panel, picture
from cromss.tasks import FinetuneTask, PretrainTask


class EpochTable(Checkpoint):
    """Appends the metrics of every epoch to a CSV; a resumed run drops the epochs it does again.

    A checkpoint callback, so that it runs when everything of the epoch has been logged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the row of the epoch."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics}
        rows = [old for old in self._rows() if int(old["epoch"]) < trainer.current_epoch] + [row]
        columns = list(dict.fromkeys(column for entry in rows for column in entry))
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if not all((row.get("epoch") or "").isdigit() for row in rows):
            raise ValueError(f"{self.path}: damaged, a row without an epoch; delete it, and the run goes on without it")
        return rows


class Plateau(L.Callback):
    """Halves the learning rate when a metric has not improved for `patience` epochs.

    Stepped before the checkpoint of the epoch is written, so that a resumed run loses no step.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        self.monitor, self.patience, self.state = monitor, patience, {}

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Make the scheduler, in the state of the checkpoint that is gone on from."""
        self.scheduler = ReduceLROnPlateau(trainer.optimizers[0], factor=0.5, patience=self.patience)
        if self.state:
            self.scheduler.load_state_dict(self.state)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Tell the scheduler the metric."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None:
            self.scheduler.step(float(value))
        self.state = self.scheduler.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """State of the scheduler, for the checkpoint."""
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self.state = state_dict


class StepLimit(L.Callback):
    """Ends training after `max_steps` steps.

    Lightning's own limit makes a resumed run end an epoch that it has not begun.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Refuse a run that is beyond the limit, and end one that has reached it."""
        if trainer.global_step > self.max_steps:
            raise ValueError(f"--max_steps {self.max_steps}: the run has done {trainer.global_step} steps already")
        trainer.should_stop = trainer.global_step == self.max_steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End training at the limit."""
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True


class StepSeed(L.Callback):
    """Seeds torch anew for every batch and process: a resumed run drops out what it would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch for this batch."""
        key = np.random.SeedSequence([self.seed, trainer.global_step, batch_idx, trainer.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))


class SameBuffers(L.Callback):
    """Gives all processes the BatchNorm statistics of the first before anything is scored.

    Training brings them together at the start of each step only, so that after the last one they differ.
    """

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Bring the buffers of the first process to all."""
        if trainer.world_size > 1:
            for buffer in task.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    on_test_start = on_validation_start


class PanelWriter(L.Callback):
    """Draws the first validation batch to PNG and TensorBoard: first, every `interval`-th and last epoch, if not 0."""

    def __init__(self, folder: Path, interval: int, num_rows: int = 3) -> None:
        self.folder, self.interval, self.num_rows = folder, interval, num_rows

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, task: PretrainTask, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Draw the first batch where an epoch is due."""
        if batch_idx == 0 and trainer.is_global_zero and self._is_due(trainer):
            with trainer.precision_plugin.val_step_context():
                image = self._draw(task, batch)
            save_png(image, self.folder / f"epoch_{trainer.current_epoch + 1:04d}.png")
            if trainer.logger is not None:
                trainer.logger.experiment.add_image("validation", image, trainer.global_step - 1, dataformats="HWC")

    def _is_due(self, trainer: L.Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return self.interval > 0 and (epoch % self.interval == 0 or epoch in (1, trainer.max_epochs))

    def _draw(self, task: PretrainTask, batch: dict[str, Any]) -> np.ndarray:
        ready = replace(task.eval_transform, prior_kind=task.train_transform.prior_kind)(batch)
        logits = task.model(**ready["images"])
        trust = task.objective.select(logits, ready["labels"], task.current_epoch, ready["prior"])
        rows = []
        for i in range(min(self.num_rows, len(ready["labels"]))):
            row = {_TITLES[m]: picture(_array(x[i]), m, task.bands[m]) for m, x in ready["images"].items()}
            row["training label"] = class_map(_array(ready["labels"][i]), task.legend)
            if "exact" in ready:
                row["exact label"] = class_map(_array(ready["exact"][i]), task.legend)
            row |= {f"prediction {b}": class_map(_array(x[i].argmax(0)), task.legend) for b, x in logits.items()}
            row |= {f"trust in label {b}": _array(w[i]) for b, w in trust.label.items() if b != "common"}
            rows.append(row)
        return panel(rows, task.legend, f"validation after epoch {task.current_epoch + 1}")


class MapWriter(L.Callback):
    """Writes the first `num_maps` test predictions of each process (-1 for all) as coloured PNG."""

    def __init__(self, folder: Path, num_maps: int) -> None:
        self.folder, self.num_maps, self.written = folder, num_maps, 0

    def on_test_batch_end(
        self, trainer: L.Trainer, task: FinetuneTask, outputs: Tensor, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Write maps as long as there is room."""
        room = len(outputs) if self.num_maps < 0 else max(0, self.num_maps - self.written)
        for location, classes, (height, width) in list(zip(batch["id"], outputs, batch["size"]))[:room]:
            save_png(class_map(_array(classes)[:height, :width], task.legend), self.folder / f"{location}.png")
            self.written += 1


class PredictionPanel(L.Callback):
    """Draws the first test tiles of the first process with exact label and prediction, to PNG and TensorBoard.

    Attributes:
        path: The PNG.
        bands: Modality -> band names; images of two dates hold them twice.
        num_rows: Tiles to draw.
    """

    def __init__(self, path: Path, bands: Mapping[str, Sequence[str]], num_rows: int = 4) -> None:
        self.path, self.bands, self.num_rows = path, bands, num_rows
        self.rows: dict[str, dict[str, np.ndarray]] = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, task: FinetuneTask, outputs: Tensor, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Keep tiles for the picture, of the first process."""
        if not trainer.is_global_zero or len(self.rows) >= self.num_rows:
            return
        ready = task.eval_transform(batch)
        for i in range(min(self.num_rows - len(self.rows), len(outputs))):
            height, width = batch["size"][i]
            row = {}
            for modality, images in ready["images"].items():
                row |= self._pictures(modality, images[i, :, :height, :width])
            maps = {"exact label": ready["labels"][i], "prediction": outputs[i]}
            row |= {title: class_map(_array(ids)[:height, :width], task.legend) for title, ids in maps.items()}
            self.rows[batch["id"][i]] = row

    def on_test_epoch_end(self, trainer: L.Trainer, task: FinetuneTask) -> None:
        """Draw the picture."""
        if self.rows:
            title = f"{task.legend.name} test tiles\n{self.path.parent.name}"
            image = panel(list(self.rows.values()), task.legend, title, list(self.rows))
            save_png(image, self.path)
            if trainer.logger is not None:
                trainer.logger.experiment.add_image("test", image, trainer.global_step, dataformats="HWC")

    def _pictures(self, modality: str, image: Tensor) -> dict[str, np.ndarray]:
        dates = image.split(len(self.bands[modality]))
        titles = [
            f"{_TITLES[modality]}, date {d + 1}" if len(dates) > 1 else _TITLES[modality] for d in range(len(dates))
        ]
        return {title: picture(_array(date), modality, self.bands[modality]) for title, date in zip(titles, dates)}


def save_png(image: np.ndarray, path: Path) -> None:
    """Write `(H, W, 3)` uint8 as PNG, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


_TITLES = {"s1": "Sentinel-1 (VV, VH)", "s2": "Sentinel-2 (RGB)", "ortho": "orthophoto (RGB)"}
