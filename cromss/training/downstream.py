"""The loaders of a downstream set: stores, bands, normalisation, and the training tiles to use."""

from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cromss import default_sets
from cromss.datamodule import StacksData
from cromss.datasets import SeasonStacks, Store
from cromss.input_checks import check_values
from cromss.legends import IGNORE_INDEX
from cromss.normalization import NORMALIZATIONS, WITH_STATISTICS
from cromss.sensors import MODALITIES, QUANTISED, Modality
from cromss.settings import DownstreamData, FinetuneSettings
from cromss.splits import blocked_holdout, place_of, saved_order, take
from cromss.store import open_part
from cromss.training.common import band_names, refuse_other_legend, synthetic_home, tell_left_out, tell_small_tiles
from cromss.training.launching import loader_processes


def downstream_data(
    settings: FinetuneSettings,
    normalization: Mapping[str, str] | None = None,
    trained: Mapping[str, Modality] | None = None,
) -> StacksData:
    """Loaders of the downstream set.

    Args:
        settings: Which set, and how much of it.
        normalization: Modality -> name in `NORMALIZATIONS`; those left out have the common one.
        trained: Modality -> its sensor, with the statistics that its encoder was trained with; those left out have
            the statistics of their store.
    """
    source, runtime = settings.data, settings.runtime
    train_path, test_path = _parts(settings)
    normalization = dict.fromkeys(source.modalities, "common") | dict(normalization or {})
    stacks = partial(_stacks, source, normalization=normalization)
    train = stacks(train_path, min_size=source.crop_size)
    test, ids = stacks(test_path), train.labels.location_ids()
    _refuse_leaks(ids, test.labels.location_ids(), by_place=source.task.is_change)
    tell_left_out(train, test)
    tell_small_tiles(train)
    chosen, held = _training_tiles(settings, ids, set(train.in_use()))
    test.in_use()  # none at all is refused before the training
    val = stacks(train_path) if held else None
    for part in filter(None, (train, val, test)):
        _feed_as_trained(part, trained or {}, normalization, told=part is train)
    return StacksData(
        train=train,
        val=val,
        test=test,
        train_indices=chosen,
        val_indices=held,
        batch_size=settings.optimisation.batch_size,
        test_batch_size=runtime.test_batch_size or int(source.task.is_change),
        num_workers=loader_processes(runtime),
        seed=runtime.seed[0],
    )


def downstream_bands(source: DownstreamData) -> dict[str, tuple[str, ...]]:
    """Modality -> band names of the input, in stacking order."""
    return {modality: band_names(modality, source.n_channels) for modality in source.modalities}


def _parts(settings: FinetuneSettings) -> tuple[Path, Path]:
    """Where the training and the test part are; the synthetic default is made if neither is told."""
    source = settings.data
    if source.train_path:
        return Path(source.train_path), Path(source.test_path)
    if source.data_path:
        home = Path(source.data_path)
    else:
        folder = synthetic_home(settings.runtime, f"downstream ({source.dataset})")
        home = default_sets.downstream_set(folder, source.task, *source.synthetic_tiles, source.synthetic_size)
    return home / "train", home / "test"


def _stacks(source: DownstreamData, part: Path, normalization: Mapping[str, str], min_size: int = 0) -> SeasonStacks:
    task, bands = source.task, downstream_bands(source)
    images = {modality: open_part(part, modality) for modality in bands}
    to_class_ids = task.legend.to_class_ids if task.raw_codes else partial(_published_ids, task.legend.num_classes)
    labels = open_part(part, "labels", task.label_key, to_class_ids)
    refuse_other_legend(labels, task.legend.num_classes, task.legend.name)
    for modality, store in images.items():
        _check_units(store, modality)
    return SeasonStacks(
        images,
        labels,
        bands,
        task.legend.num_classes,
        min_size=min_size,
        normalise={modality: NORMALIZATIONS[name] for modality, name in normalization.items()},
        stack_dates=task.is_change,
    )


def _feed_as_trained(
    stacks: SeasonStacks, trained: Mapping[str, Modality], normalization: Mapping[str, str], told: bool
) -> None:
    """Normalise with the statistics that the encoders were trained with; say what is fed where the store has others.

    Raises:
        ValueError: The store is quantised with others, which cannot be undone.
    """
    for modality, sensor in trained.items():
        stored, store, name = stacks.sensors[modality], stacks.images[modality], normalization[modality]
        if (sensor.mean, sensor.std) == (stored.mean, stored.std):
            continue
        whose = "built-in statistics" if sensor == MODALITIES[modality] else "statistics of the weights"
        fed = f"with the {whose} ({sensor.source})" if name in WITH_STATISTICS else f"by {name} normalization"
        if name in WITH_STATISTICS and store.meta.unit == QUANTISED:
            raise ValueError(
                f"{store.path}: quantised with statistics of its own, but the encoder is to be fed {fed}; "
                "write the set with raw values, or with those statistics"
            )
        if told:
            print(f"{modality}: fed {fed}, not with the statistics of {store.path}")
        stacks.sensors[modality] = sensor


def _published_ids(num_classes: int, ids: np.ndarray, where: str) -> np.ndarray:
    """Class ids of a published LMDB, where unknown pixels are one class more (DFC2020) or 255."""
    return np.where(ids == num_classes, np.uint8(IGNORE_INDEX), ids)


def _check_units(store: Store, modality: str, num_checked: int = 3) -> None:
    """Refuse raw images of another unit; a few tiles are looked at."""
    sensor = MODALITIES[modality]
    in_use = [index for index in range(len(store)) if index not in store.excluded]
    for index in in_use[:: max(1, len(in_use) // num_checked)][:num_checked]:
        values = store.read(index, 0)
        if values.dtype != np.uint8:
            check_values(values, sensor, f"{modality} of {store.location_id(index)}", tuple(store.meta.bands) or None)


def _refuse_leaks(train_ids: Sequence[str], test_ids: Sequence[str], by_place: bool) -> None:
    """Raise ValueError when a place, or otherwise a tile whose id tells its place, is in training and test.

    Ids that are mere numbers begin anew in each part, and tell nothing.
    """
    train, test = (
        {place_of(name) for name in ids} if by_place else {name for name in ids if place_of(name) != name}
        for ids in (train_ids, test_ids)
    )
    if shared := sorted(train & test):
        raise ValueError(f"{', '.join(shared[:4])}: both in train and in test; write one of the parts anew")


def _training_tiles(
    settings: FinetuneSettings, ids: Sequence[str], in_use: Container[int]
) -> tuple[list[int], list[int]]:
    """Positions of the tiles to train on and of those held out, among those in use."""
    source = settings.data
    position = {name: index for index, name in enumerate(ids)}
    parts = blocked_holdout(ids, source.validation)
    usable, held = ([name for name in names if position[name] in in_use] for names in parts)
    if source.validation and not held:
        raise ValueError(
            f"--validation {source.validation:g}: holds out none of {len(ids)} tiles; a larger share is wanted"
        )
    if source.n_train or source.fraction < 100:
        name = f"{source.dataset}_{len(ids)}_seed{source.split_seed}.txt"
        path = Path(source.split_file or Path(settings.runtime.save_dir) / "splits" / name)
        if source.split_file and not path.is_file():
            raise ValueError(f"--split_file {path}: no such file; without this flag one is made")
        among = set(usable)
        order = [name for name in saved_order(path, ids, source.split_seed, source.dataset) if name in among]
        usable = take(order, source.fraction, source.n_train or None)
    return sorted(position[name] for name in usable), [position[name] for name in held]
