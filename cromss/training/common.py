"""What pretraining and transfer share: doing a run once, bands, legends, encoder weights, the synthetic default."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from cromss.legends import LEGENDS
from cromss.models.weights import WeightsError, load_encoder
from cromss.sensors import S1, s2_bands
from cromss.settings import Runtime
from cromss.training.runs import RunFolder, processes

Work = Callable[[Any, RunFolder], dict[str, Any]]


def run_once(settings: Any, default_name: str, work: Work) -> dict[str, Any]:
    """Metrics of a run: of the finished one in its folder, or of the work done now.

    Args:
        settings: Settings with a `runtime` and an `optimisation`.
        default_name: Name of the run folder where --name is empty.
        work: Settings and run folder -> metrics.
    """
    folder = RunFolder(Path(settings.runtime.save_dir) / (settings.runtime.name or default_name))
    processes(settings.runtime)
    metrics = folder.finished(settings)
    if metrics is not None:
        print(f"{folder.path} is finished already")
        return metrics
    L.seed_everything(settings.runtime.seed, verbose=False)
    start = time.monotonic()
    metrics = work(settings, folder)
    return folder.close(settings, metrics | {"seconds": time.monotonic() - start})


def band_names(modality: str, n_channels: int) -> tuple[str, ...]:
    """Names of a modality's bands; `n_channels` chooses among those of Sentinel-2."""
    return S1.bands if modality == "s1" else s2_bands(n_channels)


def load_weights(encoder: nn.Module, path: str, modality: str, bands: Sequence[str]) -> str:
    """Load an encoder from a file and say what it is; `random` and `imagenet` are in the encoder already.

    Raises:
        WeightsError: The file does not fit, or was trained on other bands or another order of them.
    """
    if path in ("random", "imagenet"):
        return path
    report = load_encoder(encoder, path, modality)
    if report.bands not in (None, tuple(bands)):
        raise WeightsError(f"{path}: trained on bands {' '.join(report.bands)}, but {' '.join(bands)} are fed")
    return str(report)


def refuse_other_legend(labels: Any, num_classes: int, name: str | None = None) -> None:
    """Raise ValueError when a label store says that it has other classes than are trained."""
    legend = LEGENDS.get(labels.meta.legend)
    if legend is not None and (legend.num_classes != num_classes or name not in (None, legend.name)):
        wanted = f"{num_classes} classes" + (f" of {name}" if name else "")
        raise ValueError(f"the label store has {legend.num_classes} classes of {legend.name}, but {wanted} are wanted")


def synthetic_home(runtime: Runtime, what: str) -> Path:
    """Folder of the synthetic default; says that it is used."""
    folder = Path(runtime.save_dir) / "synthetic"
    print(f"no --data_path: the {what} set is the synthetic default in {folder}")
    return folder
