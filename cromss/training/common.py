"""What pretraining and transfer share: doing a run once, bands, legends, encoder weights, the synthetic default."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from cromss.datasets import SeasonStacks
from cromss.encoder_names import IMAGE_SIZES, family, is_vit
from cromss.gpus import check_gpu, hidden_gpus
from cromss.legends import LEGENDS
from cromss.models.dofa import wavelengths_of
from cromss.models.segmenter import Segmenter
from cromss.models.vit import AS_NAMED, ViTOptions
from cromss.models.weights import WeightsError, WeightsReport, check_bands, load_encoder, load_segmenter
from cromss.sensors import MODALITIES, S2_SUBSETS, s2_bands
from cromss.settings import Encoder, Runtime
from cromss.settings.common import require
from cromss.training.launching import processes
from cromss.training.run_folder import RunFolder, newest_checkpoint
from cromss.training.runs import first_seed

Work = Callable[[Any, RunFolder], dict[str, Any]]


@dataclass(frozen=True)
class Origin:
    """Where the weights of an encoder come from.

    Attributes:
        source: Whose they are, a name in `cromss.models.sources.SOURCES`.
        report: What was loaded, unless the encoder had them from the start (random, imagenet).
    """

    source: str
    report: WeightsReport | None = None

    def __str__(self) -> str:
        return str(self.report or self.source)


def run_once(settings: Any, default_name: str, work: Work) -> dict[str, Any]:
    """Metrics of a run: of the finished one in its folder, or of the work done now.

    Args:
        settings: Settings with a `runtime` and an `optimisation`.
        default_name: Name of the run folder where --name is empty.
        work: Settings and run folder -> metrics.
    """
    folder = RunFolder(Path(settings.runtime.save_dir) / (settings.runtime.name or default_name))
    with hidden_gpus(settings.runtime.accelerator == "cpu"):
        processes(settings.runtime)
        metrics = folder.finished(settings)
        if metrics is not None:
            print(f"{folder.path} is finished already")
            return metrics
        L.seed_everything(first_seed(settings.runtime), verbose=False)
        start = time.monotonic()
        metrics = work(settings, folder)
    metrics = folder.close(settings, metrics | {"seconds": time.monotonic() - start})
    print(f"results: {folder.path}")
    return metrics


def tell_left_out(*parts: SeasonStacks) -> None:
    """Say how many locations a repair of the stores left out of use, if any."""
    for stacks in parts:
        if excluded := stacks.excluded:
            print(f"{stacks.labels.path}: {len(excluded)} of {len(stacks)} locations are left out of use")


def refuse_several_processes(runtime: Runtime) -> None:
    """Raise ValueError where several seeds cannot follow each other: Lightning starts its processes once a run."""
    nodes, devices = processes(runtime)
    if nodes * devices > 1 and "SLURM_STEP_ID" not in os.environ:
        seeds = " ".join(map(str, runtime.seed))
        raise ValueError(
            f"--seed {seeds}: several seeds follow each other in one process; add --devices 1, or one seed"
        )


def band_names(modality: str, n_channels: int) -> tuple[str, ...]:
    """Names of a modality's bands; `n_channels` chooses among those of Sentinel-2."""
    return s2_bands(n_channels) if modality == "s2" else MODALITIES[modality].bands


def vit_options(model: Encoder, crop_size: int) -> ViTOptions:
    """How a ViT is built; unless told otherwise, its position embeddings are made for the training crops."""
    if not is_vit(model.model_type):
        return AS_NAMED
    image_size = model.image_size or max(crop_size, IMAGE_SIZES[0])
    return ViTOptions(model.patch_size, image_size, model.drop_path)


def wavelengths(model: Encoder, bands: Mapping[str, Sequence[str]]) -> dict[str, tuple[float, ...]]:
    """Modality -> central wavelength of each band in um, for encoders that ask for them; else nothing."""
    if family(model.model_type) != "dofa":
        return {}
    if not model.wavelengths:
        return {modality: wavelengths_of(modality, names) for modality, names in bands.items()}
    told = iter(model.wavelengths)
    return {modality: tuple(next(told) for _ in names) for modality, names in bands.items()}


def load_weights(
    encoder: nn.Module,
    path: str,
    modality: str,
    bands: Sequence[str],
    source: str = "auto",
    tag: str = "encoder",
    segmenter: Segmenter | None = None,
) -> Origin:
    """Load an encoder from a file; `random` and `imagenet` are in it already.

    Args:
        encoder: The encoder.
        path: The file, or the folder of a run.
        modality: Which encoder of the file; `"common"` for one of stacked modalities.
        bands: Bands that will be fed.
        source: Whose weights they are, or `"auto"`.
        tag: How much to load, see `load_segmenter`; more than the encoder needs the `segmenter`.
        segmenter: The network of the encoder.

    Raises:
        WeightsError: The file does not fit, or was trained on other bands or another order of them.
    """
    if path in ("random", "imagenet"):
        return Origin(path)
    if not path or not Path(path).exists():
        raise WeightsError(f"{path or 'empty path'}: no such file; random, imagenet, or a checkpoint file is wanted")
    path = newest_checkpoint(Path(path), "weight_path")
    if tag == "encoder" or segmenter is None:
        report = load_encoder(encoder, path, modality, source)
    else:
        report = load_segmenter(segmenter, path, modality, tag, source)
    if (source, report.source, report.bands) == ("auto", "bare", None) and set(bands) == set(S2_SUBSETS[9]):
        raise WeightsError(
            f"{path}: weights of 9 bands come in two orders and this file tells neither; "
            "say --weight_source satlas (RGB first, --n_channels 92), or bare for the order that is fed"
        )
    check_bands(report, bands)
    return Origin(report.source, report)


def refuse_other_legend(labels: Any, num_classes: int, name: str | None = None) -> None:
    """Raise ValueError when a label store says that it has other classes than are trained."""
    meta = labels.meta
    count = LEGENDS[meta.legend].num_classes if meta.legend in LEGENDS else len(meta.classes)
    if count and (count != num_classes or name not in (None, meta.legend)):
        wanted = f"{num_classes} classes" + (f" of {name}" if name else "")
        remedy = "choose its --dataset" if name else f"say --n_classes {count}"
        there = f"{count} classes of {meta.legend}"
        raise ValueError(f"{labels.path}: the label store has {there}, but {wanted} are wanted; {remedy}")


def tell_small_tiles(stacks: SeasonStacks) -> None:
    """Say how much of a crop is mirrored, and so without labels, where the first tile in use is smaller."""
    side, (height, width) = stacks.min_size, stacks.labels.read_seasons(stacks.in_use()[0]).shape[-2:]
    share = 1 - min(height, side) * min(width, side) / side**2
    if share:
        print(f"tiles of {height} x {width} px: {share:.0%} of a crop is mirrored, without labels (--crop_size {side})")


def synthetic_home(runtime: Runtime, what: str) -> Path:
    """Folder of the synthetic default; says that it is used."""
    folder = Path(runtime.save_dir) / "synthetic"
    print(f"no --data_path: the {what} set is the synthetic default in {folder}")
    return folder


def device_of(accelerator: str) -> torch.device:
    """The device that `--accelerator` auto, cpu or gpu means here.

    Raises:
        ValueError: A GPU is wanted and there is none, or the one that there is cannot be used.
    """
    if accelerator != "cpu":
        check_gpu()
    there = torch.cuda.is_available()
    require(there or accelerator != "gpu", "accelerator", accelerator, "cpu or auto: torch sees no GPU here")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")
