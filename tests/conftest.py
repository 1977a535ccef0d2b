"""Fixtures shared by all tests."""

import gc
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matplotlib.figure import Figure
from sets import NAMES, season_arrays, write_ours
from tensorboard.summary.writer import event_file_writer

REPOSITORY = Path(__file__).resolve().parents[1]

event_file_writer._global_uid = event_file_writer.AtomicCounter(1000)
"""Event files of one second and process are read in the order of their names, which end with this count: four digits
for all, or the tenth would come before the ninth, whose steps would then be taken for those of a run gone back."""

META_KERNELS = torch.library.Library("aten", "IMPL")
for operation in ("normal_", "uniform_", "erfinv_", "clamp_"):
    with suppress(RuntimeError):  # old versions keep theirs
        META_KERNELS.impl(operation, lambda tensor, *_, **__: tensor, "Meta")
"""Tensors without values are not drawn, which PyTorch does in Python (smp makes every encoder of timm twice)."""


def load_script(name: str, folder: Path = REPOSITORY / "data_prepare") -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def pytest_configure() -> None:
    """Leave out what takes some percent of the time each, and changes nothing.

    Nothing that is imported or collected is garbage; files need not outlive the machine; and sources, of which command
    lines take their help, stay as they are.
    """
    gc.disable()
    os.fsync = lambda handle: None
    inspect.getsource = cache(inspect.getsource)


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not in what is there already."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Else extension modules complain of leaks."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no process is left with one at the end."""
    places = {f"test_{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


LONG = (
    *("finetuning", "checkpointing", "training", "bench", "segmenter", "gathering", "vit_training", "release"),
    *("published_command", "data_prepare", "run_folder", "real", "training_analysis", "vit", "ft_scripts", "export"),
    *("weights", "partial_weights", "zarr_shards", "real_orthophotos", "release_files", "fusion", "collation"),
    *("synthetic_downstream", "tasks", "mapping", "hostile_files", "contract", "training_audit", "convert"),
)
"""Files of over ten seconds, the longest first."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers and real tiles, beside the project."""
    folder = Path(os.environ.get("CROMSS_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no reference data at {folder}; set CROMSS_SHARED to the folder that holds reference/ and real/")
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Arrays of the published implementation."""
    return shared / "reference"


@pytest.fixture(scope="session")
def real(shared: Path) -> Path:
    """Small real tiles."""
    return shared / "real"


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def narrow():
    """U-Nets of few channels: what is tested with them takes less time, and is the same."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("encoders", "vit_networks"):
            patch.setattr(f"cromss.models.{module}.UNET_CHANNELS", (32, 16, 16, 8, 8))
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend a machine of so many GPUs and cores, of which a process may have a part."""

    def pretend(gpus: int, cores: int = 32, bf16: bool = True, own_cores: int = 0) -> None:
        own, has_bf16 = set(range(own_cores or cores)), lambda including_emulation=True: bf16 or including_emulation
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", has_bf16)
        monkeypatch.setattr("cromss.training.launching.check_gpu", lambda: None)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: own, raising=False)

    return pretend


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend a task of a SLURM job, with variables without their prefix, or none."""

    def pretend(**variables: object) -> None:
        for name in list(os.environ):
            if name.startswith("SLURM_"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))

    return pretend


@pytest.fixture
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of test tiles show one instead of four, which takes less time."""
    from cromss.callbacks import PredictionPanel  # and all that it imports, which most tests do without

    monkeypatch.setattr(PredictionPanel.__init__, "__defaults__", (1,))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pretraining set of noisy labels, for the tests of a file."""
    folder = tmp_path_factory.mktemp("noisy")
    write_ours(folder, season_arrays(), NAMES)
    return folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures of matplotlib made so far in a test."""
    made, start = [], Figure.__init__

    def remember(figure, *arguments, **options):
        start(figure, *arguments, **options)
        made.append(figure)

    monkeypatch.setattr(Figure, "__init__", remember)
    return made
