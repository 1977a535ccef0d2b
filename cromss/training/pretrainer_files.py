"""Whole pretrained networks, ours and published ones of CromSS: what of them is published, and the way back."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cromss.checkpointing import AtomicCheckpointIO
from cromss.models.published_names import from_published, to_published
from cromss.models.release import RELEASABLE, released_encoder
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint, tensors_in
from cromss.models.weights import inspect
from cromss.sensors import MODALITIES, S2_SUBSETS
from cromss.settings import PretrainSettings
from cromss.settings.pretraining import PretrainRuntime
from cromss.statistics import with_statistics
from cromss.training.pretrained import restored, settings_from
from cromss.training.pretraining import blank_network, network_facts

_MODEL = "model."
"""What stands before the network's names in our checkpoints."""

_OF_THE_MACHINE = {entry.name for entry in fields(PretrainRuntime)} - {"seed", "amp", "max_steps", "limit_batches"}
_OF_THE_MACHINE |= {"data_path"}
_FILES = ("data_name_", "init_")


def pretrainer_in(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of the whole network by our names, and a card that tells how to build it, without paths.

    Raises:
        WeightsError: Neither a checkpoint of our pretraining nor a published one of CromSS; a card that contradicts
            itself; tensors that do not fill the network or are not finite.
    """
    content = open_checkpoint(path)
    tensors, card = tensors_in(content, path), content.get(CARD_KEY) if isinstance(content, Mapping) else None
    if isinstance(card, Mapping):
        card = _checked_card(path, card)
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
    else:
        own = _from_published(path, tensors)
        card = _published_card(path, own)
    try:
        restored(partial(blank_network, settings_from(card["settings"])), own, str(path))
    except ValueError as error:
        raise WeightsError(str(error)) from None
    return own, card


def to_published_file(path: Path, out: Path) -> int:
    """Write a pretraining checkpoint of ours, or the network of a release, in the published layout; tensors written.

    Raises:
        ValueError: As `pretrainer_in`; it has what no published network has; `out` is there, or cannot be written.
    """
    check_parent(out)
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; a file is wanted")
    if out.exists() and out.samefile(path):
        raise ValueError(f"--out {out}: is the file to convert; choose another")
    if out.exists():
        raise ValueError(f"--out {out}: is there already; choose another")
    tensors, card = pretrainer_in(path)
    renamed = to_published({name.removeprefix(_MODEL): tensor for name, tensor in tensors.items()}, card["fusion"])
    AtomicCheckpointIO().save_checkpoint({"state_dict": renamed}, out)
    return len(renamed)


def check_parent(out: Path) -> None:
    """Refuse a target under what is no folder.

    Raises:
        ValueError: A file stands above it.
    """
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"--out {out}: {above} is a file, not a folder")


def _checked_card(path: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a checkpoint of ours as it is published, if it agrees with itself."""
    if "fusion" not in card:
        raise WeightsError(f"{path}: not a checkpoint of pretraining, such as train_pretrain_mm.py writes")
    flat = card.get("settings")
    if not isinstance(flat, Mapping):
        raise WeightsError(f"{path}: settings on its card: {str(flat)[:80]}, not a mapping")
    try:
        settings = settings_from(flat)
        _check_statistics(card.get("statistics", {}))
    except ValueError as error:
        raise WeightsError(f"{path}: on its card, {error}") from None
    facts = network_facts(settings)
    for key, wanted in facts.items():
        if card.get(key, wanted) != wanted:
            raise WeightsError(f"{path}: {key} on its card: {str(card[key])[:80]}, but its settings say {wanted}")
    _check_classes(path, card.get("classes", []), settings)
    return {**card, **facts, "settings": _published_settings(flat)}


def _check_statistics(told: Any) -> None:
    """Refuse statistics that are not a mean and a std for each band of a sensor."""
    if not isinstance(told, Mapping) or not told.keys() <= MODALITIES.keys():
        raise ValueError(f"statistics: {str(told)[:80]}, not one entry a modality")
    for modality, entry in told.items():
        bands = list(MODALITIES[modality].bands)
        if not isinstance(entry, Mapping) or not {"mean", "std"} <= entry.keys() or entry.get("bands", bands) != bands:
            raise ValueError(f"statistics of {modality}: not mean and std of the bands {' '.join(bands)}")
        with_statistics(MODALITIES[modality], entry, "card")


def _check_classes(path: Path, classes: Any, settings: PretrainSettings) -> None:
    count = settings.data.n_classes
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or len(classes) not in (0, count):
        raise WeightsError(f"{path}: classes on its card: {str(classes)[:80]}, not {count} names")


def _published_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what tells of a machine: of files their names, of folders nothing."""
    kept = {name: value for name, value in flat.items() if name not in _OF_THE_MACHINE}
    return {name: Path(value).name if name.startswith(_FILES) else value for name, value in kept.items()}


def _from_published(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        own = from_published({name: tensor for name, tensor in tensors.items() if name.startswith("net.")})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return {_MODEL + name: tensor for name, tensor in own.items()}


def _published_card(path: Path, own: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Card of a published network: what its tensors tell."""
    encoders = {stem.modality: stem for stem in inspect(path).stems if stem.modality in MODALITIES}
    released = [released_encoder(path, modality) for modality in sorted(encoders)]
    heads = [len(tensor) for name, tensor in own.items() if "segmentation_head" in name and tensor.ndim == 4]
    if not released:
        raise WeightsError(f"{path}: no encoder that can be released; these can: {RELEASABLE}")
    if not heads:
        alone = "weights.py convert --source cromss makes a release of its encoders alone"
        raise WeightsError(f"{path}: no segmentation_head in it; {alone}")
    told: dict[str, Any] = {"n_classes": heads[0], "model_type": released[0].architecture}
    if len(released) == 1:
        told |= {"input_type": released[0].modality}
    else:
        mid = any(name.startswith(f"{_MODEL}encoders.") for name in own)
        told |= {"input_type": "s12", "fusion_type": "mid" if mid else "late"}
    for encoder in released:
        if encoder.modality == "s2":
            told["n_channels"] = next(number for number, bands in S2_SUBSETS.items() if bands == encoder.bands)
    return network_facts(settings_from(told)) | {"settings": told}
