"""What `science.py` combines: kinds of noise, methods, seeds, transfers, and the settings of each run."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cromss.config import read
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.settings.pretraining import PretrainSettings

RECIPE = Path(__file__).resolve().parents[1] / "train_scripts" / "configs" / "ft_dfc2020.yaml"
"""Recipe of the transfers."""

STATES = {"frozen": "efix --moving_batchnorm", "tuned": "etr", "probe": "efix --model_framework unet"}
"""State of the encoder -> value of --encoder_finetune_tag, and further flags.

Statistics of frozen encoders move, as in the published tables: those of random ones mean nothing. The probe is a linear
layer on all stages of a frozen one, where PSPNet sees but three.
"""

EXACT, USUAL = ("none", 0), ("mixed", 2)
"""Noise of what does not learn noisy labels, and of the synthetic default."""


@dataclass(frozen=True)
class Method:
    """A way to pretrain.

    Attributes:
        flags: Of the training script.
        twins: Both modalities at once; else each alone.
        exact: It learns exact labels.
    """

    flags: str
    twins: bool = True
    exact: bool = False

    @property
    def selects(self) -> bool:
        """Whether it selects labels."""
        return "--sample_selection" in self.flags.split()


def _smoothed(kind: str) -> str:
    return f"--label_smoothing --label_smoothing_prior_type {kind}"


_AGREEMENT = "--sample_selection --sample_selection_agreement"

CO_TEACHING = "single-modal, co-teaching"

SINGLE_SELECTION = "single-modal, ts and selection"

METHODS: dict[str, Method | None] = {
    "random": None,
    "single-modal": Method("", twins=False),
    "single-modal, generalised CE": Method("--loss_type gd", twins=False),
    "single-modal, symmetric CE": Method("--loss_type sd", twins=False),
    CO_TEACHING: Method("", twins=False),
    SINGLE_SELECTION: Method(f"{_smoothed('ts')} --sample_selection", twins=False),
    f"{SINGLE_SELECTION} by agreement": Method(f"{_smoothed('ts')} {_AGREEMENT}", twins=False),
    "multi-modal": Method(""),
    "multi-modal, smoothing s": Method(_smoothed("s")),
    "multi-modal, smoothing t": Method(_smoothed("t")),
    "multi-modal, smoothing ts": Method(_smoothed("ts")),
    "multi-modal, selection": Method("--sample_selection"),
    "CromSS-mid": Method(f"{_smoothed('ts')} --sample_selection"),
    "CromSS-mid, agreement": Method(f"{_smoothed('ts')} {_AGREEMENT}"),
    "CromSS-mid, common branch": Method(f"{_smoothed('ts')} --sample_selection --use_common_feature"),
    "CromSS-late": Method(f"{_smoothed('ts')} --sample_selection --fusion_type late"),
    "single-modal, exact labels": Method("", twins=False, exact=True),
    "multi-modal, exact labels": Method("", exact=True),
}
"""Name -> how an encoder is pretrained; `None` for not at all."""

ABLATED = {
    "trusted share 0.25 (0.5)": "--sample_selection_prop 0.25",
    "trusted share 0.75": "--sample_selection_prop 0.75",
    "linear ramp (exponential)": "--sample_selection_rmup_func linear",
    "no ramp": "--sample_selection_rmup_func none",
    "factors 0.05, 0.05 (0.15, 0.05)": "--label_smoothing_factor 0.05 0.05",
    "factors 0.3, 0.05": "--label_smoothing_factor 0.3 0.05",
    "factors 0.15, 0": "--label_smoothing_factor 0.15 0",
    "sigma 1 px (3)": "--label_smoothing_sigma 1",
    "sigma 6 px": "--label_smoothing_sigma 6",
    "consistency KL (CE)": "--consist_loss_type kl",
    "consistency MSE": "--consist_loss_type mse",
    "no consistency": "--consist_loss_type none",
    "consistency weight 0.3 (1)": "--consist_loss_weight 0.3",
    "consistency weight 3": "--consist_loss_weight 3",
    "confidence Gini (entropy)": "--sample_selection_confidence_type gini",
}
"""Change to CromSS-mid, in brackets what it is there -> flags. The last of a repeated flag counts."""

CROMSS = "CromSS-mid"

IDEAS = {CROMSS: ("own confidence", "floor", "teacher"), SINGLE_SELECTION: ("floor", "teacher")}
"""Method -> changes to it that were tried, see `ideas.py`."""

TRIED = {f"{method}, {idea}": METHODS[method] for method, ideas in IDEAS.items() for idea in ideas}

WAYS = METHODS | TRIED | {name: Method(f"{METHODS[CROMSS].flags} {flags}") for name, flags in ABLATED.items()}
"""All methods, and CromSS-mid with one thing changed each."""


@dataclass(frozen=True)
class Grid:
    """What is combined, and how large everything is.

    Attributes:
        noises: Kind and level of the noise, see `cromss.synthetic.NOISE_PRESETS`.
        seeds: Seeds of pretraining, of transfer, and of which tiles are labelled.
        fractions: Percent of the training tiles that are labelled.
        encoder: Encoder of all runs.
        locations: Locations of the pretraining set, 264 px, four seasons.
        crop: Side of the training crops, in pixels.
        batch: Samples a step.
        epochs: Epochs of pretraining.
        tiles: Training and test tiles of the transfer.
        size: Their side in pixels, a multiple of 32.
        steps: Steps of a transfer, about, whatever the fraction.
        methods: Names in `WAYS`.
        inputs: Modalities to transfer.
        states: Names in `STATES`. The probe takes the largest fraction alone; so does everything under other noise than
            the main one, where no encoder is tuned.
    """

    noises: tuple[tuple[str, int], ...]
    seeds: tuple[int, ...]
    fractions: tuple[float, ...]
    encoder: str
    locations: int
    crop: int
    batch: int
    epochs: int
    tiles: tuple[int, int]
    size: int
    steps: int
    methods: tuple[str, ...] = tuple(METHODS)
    inputs: tuple[str, ...] = ("s1", "s2")
    states: tuple[str, ...] = tuple(STATES)

    @property
    def main_noise(self) -> tuple[str, int]:
        """The noise of most transfers: the usual one, if it is there."""
        return USUAL if USUAL in self.noises else self.noises[0]


KINDS = ("mixed", "confusion", "borders", "objects", "seasons")
REDUCED = Grid(
    noises=(("mixed", 2), ("confusion", 3)),
    seeds=(0, 1, 2),
    fractions=(100,),
    encoder="tu-test_resnet",
    locations=24,
    crop=64,
    batch=4,
    epochs=20,
    tiles=(24, 24),
    size=64,
    steps=40,
)
GRIDS = {
    "full": Grid(
        noises=tuple(itertools.product(KINDS, (1, 2, 3))),
        seeds=(0, 1, 2),
        fractions=(1, 10, 100),
        encoder="resnet18",
        locations=200,
        crop=128,
        batch=16,
        epochs=40,
        tiles=(200, 100),
        size=128,
        steps=300,
    ),
    "reduced": REDUCED,
    "ablation": replace(REDUCED, noises=(USUAL,), methods=(CROMSS, *ABLATED), states=("frozen",)),
    "ideas": replace(REDUCED, methods=(*IDEAS, *TRIED), states=("frozen",)),
    "tiny": Grid(
        noises=(("confusion", 1),),
        seeds=(0,),
        fractions=(100,),
        encoder="tu-test_resnet",
        locations=3,
        crop=32,
        batch=2,
        epochs=2,
        tiles=(3, 2),
        size=32,
        steps=2,
        methods=("random", "single-modal", "CromSS-mid"),
        inputs=("s2",),
        states=("frozen", "probe"),
    ),
}
"""Name -> grid: hours on a GPU, under an hour of two processes on two cores, a quarter of one, as long, seconds."""


def settings_hash(name: str) -> str:
    """Hash of a grid and its methods: results of one hash are of the same settings."""
    grid = GRIDS[name]
    return hashlib.sha256(repr((grid, [WAYS[method] for method in grid.methods])).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Start:
    """Where an encoder comes from."""

    method: str
    noise: tuple[str, int]
    seed: int

    @property
    def name(self) -> str:
        """Start of the names of its run folders."""
        words = re.sub(r"[^\w.-]+", "_", self.method)
        return f"{words}_{self.noise[0]}{self.noise[1]}_seed{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One transfer."""

    start: Start
    input: str
    state: str
    fraction: float

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.state}_{self.input}_{self.fraction:g}pc_{self.start.name}"


