"""Settings of the results bench, and the grid of transfers that it runs."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from cromss.config import read, suggestion
from cromss.settings.common import require
from cromss.settings.finetuning import FinetuneSettings
from cromss.yaml_files import read_yaml

ENCODER_TAGS = {"frozen": "efix", "tuned": "etr"}
"""State of the encoder -> its word for `--encoder_finetune_tag`."""


@dataclass(frozen=True)
class BenchSettings:
    """Grid of transfers: weights x sets x heads x frozen or tuned x fractions x seeds, and its tables."""

    grid: str
    """YAML of the grid, such as train_scripts/configs/bench_small.yaml."""
    save_dir: str = "runs/bench"
    """Parent of the run folders, of results.csv, and of tables.md and tables.tex."""
    part: str = "1/1"
    """Share of the cells to run: 2/4 for the second of four processes, each of which can go on alone."""
    tables: bool = False
    """Write the tables from what is there, and run nothing."""
    dry_run: bool = False
    """List the cells, and run nothing."""

    def __post_init__(self) -> None:
        numbers = re.fullmatch(r"(\d+)/(\d+)", self.part)
        legal = numbers is not None and 1 <= int(numbers[1]) <= int(numbers[2])
        require(legal, "part", self.part, "a part and their number, such as 2/4")

    def mine(self, cells: Sequence["Cell"]) -> Sequence["Cell"]:
        """The cells of this part."""
        part, parts = map(int, self.part.split("/"))
        return cells[part - 1 :: parts]


@dataclass(frozen=True)
class GridSet:
    """A set to transfer to."""

    recipe: str
    """YAML of finetune.py, beside the grid's."""
    data_path: str = ""
    """Its stores; empty for the synthetic default."""
    input_types: tuple[str, ...] = ()
    """Inputs; empty for the recipe's."""
    heads: tuple[str, ...] = ()
    """Segmentation heads; empty for the recipe's."""
    flags: str = ""
    """Further flags of finetune.py."""


@dataclass(frozen=True)
class GridWeights:
    """Encoder weights: a path for every input, or one for each that they can take."""

    path: str = ""
    """random, imagenet, or a checkpoint."""
    s1: str = ""
    """The same for Sentinel-1 alone."""
    s2: str = ""
    """The same for Sentinel-2 alone."""
    s12: str = ""
    """The same for both."""
    ortho: str = ""
    """The same for orthophotos."""
    flags: str = ""
    """Further flags of finetune.py."""

    def __post_init__(self) -> None:
        if not (self.path or self.s1 or self.s2 or self.s12 or self.ortho):
            raise ValueError("no path: random, imagenet or a checkpoint is wanted")


@dataclass(frozen=True)
class Grid:
    """What to combine with what."""

    sets: dict[str, GridSet]
    """Name -> set."""
    weights: dict[str, GridWeights]
    """Name -> weights, or just their path."""
    encoder_states: tuple[str, ...] = ("frozen", "tuned")
    """frozen, tuned, or both."""
    fractions: tuple[float, ...] = (100,)
    """Percent of all training tiles; only where nothing but 100 is wanted, the recipe's --n_train counts."""
    normalizations: tuple[str, ...] = ("common",)
    """Input as in the published tables (common), as the weights know it (native), or its z-score (zscore)."""
    seeds: tuple[int, ...] = (42,)
    """Seeds."""
    flags: str = ""
    """Further flags of finetune.py for every cell."""
    frozen_flags: str = ""
    """Further flags of finetune.py where the encoder is frozen."""

    def __post_init__(self) -> None:
        states = self.encoder_states
        require(set(states) <= set(ENCODER_TAGS), "encoder_states", states, "frozen, tuned, or both")


