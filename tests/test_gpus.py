"""GPUs that are too small, too old or not wanted, each seen without one."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import METHOD, pretrain_one
from torch.utils._python_dispatch import TorchDispatchMode

from cromss.callbacks import PanelWriter
from cromss.gpus import as_in_training, check_gpu, enough_gpu_memory, hidden_gpus
from cromss.mapping.tile_run import TileRun
from cromss.noisy_labels.selection import label_weights
from cromss.objective import CrossModalObjective
from cromss.tasks import Scoreboard
from cromss.training.common import device_of

SAID = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of which 14.81 MiB is free"
    ". Including non-PyTorch memory, this process has 7.66 GiB memory in use. See documentation for Memory Management"
)


def run_out(*_, **__):
    raise torch.OutOfMemoryError(SAID)


def test_the_line_has_what_was_wanted_what_there_was_and_the_remedy():
    with pytest.raises(ValueError, match=r"which 14\.81 MiB is free; lower --batch_size$") as error:
        enough_gpu_memory("lower --batch_size")(run_out)()
    assert str(error.value).startswith("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_others_have_taken_is_too_little_as_well(words):
    wanted = r"(memory|cublasCreate\(handle\)`|FAILED); lower --batch_size$"
    with pytest.raises(ValueError, match=wanted) as error, enough_gpu_memory("lower --batch_size"):
        raise RuntimeError(words)
    assert "\n" not in str(error.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), enough_gpu_memory("lower --batch_size"):
        raise RuntimeError("CUDA error")


SAME_BITS = (
    "upsample_bicubic2d_aa_backward_out_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
)


@pytest.mark.usefixtures("narrow")
def test_what_has_no_deterministic_algorithm_is_named(noisy, tmp_path, monkeypatch):
    def backward(self, loss, *args, **kwargs):
        raise RuntimeError(SAME_BITS)

    monkeypatch.setattr("cromss.tasks.PretrainTask.backward", backward)
    wanted = r"^upsample_bicubic2d_aa_backward_out_cuda does not have a deterministic implementation; leave --determin"
    with pytest.raises(ValueError, match=wanted):
        pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --name run")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("flags", "is_kept"), [("--precision 32", False), ("--precision bf16", True)])
def test_full_precision_is_that_of_convolutions_too(noisy, tmp_path, monkeypatch, flags, is_kept):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not is_kept)
    pretrain_one(tmp_path, noisy, f"{METHOD} --max_steps 1 --batch_size 2 --name run {flags}")
    assert torch.backends.cudnn.allow_tf32 is is_kept


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("epoch", ["train", "val"])
def test_trainings_name_their_flags(noisy, tmp_path, monkeypatch, epoch):
    whole = CrossModalObjective.__call__

    def objective(self, *args, **kwargs):
        return run_out() if torch.is_grad_enabled() is (epoch == "train") else whole(self, *args, **kwargs)

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)
    with pytest.raises(
        ValueError, match=r"is free; say --grad_checkpointing, .* --test_batch_size, and the run goes on; or"
    ):
        pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --name run")


@pytest.fixture
def card(monkeypatch):
    """Pretend a GPU whose driver starts, or does not, and its compute capability."""

    def pretend(capability=(9, 0), error=None):
        def start():
            if error:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "init", start)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "sm_120", "compute_120"])

    return pretend


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (12, 0)])
def test_gpus_that_can_be_used_pass(card, capability):
    card(capability)
    check_gpu()


@pytest.mark.parametrize("has", [True, False])
def test_maps_are_made_in_the_precision_of_training(card, monkeypatch, has):
    card()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    with as_in_training(torch.device("cuda")):
        assert torch.is_autocast_enabled("cuda") is has
        assert not has or torch.get_autocast_dtype("cuda") == torch.bfloat16
    with as_in_training(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


def test_the_network_of_a_map_computes_in_it(monkeypatch):
    seen = []

    def probabilities(images):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return images["s2"]

    monkeypatch.setattr("cromss.mapping.tile_run.as_in_training", lambda at: torch.autocast(at.type, torch.bfloat16))
    predictor = SimpleNamespace(probabilities=probabilities, network=torch.nn.Identity())
    run = TileRun(SimpleNamespace(predictor=predictor), None, None, 1, 1, torch.device("cpu"))
    assert run._network([{"s2": np.zeros((2, 4, 4), np.float32)}]).shape == (1, 2, 4, 4)
    assert seen == [torch.bfloat16]


@pytest.mark.usefixtures("narrow")
def test_pictures_of_validation_are_drawn_in_its_precision(noisy, tmp_path, monkeypatch):
    seen, whole = [], PanelWriter._draw

    def draw(self, *args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return whole(self, *args)

    monkeypatch.setattr(PanelWriter, "_draw", draw)
    pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --name run --amp --display_interval 1")
    assert seen == [True]


def test_gpus_older_than_the_build_are_named(card):
    card((7, 0))
    wanted = r"Tesla V100 \(sm_70\): PyTorch .* from sm_75 on; install an older one, .*, or say --accelerator cpu$"
    with pytest.raises(ValueError, match=wanted):
        check_gpu()


def test_drivers_that_do_not_start_are_told(card):
    card(error="The NVIDIA driver on your system is too old (found version 12020).\nPlease update it")
    with pytest.raises(
        ValueError, match=r"cannot be used \(The NVIDIA .* 12020\)\.\); mend or renew its driver, or say"
    ):
        check_gpu()
    with pytest.raises(ValueError, match="cannot be used"):
        device_of("auto")
    assert device_of("cpu").type == "cpu"


@pytest.mark.parametrize("before", [None, "0,1"])
def test_gpus_are_hidden_where_none_is_wanted_and_only_there(monkeypatch, before):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with hidden_gpus(False):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    with hidden_gpus():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.usefixtures("narrow")
def test_trainings_on_a_cpu_see_none(noisy, tmp_path, monkeypatch):
    seen = []
    whole = CrossModalObjective.__call__

    def objective(self, *args, **kwargs):
        seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)
    pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --name run")
    assert set(seen) == {""}


class Order(TorchDispatchMode):
    """Notes, of each operation, whether it had to be deterministic."""

    def __init__(self):
        super().__init__()
        self.noted = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        self.noted.setdefault(name, set()).add(torch.are_deterministic_algorithms_enabled())
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("warn_only", [True, False])
def test_counts_come_in_any_order_and_all_else_deterministic(warn_only):
    """Deterministic counting takes the memory of pixels x classes x classes, or sorts."""
    logits, labels = torch.rand(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        with Order() as order:
            label_weights(logits[:, 0], labels, 3, 0.5)
            Scoreboard(["s2"], 3).update({"s2": logits}, labels)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert order.noted["scatter_add_"] == order.noted["bincount"] == {False}
    assert order.noted["searchsorted"] == order.noted["max"] == {True}
