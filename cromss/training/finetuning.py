"""Transfer to sets with exact labels, from settings to metrics."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cromss import __version__
from cromss.batch_transforms import BatchTransform
from cromss.callbacks import MapWriter, PredictionPanel
from cromss.config import replace_text, to_flat
from cromss.metrics import change_scores, scores
from cromss.models import build_change_segmenter, build_segmenter, build_twin_segmenter
from cromss.models.segmenter import Segmenter
from cromss.models.sources import native_normalization
from cromss.optimisers import schedule, staged_optimiser
from cromss.sensors import MODALITIES, Modality
from cromss.settings import FinetuneSettings
from cromss.settings.finetuning import DownstreamOptimisation
from cromss.statistics import as_plain, with_statistics
from cromss.tasks import FinetuneTask
from cromss.training.common import (
    Origin,
    load_weights,
    refuse_several_processes,
    run_once,
    vit_options,
    wavelengths,
)
from cromss.training.downstream import downstream_bands, downstream_data
from cromss.training.run_folder import RunFolder
from cromss.training.runs import adapt_network, build_trainer, fit, score_test_set


def finetune(settings: FinetuneSettings) -> dict[str, Any]:
    """Transfer an encoder to a downstream set, score every test pixel once, and return the scores.

    Returns:
        What metrics.json holds: the set's scores (`DownstreamSet.scores`) in [0, 1], scores by class,
        origin of the weights. Of several seeds: means of the scores, their sample standard deviations
        under `"std"`, and what each seed returned under `"runs"`; `<name>_seeds_<seeds>.json` holds that.
    """
    if len(settings.runtime.seed) == 1:
        return run_once(settings, f"{_unseeded_name(settings)}_seed{settings.runtime.seed[0]}", _finetune)
    refuse_several_processes(settings.runtime)
    runs = [finetune(one_seed(settings, seed)) for seed in settings.runtime.seed]
    result = summary(runs, settings.data.task.scores)
    name = f"{settings.runtime.name or _unseeded_name(settings)}_seeds_{'_'.join(map(str, settings.runtime.seed))}.json"
    path = Path(settings.runtime.save_dir) / name
    replace_text(path, json.dumps(result, indent=2) + "\n")
    print(f"results of all seeds: {path}")
    return result


def one_seed(settings: FinetuneSettings, seed: int) -> FinetuneSettings:
    """The same settings for one of several seeds; a given name is completed by the seed."""
    name = settings.runtime.name and f"{settings.runtime.name}_seed{seed}"
    return replace(settings, runtime=replace(settings.runtime, seed=(seed,), name=name))


def summary(runs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Means and sample standard deviations of the scores `keys` over runs; runs without a score are left out."""
    known = {key: [run[key] for run in runs if run[key] is not None] for key in keys}
    means = {key: statistics.fmean(values) if values else None for key, values in known.items()}
    spread = {key: statistics.stdev(values) if len(values) > 1 else None for key, values in known.items()}
    return means | {"std": spread, "runs": list(runs)}


def finetuning_task(settings: FinetuneSettings) -> tuple[FinetuneTask, dict[str, Origin]]:
    """Segmenter with its encoders loaded and frozen as told, and by encoder where its weights come from."""
    source, model, optimisation = settings.data, settings.model, settings.optimisation
    network = segmenter(settings, source.task.legend.num_classes, source.task.is_change)
    origins = _load_weights(settings, network)
    if model.encoder_finetune_tag == "efix":
        network.freeze_encoder(update_batchnorm=model.moving_batchnorm)
    transform = partial(BatchTransform, source.task.legend.num_classes, seed=settings.runtime.seed[0])
    task = FinetuneTask(
        model=network,
        modalities=source.modalities,
        loss_type=model.loss_type,
        train_transform=transform(source.crop_size),
        eval_transform=transform(None, augment=False),
        optimiser=partial(
            staged_optimiser,
            name=optimisation.optimizer,
            learning_rate=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            order={"dsam": "same", "dasc": "ascending", "ddes": "descending"}[model.decoder_finetune_tag],
            ratio=model.lr_varying_factor,
            factor=_rate_factor(optimisation),
        ),
        legend=source.task.legend,
        score=partial(change_scores if source.task.is_change else scores, absent=settings.absent),
        unfreeze_epoch=model.encoder_finetune_epoch,
        moving_batchnorm=model.moving_batchnorm,
    )
    return task, origins


def segmenter(settings: FinetuneSettings, num_classes: int, is_change: bool = False) -> Segmenter:
    """The network of a transfer; its weights are random, but for those to be downloaded."""
    source, model = settings.data, settings.model
    bands = downstream_bands(source)
    counts, waves = {modality: len(names) for modality, names in bands.items()}, wavelengths(model, bands)
    stacked = tuple(um for of_one in waves.values() for um in of_one) or None
    common = {
        "architecture": model.model_framework,
        "encoder_name": model.model_type,
        "encoder_depth": model.encoder_depth or None,
        "vit": vit_options(model, source.crop_size),
    }
    start = "imagenet" if model.weight_path == "imagenet" else None
    if is_change:
        return build_change_segmenter(**common, in_channels=counts["s2"], encoder_weights=start, wavelengths=stacked)
    common["num_classes"] = num_classes
    if model.fusion_type == "twin":
        starts = {modality: "imagenet" for modality in counts if _weight_path(settings, modality) == "imagenet"}
        return build_twin_segmenter(**common, bands=counts, encoder_weights=starts, wavelengths=waves)
    return build_segmenter(**common, in_channels=sum(counts.values()), encoder_weights=start, wavelengths=stacked)