@dataclass(frozen=True)
class Cell:
    """One transfer of the grid: its coordinates and its settings."""

    set: str
    input_type: str
    weights: str
    head: str
    encoder_state: str
    normalization: str
    fraction: float
    seed: int
    settings: FinetuneSettings

    @property
    def coordinates(self) -> dict[str, Any]:
        """Coordinate -> value."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)[:-1]}


def read_grid(path: Path) -> Grid:
    """Read a grid.

    Raises:
        ValueError: Not readable, unknown or missing keys, or values of a wrong kind.
    """
    return _typed(Grid, read_yaml(path, "grid"), f"--grid {path}")


def list_cells(path: Path, save_dir: str) -> list[Cell]:
    """All cells of a grid, their settings checked.

    Args:
        path: YAML of the grid.
        save_dir: Parent of the run folders.

    Raises:
        ValueError: In the grid, or in the settings of a cell, which is named.
    """
    grid = read_grid(path)
    cells = [cell for name in grid.sets for cell in _cells_of_set(grid, name, path, save_dir)]
    names = [cell.settings.runtime.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--grid {path}: two cells would share the run folder {name}; rename one of them")
    if not cells:
        raise ValueError(f"--grid {path}: no cells; do the weights have a path for the input types?")
    return cells


def _cells_of_set(grid: Grid, name: str, path: Path, save_dir: str) -> Iterator[Cell]:
    entry, place = grid.sets[name], f"--grid {path}: sets: {name}"
    flags = ["--config", str(path.parent / entry.recipe), "--devices", "1", *_words(grid.flags, place)]
    flags += [*_words(entry.flags, place), *(["--data_path", entry.data_path] if entry.data_path else [])]
    head = ["--model_framework", entry.heads[0]] if entry.heads else []
    recipe = _finetune_settings([*flags, *head, "--weight_path", "a file", "--split_file", ""], place)
    inputs, heads = entry.input_types or (recipe.data.input_type,), entry.heads or (recipe.model.model_framework,)
    axes = (inputs, grid.weights, heads, grid.encoder_states, grid.normalizations, grid.fractions)
    for point in itertools.product(*axes):
        weights = grid.weights[point[1]]
        if weight_path := getattr(weights, point[0], "") or weights.path:
            own = [*(_words(grid.frozen_flags, place) if point[3] == "frozen" else []), *_words(weights.flags, place)]
            own += ["--weight_path", weight_path, "--save_dir", save_dir, "--resume", "auto"]
            if any(fraction < 100 for fraction in grid.fractions):  # 100 % is all tiles, in no order
                own += ["--n_train", "0", *(["--split_file", ""] if point[5] == 100 else [])]
            yield from _cells_of_seeds((name, *point), grid.seeds, [*flags, *own], place)


def _cells_of_seeds(point: Sequence[Any], seeds: Sequence[int], flags: Sequence[str], place: str) -> Iterator[Cell]:
    """Cells that differ in their seed only, so that the flags are parsed once."""
    name, input_type, weights, head, encoder_state, normalization, fraction = point
    own = ["--input_type", input_type, "--model_framework", head, "--normalization", normalization]
    own += ["--encoder_finetune_tag", ENCODER_TAGS[encoder_state], "--fraction", str(fraction)]
    settings = _finetune_settings([*flags, *own], f"{place}, {weights}")
    for seed in seeds:
        run = f"{name}_{input_type}_{weights}_{head}_{encoder_state}_{normalization}_{fraction:g}pct_seed{seed}"
        try:
            runtime = dataclasses.replace(settings.runtime, name=re.sub(r"[^\w.-]+", "-", run), seed=(seed,))
        except ValueError as error:
            raise ValueError(f"{place}, {weights}: {error}") from None
        yield Cell(*point, seed, dataclasses.replace(settings, runtime=runtime))


def _words(flags: str, place: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise ValueError(f"{place}: flags {flags!r}: {str(error).lower()}") from None


def _finetune_settings(arguments: Sequence[str], place: str) -> FinetuneSettings:
    try:
        return read(FinetuneSettings, arguments)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _typed(kind: Any, value: Any, place: str) -> Any:
    """A YAML value as the annotated kind; `place` says where it stands."""
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record(kind, {"path": value} if kind is GridWeights and isinstance(value, str) else value, place)
    if origin is tuple:
        return tuple(_typed(inner[0], item, place) for item in (value if isinstance(value, list) else [value]))
    if origin is dict:
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{place}: expected a mapping of names, got {value!r}")
        return {str(name): _typed(inner[1], entry, f"{place}: {name}") for name, entry in value.items()}
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{place}: wants {kind.__name__}, got {value!r}")
    return value


def _record(kind: type, content: Any, place: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{place}: expected a mapping, got {content!r}")
    kinds = get_type_hints(kind)
    for key in content:
        if key not in kinds:
            hint = suggestion(str(key), kinds, f"known: {', '.join(kinds)}")
            raise ValueError(f"{place}: unknown key {key!r}; {hint}")
    for entry in dataclasses.fields(kind):
        if entry.default is dataclasses.MISSING and entry.name not in content:
            raise ValueError(f"{place}: {entry.name} is missing")
    values = {key: _typed(kinds[key], value, f"{place}: {key}") for key, value in content.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{place}: {str(error).removeprefix('--')}") from None
