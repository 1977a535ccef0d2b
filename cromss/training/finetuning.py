"""Transfer to sets with exact labels, from settings to metrics."""

from functools import partial
from pathlib import Path
from typing import Any

from cromss import __version__, default_sets
from cromss.batch_transforms import BatchTransform
from cromss.callbacks import CheckpointCard, MapWriter
from cromss.config import to_flat
from cromss.datamodule import StacksData
from cromss.datasets import SeasonStacks
from cromss.legends import DFC2020
from cromss.metrics import MEANS
from cromss.models import build_segmenter
from cromss.optimisers import cosine_optimiser
from cromss.settings import FinetuneSettings
from cromss.store import open_store
from cromss.tasks import FinetuneTask
from cromss.training.common import band_names, load_weights, refuse_other_legend, run_once, synthetic_home
from cromss.training.runs import RunFolder, build_trainer, fit


def finetune(settings: FinetuneSettings) -> dict[str, Any]:
    """Transfer an encoder to a downstream set, score every test tile, and return the scores."""
    return run_once(settings, _finetune_name(settings), _finetune)


def downstream_data(settings: FinetuneSettings) -> StacksData:
    """Loaders of the downstream set; raw values are quantised on the fly."""
    source, runtime = settings.data, settings.runtime
    if source.data_path:
        home = Path(source.data_path)
    else:
        home = default_sets.dfc2020_set(synthetic_home(runtime, "downstream"), *source.synthetic_tiles)
    bands = {source.input_type: band_names(source.input_type, source.n_channels)}
    parts = {}
    for part in ("train", "test"):
        image = open_store(home / part / f"{source.input_type}.lmdb", source.input_type)
        labels = open_store(home / part / "labels.lmdb", "labels")
        refuse_other_legend(labels, DFC2020.num_classes, DFC2020.name)
        parts[part] = partial(SeasonStacks, {source.input_type: image}, labels, bands, DFC2020.num_classes)
    train = parts["train"](min_size=source.crop_size)
    chosen, held = _downstream_split(len(train), source.n_train, source.validation)
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
    bands = band_names(source.input_type, source.n_channels)
    network = build_segmenter(
        model.model_framework,
        model.model_type,
        in_channels=len(bands),
        num_classes=DFC2020.num_classes,
        encoder_depth=model.encoder_depth or None,
        encoder_weights="imagenet" if model.weight_path == "imagenet" else None,
    )
    origin = load_weights(network.encoder, model.weight_path, source.input_type, bands)
    print(f"encoder weights: {origin}")
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


def _finetune(settings: FinetuneSettings, folder: RunFolder) -> dict[str, Any]:
    data = downstream_data(settings)
    task, origin = finetuning_task(settings)
    checkpoint = folder.open(settings)
    callbacks = [
        CheckpointCard({"version": __version__, "settings": to_flat(settings), "weights": origin}),
        MapWriter(folder.path / "maps", settings.save_maps),
    ]
    trainer = build_trainer(settings.runtime, settings.optimisation.epochs, folder, callbacks)
    fit(trainer, task, data, checkpoint)
    trainer.test(task, data, verbose=False)
    result = task.test_result
    classes = task.legend.classes
    per_class = {name: dict(zip(classes, map(float, result[name]))) for name in ("iou", "f1", "precision", "recall")}
    means = {name: float(result[name]) for name in MEANS}
    return means | per_class | {"weights": origin}


def _downstream_split(num_tiles: int, n_train: int, validation: float) -> tuple[list[int], list[int]]:
    """Training tiles spread over the set, and its last ones for validation: neighbours stay together."""
    num_held = round(validation * num_tiles)
    chosen, held = list(range(num_tiles - num_held)), list(range(num_tiles - num_held, num_tiles))
    if not chosen:
        raise ValueError(f"--validation {validation:g}: leaves none of the {num_tiles} tiles to train on")
    if n_train > len(chosen):
        raise ValueError(f"--n_train {n_train}: only {len(chosen)} training tiles are there")
    return (chosen[:: max(1, len(chosen) // n_train)][:n_train] if n_train else chosen), held


def _finetune_name(settings: FinetuneSettings) -> str:
    model, source = settings.model, settings.data
    path = Path(model.weight_path)
    weights = path.parent.parent.name if path.parent.name == "checkpoints" else path.stem
    parts = (source.dataset, source.input_type, model.model_framework, model.model_type, weights)
    return "_".join((*parts, model.encoder_finetune_tag, f"seed{settings.runtime.seed}"))
