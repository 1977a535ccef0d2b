"""Pretraining on noisy labels, from settings to metrics."""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cromss import __version__, default_sets
from cromss.batch_transforms import BatchTransform
from cromss.callbacks import PanelWriter, Plateau
from cromss.config import to_flat
from cromss.datamodule import StacksData, hold_out
from cromss.datasets import SeasonStacks
from cromss.legend_files import stored_legend
from cromss.legends import LEGENDS, NOL, Legend
from cromss.models import build_pretrainer
from cromss.models.fusion import Pretrainer
from cromss.objective import CrossModalObjective
from cromss.optimisers import schedule, staged_optimiser
from cromss.sensors import QUANTISED, Modality
from cromss.settings import PretrainSettings
from cromss.settings.pretraining import PretrainData, PretrainOptimisation
from cromss.splits import place_of
from cromss.statistics import as_plain
from cromss.store import LmdbReader, PublishedReader, open_store
from cromss.store.meta import ids_checksum
from cromss.tasks import PretrainTask
from cromss.training.common import (
    band_names,
    load_weights,
    refuse_other_legend,
    run_once,
    synthetic_home,
    tell_left_out,
    tell_small_tiles,
    vit_options,
    wavelengths,
)
from cromss.training.launching import loader_processes
from cromss.training.run_folder import RunFolder
from cromss.training.runs import adapt_network, build_trainer, fit


def pretrain(settings: PretrainSettings, adapt: Callable[[PretrainTask], object] | None = None) -> dict[str, Any]:
    """Pretrain on noisy labels and return the final metrics; a finished run is not done again.

    Args:
        settings: Settings.
        adapt: Changes the task before it is trained, its network or objective, say.
    """
    return run_once(settings, _pretrain_name(settings), partial(_pretrain, adapt=adapt))


def pretraining_data(settings: PretrainSettings) -> StacksData:
    """Loaders of the pretraining set: random seasons for training, fixed ones for validation."""
    names, runtime = settings.data, settings.runtime
    build = open_stacks(settings)
    train, val = build(draw_season=True), build(season=names.test_season)
    learned, held = hold_out(_places(train.labels, names.place_pattern), names.validation, runtime.seed)
    tell_left_out(train)
    tell_small_tiles(train)
    return StacksData(
        train=train,
        val=val,
        test=None,
        train_indices=train.in_use(learned),
        val_indices=val.in_use(held),
        batch_size=settings.optimisation.batch_size,
        test_batch_size=runtime.test_batch_size,
        num_workers=loader_processes(runtime),
        seed=runtime.seed,
    )


def open_stacks(settings: PretrainSettings) -> Callable[..., SeasonStacks]:
    """Open the stores of the pretraining set; the samples are built when it is told which seasons to yield."""
    names, runtime = settings.data, settings.runtime
    home = Path(names.data_path) if names.data_path else synthetic_home(runtime, "pretraining")
    if not names.data_path:
        home = default_sets.pretraining_set(home, names, settings.modalities)
    files = {modality: getattr(names, f"data_name_{modality}") for modality in settings.modalities}
    images = {modality: open_store(home / name, modality) for modality, name in files.items()}
    learned_from = names.data_name_gt if names.experiment == "gt_labels" else names.noisy_name
    labels = _open_masks(home / learned_from, names.n_classes)
    exact = _open_masks(home / names.data_name_gt, names.n_classes) if names.gt_available else None
    _refuse_other_role(names, labels)
    _refuse_other_classes(labels, exact)
    return partial(
        SeasonStacks,
        images,
        labels,
        pretraining_bands(settings),
        names.n_classes,
        seed=runtime.seed,
        exact=exact,
        min_size=names.crop_size,
    )


def pretraining_network(settings: PretrainSettings) -> Pretrainer:
    """The network, its encoders started as told."""
    bands, model = pretraining_bands(settings), settings.model
    starts = {modality: getattr(model, f"init_{modality}") for modality in bands}
    if model.pre_train:
        starts = {modality: "imagenet" if start == "random" else start for modality, start in starts.items()}
    downloaded = {modality: start for modality, start in starts.items() if start == "imagenet"}
    network = blank_network(settings, downloaded)
    for modality, names in bands.items():
        origin = load_weights(network.encoders[modality], starts[modality], modality, names)
        print(f"{modality} encoder starts from {origin}")
    return network


