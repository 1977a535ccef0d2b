"""Training on a GPU: how fast it is, what of it is the method's own, and whether loader processes keep up.

python benchmarks/bench_gpu.py
python benchmarks/bench_gpu.py --accelerator cpu --model_type resnet18 --batch_size 4 --crop_size 64 --steps 2 \
    --warm_up 1 --side 256 --results runs/bench/gpu.csv  # the script itself, tried out

U-Nets pretrain by Lightning as the scripts have it, in turn on one batch that lies on the GPU and on batches from LMDB,
whose files are in memory: the ratio says how far loader processes keep up. First, losses in single precision are found
those of the CPU. The GPU works while an operation runs there, as the profiler sees it. Operations are those of the
network, forward and backward, as PyTorch counts them; the method's own part is the prior, and selection and losses,
forward and backward. Results go to benchmarks/bench_gpu.csv, after every way to pretrain.
"""

import os
import shutil
import statistics
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from alternation import compared, device_name, measured, operations_in, report, wait, weighed
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.data import DataLoader

from cromss.collation import collate, enough_shared_memory
from cromss.config import read, run
from cromss.datamodule import StacksData
from cromss.noisy_labels.smoothing import label_prior
from cromss.settings import MultiModalSettings, PretrainSettings, SingleModalSettings
from cromss.settings.common import require
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
"""Half of the way up the ramps."""


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
    """Steps to time at once."""
    warm_up: int = 20
    """Steps before them that are not timed; loader processes have batches ready then."""
    rounds: int = 3
    """Times that both ways are timed, in turn."""
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

    def __post_init__(self) -> None:
        for flag in ("batch_size", "steps", "warm_up", "rounds", "side"):
            require(getattr(self, flag) > 0, flag, getattr(self, flag), "at least 1")


class Subject(NamedTuple):
    """What is trained.

    Attributes:
        task: Network, objective and transforms.
        data: Loaders of as many batches as steps.
        batch: One batch, on the device.
        operations: Floating point operations of the network for a batch, forward and backward.
    """

    task: PretrainTask
    data: StacksData
    batch: dict[str, Any]
    operations: float


def main(settings: BenchGpu) -> None:
    """Train, take apart, write."""
    quieten()
    warnings.filterwarnings("ignore", ".*no `val_dataloader`")
    device = device_of(settings.accelerator)
    peak = 2 * settings.side**3 / 1e12 / median_seconds(product(settings.side, device))
    rows = [measured("matrix product", device_name(device), [peak], "TFLOP/s")]
    for recipe in settings.recipes:
        rows += [row | {"what": f"{recipe}, {row['what']}"} for row in rows_of(settings, recipe, device, peak)]
        report(rows, settings.results)


def rows_of(settings: BenchGpu, recipe: str, device: torch.device, peak: float) -> list[dict[str, Any]]:
    """All rows of one way to pretrain."""
    subject, same = prepared(settings, recipe, device)
    count, said = settings.batch_size * settings.steps, []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = {RESIDENT: [], LOADED: []}
    for _ in range(settings.rounds):
        seconds[RESIDENT].append(trained(settings, subject.task, repeated(subject.batch, settings)))
        seconds[LOADED].append(trained(settings, subject.task, subject.data, asking_the_driver(device, said)))
    rows = [same, *compared("a sample", seconds, count)]
    for way, spans in seconds.items():
        rows.append(measured("samples a second", way, [count / span for span in spans], "1/s"))
    if device.type == "cuda":
        rows += weighed("peak memory", {"": torch.cuda.max_memory_allocated() / 1e6})
    if said:
        rows.append(measured("utilisation as the driver says it", LOADED, said, "%"))
    steps = {way: statistics.median(spans) / settings.steps for way, spans in seconds.items()}
    rate = subject.operations / 1e12 / steps[RESIDENT]
    rows.append(measured("operations of the network", "over a step", [rate], "TFLOP/s"))
    rows.append(measured("operations of the network", "of what a matrix product reaches", [100 * rate / peak], "%"))
    return [*rows, *of_parts(subject, device, steps[RESIDENT]), *profiled(settings, subject, device, steps)]


def prepared(settings: BenchGpu, recipe: str, device: torch.device) -> tuple[Subject, dict[str, Any]]:
    """What is trained, and a row that tells its loss on the device from that on the CPU."""
    told = training_settings(settings, recipe)
    data = pretraining_data(told)
    count = (settings.warm_up + settings.steps) * settings.batch_size
    data.train_indices = [data.train_indices[i % len(data.train_indices)] for i in range(count)]
    batch = collate([data.train[i] for i in data.train_indices[: settings.batch_size]])
    task = pretraining_task(told, pretraining_network(told), legend_of(data.train.labels, told.data.n_classes))
    two = task.train_transform({key: x[:2] for key, x in batch.items()})
    same, operations = same_loss(task, two, device), settings.batch_size / 2 * operations_of(task, two)
    compile_network(task.model, told.runtime)
    batch = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
    return Subject(task, data, batch, operations), same


def training_settings(settings: BenchGpu, recipe: str) -> PretrainSettings:
    """Settings of a training as the scripts read them."""
    kind, flags = RECIPES[recipe]
    shape = f"--model_type {settings.model_type} --batch_size {settings.batch_size} --crop_size {settings.crop_size}"
    place = f"--num_workers {settings.num_workers} --accelerator {settings.accelerator} --validation 0.02"
    data = ["--data_path", settings.data_path, "--save_dir", str(settings.save_dir)]
    return read(kind, [*f"{flags} {shape} {place}".split(), *data, *["--compile"] * settings.compile])


