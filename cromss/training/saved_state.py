"""Training checkpoints that a run may go on from: looked through before anything is made of what they hold."""

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from cromss.models.weight_files import CARD_KEY, open_checkpoint
from cromss.tasks import SUMS_KEY


@dataclass(frozen=True)
class SavedState:
    """A training checkpoint that was found whole.

    Attributes:
        path: The file.
        epochs: Epochs that it has done, or begun.
        steps: Steps that it has done.
        settings: Flag -> value of the command that wrote it.
    """

    path: Path
    epochs: int
    steps: int
    settings: Mapping[str, Any]


def saved_state(path: Path) -> SavedState:
    """What a training checkpoint tells, every byte of which is looked at.

    Raises:
        ValueError: Missing, damaged, holding code, weights alone, or other things than a training leaves there.
    """
    if not path.is_file():
        raise ValueError(f"--resume {path}: no such checkpoint; auto and none are the other choices")
    content = open_checkpoint(path)
    if damaged := _damaged_member(path):
        raise ValueError(f"--resume {path}: damaged in {damaged}; an earlier checkpoint is wanted")
    if not isinstance(content, dict) or not content.keys() >= _NEEDED:
        raise ValueError(f"--resume {path}: weights without training state; they go to --weight_path or --init_s1")
    if wrong := [key for key, fits in _FORMS.items() if key in content and not fits(content[key])]:
        raise ValueError(f"--resume {path}: {wrong[0]} is not what a training leaves there; another one is wanted")
    settings = content.get(CARD_KEY, {}).get("settings", {})
    return SavedState(path, content["epoch"] + 1, content["global_step"], settings)


def misfit(told: Any, wanted: Any, name: str) -> str:
    """First entry that lacks or is of another type than wanted, as `loops.fit_loop`; empty where there is none.

    Args:
        told: What a file holds.
        wanted: What it would hold of a run that has not begun; anything may come for `None`.
        name: Of the whole.
    """
    if not isinstance(wanted, Mapping):
        return "" if wanted is None or type(told) is type(wanted) else name
    if not isinstance(told, Mapping):
        return name
    parts = (misfit(told.get(key), value, f"{name}.{key}") for key, value in wanted.items())
    return next(filter(None, parts), "")


def _damaged_member(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.?dev|\.?post)\d+)*(\+[\w.]+)?", value))


def _is_card(value: Any) -> bool:
    settings = value.get("settings") if isinstance(value, Mapping) else None
    return isinstance(settings, Mapping) and isinstance(settings.get("learning_rate", 0.0), (int, float))


def _is_optimiser(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _maps_to(Mapping, value.get("state")):
        return False
    return _lists(
        lambda group: isinstance(group, Mapping) and isinstance(group.get("params"), list), value.get("param_groups")
    )


def _maps_to(kind: type, value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(entry, kind) for entry in value.values())


def _lists(fits: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(fits, value))


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "global_step": _is_count,
    "pytorch-lightning_version": _is_version,
    "state_dict": partial(_maps_to, Tensor),
    "optimizer_states": partial(_lists, _is_optimiser),
    "lr_schedulers": partial(_lists, lambda state: isinstance(state, Mapping)),
    "loops": partial(_maps_to, Mapping),
    "callbacks": partial(_maps_to, Mapping),
    SUMS_KEY: lambda sums: isinstance(sums, Mapping) and all(_maps_to(Tensor, states) for states in sums.values()),
    CARD_KEY: _is_card,
}
"""Entry -> whether a value is what belongs there."""
_NEEDED = {
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "loops",
}