def starts(grid: Grid) -> list[Start]:
    """All encoders; those that learn no noisy labels come once, not for each noise."""
    listed = []
    for seed, name in itertools.product(grid.seeds, grid.methods):
        method = WAYS[name]
        noises = (EXACT,) if method is None or method.exact else grid.noises
        listed += [Start(name, noise, seed) for noise in noises]
    return listed


def cells(grid: Grid, start: Start) -> Iterator[Cell]:
    """All transfers of an encoder."""
    most, is_main = max(grid.fractions), start.noise in (EXACT, grid.main_noise)
    for modality, state in itertools.product(grid.inputs, grid.states):
        if state != "tuned" or is_main:
            fractions = grid.fractions if is_main and state != "probe" else (most,)
            yield from (Cell(start, modality, state, fraction) for fraction in fractions)


def pretrained_name(start: Start, modality: str) -> str:
    """Name of the run folder of a pretraining; twins are the same for both modalities."""
    return f"pretrain_{'s12' if WAYS[start.method].twins else modality}_{start.name}"


def pretraining(grid: Grid, start: Start, modality: str, home: Path) -> PretrainSettings:
    """Settings of the pretraining of an encoder; the ramp of the selection takes two fifths of it, as published."""
    method = WAYS[start.method]
    kind, level = start.noise
    labels = "--experiment gt_labels" if method.exact else f"--synthetic_noise {kind} --synthetic_noise_level {level}"
    ramp = f"--sample_selection_rmdown_epoch {max(1, 2 * grid.epochs // 5)}" if method.selects else ""
    only = "" if method.twins else f"--input_type {modality}"
    flags = f"""
        {method.flags} {labels} {ramp} {only} --gt_available --model_type {grid.encoder} --crop_size {grid.crop}
        --synthetic_locations {grid.locations} --validation 0.15 --batch_size {grid.batch} --epochs {grid.epochs}
        --learning_rate 1e-3 --lr_adjust_type cos --lr_adjust 1e-5 --seed {start.seed} --devices 1
        --name {pretrained_name(start, modality)} --display_interval 0 --save_interval 100000 --save_dir
    """
    return read(MultiModalSettings if method.twins else SingleModalSettings, [*flags.split(), str(home)])


def transfer(grid: Grid, cell: Cell, weights: str, home: Path) -> FinetuneSettings:
    """Settings of a transfer, with PSPNet as published."""
    tiles = math.ceil(grid.tiles[0] * cell.fraction / 100)
    epochs = math.ceil(grid.steps / max(1, tiles // grid.batch))
    flags = f"""
        --config {RECIPE} --input_type {cell.input} --model_type {grid.encoder} --fraction {cell.fraction:g}
        --synthetic_tiles {grid.tiles[0]} {grid.tiles[1]} --synthetic_size {grid.size} --crop_size {grid.size}
        --batch_size {grid.batch} --epochs {epochs} --learning_rate 1e-3 --split_seed {cell.start.seed}
        --encoder_finetune_tag {STATES[cell.state]} --seed {cell.start.seed} --devices 1 --save_maps 0
        --save_interval 100000 --name {cell.name}
    """
    return read(FinetuneSettings, [*flags.split(), "--weight_path", weights, "--save_dir", str(home)])