def same_loss(task: PretrainTask, ready: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """How far the loss on the device is from that on the CPU, in single precision; refused where it is too far."""
    found = []
    task.eval()
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for place in ("cpu", device):
            model, images = task.model.to(place), {m: x.to(place) for m, x in ready["images"].items()}
            prior = None if ready["prior"] is None else ready["prior"].to(place)
            found.append(float(task.objective(model(**images), ready["labels"].to(place), prior, EPOCH)["loss"]))
    task.to("cpu").train()
    distance = abs(found[1] - found[0]) / found[0]
    if not distance < 1e-4:
        raise ValueError(f"the loss of two samples is {found[0]} on the CPU and {found[1]} on {device}")
    return measured("loss of two samples", "device against CPU, relative", [distance], "")


def operations_of(task: PretrainTask, ready: dict[str, Any]) -> float:
    """Floating point operations of the network on a batch, forward and backward."""
    count = operations_in(lambda: backward(task.model(**ready["images"])))
    task.zero_grad()
    return count


def backward(logits: dict[str, torch.Tensor]) -> None:
    """Go backward from something of all logits that takes no time."""
    sum(x.float().mean() for x in logits.values()).backward()


class Span(L.Callback):
    """Seconds from the end of the warm-up to that of the last step, in which something may watch.

    Attributes:
        seconds: They, when all steps are done.
    """

    def __init__(self, settings: BenchGpu, watch: AbstractContextManager) -> None:
        self.first, self.last = settings.warm_up, settings.warm_up + settings.steps
        self.watch, self.watching, self.num_done, self.seconds = watch, ExitStack(), 0, 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        self.num_done += 1
        if self.num_done == self.first:
            self.watching.enter_context(self.watch)
            wait()
            self.seconds = -time.perf_counter()
        elif self.num_done == self.last:
            wait()
            self.seconds += time.perf_counter()
            self.watching.close()

    def on_exception(self, *_: Any) -> None:
        self.watching.close()


def trained(settings: BenchGpu, task: PretrainTask, batches: Any, watch: AbstractContextManager | None = None) -> float:
    """Seconds of the steps that count, of training on a loader or the loaders of a set."""
    span = Span(settings, watch or nullcontext())
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
        callbacks=[span],
    )
    with enough_shared_memory():
        trainer.fit(task, batches)
    return span.seconds


def repeated(batch: dict[str, Any], settings: BenchGpu) -> DataLoader:
    """The same batch for every step."""
    return DataLoader([batch] * (settings.warm_up + settings.steps), batch_size=None, collate_fn=lambda one: one)


@contextmanager
def asking_the_driver(device: torch.device, said: list[float]) -> Iterator[None]:
    """Add what `nvidia-smi` says twice a second, in %: the share of the time in which anything runs on the GPU."""
    number, over = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0], threading.Event()
    question = ["nvidia-smi", "-i", number, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def ask() -> None:
        while not over.wait(0.5):
            answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdigit():
                said.append(float(answer))

    asks = threading.Thread(target=ask, daemon=True)
    if device.type == "cuda" and shutil.which(question[0]):
        asks.start()
    try:
        yield
    finally:
        over.set()
        if asks.is_alive():
            asks.join()


def of_parts(subject: Subject, device: torch.device, step: float) -> list[dict[str, Any]]:
    """Rows of what a step of so many seconds consists of, each by itself."""
    task, batch, transform = subject.task.to(device).train(), subject.batch, subject.task.train_transform
    ready = transform(batch)

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
        how = transform.num_classes, transform.prior_kind, transform.prior_sigma
        parts["prior"] = lambda: label_prior(batch["labels"], batch["season"], *how)
    times = {name: median_seconds(part) for name, part in parts.items()}
    own = times["selection and losses"] + times.get("prior", 0)
    rows = [measured("part of a step", name, [1e3 * seconds], "ms") for name, seconds in times.items()]
    return [*rows, measured("the method's own part", "of a step", [100 * own / step], "%")]


def losses(task: PretrainTask, logits: dict[str, torch.Tensor], ready: dict[str, Any]) -> None:
    """Selection and losses of a batch that is ready, forward and backward."""
    task.objective(logits, ready["labels"], ready["prior"], EPOCH)["loss"].backward()


def profiled(
    settings: BenchGpu, subject: Subject, device: torch.device, steps: dict[str, float]
) -> list[dict[str, Any]]:
    """Rows of the operations that take most of the device's time, and of the share of a step in which it works.

    Args:
        settings: Settings.
        subject: What is trained.
        device: Where.
        steps: Way -> seconds a step, without the profiler.
    """
    few = replace(settings, warm_up=2, steps=3)
    watch = profile()
    trained(few, subject.task, repeated(subject.batch, few), watch)
    spent = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    by_name = {row.key: getattr(row, spent) for row in watch.key_averages() if row.device_type == DeviceType.CPU}
    total = sum(by_name.values())
    if not total:
        print("warning: the profiler sees nothing of the device; its shares are left out")
        return []
    longest = sorted(by_name, key=by_name.get, reverse=True)[:_LONGEST]
    rows = [measured("share of the device's time", name, [100 * by_name[name] / total], "%") for name in longest]
    busy = {way: 100 * total / 1e6 / few.steps / seconds for way, seconds in steps.items()}
    return rows + [measured("the device works", way, [share], "%") for way, share in busy.items()]


def product(side: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """A product of square matrices, in the precision of training."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return lambda: a @ b


def median_seconds(work: Callable[[], object], rounds: int = 20) -> float:
    """Seconds that it takes the device, which is waited for."""
    seconds = []
    for _ in range(_UNTIMED + rounds):
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_UNTIMED:])


_UNTIMED = 3
"""Times before those that count."""
_LONGEST = 12
"""Operations that a profile names."""


if __name__ == "__main__":
    run(main, BenchGpu)
