"""Where settings meet components: pretraining and fine-tuning, from settings to metrics."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from cromss import __version__, default_sets
from cromss.batch_transforms import BatchTransform
from cromss.callbacks import CheckpointCard, MapWriter, PanelWriter
from cromss.config import to_flat
from cromss.datamodule import StacksData, hold_out
from cromss.datasets import SeasonStacks
from cromss.legends import DFC2020, LEGENDS, NOL, Legend
from cromss.models import build_pretrainer, build_segmenter
from cromss.models.weights import load_encoder
from cromss.objective import CrossModalObjective
from cromss.optimisers import cosine_optimiser, plateau_optimiser
from cromss.runs import RunFolder, build_trainer
from cromss.sensors import S1, s2_bands
from cromss.settings import FinetuneSettings, PretrainSettings
from cromss.store import open_store
from cromss.tasks import FinetuneTask, PretrainTask

NORMALIZATION = "mean +- 2 std clipped to uint8, / 255"


def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Pretrain on noisy labels and return the final metrics; a finished run is not done again."""
    folder = RunFolder(Path(settings.runtime.save_dir) / (settings.runtime.name or _pretrain_name(settings)))
    if (metrics := folder.finished(settings)) is not None:
        print(f"{folder.path} is finished already")
        return metrics
    L.seed_everything(settings.runtime.seed, verbose=False)
    data = pretraining_data(settings)
    task = pretraining_task(settings)
    checkpoint = folder.open(settings)
    callbacks = [
        CheckpointCard(_pretrain_card(settings)),
        PanelWriter(folder.path / "panels", settings.runtime.display_interval),
    ]
    trainer = build_trainer(settings.runtime, settings.optimisation.epochs, folder, callbacks, "val/loss", "min")
    start = time.monotonic()
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    return folder.close(settings, _final_metrics(trainer, start) | {"checkpoint": str(folder.last)})


def finetune(settings: FinetuneSettings) -> dict[str, Any]:
    """Transfer an encoder to a downstream set, score every test tile, and return the scores."""
    folder = RunFolder(Path(settings.runtime.save_dir) / (settings.runtime.name or _finetune_name(settings)))
    if (metrics := folder.finished(settings)) is not None:
        print(f"{folder.path} is finished already")
        return metrics
    L.seed_everything(settings.runtime.seed, verbose=False)
    data = downstream_data(settings)
    task, origin = finetuning_task(settings)
    checkpoint = folder.open(settings)
    callbacks = [
        CheckpointCard({"version": __version__, "settings": to_flat(settings), "origin": origin}),
        MapWriter(folder.path / "maps", settings.save_maps),
    ]
    trainer = build_trainer(settings.runtime, settings.optimisation.epochs, folder, callbacks, "", "max")
    start = time.monotonic()
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    trainer.test(task, data, verbose=False)
    result = task.test_result
    per_class = {
        name: dict(zip(task.legend.classes, map(float, result[name]))) for name in ("iou", "f1", "precision", "recall")
    }
    means = {name: float(result[name]) for name in ("oa", "aa", "miou", "mf1")}
    return folder.close(settings, means | per_class | {"weights": origin, "seconds": time.monotonic() - start})


def pretraining_data(settings: PretrainSettings) -> StacksData:
    """Loaders of the pretraining set: random seasons for training, fixed ones for validation."""
    names, runtime = settings.data, settings.runtime
    home = Path(names.data_path) if names.data_path else _synthetic(runtime, "pretraining")
    if not names.data_path:
        home = default_sets.pretraining_set(home, names)
    files = {"s1": names.data_name_s1, "s2": names.data_name_s2}
    images = {modality: open_store(home / files[modality], modality) for modality in settings.modalities}
    labels = open_store(home / names.data_name_label, "labels")
    wants_exact = names.gt_available or names.experiment == "gt_labels"
    exact = open_store(home / names.data_name_gt, "labels") if wants_exact else None
    build = partial(
        SeasonStacks,
        images,
        labels,
        pretraining_bands(settings),
        seed=runtime.seed,
        exact=exact,
        min_size=names.crop_size,
    )
    train, held = hold_out(len(labels), names.validation, runtime.seed)
    return StacksData(
        train=build(draw_season=True),
        val=build(season=names.test_season),
        test=None,
        train_indices=train,
        val_indices=held,
        batch_size=settings.optimisation.batch_size,
        test_batch_size=runtime.test_batch_size,
        num_workers=runtime.num_workers,
        seed=runtime.seed,
    )


