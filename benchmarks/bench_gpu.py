"""Training on a GPU: how fast it is, what of it is the method's own, and whether loader processes keep up.

python benchmarks/bench_gpu.py
python benchmarks/bench_gpu.py --accelerator cpu --model_type resnet18 --batch_size 4 --crop_size 64 --steps 2 \
    --warm_up 1 --side 256 --results /tmp/gpu.csv  # the script itself, tried out

U-Nets pretrain by Lightning as the scripts have it, in turn on one batch that lies on the GPU and on batches from LMDB:
the ratio is the share of the time for which the loader keeps the GPU busy. First, losses in single precision are found
those of the CPU. Operations are those of the network, forward and backward, as PyTorch counts them; the method's own
part is the prior, and selection and losses, forward and backward. Results go to benchmarks/bench_gpu.csv.
"""

import os
import shutil
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from alternation import compared, measured, report, weighed
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from cromss.collation import collate
from cromss.config import read, run
from cromss.noisy_labels.smoothing import label_prior
from cromss.settings import MultiModalSettings, PretrainSettings, SingleModalSettings
from cromss.tasks import PretrainTask
from cromss.training.common import device_of
from cromss.training.pretraining import legend_of, pretraining_data, pretraining_network, pretraining_task
from cromss.training.runs import compile_network, quieten

CROMSS = "--sample_selection --label_smoothing"
RECIPES = {
    "one modality": (SingleModalSettings, "--input_type s2"),
    "middle fusion": (MultiModalSettings, f"--fusion_type mid {CROMSS}"),
    "late fusion": (MultiModalSettings, f"--fusion_type late {CROMSS}"),
}
RESIDENT, LOADED = "batch on the device", "batches from LMDB"
EPOCH = 40


@dataclass(frozen=True)
class BenchGpu:
    """Samples a second of training."""

    recipes: tuple[Literal["one modality", "middle fusion", "late fusion"], ...] = tuple(RECIPES)
    """What to train."""
    model_type: str = "resnet50"
    """Encoder of the U-Nets."""
    batch_size: int = 128
    """Samples a step."""
    crop_size: int = 256
    """Side of the samples, in pixels."""
    data_path: str = ""
    """Pretraining set; the synthetic default if empty."""
    num_workers: int = -1
    """Loader processes; as in training if negative."""
    steps: int = 40
    """Steps to time."""
    warm_up: int = 20
    """Steps before them that are not timed; loader processes have batches ready then."""
    rounds: int = 2
    """Times that both ways are trained, in turn."""
    compile: bool = False
    """Compile the networks."""
    side: int = 8192
    """Side of the matrices whose product says what the device can do at most."""
    accelerator: Literal["gpu", "cpu"] = "gpu"
    """Device; cpu to try the script out, in single precision."""
    save_dir: Path = Path("runs")
    """Where the synthetic set is, or is made."""
    results: Path = Path("benchmarks/bench_gpu.csv")
    """Table to write."""


def main(settings: BenchGpu) -> None:
    """Train, take apart, write."""
    quieten()
    warnings.filterwarnings("ignore", ".*no `val_dataloader`")
    device = device_of(settings.accelerator)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = 2 * settings.side**3 / 1e12 / median_seconds(product(settings.side, device), device)
    rows = [measured("matrix product", name, [peak], "TFLOP/s")]
    for recipe in settings.recipes:
        rows += of_recipe(settings, recipe, device, peak)
    report(rows, settings.results)


def of_recipe(settings: BenchGpu, recipe: str, device: torch.device, peak: float) -> list[dict[str, Any]]:
    """All rows of one way to pretrain."""
    told = training_settings(settings, recipe)
    data = pretraining_data(told)
    count = (settings.warm_up + settings.steps) * settings.batch_size
    data.train_indices = [data.train_indices[i % len(data.train_indices)] for i in range(count)]
    batch = collate([data.train[i] for i in data.train_indices[: settings.batch_size]])
    task = pretraining_task(told, pretraining_network(told), legend_of(data.train.labels, told.data.n_classes))
    few = task.train_transform({key: x[:2] for key, x in batch.items()})
    rows = [same_loss(f"{recipe}, loss of two samples", task, few, device)]
    operations = settings.batch_size / 2 * operations_of(task, few)
    compile_network(task.model, told.runtime)

    batch = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
    seconds, busy = {RESIDENT: [], LOADED: []}, []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(settings.rounds):
        seconds[RESIDENT] += trained(settings, task, repeated(batch, settings))
        with utilisation(device) as said:
            seconds[LOADED] += trained(settings, task, data)
        busy += said
    rows += compared(f"{recipe}, a sample", seconds, settings.batch_size)
    rates = {way: [settings.batch_size / each for each in steps] for way, steps in seconds.items()}
    rows += [measured(f"{recipe}, samples a second", way, each, "1/s") for way, each in rates.items()]
    if busy:
        rows.append(measured(f"{recipe}, utilisation", "as the driver says, from LMDB", busy, "%"))
    if device.type == "cuda":
        rows += weighed(f"{recipe}, peak memory", {"": torch.cuda.max_memory_allocated() / 1e6})
    step = statistics.median(seconds[RESIDENT])
    rate = operations / 1e12 / step
    return [
        *rows,
        measured(f"{recipe}, operations", "of the network, over a step", [rate], "TFLOP/s"),
        measured(f"{recipe}, operations", "of what a matrix product reaches", [100 * rate / peak], "%"),
        *of_parts(recipe, task, batch, device, step),
        *profiled(recipe, settings, task, batch, device),
    ]


