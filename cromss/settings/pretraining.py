"""Settings of pretraining on noisy labels."""

import re
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

import tyro

from cromss.encoder_names import OWN_FAMILIES, family
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


@dataclass(frozen=True)
class PretrainData:
    """Noisy-label pretraining set; without --data_path a synthetic world is made."""

    data_path: str = ""
    """Folder that holds the LMDB environments; empty for the synthetic default."""
    data_name_s1: str = "0k_251k_uint8_s1.lmdb"
    """Sentinel-1 environment."""
    data_name_s2: str = "0k_251k_uint8_s2c.lmdb"
    """Sentinel-2 environment."""
    data_name_label: str = "dw_labels.lmdb"
    """Noisy-label environment."""
    data_name_gt: str = "exact_labels.lmdb"
    """Exact-label environment, for --experiment gt_labels and --gt_available."""
    n_channels: int = 13
    """Sentinel-2 bands: 13, 12 (no B10), 10, 9, 92 (the 9, RGB first) or 3 (RGB)."""
    n_classes: int = 9
    """Number of classes; the noisy labels of NYC have 4."""
    experiment: Literal["ns_labels", "gt_labels"] = "ns_labels"
    """Train on noisy or on exact labels."""
    gt_available: bool = False
    """Score against exact labels while training on noisy ones."""
    validation: Annotated[float, tyro.conf.arg(aliases=["-v"])] = 0.01
    """Share of the locations held out for validation; at least one place."""
    test_season: int = -1
    """Season of the validation images; -1 takes every season in turn."""
    place_pattern: str = ""
    """Regular expression of a whole location id, its first group the place, as (.*)-\\d+; places are held out whole."""
    crop_size: int = 256
    """Side of the training crops, in pixels."""
    rotate_share: float = 0.2
    """Share of the training samples that are rotated, by up to 90 degrees; half of them are flipped anyway."""
    synthetic_locations: int = 48
    """Locations of the synthetic default."""
    synthetic_noise: Literal["mixed", "confusion", "borders", "objects", "seasons"] = "mixed"
    """What is wrong with the labels of the synthetic default for both Sentinels: everything, or one thing alone."""
    synthetic_noise_level: Literal[1, 2, 3] = 2
    """How much of it: about 10, 25 or 45 percent of the pixels."""

    def __post_init__(self) -> None:
        check_channels(self.n_channels)
        require(self.n_classes > 1, "n_classes", self.n_classes, "at least 2")
        require(0 < self.validation < 1, "validation", self.validation, "over 0 and under 1")
        require(self.test_season >= -1, "test_season", self.test_season, "a season counted from 0, or -1")
        require(1 < self.crop_size <= 8192, "crop_size", self.crop_size, "2 to 8192")
        require(0 <= self.rotate_share <= 1, "rotate_share", self.rotate_share, "at least 0 and at most 1")
        _check_pattern("place_pattern", self.place_pattern)
        require(self.synthetic_locations > 1, "synthetic_locations", self.synthetic_locations, "at least 2")
        told = bool(self.data_path) and not self.has_usual_noise
        require(not told, "synthetic_noise", self.noise, "left out with --data_path")

    @property
    def noise(self) -> tuple[str, int]:
        """Kind and level of the noise of the synthetic default."""
        return self.synthetic_noise, self.synthetic_noise_level

    @property
    def has_usual_noise(self) -> bool:
        """Whether the synthetic default has the labels that it has where nothing is told."""
        return self.noise == (PretrainData.synthetic_noise, PretrainData.synthetic_noise_level)

    @property
    def noisy_name(self) -> str:
        """Environment of the noisy labels; any but the usual noise has its own."""
        prefix = "" if self.has_usual_noise else f"{self.synthetic_noise}_{self.synthetic_noise_level}_"
        return prefix + self.data_name_label


