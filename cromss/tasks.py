"""Lightning tasks: pretraining on noisy labels, and transfer to exact ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from cromss.batch_transforms import BatchTransform
from cromss.clean_shares import CleanShares, LabelCalibration, rival_names, rival_weights
from cromss.downstream_sets import CLASS_SCORES
from cromss.epoch_sums import EpochMeans, restore_states, summed_states
from cromss.gathering import mean_over_processes, whole_batch
from cromss.gpus import in_any_order
from cromss.legends import IGNORE_INDEX, Legend
from cromss.losses import as_two_classes, segmentation_loss
from cromss.metrics import likeliest, scores
from cromss.models.weight_files import CARD_KEY
from cromss.objective import CrossModalObjective
from cromss.optimisers import order_as_weights, rescale

StagedOptimiser = Callable[[Sequence[Sequence[nn.Parameter]]], dict[str, Any]]
Score = Callable[[Tensor], dict[str, Any]]

SKIPS_IN_A_ROW = 10
"""Steps in a row that may be left out."""

OTHERS_LOSS = "loss of another process is not finite"
"""Said where a process knows no more."""

SUMS_KEY = "epoch_sums"
"""Where checkpoints keep what is summed up over the epoch."""


class Scoreboard(nn.Module):
    """One confusion matrix a branch, summed over batches and processes, and what is made of it."""

    def __init__(self, branches: Sequence[str], num_classes: int, score: Score = scores) -> None:
        super().__init__()
        self.score = score
        self.counts = nn.ModuleDict(
            {
                b: MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE_INDEX, validate_args=False)
                for b in branches
            }
        )

    def update(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Count a batch, branch -> `(B, K, H, W)` against `(B, H, W)`, and return the predicted class ids."""
        predicted = {branch: likeliest(values) for branch, values in logits.items()}
        with in_any_order():
            for branch, ids in predicted.items():
                self.counts[branch].update(ids, labels)
        return predicted

    def compute(self) -> dict[str, dict[str, Any]]:
        """Branch -> scores, and start again.

        Raises:
            ValueError: Not one pixel was labelled.
        """
        counts = {b: count.compute() for b, count in self.counts.items()}
        if not all(count.sum() for count in counts.values()):
            raise ValueError("not one of the pixels to score has a label; look at the labels with inspect_lmdb.py")
        results = {b: self.score(count) for b, count in counts.items()}
        for count in self.counts.values():
            count.reset()
        return results


