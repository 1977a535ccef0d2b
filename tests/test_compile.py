"""Networks that compile themselves: what is compiled, what checkpoints are named, and what it wants."""

import sysconfig
from functools import partial

import numpy as np
import pytest
import torch
from sets import NAMES, PART, raw_arrays, season_arrays, write_ours
from test_finetuning import finetune_with
from test_training import pretrain_with
from torch import nn

from cromss.config import run
from cromss.models.segmenter import Segmenter
from cromss.settings import MultiModalSettings
from cromss.training import pretrain
from cromss.training.pretraining import pretraining_bands

pytestmark = pytest.mark.usefixtures("one_thread")


class Pixelwise(nn.Module):
    """A convolution of one pixel a modality."""

    def __init__(self, settings: MultiModalSettings) -> None:
        super().__init__()
        bands = {modality: len(names) for modality, names in pretraining_bands(settings).items()}
        self.heads = nn.ModuleDict({m: nn.Conv2d(count, settings.data.n_classes, 1) for m, count in bands.items()})

    def forward(self, **images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {modality: head(images[modality]) for modality, head in self.heads.items()}

    def stages(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    write_ours(folder, season_arrays(), NAMES)
    return folder


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A machine that has what compiling wants."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))


@pytest.fixture
def graphs(monkeypatch, compiler):
    """Compiled graphs in the order of their calls, by a compiler that leaves them as they are; networks are tiny."""
    called = []

    def keep(graph, inputs):
        return lambda *given: (called.append(graph), graph(*given))[1]

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    monkeypatch.setattr("cromss.training.pretraining.pretraining_network", Pixelwise)
    return called


def test_runs_go_on_compiled_or_not_and_keep_the_names_of_weights(noisy, graphs, tmp_path):
    flags = "--validation 0.2 --limit_batches 1"
    pretrain_with(tmp_path, noisy, f"{flags} --name straight --epochs 3")
    assert not graphs
    for epochs, compiled in ((1, "--compile"), (2, ""), (3, "--compile")):
        before = len(graphs)
        pretrain_with(tmp_path, noisy, f"{flags} --name parts --epochs {epochs} {compiled}")
        assert (len(graphs) > before) == bool(compiled)
    calls = {node.target.__name__ for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert calls == {"conv2d"}  # neither losses nor what Lightning does beside them
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("straight", "parts")
    ]
    assert states[0].keys() == states[1].keys() >= {"model.heads.s1.weight", "model.heads.s2.weight"}
    assert all(torch.allclose(states[0][key], states[1][key], rtol=1e-6) for key in states[0])


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--compile", "torch.nn.Module.compile"),
        ("--grad_checkpointing", "cromss.training.runs.recompute_activations"),
    ],
)
def test_transfer_changes_its_segmenter_alone_and_only_if_told(flag, changes, compiler, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(changes, lambda network: asked.append(network))
    for part in ("train", "test"):
        write_ours(tmp_path / part, raw_arrays(3, np.random.default_rng(2)), PART)
    flags = "--max_steps 1 --epochs 1 --save_maps 0"
    finetune_with(tmp_path, tmp_path, f"{flags} --name plain")
    assert not asked
    finetune_with(tmp_path, tmp_path, f"{flags} --name changed {flag}")
    assert [type(network) for network in asked] == [Segmenter]


@pytest.mark.parametrize(
    ("missing", "message"),
    [("compiler", "there is no C++ compiler no-such-compiler -O2 in PATH"), ("headers", "there is no Python.h in ")],
)
def test_what_it_wants_is_told_in_one_line(missing, message, noisy, graphs, tmp_path, monkeypatch, capsys):
    if missing == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler -O2")
    else:
        (tmp_path / "Python.h").unlink()
    flags = f"--compile --data_path {noisy} --save_dir {tmp_path / 'runs'} --crop_size 32 --accelerator cpu"
    monkeypatch.setattr("sys.argv", ["train_pretrain_mm.py", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        run(pretrain, MultiModalSettings)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --compile: {message}")
    assert told.endswith("install it, or leave --compile out\n")
    assert not (tmp_path / "runs").exists()