def blank_network(settings: PretrainSettings, encoder_weights: Mapping[str, str] | None = None) -> Pretrainer:
    """The network with random weights, but for encoders named with weights to download."""
    bands, model = pretraining_bands(settings), settings.model
    return build_pretrainer(
        settings.cross.fusion_type,
        model.model_type,
        {modality: len(names) for modality, names in bands.items()},
        settings.data.n_classes,
        common_branch=settings.cross.use_common_feature,
        encoder_weights=encoder_weights or {},
        vit=vit_options(model, settings.data.crop_size),
        wavelengths=wavelengths(model, bands),
    )


def pretraining_task(settings: PretrainSettings, network: nn.Module, legend: Legend) -> PretrainTask:
    """Network, objective and transforms of pretraining on the classes of a legend."""
    smoothing, selection, cross, names = settings.smoothing, settings.selection, settings.cross, settings.data
    objective = CrossModalObjective(
        num_classes=names.n_classes,
        loss_type=settings.model.loss_type,
        consistency=cross.consist_loss_type,
        consistency_weight=cross.consist_loss_weight,
        smoothing_factors=smoothing.label_smoothing_factor if smoothing.label_smoothing else (),
        selection=selection.sample_selection,
        agreement=selection.sample_selection_agreement,
        confidence_kind={"ce": "entropy", "gini": "gini"}[cross.sample_selection_confidence_type],
        final_share=selection.sample_selection_prop,
        ramp=selection.sample_selection_rmup_func,
        ramp_epochs=selection.sample_selection_rmdown_epoch,
    )
    transform = partial(
        BatchTransform,
        names.n_classes,
        names.crop_size,
        prior_sigma=smoothing.label_smoothing_sigma,
        seed=settings.runtime.seed,
    )
    kind, agreement = smoothing.label_smoothing_prior_type, selection.sample_selection_agreement
    optimisation = settings.optimisation
    return PretrainTask(
        model=network,
        objective=objective,
        train_transform=transform(
            prior_kind=kind if smoothing.label_smoothing or agreement else None, rotate_share=names.rotate_share
        ),
        eval_transform=transform(augment=False),
        optimiser=partial(
            staged_optimiser,
            name=optimisation.optimizer,
            learning_rate=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            order="ascending",
            ratio=optimisation.layer_decay,
            factor=_rate_factor(optimisation),
        ),
        legend=legend,
        bands=pretraining_bands(settings),
        score_training=settings.runtime.cal_tr_acc,
        whole_batch=settings.runtime.whole_batch,
    )


def pretraining_bands(settings: PretrainSettings) -> dict[str, tuple[str, ...]]:
    """Modality -> band names."""
    return {modality: band_names(modality, settings.data.n_channels) for modality in settings.modalities}


def _rate_factor(optimisation: PretrainOptimisation) -> Callable[[int], float] | None:
    """Epoch -> factor of the learning rates; `None` where the plateau of the validation loss decides."""
    kind, adjust, epochs = optimisation.lr_adjust_type, optimisation.lr_adjust, optimisation.epochs
    if kind == "rop":
        return None
    values = {"cos": (epochs, adjust), "exp": (adjust,), "none": ()}[kind]
    return schedule(kind, values, epochs, optimisation.learning_rate, optimisation.warmup_epochs)


def _open_masks(path: Path, num_classes: int) -> LmdbReader | PublishedReader:
    """Store of noisy or exact masks of so many classes."""
    store = open_store(path)
    if store.meta.modality not in ("labels", "exact"):
        raise ValueError(f"{path}: a store of {store.meta.modality}, where noisy or exact labels are wanted")
    try:
        refuse_other_legend(store, num_classes)
    except ValueError as error:
        raise ValueError(f"--n_classes {num_classes}: {error}") from None
    return store


def _refuse_other_role(names: PretrainData, labels: LmdbReader | PublishedReader) -> None:
    """Raise ValueError where exact labels would be learned as noisy ones, or noisy ones scored against as exact."""
    noisy, exact = names.data_name_label, names.data_name_gt
    if names.experiment == "ns_labels" and labels.meta.modality == "exact":
        raise ValueError(f"--data_name_label {noisy}: holds exact labels; to learn them: --experiment gt_labels")
    if names.gt_available and noisy == exact:
        raise ValueError(f"--data_name_gt {exact}: the same store as --data_name_label; --gt_available wants another")


