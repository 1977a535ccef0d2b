"""Settings of the scripts: one field = one flag = one YAML key. No torch here, so `--help` is instant."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import tyro


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
    """Number of classes."""
    experiment: Literal["ns_labels", "gt_labels"] = "ns_labels"
    """Train on noisy or on exact labels."""
    gt_available: bool = False
    """Score against exact labels while training on noisy ones."""
    validation: Annotated[float, tyro.conf.arg(aliases=["-v"])] = 0.01
    """Share of the locations held out for validation; at least one location."""
    test_season: int = -1
    """Season of the validation images; -1 takes every season in turn."""
    crop_size: int = 256
    """Side of the training crops, in pixels."""
    synthetic_locations: int = 48
    """Locations of the synthetic default."""


@dataclass(frozen=True)
class Smoothing:
    """Label smoothing over space and seasons."""

    label_smoothing: bool = False
    """Smooth the noisy labels."""
    label_smoothing_factor: tuple[float, ...] = (0.15, 0.05)
    """Share of the prior, and share of the uniform distribution."""
    label_smoothing_prior_type: Literal["ts", "t", "s"] = "ts"
    """Prior over seasons (t), space (s) or both."""


@dataclass(frozen=True)
class CrossModal:
    """Cross-modal learning and sample selection."""

    fusion_type: Literal["mid", "late"] = "mid"
    """Shared decoder (mid), or a network for each modality (late)."""
    use_common_feature: bool = False
    """Add a third branch that sees both modalities stacked."""
    consist_loss_type: Literal["ce", "kl", "mse", "none"] = "ce"
    """Consistency between the modalities' predictions."""
    consist_loss_weight: float = 1.0
    """Factor of the consistency loss."""
    sample_selection: bool = False
    """Weight pixels by confidence."""
    sample_selection_rmup_func: Literal["exp", "linear", "none"] = "exp"
    """Ramp of the selection; none selects the final share from the first epoch."""
    sample_selection_rmdown_epoch: int = 80
    """Epochs until the final share is reached."""
    sample_selection_prop: float = 0.5
    """Final share of each class that is trusted fully."""
    sample_selection_confidence_type: Literal["ce", "gini"] = "ce"
    """Confidence in a prediction: entropy (ce) or Gini."""


@dataclass(frozen=True)
class PretrainModel:
    """Encoder and its start."""

    model_type: str = "resnet50"
    """Encoder, any name that segmentation_models_pytorch knows (tu-NAME for timm)."""
    init_s1: str = "random"
    """Start of the Sentinel-1 encoder: random, imagenet, or a weights file."""
    init_s2: str = "random"
    """Start of the Sentinel-2 encoder: random, imagenet, or a weights file (MoCo, DINO, CromSS ...)."""
    pre_train: Annotated[bool, tyro.conf.arg(aliases=["--pre-train"])] = False
    """Start both encoders from ImageNet."""
    loss_type: str = "cd"
    """Segmentation losses by letter: c cross-entropy, d Dice, f focal."""


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and schedule."""

    epochs: Annotated[int, tyro.conf.arg(aliases=["-e"])] = 100
    """Number of epochs."""
    batch_size: int = 16
    """Samples a step and process."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["-l"])] = 0.005
    """Initial learning rate."""
    weight_decay: float = 1e-8
    """Weight decay."""


@dataclass(frozen=True)
class PretrainOptimisation(Optimisation):
    """Optimiser and schedule."""

    lr_adjust_type: Literal["rop", "exp", "none"] = "rop"
    """Halve on a plateau of the validation loss (rop), exponential decay, or constant."""
    lr_adjust: float = 30
    """Patience in epochs (rop), or decay an epoch (exp)."""


