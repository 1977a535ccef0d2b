"""Lightning tasks: pretraining on noisy labels, and transfer to exact ones."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from cromss.batch_transforms import BatchTransform
from cromss.legends import IGNORE_INDEX, Legend
from cromss.losses import segmentation_loss
from cromss.metrics import scores
from cromss.objective import CrossModalObjective
from cromss.panels import class_map, panel, picture

Optimiser = Callable[[Iterable[nn.Parameter]], dict[str, Any] | torch.optim.Optimizer]


def plateau_optimiser(
    parameters: Iterable[nn.Parameter],
    name: str = "adam",
    learning_rate: float = 0.005,
    weight_decay: float = 1e-8,
    schedule: str = "rop",
    value: float = 30,
) -> dict[str, Any]:
    """Optimiser of pretraining.

    Args:
        parameters: What learns.
        name: `"adam"` or `"sgd"` (momentum 0.9).
        learning_rate: Initial learning rate.
        weight_decay: Weight decay.
        schedule: `"rop"` halves the rate when the validation loss has not improved for `value`
            epochs, `"exp"` multiplies it by `value` every epoch, `"none"` keeps it.
        value: See `schedule`.
    """
    optimizer = _optimizer(parameters, name, learning_rate, weight_decay)
    if schedule == "rop":
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=int(value))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
    if schedule == "exp":
        if not 0 < value < 1:
            raise ValueError(f"--lr_adjust {value:g}: must be over 0 and under 1 with --lr_adjust_type exp")
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, value)}
    return {"optimizer": optimizer}


def cosine_optimiser(
    parameters: Iterable[nn.Parameter],
    name: str = "adam",
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-8,
    cosine_epochs: int = 40,
    final_rate: float = 1e-5,
) -> dict[str, Any]:
    """Optimiser of transfer: cosine from `learning_rate` to `final_rate` in `cosine_epochs`, then flat."""
    optimizer = _optimizer(parameters, name, learning_rate, weight_decay)

    def factor(epoch: int) -> float:
        progress = min(epoch / cosine_epochs, 1) if cosine_epochs else 0
        floor = final_rate / learning_rate
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


class Scoreboard(nn.Module):
    """One confusion matrix a branch, summed over batches and processes."""

    def __init__(self, branches: Sequence[str], num_classes: int, absent: str = "skip") -> None:
        super().__init__()
        self.absent = absent
        self.counts = nn.ModuleDict(
            {
                b: MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE_INDEX, validate_args=False)
                for b in branches
            }
        )

    def update(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Count a batch: branch -> `(B, K, H, W)` against `(B, H, W)`."""
        for branch, values in logits.items():
            self.counts[branch].update(values.argmax(1), labels)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Branch -> scores, and start again."""
        results = {b: scores(count.compute(), self.absent) for b, count in self.counts.items()}
        for count in self.counts.values():
            count.reset()
        return results


class PretrainTask(L.LightningModule):
    """Noisy-label pretraining of one modality or of twins.

    Args:
        model: Takes one image `(B, C, H, W)` a modality, returns branch -> logits `(B, K, H, W)`.
        objective: The training loss.
        train_transform: Prepares training batches.
        eval_transform: Prepares validation batches.
        optimiser: Parameters -> what `configure_optimizers` returns.
        legend: Classes to report.
        bands: Modality -> band names.
        score_training: Score the training batches, too.
        panel_interval: Epochs between image panels.
        panel_dir: Folder of the panels, or `None` for none.
        train_on: `"labels"` (noisy) or `"exact"`.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: CrossModalObjective,
        train_transform: BatchTransform,
        eval_transform: BatchTransform,
        optimiser: Optimiser,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        score_training: bool = False,
        panel_interval: int = 10,
        panel_dir: Path | None = None,
        train_on: str = "labels",
    ) -> None:
        super().__init__()
        self.model, self.objective, self.optimiser, self.legend, self.bands = model, objective, optimiser, legend, bands
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.panel_interval, self.panel_dir, self.train_on = panel_interval, panel_dir, train_on
        self.validation_objective = replace(objective, smoothing_factors=(), selection=False)
        branches = [*bands, "common"] if getattr(model, "common_branch", False) else list(bands)
        self.val_scores = Scoreboard(branches, legend.num_classes)
        self.train_scores = Scoreboard(branches, legend.num_classes) if score_training else None

    def configure_optimizers(self) -> Any:
        return self.optimiser(p for p in self.model.parameters() if p.requires_grad)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ready = self.train_transform(batch)
        labels = ready[self.train_on]
        logits = self.model(**ready["images"])
        terms = self.objective(logits, labels, ready["prior"], self.current_epoch)
        refuse_non_finite(terms, batch["id"])
        self._log("train", terms, len(labels))
        if self.train_scores is not None:
            self.train_scores.update(logits, labels)
        return terms["loss"]

    def on_train_epoch_end(self) -> None:
        if self.train_scores is not None:
            self._log_scores("train", self.train_scores)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ready = self.eval_transform(batch)
        labels = ready[self.train_on]
        logits = self.model(**ready["images"])
        self._log("val", self.validation_objective(logits, labels), len(labels))
        self.val_scores.update(logits, ready.get("exact", labels))
        if batch_idx == 0 and self._panel_is_due():
            self._draw(ready, logits)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_scores)

    def _log(self, stage: str, terms: Mapping[str, Tensor], batch_size: int) -> None:
        options = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": batch_size}
        self.log_dict({f"{stage}/{name}": value.detach() for name, value in terms.items() if name != "loss"}, **options)
        self.log(f"{stage}/loss", terms["loss"].detach(), **(options | {"on_step": stage == "train"}), prog_bar=True)

    def _log_scores(self, stage: str, board: Scoreboard) -> None:
        for branch, result in board.compute().items():
            for name in ("oa", "aa", "miou", "mf1"):
                self.log(f"{stage}/{name}_{branch}", float(result[name]), prog_bar=stage == "val" and name == "miou")
            for class_name, iou in zip(self.legend.classes, result["iou"]):
                if not math.isnan(iou):
                    self.log(f"{stage}_iou_{branch}/{class_name.replace(' ', '_')}", float(iou))

    def _panel_is_due(self) -> bool:
        last = self.current_epoch + 1 == self.trainer.max_epochs
        due = last or self.current_epoch % self.panel_interval == 0
        return due and self.panel_dir is not None and self.trainer.is_global_zero and not self.trainer.sanity_checking

    def _draw(self, ready: dict[str, Any], logits: Mapping[str, Tensor], num_rows: int = 3) -> None:
        trust = replace(self.objective, selection=True).select(logits, ready["labels"], self.current_epoch)
        rows = []
        for i in range(min(num_rows, len(ready["labels"]))):
            row = {_TITLES[m]: picture(_array(x[i]), m, self.bands[m]) for m, x in ready["images"].items()}
            row["noisy label"] = class_map(_array(ready["labels"][i]), self.legend)
            if "exact" in ready:
                row["exact label"] = class_map(_array(ready["exact"][i]), self.legend)
            row |= {f"prediction {b}": class_map(_array(x[i].argmax(0)), self.legend) for b, x in logits.items()}
            row |= {f"trust in label {b}": _array(w[i]) for b, w in trust.label.items() if b != "common"}
            rows.append(row)
        image = panel(rows, self.legend, f"epoch {self.current_epoch + 1}, validation")
        save_png(image, self.panel_dir / f"epoch_{self.current_epoch + 1:04d}.png")
        if self.logger is not None:
            self.logger.experiment.add_image("validation", image, self.global_step, dataformats="HWC")


