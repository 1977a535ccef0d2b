"""Settings of transfer to sets with exact labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cromss.downstream_sets import DOWNSTREAM_SETS, OWN, DownstreamSet, stored_set
from cromss.encoder_names import VIT_HEADS, family, is_vit
from cromss.settings.common import (
    Encoder,
    Optimisation,
    Runtime,
    check_channels,
    check_inputs,
    check_loss,
    check_start,
    require,
)

_NATIVE_CHANNELS = {"dofa": (92, 9, 3), "satlas": (92, 9, 3), "scalemae": (3,), "imagenet": (3,)}
"""Source of weights -> `--n_channels` that its native normalisation knows, where these are not all."""
_SCHEDULE_VALUES = {
    "none": ((0, 0), ""),
    "cos": ((0, 2), "the epoch where the cosine ends, and the final rate"),
    "step": ((0, 99), "the epochs at which the rate falls to a tenth"),
    "exp": ((0, 1), "the factor an epoch"),
}


@dataclass(frozen=True)
class DownstreamData:
    """Set with few exact labels; without a path a synthetic one is made."""

    dataset: Literal["DFC2020", "DW", "OSM", "OSCD", "NYC", "OWN"] = "DFC2020"
    """Downstream set; the stores of OWN tell classes and modalities."""
    data_path: str = ""
    """Folder with train/ and test/ stores, as data_prepare writes them; empty for the synthetic default."""
    train_path: str = ""
    """Training part alone: a folder of stores, or a published LMDB (keys s1_0, dw_0 ...)."""
    test_path: str = ""
    """Test part alone; goes with --train_path."""
    input_type: Literal["s1", "s2", "s12", "ortho"] = "s2"
    """Modality; s12 for both, ortho for orthophotos (NYC)."""
    n_channels: int = 13
    """Sentinel-2 bands: 13, 12 (no B10), 10, 9, 92 (the 9, RGB first) or 3 (RGB)."""
    normalization: Literal["common", "native", "zscore"] = "common"
    """Input as in the published tables (common), as the weights were trained with (native), or its z-score."""
    n_train: int = 0
    """Training tiles to use; 0 for all."""
    fraction: float = 100
    """Percent of the training tiles to use; smaller fractions lie within larger ones."""
    split_seed: int = 0
    """Seed of the order from which --n_train and --fraction take the first tiles."""
    split_file: str = ""
    """File of that order, one tile id a line; if empty, one is made in --save_dir and used from then on."""
    validation: Annotated[float, tyro.conf.arg(aliases=["-v"])] = 0
    """Share of the training tiles held out for validation, neighbours together; 0 for none, as published."""
    crop_size: int = 256
    """Side of the training crops, in pixels."""
    synthetic_tiles: tuple[int, int] = (64, 48)
    """Training and test tiles of the synthetic default (cities for OSCD)."""
    synthetic_size: int = 256
    """Side of the synthetic tiles, in pixels; training tiles of DW and OSM are two pixels smaller, as the real ones."""

    @property
    def task(self) -> DownstreamSet:
        """What the set consists of."""
        if self.dataset != OWN:
            return DOWNSTREAM_SETS[self.dataset]
        if not self._paths:
            raise ValueError(
                f"--dataset {OWN}: --data_path (DATA of ft_own.sh) is wanted, the folder that write_downstream_lmdb.py "
                "wrote; there is no synthetic set"
            )
        return stored_set(Path(self.train_path or Path(self.data_path) / "train"))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the input, in the order in which their bands are stacked."""
        return ("s1", "s2") if self.input_type == "s12" else (self.input_type,)

    def __post_init__(self) -> None:
        check_channels(self.n_channels)
        if self.dataset != OWN or self._paths:
            self._check_input()
        require(0 <= self.validation < 1, "validation", self.validation, "at least 0 and under 1")
        require(self.n_train >= 0, "n_train", self.n_train, "at least 1, or 0 for all")
        require(0 < self.fraction <= 100, "fraction", self.fraction, "percent, over 0 and at most 100")
        require(not (self.n_train and self.fraction < 100), "n_train", self.n_train, "0 where --fraction is given")
        require(self.split_seed >= 0, "split_seed", self.split_seed, "at least 0")
        require(1 < self.crop_size <= 8192, "crop_size", self.crop_size, "2 to 8192")
        require(min(self.synthetic_tiles) > 0, "synthetic_tiles", self.synthetic_tiles, "at least 1")
        require(32 <= self.synthetic_size <= 2048, "synthetic_size", self.synthetic_size, "32 to 2048")
        paths = bool(self.train_path), bool(self.test_path)
        require(paths[0] == paths[1], "train_path", self.train_path, "given together with --test_path")
        require(not (paths[0] and self.data_path), "data_path", self.data_path, "empty beside --train_path")
        same = paths[0] and Path(self.train_path).resolve() == Path(self.test_path).resolve()
        require(not same, "test_path", self.test_path, "another part than --train_path")
        some = self.n_train or self.fraction < 100
        require(some or not self.split_file, "split_file", self.split_file, "empty but for --n_train or --fraction")

    @property
    def _paths(self) -> str:
        return self.data_path or self.train_path

    def _check_input(self) -> None:
        modalities = self.task.modalities
        offered = [*modalities, *(["s12"] if {"s1", "s2"} <= set(modalities) else [])]
        wanted = f"{' or '.join(offered)} with --dataset {self.dataset}"
        require(self.input_type in offered, "input_type", self.input_type, wanted)


