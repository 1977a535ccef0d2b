"""A small set to train on, and the comparison of two runs on it; `kills.py` and `tests/slurm/run.sh` use both.

python benchmarks/small_runs.py write FOLDER
python benchmarks/small_runs.py compare RUN RUN
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cromss.sensors import S1, S2
from cromss.store import LmdbWriter, StoreMeta

STORES = {
    "0k_251k_uint8_s1.lmdb": StoreMeta("s1", S1.bands, "uint8", 2, "noise"),
    "0k_251k_uint8_s2c.lmdb": StoreMeta("s2", S2.bands, "uint8", 2, "noise"),
    "dw_labels.lmdb": StoreMeta("labels", (), "uint8", 2, "noise"),
}


def write_set(home: Path, num_locations: int = 50, seed: int = 0) -> None:
    """Noise of the right shapes, if it is not there yet."""
    rng = np.random.default_rng(seed)
    home.mkdir(parents=True, exist_ok=True)
    for name, meta in STORES.items():
        if not (home / name).exists():
            with LmdbWriter(home / name, meta) as writer:
                for index in range(num_locations):
                    shape, top = ((len(meta.bands), 40, 40), 256) if meta.bands else ((40, 40), 9)
                    seasons = [rng.integers(0, top, shape, np.uint8) for _ in range(meta.num_seasons)]
                    writer.write(f"{index:07d}", seasons)
                writer.finish()


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[tuple[int, Any]]]]:
    """Final weights, and what TensorBoard holds: tag -> steps and values, steps alone of pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    events = EventAccumulator(str(run), {"scalars": 0, "images": 0})
    events.Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return weights, curves | {tag: [(e.step, None) for e in events.Images(tag)] for tag in events.Tags()["images"]}


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tensors and curves of a run that are not exactly those of another; steps that lack or are double."""
    (weights, curves), (other_weights, other_curves) = outcome(one), outcome(other)
    names = [name for name in weights.keys() | other_weights.keys() if not _equal(weights, other_weights, name)]
    names += [tag for tag in curves.keys() | other_curves.keys() if curves.get(tag) != other_curves.get(tag)]
    steps = [step for step, _ in other_curves["train/loss_step"]]
    return names + (["steps"] if steps != list(range(len(steps))) else [])


def compare(one: Path, other: Path) -> None:
    """Print whether two runs are the same, or exit with what differs."""
    if found := differences(one, other):
        sys.exit(f"{other} differs from {one} in {', '.join(sorted(found))}")
    weights, curves = outcome(one)
    print(f"{other} equals {one}: {len(weights)} tensors, {len(curves)} curves, no step lacks or is double")


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], name: str) -> bool:
    return name in one and name in other and torch.equal(one[name], other[name])


if __name__ == "__main__":
    action, *folders = sys.argv[1:]
    {"write": write_set, "compare": compare}[action](*map(Path, folders))