def _check_pattern(flag: str, pattern: str) -> None:
    """Refuse what is no regular expression with a group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"--{flag} {pattern}: no regular expression ({error})") from None
    require(bool(groups) or not pattern, flag, pattern, r"a pattern with a group in parentheses, as (.*)-\d+")


@dataclass(frozen=True)
class SingleModalData(PretrainData):
    """Noisy-label pretraining set of one modality; without --data_path a synthetic world is made."""

    data_name_ortho: str = "orthophotos.lmdb"
    """Orthophoto environment."""


@dataclass(frozen=True)
class Smoothing:
    """Label smoothing over space and seasons."""

    label_smoothing: bool = False
    """Smooth the noisy labels."""
    label_smoothing_factor: tuple[float, ...] = (0.15, 0.05)
    """Share of the prior, and share of the uniform distribution."""
    label_smoothing_prior_type: Literal["ts", "t", "s"] = "ts"
    """Prior over seasons (t), space (s) or both, for smoothing and for --sample_selection_agreement."""
    label_smoothing_sigma: float = 3.0
    """Standard deviation of the prior's Gaussian, in pixels."""

    def __post_init__(self) -> None:
        sigma = self.label_smoothing_sigma
        require(0 < sigma <= 32, "label_smoothing_sigma", sigma, "over 0 and at most 32")
        factors = self.label_smoothing_factor
        legal = 1 <= len(factors) <= 2 and min(factors) >= 0 and sum(factors) <= 1
        require(legal, "label_smoothing_factor", factors, "one or two numbers >= 0 that sum to at most 1")


@dataclass(frozen=True)
class SampleSelection:
    """Which noisy labels are trusted."""

    sample_selection: bool = False
    """Weight pixels by confidence."""
    sample_selection_rmup_func: Literal["exp", "linear", "none"] = "exp"
    """Ramp of the selection; none selects the final share from the first epoch."""
    sample_selection_rmdown_epoch: int = 80
    """Epochs until the final share is reached."""
    sample_selection_prop: float = 0.5
    """Final share of each class that is trusted fully."""
    sample_selection_agreement: bool = False
    """Confidence in a label counts as far as the labels around it and in other seasons agree: times the prior, which
    --label_smoothing_prior_type and --label_smoothing_sigma shape."""

    def __post_init__(self) -> None:
        share = self.sample_selection_prop
        require(0 < share <= 1, "sample_selection_prop", share, "over 0 and at most 1")
        idle, wanted = self.sample_selection_agreement and not self.sample_selection, "given with --sample_selection"
        require(not idle, "sample_selection_agreement", True, wanted)


@dataclass(frozen=True)
class CrossModal:
    """Learning of one modality from the other."""

    fusion_type: Literal["mid", "late"] = "mid"
    """Shared decoder (mid), or a network for each modality (late)."""
    use_common_feature: bool = False
    """Add a third branch that sees both modalities stacked."""
    consist_loss_type: Literal["ce", "kl", "mse", "none"] = "ce"
    """Consistency between the modalities' predictions."""
    consist_loss_weight: float = 1.0
    """Factor of the consistency loss."""
    sample_selection_confidence_type: Literal["ce", "gini"] = "ce"
    """Confidence in a prediction, by which consistency is weighted with --sample_selection: entropy (ce) or Gini."""

    def __post_init__(self) -> None:
        weight = self.consist_loss_weight
        require(weight >= 0, "consist_loss_weight", weight, "at least 0")