@dataclass(frozen=True)
class DownstreamModel(Encoder):
    """Head, encoder and its weights."""

    model_framework: Literal[
        *("pspnet", "unet", "unetplusplus", "deeplabv3", "deeplabv3plus"),
        *("fpn", "upernet", "linknet", "pan", "manet", "segmenter"),
    ] = "pspnet"
    """Segmentation head; unet, fpn, upernet or segmenter (a mask transformer) with a ViT."""
    fusion_type: Literal["early", "twin"] = "early"
    """s12: one encoder on all bands stacked, or an encoder for each modality with their features averaged."""
    weight_path: str = "random"
    """Encoder weights: random, imagenet, a checkpoint file, or the folder of a run (its newest checkpoint)."""
    weight_path_s1: str = ""
    """Weights of the Sentinel-1 encoder with --fusion_type twin, where they are in another file."""
    weight_source: Literal[
        *("auto", "cromss", "moco", "dino", "decur", "satlas", "softcon"),
        *("mae", "satmae", "scalemae", "dofa", "imagenet", "bare"),
    ] = "auto"
    """Whose weights they are, where the file does not tell; decides the native normalization."""
    weight_load_tag: Literal["encoder", "de1", "de2", "de3", "de4", "wocls", "all"] = "encoder"
    """What to load: the encoder, with the first decoder blocks (de1 to de4), the decoder (wocls), or its head (all)."""
    encoder_finetune_tag: Literal["efix", "eft", "etr"] = "efix"
    """Frozen encoder, BatchNorm included (efix), trained from --encoder_finetune_epoch on (eft), or trained (etr)."""
    encoder_finetune_epoch: int = 0
    """First epoch, counted from 0, in which eft trains the encoder."""
    decoder_finetune_tag: Literal["dsam", "dasc", "ddes"] = "dsam"
    """Learning rates of the layers: the same, ascending from input to output, or descending."""
    lr_varying_factor: float = 0.8
    """Ratio of the learning rates of neighbouring layers with dasc and ddes."""
    encoder_depth: int = 0
    """Encoder stages; 0 for the head's own (PSPNet 3: layer3 and layer4 never run, as published)."""
    loss_type: str = "cd"
    """Segmentation losses by letter: c cross-entropy, d Dice, f focal, g generalised and s symmetric cross-entropy."""
    moving_batchnorm: bool = False
    """Let a frozen encoder's BatchNorm statistics move, as in the published tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss(self.loss_type)
        self._check_vit()
        require(self.encoder_depth in (0, 3, 4, 5), "encoder_depth", self.encoder_depth, "3, 4, 5, or 0")
        require(0 < self.lr_varying_factor <= 1, "lr_varying_factor", self.lr_varying_factor, "over 0 and at most 1")
        late = self.encoder_finetune_tag == "eft"
        wanted = "at least 1 with --encoder_finetune_tag eft" if late else "0 but for --encoder_finetune_tag eft"
        epoch = self.encoder_finetune_epoch
        require(epoch > 0 if late else epoch == 0, "encoder_finetune_epoch", epoch, wanted)
        only_unet = self.weight_load_tag == "encoder" or self.model_framework == "unet"
        require(only_unet, "weight_load_tag", self.weight_load_tag, "encoder but for --model_framework unet")
        if self.weight_path in ("random", "imagenet"):
            with_it = f"with --weight_path {self.weight_path}"
            require(self.weight_load_tag == "encoder", "weight_load_tag", self.weight_load_tag, f"encoder {with_it}")
            no_other = self.weight_source == "auto" or bool(self.weight_path_s1)
            require(no_other, "weight_source", self.weight_source, f"auto {with_it}")
        moving = self.moving_batchnorm and self.encoder_finetune_tag == "etr"
        require(not moving, "moving_batchnorm", "", "left out where the encoder is trained")
        rate, frozen = self.drop_path, self.encoder_finetune_tag == "efix"
        require(not (rate and frozen), "drop_path", rate, "0 with --encoder_finetune_tag efix: nothing frozen drops")
        for flag in ("weight_path", "weight_path_s1"):
            check_start(self.model_type, flag, getattr(self, flag))

    @property
    def known_source(self) -> str:
        """Whose weights --weight_path holds, as far as the settings tell; empty otherwise."""
        if self.weight_path in ("random", "imagenet"):
            return self.weight_path
        if self.weight_source == "auto" and family(self.model_type) == "dofa":
            return "dofa"
        return self.weight_source.removeprefix("auto")

    def _check_vit(self) -> None:
        head, name = self.model_framework, self.model_type
        if not is_vit(name):
            wanted = f"another head with --model_type {name}: it wants a ViT"
            require(head != "segmenter", "model_framework", head, wanted)
            return
        with_it = f"with the ViT --model_type {name}"
        heads = f"{', '.join(VIT_HEADS[:-1])} or {VIT_HEADS[-1]}"
        require(head in VIT_HEADS, "model_framework", head, f"{heads} {with_it}")
        require(self.encoder_depth == 0, "encoder_depth", self.encoder_depth, f"0 {with_it}")
        require(not self.moving_batchnorm, "moving_batchnorm", "", f"left out {with_it}: it has no BatchNorm")
        require(self.weight_load_tag == "encoder", "weight_load_tag", self.weight_load_tag, f"encoder {with_it}")


@dataclass(frozen=True)
class DownstreamOptimisation(Optimisation):
    """Optimiser and schedule."""

    epochs: Annotated[int, tyro.conf.arg(aliases=["-e"])] = 50
    """Number of epochs."""
    batch_size: int = 32
    """Samples a step and process."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["-l"])] = 5e-4
    """Initial learning rate."""
    scheduler_type: Literal["cos", "step", "exp", "none"] = "cos"
    """Cosine to a final rate, then flat; a tenth at given epochs; exponential; or constant."""
    scheduler_values: tuple[float, ...] = ()
    """cos: last epoch of the cosine (at 4/5), final rate (1e-5); step: epochs (at 3/5, 4/5); exp: factor (0.95)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        values, kind = self.scheduler_values, self.scheduler_type
        (least, most), meaning = _SCHEDULE_VALUES[kind]
        wanted = f"{meaning or 'empty'} with --scheduler_type {kind}"
        legal = least <= len(values) <= most and all(0 <= value < float("inf") for value in values)
        if kind == "exp":
            legal = legal and all(0 < value <= 1 for value in values)
        epochs = {"cos": values[:1], "step": values}.get(kind, ())
        legal = legal and all(value == int(value) and value > 0 for value in epochs)
        require(legal, "scheduler_values", values, wanted)
        warmup = self.warmup_epochs
        after = all(epoch > warmup for epoch in epochs)
        require(after, "scheduler_values", values, f"epochs over --warmup_epochs {warmup}")
        if kind == "cos" and len(values) == 2:
            rate = self.learning_rate
            require(values[1] <= rate, "scheduler_values", values, f"a final rate of at most --learning_rate {rate:g}")
        if kind == "step":
            late = max(values, default=0) < self.epochs
            require(late, "scheduler_values", values, f"epochs under --epochs {self.epochs}")


@dataclass(frozen=True)
class DownstreamRuntime(Runtime):
    """Where and how it runs."""

    seed: tuple[int, ...] = (42,)
    """Seed of everything that is drawn; several seeds make a run each, and mean and spread are reported."""

    def __post_init__(self) -> None:
        require(len(set(self.seed)) == len(self.seed) > 0, "seed", self.seed, "different numbers")
        alone = len(self.seed) == 1 or self.resume in ("auto", "none")
        require(alone, "seed", self.seed, f"a single one with --resume {self.resume}")
        super().__post_init__()


@dataclass(frozen=True)
class FinetuneSettings:
    """Transfer of a pretrained encoder to a set with exact labels, scored on every test tile."""

    data: DownstreamData = field(default_factory=DownstreamData)
    model: DownstreamModel = field(default_factory=DownstreamModel)
    optimisation: DownstreamOptimisation = field(default_factory=DownstreamOptimisation)
    runtime: DownstreamRuntime = field(default_factory=DownstreamRuntime)
    absent: Literal["skip", "one"] = "skip"
    """A class absent from truth and prediction is left out of the means, or counts as 1 as published."""
    save_maps: int = 8
    """Test predictions written as coloured PNG; -1 for all."""

    def __post_init__(self) -> None:
        require(self.save_maps >= -1, "save_maps", self.save_maps, "at least 0, or -1 for all")
        epoch, epochs = self.model.encoder_finetune_epoch, self.optimisation.epochs
        require(epoch < epochs, "encoder_finetune_epoch", epoch, f"under --epochs {epochs}")
        twin = self.model.fusion_type == "twin"
        require(not twin or self.data.input_type == "s12", "fusion_type", "twin", "early but for --input_type s12")
        other = self.model.weight_path_s1
        require(twin or not other, "weight_path_s1", other, "empty but for --fusion_type twin")
        check_inputs(self.model, self.data.modalities, self.data.n_channels)
        self._check_native()

    def _check_native(self) -> None:
        source, told, name = self.data, self.model.weight_source, self.model.known_source
        if source.normalization != "native" or "s2" not in source.modalities or name not in _NATIVE_CHANNELS:
            return
        known = " or ".join(map(str, _NATIVE_CHANNELS[name]))
        ours = ", or --weight_source cromss if they are ours" if (name, told) == ("dofa", "auto") else ""
        wanted = f"{known} with --normalization native of {name} weights{ours}"
        require(source.n_channels in _NATIVE_CHANNELS[name], "n_channels", source.n_channels, wanted)
