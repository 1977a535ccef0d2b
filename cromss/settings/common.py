"""Settings that every training shares, and the checks that name the flag."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from cromss.encoder_names import IMAGE_SIZES, LONGEST_WAVELENGTH, OWN_FAMILIES, PATCH_SIZES, family, is_vit
from cromss.sensors import MODALITIES, S2_SUBSETS


def require(condition: bool, flag: str, value: Any, wanted: str) -> None:
    """Raise ValueError, naming the flag, its value and what is wanted, unless the condition holds."""
    if not condition:
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise ValueError(f"--{flag} {shown}: must be {wanted}")


def check_channels(n_channels: int) -> None:
    """Refuse a number of Sentinel-2 bands that stands for no subset."""
    require(n_channels in S2_SUBSETS, "n_channels", n_channels, f"one of {', '.join(map(str, S2_SUBSETS))}")


def check_loss(loss_type: str) -> None:
    """Refuse letters that stand for no loss."""
    require(bool(re.fullmatch("[cdfgs]+", loss_type)), "loss_type", loss_type, "letters of c, d, f, g, s")


@dataclass(frozen=True)
class Encoder:
    """The encoder, and how it is built where it is a ViT."""

    model_type: str = "resnet50"
    """Encoder: any of segmentation_models_pytorch (tu-NAME for timm), or a ViT:
    vit_small_patch16_224 and others of timm, satmae_large_patch8_96, scalemae_large_patch16_224,
    dofa_base_patch16_224."""
    patch_size: int = 0
    """ViT: side of a patch, in pixels; 0 for that of the name."""
    image_size: int = 0
    """ViT: side of the images that its position embeddings are made for, in pixels; 0 for --crop_size."""
    drop_path: float = 0.0
    """ViT: stochastic depth rate of the last block; it rises evenly from 0 in the first."""
    grad_checkpointing: bool = False
    """Activations of small blocks, and of all blocks of a ViT, are not kept but computed again in the backward pass:
    less memory, the same bits, longer steps. With --compile those of a ViT only."""
    wavelengths: tuple[float, ...] = ()
    """DOFA: central wavelengths of the bands fed, in um, Sentinel-1 first; empty for those of the sensor."""

    def __post_init__(self) -> None:
        patch, side, rate, name = self.patch_size, self.image_size, self.drop_path, self.model_type
        legal, wanted = patch == 0 or patch in PATCH_SIZES, f"{PATCH_SIZES[0]} to {PATCH_SIZES[-1]}"
        require(legal, "patch_size", patch, f"{wanted}, or 0 for that of the name")
        legal, wanted = side == 0 or side in IMAGE_SIZES, f"{IMAGE_SIZES[0]} to {IMAGE_SIZES[-1]}"
        require(legal, "image_size", side, f"{wanted}, or 0 for --crop_size")
        require(0 <= rate < 1, "drop_path", rate, "at least 0 and under 1")
        waves = self.wavelengths
        legal, wanted = all(0 < wave < LONGEST_WAVELENGTH for wave in waves), f"0 to {LONGEST_WAVELENGTH:g}"
        require(legal, "wavelengths", waves, f"in um, such as 0.665: {wanted}")
        for flag in ("patch_size", "image_size", "drop_path"):
            value = getattr(self, flag)
            require(is_vit(name) or not value, flag, value, f"left out with --model_type {name}, which is no ViT")
        dofa = family(name) == "dofa"
        require(dofa or not waves, "wavelengths", waves, f"left out with --model_type {name}, which is no DOFA")


_S2_CHANNELS = {"satmae": 10, "scalemae": 3}
"""ViT family -> the bands that it knows, as `--n_channels` says them."""


def check_start(encoder_name: str, flag: str, start: str) -> None:
    """Refuse ImageNet weights, the value `start` of a flag, of an encoder that timm has none of."""
    unknown = start == "imagenet" and family(encoder_name) in OWN_FAMILIES
    require(not unknown, flag, start, f"random or a file with --model_type {encoder_name}: timm has no weights of it")


def check_inputs(encoder: Encoder, modalities: Sequence[str], n_channels: int) -> None:
    """Refuse modalities and bands that an encoder cannot take.

    Args:
        encoder: The encoder.
        modalities: What is fed, in order.
        n_channels: Which bands of Sentinel-2.

    Raises:
        ValueError: SatMAE or ScaleMAE on other bands than its own, or not a wavelength for each band.
    """
    kind, name = family(encoder.model_type), encoder.model_type
    if kind in _S2_CHANNELS:
        only = tuple(modalities) == ("s2",)
        require(only, "model_type", name, f"another encoder, or --input_type s2: {kind} takes Sentinel-2 alone")
        wanted = _S2_CHANNELS[kind]
        require(n_channels == wanted, "n_channels", n_channels, f"{wanted} with --model_type {name}")
    count = sum(len(S2_SUBSETS[n_channels] if m == "s2" else MODALITIES[m].bands) for m in modalities)
    waves, needed = encoder.wavelengths, kind == "dofa" and "ortho" in modalities  # they differ by camera
    wanted = f"{count} numbers, one for each band of {' and '.join(modalities)}"
    require(len(waves) == count or not (waves or needed), "wavelengths", waves, wanted)


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and schedule."""

    epochs: Annotated[int, tyro.conf.arg(aliases=["-e"])] = 100
    """Number of epochs."""
    batch_size: int = 16
    """Samples a batch and process."""
    accumulate: int = 1
    """Batches a step: gradients of so many are averaged."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser; adamw for ViTs: weight decay of matrices and convolution kernels alone."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["-l"])] = 0.005
    """Initial learning rate; ViTs want about 5e-4."""
    weight_decay: float = 1e-8
    """Weight decay."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs", self.epochs, "at least 1")
        require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")
        require(self.accumulate > 0, "accumulate", self.accumulate, "at least 1")
        require(0 < self.learning_rate < 1e3, "learning_rate", self.learning_rate, "over 0 and finite")
        require(0 <= self.weight_decay < 1e3, "weight_decay", self.weight_decay, "at least 0 and finite")
        warmup, wanted = self.warmup_epochs, f"at least 0 and under --epochs {self.epochs}"
        require(0 <= warmup < self.epochs, "warmup_epochs", warmup, wanted)