def pretraining_task(settings: PretrainSettings) -> PretrainTask:
    """Model, objective and transforms of pretraining."""
    smoothing, cross, names = settings.smoothing, settings.cross, settings.data
    objective = CrossModalObjective(
        num_classes=names.n_classes,
        loss_type=settings.model.loss_type,
        consistency=cross.consist_loss_type,
        consistency_weight=cross.consist_loss_weight,
        smoothing_factors=smoothing.label_smoothing_factor if smoothing.label_smoothing else (),
        selection=cross.sample_selection,
        confidence_kind={"ce": "entropy", "gini": "gini"}[cross.sample_selection_confidence_type],
        final_share=cross.sample_selection_prop,
        ramp=cross.sample_selection_rmup_func,
        ramp_epochs=cross.sample_selection_rmdown_epoch,
    )
    prior = smoothing.label_smoothing_prior_type if smoothing.label_smoothing else None
    transform = partial(BatchTransform, names.n_classes, names.crop_size, seed=settings.runtime.seed)
    optimisation = settings.optimisation
    return PretrainTask(
        model=_pretrainer(settings),
        objective=objective,
        train_transform=transform(prior_kind=prior),
        eval_transform=transform(augment=False),
        optimiser=partial(
            plateau_optimiser,
            name=optimisation.optimizer,
            learning_rate=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            schedule=optimisation.lr_adjust_type,
            value=optimisation.lr_adjust,
        ),
        legend=_pretraining_legend(names.n_classes),
        bands=pretraining_bands(settings),
        score_training=settings.runtime.cal_tr_acc,
        train_on="exact" if names.experiment == "gt_labels" else "labels",
    )


def downstream_data(settings: FinetuneSettings) -> StacksData:
    """Loaders of the downstream set; raw values are quantised on the fly."""
    source, runtime = settings.data, settings.runtime
    if source.data_path:
        home = Path(source.data_path)
    else:
        home = default_sets.dfc2020_set(_synthetic(runtime, "downstream"), *source.synthetic_tiles)
    bands = {source.input_type: _bands(source.input_type, source.n_channels)}
    parts = {}
    for part in ("train", "test"):
        image = open_store(home / part / f"{source.input_type}.lmdb", source.input_type)
        labels = open_store(home / part / "labels.lmdb", "labels")
        parts[part] = partial(SeasonStacks, {source.input_type: image}, labels, bands, seed=runtime.seed)
    train = parts["train"](min_size=source.crop_size)
    chosen, held = _downstream_split(len(train), source.n_train, source.validation, runtime.seed)
    return StacksData(
        train=train,
        val=parts["train"](),
        test=parts["test"](),
        train_indices=chosen,
        val_indices=held,
        batch_size=settings.optimisation.batch_size,
        test_batch_size=runtime.test_batch_size,
        num_workers=runtime.num_workers,
        seed=runtime.seed,
    )


def finetuning_task(settings: FinetuneSettings) -> tuple[FinetuneTask, str]:
    """Segmenter with its encoder loaded and frozen as told, and a line on where the weights come from."""
    source, model, optimisation = settings.data, settings.model, settings.optimisation
    bands = _bands(source.input_type, source.n_channels)
    network = build_segmenter(
        model.model_framework,
        model.model_type,
        in_channels=len(bands),
        num_classes=DFC2020.num_classes,
        encoder_depth=model.encoder_depth or None,
        encoder_weights="imagenet" if model.weight_path == "imagenet" else None,
    )
    origin = _load(network.encoder, model.weight_path, source.input_type)
    if model.encoder_finetune_tag == "efix":
        network.freeze_encoder(update_batchnorm=model.moving_batchnorm)
    cosine_share, final_rate = optimisation.scheduler_values
    cosine_epochs = round(cosine_share * optimisation.epochs) if optimisation.scheduler_type == "cos" else 0
    transform = partial(BatchTransform, DFC2020.num_classes, seed=settings.runtime.seed)
    task = FinetuneTask(
        model=network,
        modality=source.input_type,
        loss_type=model.loss_type,
        train_transform=transform(source.crop_size),
        eval_transform=transform(None, augment=False),
        optimiser=partial(
            cosine_optimiser,
            name=optimisation.optimizer,
            learning_rate=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            cosine_epochs=cosine_epochs,
            final_rate=final_rate,
        ),
        legend=DFC2020,
        absent=settings.absent,
    )
    return task, origin