class CardedTask(L.LightningModule):
    """A task whose checkpoints, weights-only ones too, tell under `"cromss"` what their weights are and expect.

    They hold the sums of the epoch, too, and what is logged lies in TensorBoard's files before they are written, so
    that a run goes on from them without a gap.

    A loss or a gradient that is not finite ends the run or, if so told, the step, in all processes, and is named.

    Attributes:
        card: Plain values; empty for none.
        train_means: Means of the training losses over an epoch.
        val_means: Those of the validation losses.
        non_finite: `"stop"` or `"skip"`; after ten steps in a row that is the end, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.card: Mapping[str, Any] = {}
        self.train_means, self.val_means = EpochMeans(), EpochMeans()
        self.non_finite, self._skipped, self._culprits = "stop", 0, ""
        self._batches: list[tuple[Mapping[str, Tensor], Sequence[str], Tensor]] = []

    def setup(self, stage: str) -> None:
        """Channels last, which GPUs with mixed precision want and CPUs do not (`benchmarks/bench_step.py`).

        Before several processes share the gradients, whose memory is laid out then.
        """
        if self.trainer.strategy.root_device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            order_as_weights(optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.card:
            checkpoint[CARD_KEY] = dict(self.card)
        checkpoint[SUMS_KEY] = summed_states(self)
        if self.logger:
            self.logger.experiment.flush()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_states(self, checkpoint.get(SUMS_KEY, {}), is_first=self.global_rank == 0)
        cards = checkpoint.get(CARD_KEY, {}), self.card
        before, now = (card.get("settings", {}).get("learning_rate") for card in cards)
        if before and now and before != now:
            rescale(checkpoint, now / before)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self) -> None:
        self._log_epoch(
            {"lr": self.rate} | {f"train/{name}": mean for name, mean in self.train_means.compute().items()}
        )
        self.train_means.reset()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the gradients away where they or a loss are not finite: without, the optimiser changes nothing.

        All that is asked of a GPU in a step is asked here, at once: it is waited for.
        """
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        batches, self._batches = self._batches, []
        *losses, norm = torch.stack([*(loss for _, _, loss in batches), norm]).tolist()
        for (terms, ids, _), loss in zip(batches, losses):
            if math.isfinite(loss):
                self.train_means.update(terms, len(ids))
            else:
                self._refuse(non_finite(terms, ids) or OTHERS_LOSS)
        self._log_step(losses[-1])
        if not math.isfinite(norm):
            culprits = [name for name, gradient in gradients.items() if not torch.isfinite(gradient.norm())]
            self._refuse(f"gradient is not finite in {shortened(culprits)} at step {self.global_step}")
        elif all(map(math.isfinite, losses)):
            self._skipped = 0
            return
        self._skipped += 1
        self._refuse_to_skip()
        optimizer.zero_grad()

    def _refuse_to_skip(self) -> None:
        """End the run, in all processes, where statistics are spoilt, or after too many steps left out."""
        spoilt = [name for name, buffer in self.model.named_buffers() if not torch.isfinite(buffer).all()]
        if self.trainer.strategy.reduce_boolean_decision(bool(spoilt), all=False):
            why = f"{shortened(spoilt) or 'statistics of another process'} not finite"
        elif self._skipped >= SKIPS_IN_A_ROW:
            why = f"{self._skipped} steps in a row"
        else:
            return
        raise ValueError(f"--non_finite skip: {why}; go on from an earlier checkpoint with a lower --learning_rate")

    def _keep(self, terms: Mapping[str, Tensor], ids: Sequence[str]) -> None:
        """Keep the losses of a batch until the step that is taken with it."""
        detached = {name: value.detach() for name, value in terms.items()}
        self._batches.append((detached, ids, mean_over_processes(terms["loss"])))

    def _log_step(self, loss: float) -> None:
        """Log the loss with the step; progress bars ask for it often, so that it must not be on a GPU."""
        self.log("train/loss_step", torch.tensor(loss), prog_bar=True, logger=False, on_step=True, on_epoch=False)
        if self.logger:
            self.logger.log_metrics({"train/loss_step": loss}, self.global_step)

    def on_validation_epoch_end(self) -> None:
        """Log the validation losses; end the run, in all processes, where one of a process is not finite."""
        said, self._culprits = self._culprits, ""
        if self.trainer.strategy.reduce_boolean_decision(bool(said), all=False):
            raise ValueError(f"{said or OTHERS_LOSS}; lower --learning_rate or look at the locations")
        for name, mean in self.val_means.compute().items():
            self.log(f"val/{name}", mean, prog_bar=name == "loss")
        self.val_means.reset()

    def _count_validation(self, terms: Mapping[str, Tensor], labels: Tensor, ids: Sequence[str]) -> None:
        """Count the validation losses of a batch of labels `(B, H, W)`."""
        self._culprits = self._culprits or non_finite(terms, ids)
        self.val_means.update(terms, num_labelled(labels))

    def _refuse(self, what: str) -> None:
        if self.non_finite == "stop":
            raise ValueError(f"{what}; lower --learning_rate, or leave such steps out with --non_finite skip")
        print(f"warning: {what}; the step is left out")

    def _log_epoch(self, values: Mapping[str, float]) -> None:
        self.log_dict(values, logger=False)
        if self.logger:
            self.logger.log_metrics(values, self.global_step - 1)