@dataclass(frozen=True)
class Runtime:
    """Where and how it runs."""

    save_dir: str = "runs"
    """Parent of the run folder."""
    name: str = ""
    """Run folder inside --save_dir; named after the settings if empty."""
    resume: str = "auto"
    """auto continues an unfinished run in its folder, none starts afresh, PATH continues a checkpoint; a job that
    SLURM has started again continues what it has saved itself."""
    seed: int = 42
    """Seed of everything that is drawn."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""
    devices: int = 0
    """Processes on this machine; 0 for all GPUs, or one CPU process. SLURM decides under --slurm."""
    slurm: bool = False
    """Insist on being a SLURM task; nodes and processes are taken from SLURM under srun anyway."""
    num_workers: Annotated[int, tyro.conf.arg(aliases=["-n"])] = -1
    """Loader processes; -1 for as many as a GPU needs and the machine has, or none on the CPU."""
    test_batch_size: int = 0
    """Samples a step in validation and test; 0 for --batch_size."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """32: full, no TF32; bf16: mixed, statistics and losses in full, very slow on CPUs without instructions for it;
    auto: mixed on GPUs that have it, else full."""
    amp: bool = False
    """The same as --precision bf16."""
    deterministic: bool = False
    """Only algorithms that give the same bits again, where a GPU would choose faster ones."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite ends: the run, or the step; ten such steps in a row end the run."""
    sync_batchnorm: bool = False
    """BatchNorm over the batches of all processes, on GPUs."""
    compile: bool = False
    """Compile the network (torch.compile): a slow start, faster steps, other rounding; wants a C++ compiler."""
    max_steps: int = -1
    """Stop after so many steps; -1 for no limit."""
    limit_batches: int = 0
    """Batches an epoch, for trying things; 0 for all."""
    save_interval: int = 10
    """Epochs between kept checkpoints."""
    keep_checkpoints: int = 5
    """How many of them are kept, the newest; 0 for all."""
    save_seconds: float = 300
    """Seconds after which last.ckpt is written again, between two steps; it is at the end, too."""

    def __post_init__(self) -> None:
        for name in ("devices", "limit_batches", "test_batch_size"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.num_workers >= -1, "num_workers", self.num_workers, "at least 0, or -1")
        require(self.precision != "32" or not self.amp, "amp", self.amp, "left out with --precision 32")
        on_cpu, wanted = self.accelerator == "cpu", "left out on the CPU"
        require(not (self.sync_batchnorm and on_cpu), "sync_batchnorm", self.sync_batchnorm, wanted)
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        require(min(seeds) >= 0 and max(seeds) < 1 << 32, "seed", self.seed, "at least 0 and under 4294967296")
        require(self.save_interval > 0, "save_interval", self.save_interval, "at least 1")
        require(self.keep_checkpoints >= 0, "keep_checkpoints", self.keep_checkpoints, "at least 1, or 0 for all")
        require(self.save_seconds >= 0, "save_seconds", self.save_seconds, "at least 0")
        require(self.max_steps > 0 or self.max_steps == -1, "max_steps", self.max_steps, "at least 1, or -1")
