"""Settings that every training shares, and the checks that name the flag."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from cromss.sensors import S2_SUBSETS


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
    require(bool(re.fullmatch("[cdf]+", loss_type)), "loss_type", loss_type, "letters of c, d, f")


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

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs", self.epochs, "at least 1")
        require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")
        require(0 < self.learning_rate < 1e3, "learning_rate", self.learning_rate, "over 0 and finite")
        require(0 <= self.weight_decay < 1e3, "weight_decay", self.weight_decay, "at least 0 and finite")


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
    """Insist on being a SLURM task; nodes and processes are taken from SLURM under srun anyway."""
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
    """Epochs between kept checkpoints; last.ckpt is written every five minutes and at the end."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "devices", "limit_batches", "test_batch_size"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        require(min(seeds) >= 0 and max(seeds) < 1 << 32, "seed", self.seed, "at least 0 and under 4294967296")
        require(self.save_interval > 0, "save_interval", self.save_interval, "at least 1")
        require(self.max_steps > 0 or self.max_steps == -1, "max_steps", self.max_steps, "at least 1, or -1")