def _refuse_other_classes(labels: LmdbReader | PublishedReader, exact: LmdbReader | PublishedReader | None) -> None:
    """Raise ValueError where the ids of noisy and of exact labels mean other classes."""
    told = [legend.classes for store in (labels, exact) if store and (legend := stored_legend(store.meta))]
    if len(set(told)) > 1:
        learned, scored = (", ".join(classes) for classes in told)
        raise ValueError(f"--gt_available: {exact.path} has the classes {scored}; those of {labels.path} are {learned}")


def _places(labels: LmdbReader | PublishedReader, pattern: str) -> Sequence[Hashable]:
    """Place of each location: tiles cut from one scene share it. Published locations are all apart."""
    if isinstance(labels, PublishedReader):
        return range(len(labels))
    ids = labels.location_ids()
    named = [re.fullmatch(pattern, name) if pattern else None for name in ids]
    if pattern and not any(named):
        raise ValueError(f"--place_pattern {pattern}: matches none of {len(ids)} whole ids, such as {ids[0]!r}")
    return [match[1] if match and match[1] else place_of(name) for name, match in zip(ids, named)]


def _pretrain(
    settings: PretrainSettings, folder: RunFolder, adapt: Callable[[PretrainTask], object] | None
) -> dict[str, Any]:
    network = pretraining_network(settings)
    data = pretraining_data(settings)
    legend = legend_of(data.train.labels, settings.data.n_classes)
    task = pretraining_task(settings, network, legend)
    if adapt:
        adapt(task)
    adapt_network(task.model, settings.runtime, settings.model.grad_checkpointing)
    state = folder.open(settings)
    optimisation = settings.optimisation
    task.non_finite = settings.runtime.non_finite
    task.card = _pretrain_card(settings, legend, locations_checksum(data.train.labels), data.train.sensors)
    callbacks = [PanelWriter(folder.path / "panels", settings.runtime.display_interval)]
    if optimisation.lr_adjust_type == "rop":
        callbacks.append(Plateau("val/loss", patience=int(optimisation.lr_adjust)))
    trainer = build_trainer(settings.runtime, optimisation, folder, callbacks, best="val/loss", state=state)
    fit(trainer, task, data, state)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if "val/loss" not in metrics:  # a run that had ended but for its metrics; its curves are whole
        trainer.loggers = []
        metrics |= trainer.validate(task, data, verbose=False)[0]
    return metrics | {"checkpoint": str(folder.last)}


def legend_of(labels: LmdbReader | PublishedReader, num_classes: int) -> Legend:
    """Classes and colours of a label store; where it tells none, of the first legend with as many classes."""
    fitting = (legend for legend in (NOL, *LEGENDS.values()) if legend.num_classes == num_classes)
    names = tuple(f"class {i}" for i in range(num_classes))
    numbered = Legend("numbered", names, ("808080",) * num_classes, {i: i for i in range(num_classes)})
    return stored_legend(labels.meta) or next(fitting, numbered)


def locations_checksum(labels: LmdbReader | PublishedReader) -> str:
    """Checksum of the ids of a set in their order: from them follows what is held out."""
    if isinstance(labels, LmdbReader):
        return labels.ids_sha256
    return ids_checksum([labels.location_id(index) for index in range(len(labels))])


def network_facts(settings: PretrainSettings) -> dict[str, Any]:
    """What the card of a checkpoint says of its network: encoder, fusion, and bands by modality."""
    return {
        "encoder_name": settings.model.model_type,
        "fusion": settings.cross.fusion_type if settings.input_type == "s12" else "single",
        "bands": {modality: list(names) for modality, names in pretraining_bands(settings).items()},
    }


def _pretrain_card(
    settings: PretrainSettings, legend: Legend, locations: str, sensors: Mapping[str, Modality]
) -> dict[str, Any]:
    return {
        "version": __version__,
        **network_facts(settings),
        "normalization": f"{QUANTISED}, / 255",
        "statistics": {modality: as_plain(sensor) for modality, sensor in sensors.items()},
        "classes": list(legend.classes),
        "colours": list(legend.colours),
        "locations": locations,
        "settings": to_flat(settings),
    }


def _pretrain_name(settings: PretrainSettings) -> str:
    kind = network_facts(settings)["fusion"]
    return f"{kind}_{settings.input_type}_{settings.model.model_type}_seed{settings.runtime.seed}"