def pretraining_bands(settings: PretrainSettings) -> dict[str, tuple[str, ...]]:
    """Modality -> band names."""
    return {modality: _bands(modality, settings.data.n_channels) for modality in settings.modalities}


def _bands(modality: str, n_channels: int) -> tuple[str, ...]:
    return S1.bands if modality == "s1" else s2_bands(n_channels)


def _pretrainer(settings: PretrainSettings) -> nn.Module:
    bands, model = pretraining_bands(settings), settings.model
    network = build_pretrainer(
        settings.cross.fusion_type,
        model.model_type,
        {modality: len(names) for modality, names in bands.items()},
        settings.data.n_classes,
        common_branch=settings.cross.use_common_feature,
        encoder_weights="imagenet" if model.pre_train else None,
    )
    for modality, path in (("s1", model.init_s1), ("s2", model.init_s2)):
        if modality in bands and path != "random":
            print(_load(network.encoders[modality], path, modality))
    return network


def _load(encoder: nn.Module, path: str, modality: str) -> str:
    """Load encoder weights and say what was loaded."""
    if path in ("random", "imagenet"):
        return path
    return str(load_encoder(encoder, path, modality))


def _pretraining_legend(num_classes: int) -> Legend:
    for legend in (NOL, *LEGENDS.values()):
        if legend.num_classes == num_classes:
            return legend
    names = tuple(f"class {i}" for i in range(num_classes))
    return Legend("numbered", names, ("808080",) * num_classes, {i: i for i in range(num_classes)})


def _downstream_split(num_tiles: int, n_train: int, validation: float, seed: int) -> tuple[list[int], list[int]]:
    chosen, held = hold_out(num_tiles, validation, seed) if validation else (list(range(num_tiles)), [])
    if n_train > len(chosen):
        raise ValueError(f"--n_train {n_train}: only {len(chosen)} training tiles are there")
    return (chosen[:: max(1, len(chosen) // n_train)][:n_train] if n_train else chosen), held


def _synthetic(runtime: Any, what: str) -> Path:
    folder = Path(runtime.save_dir) / "synthetic"
    print(f"no --data_path: the {what} set is the synthetic default in {folder}")
    return folder


def _pretrain_card(settings: PretrainSettings) -> dict[str, Any]:
    return {
        "version": __version__,
        "encoder_name": settings.model.model_type,
        "fusion": settings.cross.fusion_type,
        "bands": {modality: list(names) for modality, names in pretraining_bands(settings).items()},
        "normalization": NORMALIZATION,
        "settings": to_flat(settings),
    }


def _pretrain_name(settings: PretrainSettings) -> str:
    kind = settings.cross.fusion_type if settings.input_type == "s12" else "single"
    return f"{kind}_{settings.input_type}_{settings.model.model_type}_seed{settings.runtime.seed}"


def _finetune_name(settings: FinetuneSettings) -> str:
    model, source = settings.model, settings.data
    weights = model.weight_path if model.weight_path in ("random", "imagenet") else Path(model.weight_path).parts[-3]
    parts = (source.dataset, source.input_type, model.model_framework, model.model_type, weights)
    return "_".join((*parts, model.encoder_finetune_tag, f"seed{settings.runtime.seed}"))


def _final_metrics(trainer: L.Trainer, start: float) -> dict[str, Any]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if torch.is_tensor(value)}
    return metrics | {"seconds": time.monotonic() - start}