@dataclass(frozen=True)
class Runtime:
    """Where and how it runs."""

    save_dir: str = "runs"
    """Parent of the run folder."""
    name: str = ""
    """Run folder inside --save_dir; named after the settings if empty."""
    resume: str = "auto"
    """auto continues an unfinished run in its folder, none starts afresh, PATH continues a checkpoint."""
    seed: int = 42
    """Seed of everything that is drawn."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""
    devices: int = 0
    """Processes on this machine; 0 for all GPUs, or one CPU process. SLURM decides under --slurm."""
    slurm: bool = False
    """Take nodes and processes from SLURM."""
    num_workers: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 0
    """Loader processes."""
    test_batch_size: int = 0
    """Samples a step in validation and test; 0 for --batch_size."""
    amp: bool = False
    """Mixed precision (bfloat16)."""
    max_steps: int = -1
    """Stop after so many steps; -1 for no limit."""
    limit_batches: int = 0
    """Batches an epoch, for trying things; 0 for all."""
    save_interval: int = 10
    """Epochs between kept checkpoints; the last and the best are always kept."""
    display_interval: int = 10
    """Epochs between image panels."""
    cal_tr_acc: bool = False
    """Score the training batches, too."""


@dataclass(frozen=True)
class PretrainSettings:
    """What every pretraining can be told."""

    input_type: Literal["s12", "s1", "s2"] = "s12"
    """Modalities: s12 for both, s1 or s2 for one."""
    data: PretrainData = field(default_factory=PretrainData)
    model: PretrainModel = field(default_factory=PretrainModel)
    smoothing: Smoothing = field(default_factory=Smoothing)
    optimisation: PretrainOptimisation = field(default_factory=PretrainOptimisation)
    runtime: Runtime = field(default_factory=Runtime)
    cross: ClassVar[CrossModal] = CrossModal(consist_loss_type="none")

    def __post_init__(self) -> None:
        _check_optimisation(self.optimisation, self.runtime)
        _check_bands_and_loss(self.data.n_channels, self.model.loss_type)
        _require(0 < self.data.validation < 1, "validation", self.data.validation, "over 0 and under 1")
        factors = self.smoothing.label_smoothing_factor
        legal = 1 <= len(factors) <= 2 and min(factors) >= 0 and sum(factors) <= 1
        _require(legal, "label_smoothing_factor", factors, "one or two numbers >= 0 that sum to at most 1")
        share = self.cross.sample_selection_prop
        _require(0 < share <= 1, "sample_selection_prop", share, "over 0 and at most 1")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality keys that are read."""
        return ("s1", "s2") if self.input_type == "s12" else (self.input_type,)


@dataclass(frozen=True)
class MultiModalSettings(PretrainSettings):
    """CromSS: twin Sentinel-1 and Sentinel-2 encoders pretrained on noisy labels."""

    cross: CrossModal = field(default_factory=CrossModal)

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = f"s12 with --fusion_type {self.cross.fusion_type}; for one modality run train_pretrain.py"
        _require(self.input_type == "s12", "input_type", self.input_type, wanted)


@dataclass(frozen=True)
class SingleModalSettings(PretrainSettings):
    """Single-modal pretraining on noisy labels."""

    input_type: Literal["s1", "s2"] = "s2"
    """Modality."""


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
    validation: Annotated[float, tyro.conf.arg(aliases=["-v"])] = 0.1
    """Share of the training tiles held out for validation; 0 for none."""
    crop_size: int = 256
    """Side of the training crops, in pixels."""
    synthetic_tiles: tuple[int, int] = (64, 48)
    """Training and test tiles of the synthetic default."""


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
        _check_optimisation(self.optimisation, self.runtime)
        _check_bands_and_loss(self.data.n_channels, self.model.loss_type)
        _require(0 <= self.data.validation < 1, "validation", self.data.validation, "at least 0 and under 1")
        share = self.optimisation.scheduler_values[0]
        _require(0 < share <= 1, "scheduler_values", share, "a share over 0 and at most 1")


def _require(condition: bool, flag: str, value: Any, wanted: str) -> None:
    if not condition:
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise ValueError(f"--{flag} {shown}: must be {wanted}")


def _check_bands_and_loss(n_channels: int, loss_type: str) -> None:
    _require(n_channels in (3, 9, 92, 10, 12, 13), "n_channels", n_channels, "3, 9, 92, 10, 12 or 13")
    _require(bool(re.fullmatch("[cdf]+", loss_type)), "loss_type", loss_type, "letters of c, d, f")


def _check_optimisation(optimisation: Optimisation, runtime: Runtime) -> None:
    _require(optimisation.epochs > 0, "epochs", optimisation.epochs, "at least 1")
    _require(optimisation.batch_size > 0, "batch_size", optimisation.batch_size, "at least 1")
    _require(optimisation.learning_rate > 0, "learning_rate", optimisation.learning_rate, "over 0")
    _require(runtime.num_workers >= 0, "num_workers", runtime.num_workers, "at least 0")
    _require(runtime.save_interval > 0, "save_interval", runtime.save_interval, "at least 1")
    _require(runtime.display_interval > 0, "display_interval", runtime.display_interval, "at least 1")
