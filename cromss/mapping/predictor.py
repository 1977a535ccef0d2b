"""A trained network opened for mapping: what it is fed, its classes, and class probabilities of prepared images."""

import colorsys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cromss.config import read
from cromss.legends import LEGENDS, Legend
from cromss.models.fusion import Pretrainer
from cromss.models.weight_files import CARD_KEY, open_checkpoint, tensors_in, told_normalization, told_statistics
from cromss.sensors import MODALITIES, S1, S2, Modality
from cromss.settings import FinetuneSettings
from cromss.statistics import with_statistics
from cromss.training.downstream import downstream_bands
from cromss.training.finetuning import segmenter
from cromss.training.pretrained import open_pretrained, restored, words_of
from cromss.training.pretraining import pretraining_bands
from cromss.training.run_folder import newest_checkpoint

MAPPED = (S1.name, S2.name)
"""Modalities that maps are made of."""

_ELSEWHERE = {
    **dict.fromkeys(("data_path", "train_path", "test_path", "split_file", "weight_path_s1"), ""),
    **{"weight_path": "random", "weight_load_tag": "encoder", "weight_source": "auto"},
}
"""Settings of a transfer that name files which a map has no need of."""


@dataclass(frozen=True)
class Predictor:
    """A network and what it takes.

    Attributes:
        name: The checkpoint behind its flag, to begin the line of an error.
        network: A segmenter of stacked modalities, or a pretrainer, whose branches are averaged; in evaluation mode.
        bands: Modality -> names of the bands that are fed, in the order in which modalities are stacked.
        sensors: Modality -> its sensor, with the statistics that the network was trained with.
        normalizations: Modality -> name in `cromss.normalization.NORMALIZATIONS`.
        legend: Its classes and their colours.
        num_dates: Dates that are stacked; 2 for change detection, whose single logit is positive where it is seen.
    """

    name: str
    network: nn.Module
    bands: Mapping[str, tuple[str, ...]]
    sensors: Mapping[str, Modality]
    normalizations: Mapping[str, str]
    legend: Legend
    num_dates: int = 1

    @property
    def stride(self) -> int:
        """What the encoder divides, in pixels: networks see a place alike wherever tiles begin at multiples of it."""
        network = self.network
        encoder = next(iter(network.encoders.values())) if isinstance(network, Pretrainer) else network.encoder
        return encoder.output_stride

    def fed_with(self, modalities: Collection[str]) -> "Predictor":
        """The same for images of these modalities: of a pretrained twin, the branches that see them.

        Raises:
            ValueError: One that the network does not take, or not all that a segmenter takes.
        """
        taken = " and ".join(f"--{modality}" for modality in self.bands)
        for modality in modalities:
            if modality not in self.bands:
                raise ValueError(f"--{modality}: {self.name} takes {taken} alone")
        missing = [modality for modality in self.bands if modality not in modalities]
        if missing and not (isinstance(self.network, Pretrainer) and modalities):
            one = ", or one of them" if isinstance(self.network, Pretrainer) and len(self.bands) > 1 else ""
            raise ValueError(f"--{missing[0]}: wanted, a scene for {taken} of {self.name}{one}")
        return replace(self, bands={name: bands for name, bands in self.bands.items() if name in modalities})

    @torch.inference_mode()
    def probabilities(self, images: Mapping[str, Tensor]) -> Tensor:
        """Class probabilities `(B, K, H, W)` of images `(B, C, H, W)` by modality, as evaluation prepares them."""
        if isinstance(self.network, Pretrainer):
            each = [self.network.segment_any_size(name, images[name]).float().softmax(1) for name in self.bands]
            return torch.stack(each).mean(0)
        return self.network(torch.cat([images[name] for name in self.bands], 1)).float().softmax(1)


def open_predictor(path: str, flag: str = "model") -> Predictor:
    """Open a run folder (its newest checkpoint) or a checkpoint file of pretraining or transfer.

    Args:
        path: Folder or file.
        flag: Flag that told it.

    Raises:
        ValueError: No such checkpoint, damaged, or of change detection or orthophotos, of which there are no maps.
    """
    predictor = open_trained(path, flag, with_change=False)
    if others := [modality for modality in predictor.bands if modality not in MAPPED]:
        raise ValueError(f"{predictor.name}: trained on {others[0]}, but maps are made of {' and '.join(MAPPED)}")
    return predictor


def open_trained(path: str, flag: str, with_change: bool = True) -> Predictor:
    """The same for every kind of network: orthophotos and, unless refused, change detection included.

    Raises:
        ValueError: No such checkpoint, or damaged, or of change detection where that is refused.
    """
    file = newest_checkpoint(Path(path), flag)
    name = f"--{flag} {file}"
    try:
        content = open_checkpoint(file)
        card = content.get(CARD_KEY) if isinstance(content, Mapping) else None
        if not isinstance(card, Mapping) or not isinstance(card.get("settings"), Mapping):
            raise ValueError("not a checkpoint of train_pretrain_mm.py, train_pretrain.py or finetune.py")
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix(f'{file}: ')}") from None
    predictor = _pretrained(file, flag, card) if "fusion" in card else _finetuned(content, card, name, with_change)
    try:
        told = told_statistics(content)
        sensors = {m: with_statistics(MODALITIES[m], told.get(m, {}), f"card of {file}") for m in predictor.bands}
    except ValueError as error:
        raise ValueError(f"{name}: statistics on its card: {error}") from None
    return replace(predictor, sensors=sensors, normalizations=predictor.normalizations | told_normalization(content))


def _pretrained(file: Path, flag: str, card: Mapping[str, Any]) -> Predictor:
    run = open_pretrained(str(file), flag)
    bands, legend = pretraining_bands(run.settings), _legend(card, run.settings.data.n_classes)
    return Predictor(run.name, run.network(), bands, {}, dict.fromkeys(bands, "common"), legend)


def _finetuned(content: Mapping[str, Any], card: Mapping[str, Any], name: str, with_change: bool) -> Predictor:
    try:
        settings, tensors = (
            read(FinetuneSettings, words_of({**card["settings"], **_ELSEWHERE})),
            tensors_in(content, ""),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    legend, bands, is_change = _legend(card, 0), downstream_bands(settings.data), settings.data.dataset == "OSCD"
    if is_change and not with_change:
        raise ValueError(f"{name}: tells change between two dates, which is no land cover")
    network = restored(partial(segmenter, settings, legend.num_classes, is_change), tensors, name)
    dates = 2 if is_change else 1
    return Predictor(name, network, bands, {}, dict.fromkeys(bands, "common"), legend, dates)


def _legend(card: Mapping[str, Any], num_classes: int) -> Legend:
    """Classes and colours on a card; where it tells no colours, those of a legend with these classes, else hues."""
    classes = tuple(map(str, card.get("classes") or (f"class {i}" for i in range(num_classes))))
    known = (legend.colours for legend in LEGENDS.values() if legend.classes == classes)
    colours: Sequence[str] = card.get("colours") or next(known, _hues(len(classes)))
    return Legend("map", classes, tuple(map(str, colours)), {i: i for i in range(len(classes))})


def _hues(count: int) -> tuple[str, ...]:
    levels = (colorsys.hsv_to_rgb(i / max(count, 1), 0.65, 0.85) for i in range(count))
    return tuple("".join(f"{round(255 * level):02x}" for level in rgb) for rgb in levels)