def normalizations(settings: FinetuneSettings, origins: Mapping[str, Origin]) -> dict[str, str]:
    """Modality -> name of its normalisation.

    Raises:
        ValueError: The native one is asked for and unknown.
    """
    asked, names = settings.data.normalization, {}
    for modality in settings.data.modalities:
        origin = origins.get(modality, origins.get("images"))
        told = origin.report.normalization.get(modality) if origin.report else None
        names[modality] = asked if asked != "native" else told or native_normalization(origin.source, modality)
    return names


def trained_sensors(settings: FinetuneSettings, origins: Mapping[str, Origin]) -> dict[str, Modality]:
    """Modality -> sensor with the statistics that its encoder was trained with: those of the checkpoint's card, else
    the built-in ones. Encoders that start from random weights take those of the store, and are left out.

    Raises:
        ValueError: The card tells impossible ones.
    """
    sensors = {}
    for modality in settings.data.modalities:
        report = origins.get(modality, origins.get("images")).report
        if report:
            told = report.statistics.get(modality, {})
            try:
                sensors[modality] = with_statistics(MODALITIES[modality], told, f"card of {report.path}")
            except ValueError as error:
                raise ValueError(f"{report.path}: statistics on its card: {error}") from None
    return sensors


def _finetune(settings: FinetuneSettings, folder: RunFolder) -> dict[str, Any]:
    task, origins = finetuning_task(settings)
    adapt_network(task.model, settings.runtime, settings.model.grad_checkpointing)
    inputs = normalizations(settings, origins)
    data = downstream_data(settings, inputs, trained_sensors(settings, origins))
    state = folder.open(settings)
    bands, weights = downstream_bands(settings.data), {name: str(origin) for name, origin in origins.items()}
    task.non_finite = settings.runtime.non_finite
    task.card = {
        "version": __version__,
        "architecture": settings.model.model_framework,
        "encoder_name": settings.model.model_type,
        "bands": {modality: list(names) for modality, names in bands.items()},
        "normalization": inputs,
        "statistics": {modality: as_plain(sensor) for modality, sensor in data.train.sensors.items()},
        "classes": list(task.legend.classes),
        "colours": list(task.legend.colours),
        "weights": weights,
        "settings": to_flat(settings),
    }
    callbacks = [
        MapWriter(folder.path / "maps", settings.save_maps),
        PredictionPanel(folder.path / "test_tiles.png", bands),
    ]
    late = bool(settings.model.encoder_finetune_epoch)
    trainer = build_trainer(
        settings.runtime, settings.optimisation, folder, callbacks, some_parameters_idle=late, state=state
    )
    fit(trainer, task, data, state)
    score_test_set(trainer, task, data)
    return _metrics(task) | {"weights": weights, "normalization": inputs, "train_tiles": len(data.train_indices)}


def _metrics(task: FinetuneTask) -> dict[str, Any]:
    """Scores of the test, those by class under the classes' names."""
    result, classes = task.test_result, task.legend.classes
    return {
        name: value if isinstance(value, float) else dict(zip(classes, map(float, value)))
        for name, value in result.items()
    }


def _rate_factor(optimisation: DownstreamOptimisation) -> Callable[[int], float]:
    """Epoch -> factor of the learning rates."""
    kind, values = optimisation.scheduler_type, optimisation.scheduler_values
    return schedule(kind, values, optimisation.epochs, optimisation.learning_rate, optimisation.warmup_epochs)


def _load_weights(settings: FinetuneSettings, network: Segmenter) -> dict[str, Origin]:
    """Load what is asked for; by encoder where it came from."""
    model, bands = settings.model, downstream_bands(settings.data)
    if model.fusion_type == "early" and len(bands) > 1:
        stacked = tuple(name for names in bands.values() for name in names)
        wanted = {"images": ("common", stacked)}
    else:
        wanted = {name: (modality, bands[modality]) for name, modality in zip(network.encoders, bands)}
    origins = {}
    for name, (modality, names) in wanted.items():
        path = _weight_path(settings, modality)
        origins[name] = load_weights(
            network.encoders[name], path, modality, names, model.weight_source, model.weight_load_tag, network
        )
        print(f"{name} encoder: {origins[name]}")
    return origins


def _weight_path(settings: FinetuneSettings, modality: str) -> str:
    model = settings.model
    return model.weight_path_s1 or model.weight_path if modality == "s1" else model.weight_path


def _unseeded_name(settings: FinetuneSettings) -> str:
    model, source = settings.model, settings.data
    path = Path(model.weight_path)
    is_in_run = path.parent.name == "checkpoints"
    weights = path.parent.parent.name if is_in_run else path.name if path.is_dir() else path.stem
    parts = [source.dataset, source.input_type, model.model_framework, model.model_type, weights]
    parts.append(model.encoder_finetune_tag)
    parts += [model.fusion_type] if source.input_type == "s12" else []
    parts += [source.normalization] if source.normalization != "common" else []
    parts += [f"n{source.n_train}"] if source.n_train else []
    parts += [f"{source.fraction:g}pc"] if source.fraction < 100 else []
    return "_".join(parts)
