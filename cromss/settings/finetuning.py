"""Settings of transfer to sets with exact labels."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from cromss.settings.common import Optimisation, Runtime, check_channels, check_loss, require


@dataclass(frozen=True)
class DownstreamData:
    """Set with few exact labels; without --data_path a synthetic one is made."""

    dataset: Literal["DFC2020"] = "DFC2020"
    """Downstream set."""
    data_path: str = ""
    """Folder with train/ and test/ environments, as data_prepare writes them; empty for the synthetic default."""
    input_type: Literal["s1", "s2"] = "s2"
    """Modality."""
    n_channels: int = 13
    """Sentinel-2 bands: 13, 12 (no B10), 10, 9, 92 (the 9, RGB first) or 3 (RGB)."""
    n_train: int = 0
    """Training tiles to use; 0 for all."""
    validation: Annotated[float, tyro.conf.arg(aliases=["-v"])] = 0
    """Share of the training tiles held out for validation, neighbours together; 0 for none, as published."""
    crop_size: int = 256
    """Side of the training crops, in pixels."""
    synthetic_tiles: tuple[int, int] = (64, 48)
    """Training and test tiles of the synthetic default."""

    def __post_init__(self) -> None:
        check_channels(self.n_channels)
        require(0 <= self.validation < 1, "validation", self.validation, "at least 0 and under 1")
        require(self.n_train >= 0, "n_train", self.n_train, "at least 1, or 0 for all")
        require(0 < self.crop_size <= 8192, "crop_size", self.crop_size, "1 to 8192")
        require(min(self.synthetic_tiles) > 0, "synthetic_tiles", self.synthetic_tiles, "at least 1")


@dataclass(frozen=True)
class DownstreamModel:
    """Head, encoder and its weights."""

    model_framework: Literal[
        "pspnet", "unet", "unetplusplus", "deeplabv3", "deeplabv3plus", "fpn", "upernet", "linknet", "pan", "manet"
    ] = "pspnet"
    """Segmentation head."""
    model_type: str = "resnet50"
    """Encoder; it must be the one of the weights."""
    weight_path: str = "random"
    """Encoder weights: random, imagenet, or a checkpoint file."""
    encoder_finetune_tag: Literal["efix", "etr"] = "efix"
    """Frozen encoder, BatchNorm included (efix), or trained (etr)."""
    encoder_depth: int = 0
    """Encoder stages; 0 for the head's own (PSPNet 3: layer3 and layer4 never run, as published)."""
    loss_type: str = "cd"
    """Segmentation losses by letter: c cross-entropy, d Dice, f focal."""
    moving_batchnorm: bool = False
    """Let a frozen encoder's BatchNorm statistics move, as in the published tables."""

    def __post_init__(self) -> None:
        check_loss(self.loss_type)
        require(self.encoder_depth in (0, 3, 4, 5), "encoder_depth", self.encoder_depth, "3, 4, 5, or 0")


@dataclass(frozen=True)
class DownstreamOptimisation(Optimisation):
    """Optimiser and schedule."""

    epochs: Annotated[int, tyro.conf.arg(aliases=["-e"])] = 50
    """Number of epochs."""
    batch_size: int = 32
    """Samples a step and process."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["-l"])] = 5e-4
    """Initial learning rate."""
    scheduler_type: Literal["cos", "none"] = "cos"
    """Cosine to the final rate, then flat; or constant."""
    scheduler_values: tuple[float, float] = (0.8, 1e-5)
    """Share of the epochs that the cosine takes, and the final rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share, final_rate = self.scheduler_values
        require(0 < share <= 1, "scheduler_values", share, "a share over 0 and at most 1")
        require(final_rate >= 0, "scheduler_values", final_rate, "a rate of at least 0")


@dataclass(frozen=True)
class FinetuneSettings:
    """Transfer of a pretrained encoder to a set with exact labels, scored on every test tile."""

    data: DownstreamData = field(default_factory=DownstreamData)
    model: DownstreamModel = field(default_factory=DownstreamModel)
    optimisation: DownstreamOptimisation = field(default_factory=DownstreamOptimisation)
    runtime: Runtime = field(default_factory=Runtime)
    absent: Literal["skip", "one"] = "skip"
    """A class absent from truth and prediction is left out of the means, or counts as 1 as published."""
    save_maps: int = 8
    """Test predictions written as coloured PNG; -1 for all."""

    def __post_init__(self) -> None:
        require(self.save_maps >= -1, "save_maps", self.save_maps, "at least 0, or -1 for all")