@dataclass(frozen=True)
class PretrainModel(Encoder):
    """Encoder and its start."""

    init_s1: str = "random"
    """Start of the Sentinel-1 encoder: random, imagenet, or a weights file."""
    init_s2: str = "random"
    """Start of the Sentinel-2 encoder: random, imagenet, or a weights file (MoCo, DINO, CromSS ...)."""
    pre_train: Annotated[bool, tyro.conf.arg(aliases=["--pre-train"])] = False
    """Start both encoders from ImageNet."""
    loss_type: str = "cd"
    """Segmentation losses by letter: c cross-entropy, d Dice, f focal, g generalised and s symmetric cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss(self.loss_type)
        for flag in (entry.name for entry in fields(self) if entry.name.startswith("init_")):
            check_start(self.model_type, flag, getattr(self, flag))
        name = self.model_type
        unknown = self.pre_train and family(name) in OWN_FAMILIES
        require(not unknown, "pre_train", True, f"left out with --model_type {name}: timm has no weights of it")


@dataclass(frozen=True)
class SingleModalModel(PretrainModel):
    """Encoder and its start."""

    init_ortho: str = "random"
    """Start of the orthophoto encoder: random, imagenet, or a weights file."""


@dataclass(frozen=True)
class PretrainOptimisation(Optimisation):
    """Optimiser and schedule."""

    lr_adjust_type: Literal["rop", "exp", "cos", "none"] = "rop"
    """Halve on a plateau of the validation loss (rop), exponential decay, half a cosine, or constant."""
    lr_adjust: float = 30
    """Patience in epochs (rop), decay an epoch (exp), or final rate (cos)."""
    layer_decay: float = 1.0
    """Ratio of the learning rates of neighbouring encoder layers, decoder at the full rate; 1 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        adjust, by, rate = self.lr_adjust, self.lr_adjust_type, self.learning_rate
        require(by != "exp" or 0 < adjust < 1, "lr_adjust", adjust, "over 0 and under 1 with --lr_adjust_type exp")
        require(by != "rop" or 0 <= adjust < 1e6, "lr_adjust", adjust, "epochs, at least 0, with --lr_adjust_type rop")
        wanted = f"a final rate of at most --learning_rate {rate:g} with --lr_adjust_type cos"
        require(by != "cos" or 0 <= adjust <= rate, "lr_adjust", adjust, wanted)
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "over 0 and at most 1")
        warmup = self.warmup_epochs
        require(by != "rop" or not warmup, "warmup_epochs", warmup, "0 with --lr_adjust_type rop")


@dataclass(frozen=True)
class PretrainRuntime(Runtime):
    """Where and how it runs."""

    display_interval: int = 10
    """Epochs between image panels; 0 for none."""
    cal_tr_acc: bool = False
    """Score the training batches, too."""
    whole_batch: bool = False
    """Losses and selection see the batch of all processes, as in one; as published, each process sees its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.display_interval >= 0, "display_interval", self.display_interval, "at least 0")


@dataclass(frozen=True)
class PretrainSettings:
    """What every pretraining can be told."""

    input_type: Literal["s12", "s1", "s2"] = "s12"
    """Modalities: s12 for both, s1 or s2 for one."""
    data: PretrainData = field(default_factory=PretrainData)
    model: PretrainModel = field(default_factory=PretrainModel)
    smoothing: Smoothing = field(default_factory=Smoothing)
    selection: SampleSelection = field(default_factory=SampleSelection)
    optimisation: PretrainOptimisation = field(default_factory=PretrainOptimisation)
    runtime: PretrainRuntime = field(default_factory=PretrainRuntime)
    cross: ClassVar[CrossModal] = CrossModal(consist_loss_type="none")

    def __post_init__(self) -> None:
        check_inputs(self.model, self.modalities, self.data.n_channels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality keys that are read."""
        return ("s1", "s2") if self.input_type == "s12" else (self.input_type,)


@dataclass(frozen=True)
class MultiModalSettings(PretrainSettings):
    """CromSS: twin Sentinel-1 and Sentinel-2 encoders pretrained on noisy labels."""

    cross: CrossModal = field(default_factory=CrossModal)

    def __post_init__(self) -> None:
        wanted = f"s12 with --fusion_type {self.cross.fusion_type}; for one modality run train_pretrain.py"
        require(self.input_type == "s12", "input_type", self.input_type, wanted)
        super().__post_init__()


@dataclass(frozen=True)
class SingleModalSettings(PretrainSettings):
    """Single-modal pretraining on noisy labels."""

    input_type: Literal["s1", "s2", "ortho"] = "s2"
    """Modality; ortho for orthophotos (NIR, R, G, B)."""
    data: SingleModalData = field(default_factory=SingleModalData)
    model: SingleModalModel = field(default_factory=SingleModalModel)

    def __post_init__(self) -> None:
        for modality in ("s1", "s2", "ortho"):
            start = getattr(self.model, f"init_{modality}")
            unused = modality != self.input_type and start != "random"
            require(not unused, f"init_{modality}", start, f"left out with --input_type {self.input_type}")
        optical, wanted = self.input_type != "ortho", "left out with --input_type ortho: it is for Sentinel-2"
        require(optical or self.data.n_channels == 13, "n_channels", self.data.n_channels, wanted)
        legal, wanted = optical or self.data.has_usual_noise, "left out with --input_type ortho"
        require(legal, "synthetic_noise", self.data.noise, wanted)
        super().__post_init__()