class FinetuneTask(L.LightningModule):
    """Transfer: a segmenter trained and scored on exact labels.

    Args:
        model: Takes `(B, C, H, W)`, returns logits `(B, K, H, W)`.
        modality: Which image of the batch it takes.
        loss_type: Letters of the losses, see `segmentation_loss`.
        train_transform: Prepares training batches.
        eval_transform: Prepares validation and test batches (whole tiles).
        optimiser: Parameters -> what `configure_optimizers` returns.
        legend: Classes to report.
        absent: How absent classes count, see `cromss.metrics.scores`.
        map_dir: Folder of the predicted maps, or `None` for none.
        num_maps: Test predictions to write; -1 for all.
    """

    def __init__(
        self,
        model: nn.Module,
        modality: str,
        loss_type: str,
        train_transform: BatchTransform,
        eval_transform: BatchTransform,
        optimiser: Optimiser,
        legend: Legend,
        absent: str = "skip",
        map_dir: Path | None = None,
        num_maps: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.modality, self.loss_type, self.legend = model, modality, loss_type, legend
        self.train_transform, self.eval_transform, self.optimiser = train_transform, eval_transform, optimiser
        self.map_dir, self.num_maps, self.maps_written = map_dir, num_maps, 0
        self.board = Scoreboard([modality], legend.num_classes, absent)
        self.test_result: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        return self.optimiser(p for p in self.model.parameters() if p.requires_grad)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ready = self.train_transform(batch)
        loss = segmentation_loss(self.loss_type, self.model(ready["images"][self.modality]), ready["labels"])
        refuse_non_finite({"loss": loss}, batch["id"])
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ready = self.eval_transform(batch)
        logits = self.model(ready["images"][self.modality])
        loss = segmentation_loss(self.loss_type, logits, ready["labels"])
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(logits))
        self.board.update({self.modality: logits}, ready["labels"])

    def on_validation_epoch_end(self) -> None:
        (result,) = self.board.compute().values()
        self.log_dict({f"val/{name}": float(result[name]) for name in ("oa", "aa", "miou", "mf1")}, prog_bar=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ready = self.eval_transform(batch)
        logits = self.model(ready["images"][self.modality])
        self.board.update({self.modality: logits}, ready["labels"])
        if self.map_dir is not None and self.trainer.is_global_zero:
            self._write_maps(batch["id"], logits.argmax(1))

    def on_test_epoch_end(self) -> None:
        (self.test_result,) = self.board.compute().values()
        self.log_dict({f"test/{name}": float(self.test_result[name]) for name in ("oa", "aa", "miou", "mf1")})

    def _write_maps(self, ids: Sequence[str], classes: Tensor) -> None:
        room = len(ids) if self.num_maps < 0 else max(0, self.num_maps - self.maps_written)
        for location, ids_map in list(zip(ids, classes))[:room]:
            save_png(class_map(_array(ids_map), self.legend), self.map_dir / f"{location}.png")
            self.maps_written += 1


def refuse_non_finite(terms: Mapping[str, Tensor], ids: Sequence[str]) -> None:
    """Stop at a loss that is NaN or infinite, naming the terms and the batch.

    Raises:
        ValueError: A term is not finite.
    """
    if torch.isfinite(terms["loss"]):
        return
    culprits = [name for name, value in terms.items() if not torch.isfinite(value)]
    raise ValueError(
        f"loss is not finite in {', '.join(culprits)} at locations {', '.join(ids[:8])}; "
        "lower --learning_rate or look at these locations"
    )


def save_png(image: np.ndarray, path: Path) -> None:
    """Write `(H, W, 3)` uint8 as PNG, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _optimizer(
    parameters: Iterable[nn.Parameter], name: str, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


_TITLES = {"s1": "Sentinel-1 (VV, VH)", "s2": "Sentinel-2 (RGB)"}