class PretrainTask(CardedTask):
    """Noisy-label pretraining of one modality or of twins, scored against exact labels where the batches hold any.

    Against those it is also told how clean the selected labels are and how true the confidence, see
    `cromss.clean_shares`.

    Args:
        model: Takes one image `(B, C, H, W)` a modality, returns branch -> logits `(B, K, H, W)`; its
            `stages()` are its trainable parameters from input to output.
        objective: The training loss.
        train_transform: Prepares training batches.
        eval_transform: Prepares validation batches.
        optimiser: Stages of the model -> what `configure_optimizers` returns.
        legend: Classes to report.
        bands: Modality -> band names.
        score_training: Score the training batches, too.
        whole_batch: Losses and selection see the batch of all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: CrossModalObjective,
        train_transform: BatchTransform,
        eval_transform: BatchTransform,
        optimiser: StagedOptimiser,
        legend: Legend,
        bands: Mapping[str, Sequence[str]],
        score_training: bool = False,
        whole_batch: bool = False,
    ) -> None:
        super().__init__()
        self.whole_batch = whole_batch
        self.model, self.objective, self.optimiser, self.legend, self.bands = model, objective, optimiser, legend, bands
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.validation_objective = replace(objective, smoothing_factors=(), selection=False)
        branches = [*bands, "common"] if getattr(model, "common_branch", False) else list(bands)
        self.val_scores = Scoreboard(branches, legend.num_classes)
        self.train_scores = Scoreboard(branches, legend.num_classes) if score_training else None
        self.clean_shares = CleanShares(rival_names(tuple(bands)), legend.num_classes)
        self.calibration = LabelCalibration(tuple(bands))

    def configure_optimizers(self) -> Any:
        return self.optimiser(self.model.stages())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ready = self.train_transform(batch)
        labels, logits = ready["labels"], self.model(**ready["images"])
        seen, learned, prior, exact = logits, labels, ready["prior"], ready.get("exact")
        if self.whole_batch:
            seen, learned = {branch: whole_batch(x) for branch, x in logits.items()}, whole_batch(labels)
            prior, exact = (None if x is None else whole_batch(x) for x in (prior, exact))
        terms = self.objective(seen, learned, prior, self.current_epoch)
        self._keep(terms, batch["id"])
        if self.objective.selection and exact is not None:
            weights = rival_weights(self.objective, seen, learned, self.current_epoch, prior)
            self.clean_shares.update(weights, learned, exact)
            self.calibration.update(seen, learned, exact)
        if self.train_scores is not None:
            self.train_scores.update(logits, ready.get("exact", labels))
        return terms["loss"]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.train_scores is not None:
            self._log_epoch(self._scored("train", self.train_scores))
        if self.clean_shares.update_called:
            self._log_epoch(self._clean())
            self.clean_shares.reset()
            self.calibration.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ready = self.eval_transform(batch)
        labels, logits = ready["labels"], self.model(**ready["images"])
        terms = self.validation_objective(logits, labels)
        self._count_validation(terms, labels, batch["id"])
        self.val_scores.update(logits, ready.get("exact", labels))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        scored = self._scored("val", self.val_scores)
        shown = {name: value for name, value in scored.items() if name.startswith("val/miou")}
        self.log_dict(shown, prog_bar=True)
        self.log_dict({name: value for name, value in scored.items() if name not in shown})

    def _clean(self) -> dict[str, float]:
        shares = {f"calibration_error/{m}": error for m, error in self.calibration.compute().items()}
        for name, (share, by_class) in self.clean_shares.compute().items():
            shares |= {f"clean/{name}": share}
            shares |= {f"clean_{name}/{c.replace(' ', '_')}": x for c, x in zip(self.legend.classes, by_class)}
        return {name: share for name, share in shares.items() if not math.isnan(share)}

    def _scored(self, stage: str, board: Scoreboard) -> dict[str, float]:
        scored = {}
        for branch, result in board.compute().items():
            scored |= {f"{stage}/{name}_{branch}": float(result[name]) for name in CLASS_SCORES}
            for class_name, iou in zip(self.legend.classes, result["iou"].tolist()):
                if not math.isnan(iou):
                    scored[f"{stage}_iou_{branch}/{class_name.replace(' ', '_')}"] = iou
        return scored


class FinetuneTask(CardedTask):
    """Transfer: a segmenter trained and scored on exact labels.

    Args:
        model: Segmenter that takes the stacked bands `(B, C, H, W)` and returns logits `(B, K, H, W)`;
            a single logit tells class 1 from class 0.
        modalities: Images of the batch that are stacked, in this order.
        loss_type: Letters of the losses, see `segmentation_loss`.
        train_transform: Prepares training batches.
        eval_transform: Prepares validation and test batches (whole tiles).
        optimiser: Stages of the model -> what `configure_optimizers` returns.
        legend: Classes to report.
        score: Confusion matrix -> scores; the floats among them are logged.
        unfreeze_epoch: The encoder is frozen before this epoch; 0 leaves it as it is.
        moving_batchnorm: BatchNorm statistics of the encoder frozen so follow the images.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: Sequence[str],
        loss_type: str,
        train_transform: BatchTransform,
        eval_transform: BatchTransform,
        optimiser: StagedOptimiser,
        legend: Legend,
        score: Score = scores,
        unfreeze_epoch: int = 0,
        moving_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.modalities, self.loss_type, self.legend = model, tuple(modalities), loss_type, legend
        self.train_transform, self.eval_transform, self.optimiser = train_transform, eval_transform, optimiser
        self.unfreeze_epoch, self.moving_batchnorm = unfreeze_epoch, moving_batchnorm
        self.board = Scoreboard(["test"], legend.num_classes, score)
        self.test_result: dict[str, Any] = {}
        self.labelled = SumMetric(nan_strategy="disable")  # which would be waited for

    def configure_optimizers(self) -> Any:
        return self.optimiser(self.model.stages())

    def logits(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits `(B, K, H, W)` of prepared images, `K` at least 2."""
        stacked = [images[modality] for modality in self.modalities]
        logits = self.model(torch.cat(stacked, 1) if stacked[1:] else stacked[0])
        return as_two_classes(logits) if logits.shape[1] == 1 else logits

    def on_train_start(self) -> None:
        super().on_train_start()
        self.on_train_epoch_start()  # which is not called where a run goes on within an epoch

    def on_train_epoch_start(self) -> None:
        if not self.unfreeze_epoch:
            return
        if self.current_epoch < self.unfreeze_epoch:
            self.model.freeze_encoder(update_batchnorm=self.moving_batchnorm)
        else:
            self.model.unfreeze_encoder()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ready = self.train_transform(batch)
        self.labelled.update((ready["labels"] != IGNORE_INDEX).sum())
        loss = segmentation_loss(self.loss_type, self.logits(ready["images"]), ready["labels"])
        self._keep({"loss": loss}, batch["id"])
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if not self.labelled.compute():
            raise ValueError("not one training pixel has a label; look at the labels with inspect_lmdb.py")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        ready = self.eval_transform(batch)
        logits = self.logits(ready["images"])
        loss = segmentation_loss(self.loss_type, logits, ready["labels"])
        self._count_validation({"loss": loss}, ready["labels"], batch["id"])
        self.board.update({"test": logits}, ready["labels"])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._scored("val", prog_bar=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Count a batch; returns the predicted class ids `(B, H, W)`."""
        ready = self.eval_transform(batch)
        return self.board.update({"test": self.logits(ready["images"])}, ready["labels"])["test"]

    def on_test_epoch_end(self) -> None:
        self.test_result = self._scored("test")

    def _scored(self, stage: str, prog_bar: bool = False) -> dict[str, Any]:
        (result,) = self.board.compute().values()
        floats = {f"{stage}/{name}": value for name, value in result.items() if isinstance(value, float)}
        self.log_dict(floats, prog_bar=prog_bar)
        return result


def num_labelled(labels: Tensor) -> Tensor:
    """Samples of `(B, H, W)` labels that are not ignored altogether (fillers of uneven processes are)."""
    return (labels != IGNORE_INDEX).flatten(1).any(1).sum()


def non_finite(terms: Mapping[str, Tensor], ids: Sequence[str]) -> str:
    """What is not finite in the losses of a batch, and where; empty where all are."""
    culprits = [name for name, value in terms.items() if not torch.isfinite(value)]
    return f"loss is not finite in {', '.join(culprits)} at locations {shortened(ids)}" if culprits else ""


def shortened(names: Sequence[str]) -> str:
    """The first names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
