"""The run folder: where a run lives, whether it is finished, and from which checkpoint it goes on."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from cromss.config import replace_text, save_yaml, to_flat
from cromss.training.saved_state import SavedState, saved_state
from cromss.yaml_files import read_yaml

FREE_TO_CHANGE = frozenset(
    ("resume", "save_dir", "name", "accelerator", "devices", "slurm", "num_workers", "compile", "non_finite")
    + ("epochs", "max_steps", "save_interval", "save_seconds", "keep_checkpoints", "display_interval", "save_maps")
    + ("grad_checkpointing", "test_batch_size")
)
"""Settings in which a run may differ from the one that it continues."""


def free_to_change(flat: Mapping[str, Any]) -> frozenset[str]:
    """`FREE_TO_CHANGE` for given settings: not the epochs, where the learning rates follow from their number."""
    follow = flat.get("scheduler_type") in ("cos", "step") and not flat.get("scheduler_values")
    follow = follow or flat.get("lr_adjust_type") == "cos"
    return FREE_TO_CHANGE - {"epochs"} if follow else FREE_TO_CHANGE


class OtherSettings(ValueError):
    """The folder holds a run with other settings.

    Attributes:
        changes: What differs, as `epochs 8 -> 7`.
    """

    def __init__(self, folder: Path, changes: str) -> None:
        super().__init__(
            f"{folder} holds a run with other settings ({changes}); choose another --name, or --resume none"
        )
        self.changes = changes


@dataclass(frozen=True)
class RunFolder:
    """`<save_dir>/<name>/`: config.yaml, checkpoints/, metrics.csv, metrics.json, panels/, TensorBoard files."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Checkpoint of the end of the run; until then at most `--save_seconds` and a validation behind."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """What was the last checkpoint before."""
        return self.checkpoints / "previous.ckpt"

    def newest(self) -> SavedState | None:
        """Newest checkpoint that a run can go on from, or `None`; says which it had to pass over."""
        there = [path for path in (self.last, self.previous, *self.checkpoints.glob("epoch=*.ckpt")) if path.exists()]
        for path in sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                return saved_state(path)
            except ValueError as error:
                print(f"{error}; passing it over")
        return None

    def finished(self, settings: Any) -> dict[str, Any] | None:
        """Metrics of a finished run with these settings, or `None`.

        Raises:
            OtherSettings: The folder holds a longer run, or one with other settings.
            ValueError: Its files are damaged.
        """
        runtime, optimisation = settings.runtime, settings.optimisation
        if self._resume(settings) != "auto":
            return None
        self.refuse_other_settings(settings)
        if not (self.path / "metrics.json").exists():
            return None
        metrics = _read(self.path / "metrics.json", _json, ("epochs", "max_steps"))
        if metrics["epochs"] > optimisation.epochs:
            raise OtherSettings(self.path, f"epochs {metrics['epochs']} -> {optimisation.epochs}")
        same_length = (metrics["epochs"], metrics["max_steps"]) == (optimisation.epochs, runtime.max_steps)
        return metrics if same_length else None

    def open(self, settings: Any) -> SavedState | None:
        """Make the folder, write config.yaml, and say from which checkpoint to go on.

        Only the first of several processes touches the folder.

        `--resume auto` continues what is there, `none` moves it aside, a path continues that file. A job that SLURM
        has started again continues what it has saved itself. What a kill has left of files half written is removed.

        Raises:
            ValueError: The folder holds a run with other settings, or the path is no checkpoint.
        """
        resume, state = self._resume(settings), None
        if resume == "none":
            if rank_zero_only.rank == 0:
                self._move_aside()
        elif resume == "auto":
            self.refuse_other_settings(settings)
            state = self.newest()
        else:
            state = saved_state(Path(resume))
        epochs = settings.optimisation.epochs
        if state and state.epochs > epochs:
            raise ValueError(f"--epochs {epochs}: {state.path} has done {state.epochs} epochs already")
        if rank_zero_only.rank == 0:
            if state:
                print(f"goes on from {state.path}, after step {state.steps}")
            elif resume == "auto" and any(self.checkpoints.glob("*.ckpt")):
                print(f"{self.checkpoints}: nothing there can be gone on from, so the run begins anew")
            self.path.mkdir(parents=True, exist_ok=True)
            for unfinished in self.checkpoints.glob(".*.ckpt.*"):
                unfinished.unlink()
            save_yaml(settings, self.path / "config.yaml")
        return state

    def close(self, settings: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics.json, which marks the run as finished."""
        length = {"epochs": settings.optimisation.epochs, "max_steps": settings.runtime.max_steps}
        content = _without_nan({**length, **metrics})
        if rank_zero_only.rank == 0:
            replace_text(self.path / "metrics.json", json.dumps(content, indent=2) + "\n")
        return content

    def refuse_other_settings(self, settings: Any) -> None:
        """Raise OtherSettings when the folder holds a run that was started with other settings.

        A setting that was not there yet had what is its default now.
        """
        file = self.path / "config.yaml"
        if not (self.path / "metrics.json").exists() and not any(self.checkpoints.glob("*.ckpt")):
            return  # nothing to go on from: a start that was refused, say
        if not file.exists():
            raise ValueError(
                f"{file}: missing, so that the run's settings are unknown; start afresh with --resume none"
            )
        before, now = to_flat(type(settings)()) | _read(file, partial(read_yaml, flag="config")), to_flat(settings)
        free = free_to_change(now)
        changed = [k for k in now if k not in free and before[k] != now[k]]
        if changed:
            shown = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in changed[:4])
            raise OtherSettings(self.path, shown)

    def _resume(self, settings: Any) -> str:
        """`--resume`; auto where SLURM has started the job again, and it has saved a state since."""
        told, is_requeued = settings.runtime.resume, int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        return "auto" if told != "auto" and is_requeued and self._has_saved(settings) else told

    def _has_saved(self, settings: Any) -> bool:
        """Whether the newest checkpoint is of the same command, `--resume` included; as text, whatever it holds."""
        newest, now = self.newest(), to_flat(settings)
        before = newest.settings if newest else {}
        free = free_to_change(now) - {"resume"}
        return all(key in before and repr(before[key]) == repr(now[key]) for key in now.keys() - free)

    def _move_aside(self) -> None:
        if self.path.exists():
            count = 1
            while (aside := self.path.with_name(f"{self.path.name}.{count}")).exists():
                count += 1
            self.path.rename(aside)


def newest_checkpoint(path: Path, flag: str) -> Path:
    """The checkpoint of a run folder, or the file itself.

    Raises:
        ValueError: A folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    newest = RunFolder(path).newest()
    if newest is None:
        raise ValueError(f"--{flag} {path}: no checkpoint in this folder; a run folder or a checkpoint file is wanted")
    return newest.path


def _without_nan(value: Any) -> Any:
    """NaN (a score of a class that is nowhere) is no JSON; it becomes `None`."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def _read(file: Path, parse: Callable[[Path], Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """A mapping with integers under `keys` from a file of the run folder, or a ValueError that names it."""
    try:
        content = parse(file)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(type(content.get(key)) is int for key in keys):
        raise ValueError(f"{file}: damaged; delete it, or start afresh with --resume none")
    return content