def training_settings(settings: BenchGpu, recipe: str) -> PretrainSettings:
    """Settings of a training as the scripts read them."""
    kind, flags = RECIPES[recipe]
    shape = f"--model_type {settings.model_type} --batch_size {settings.batch_size} --crop_size {settings.crop_size}"
    place = f"--num_workers {settings.num_workers} --accelerator {settings.accelerator} --validation 0.02"
    data = ["--data_path", settings.data_path, "--save_dir", str(settings.save_dir)]
    return read(kind, [*f"{flags} {shape} {place}".split(), *data, *["--compile"] * settings.compile])


class Clock(L.Callback):
    """Seconds of every step, from the end of the step before; a step asks the device whether its loss is finite."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def repeated(batch: dict[str, Any], settings: BenchGpu) -> DataLoader:
    """The same batch for every step."""
    return DataLoader([batch] * (settings.warm_up + settings.steps), batch_size=None, collate_fn=lambda one: one)


def trained(settings: BenchGpu, task: PretrainTask, batches: DataLoader | L.LightningDataModule) -> list[float]:
    """Seconds of the steps that count."""
    clock = Clock()
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision="bf16-mixed" if settings.accelerator == "gpu" else "32-true",
        benchmark=True,
        max_steps=settings.warm_up + settings.steps,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(task, batches)
    return [after - before for before, after in zip(clock.ends[settings.warm_up - 1 :], clock.ends[settings.warm_up :])]


def same_loss(what: str, task: PretrainTask, ready: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """How far the loss on the device is from that on the CPU, in single precision; refused where it is too far."""
    found = []
    task.eval()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        for place in ("cpu", device):
            model, images = task.model.to(place), {m: x.to(place) for m, x in ready["images"].items()}
            prior = None if ready["prior"] is None else ready["prior"].to(place)
            found.append(float(task.objective(model(**images), ready["labels"].to(place), prior, EPOCH)["loss"]))
    task.to("cpu").train()
    distance = abs(found[1] - found[0]) / found[0]
    if not distance < 1e-4:
        raise ValueError(f"{what}: {found[0]} on the CPU and {found[1]} on {device}")
    return measured(what, "device against CPU, relative", [distance], "")


def operations_of(task: PretrainTask, ready: dict[str, Any]) -> float:
    """Floating point operations of the network on a batch, forward and backward."""
    with FlopCounterMode(display=False) as counted:
        backward(task.model(**ready["images"]))
    task.zero_grad()
    return counted.get_total_flops()


def backward(logits: dict[str, torch.Tensor]) -> None:
    """Go backward from something of all logits that takes no time."""
    sum(x.float().mean() for x in logits.values()).backward()


def of_parts(
    recipe: str, task: PretrainTask, batch: dict[str, Any], device: torch.device, step: float
) -> list[dict[str, Any]]:
    """Rows of what a step of so many seconds consists of, each by itself."""
    task.to(device).train()
    transform, ready = task.train_transform, task.train_transform(batch)

    def network() -> dict[str, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return task.model(**ready["images"])

    given = {branch: x.detach().requires_grad_() for branch, x in network().items()}
    parts = {
        "preparation": lambda: transform(batch),
        "network": lambda: backward(network()),
        "selection and losses": lambda: losses(task, given, ready),
    }
    if transform.prior_kind:
        season = batch["season"].long()
        parts["prior"] = lambda: label_prior(batch["labels"], season, transform.num_classes, transform.prior_kind)
    times = {name: median_seconds(part, device) for name, part in parts.items()}
    own = times["selection and losses"] + times.get("prior", 0)
    rows = [measured(f"{recipe}, part of a step", name, [1e3 * seconds], "ms") for name, seconds in times.items()]
    return [*rows, measured(f"{recipe}, the method's own part", "of a step", [100 * own / step], "%")]


def losses(task: PretrainTask, logits: dict[str, torch.Tensor], ready: dict[str, Any]) -> None:
    """Selection and losses of a batch that is ready, forward and backward."""
    task.objective(logits, ready["labels"], ready["prior"], EPOCH)["loss"].backward()


def profiled(
    recipe: str, settings: BenchGpu, task: PretrainTask, batch: dict[str, Any], device: torch.device
) -> list[dict[str, Any]]:
    """Rows of the operations that take most of the device's time in a few steps, and of the time it does nothing."""
    few = replace(settings, warm_up=1, steps=3)
    with profile() as watch:
        begun = time.perf_counter()
        trained(few, task, repeated(batch, few))
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall = time.perf_counter() - begun
    spent = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    by_operation = [row for row in watch.key_averages() if row.device_type == DeviceType.CPU and "aten::" in row.key]
    total = sum(getattr(row, spent) for row in by_operation)
    longest = sorted(by_operation, key=lambda row: -getattr(row, spent))[:_LONGEST]
    shares = {row.key: 100 * getattr(row, spent) / total for row in longest}
    print(f"{recipe}: {total / 1e6:.2f} of {wall:.2f} s of profiled training are operations")
    return [measured(f"{recipe}, share of the device's time", name, [share], "%") for name, share in shares.items()]


@contextmanager
def utilisation(device: torch.device) -> Iterator[list[float]]:
    """What `nvidia-smi` says five times a second, in %: the share of the time in which anything runs."""
    said: list[float] = []
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        yield said
        return
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(["nvidia-smi", "-i", number, *query], stdout=subprocess.PIPE, text=True) as watch:
        yield said
        watch.terminate()
        said += [float(line) for line in watch.stdout.read().split() if line.strip().isdigit()]


def product(side: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """A product of square matrices, in the precision of training."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return lambda: a @ b


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int = 20) -> float:
    """Seconds that it takes the device, which is waited for; three times before are not counted."""
    seconds = []
    for _ in range(_UNTIMED + rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_UNTIMED:])


_UNTIMED = 3
_LONGEST = 12


if __name__ == "__main__":
    run(main, BenchGpu)
