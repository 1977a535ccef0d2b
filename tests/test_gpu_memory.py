"""A GPU with too little memory: one line, and what to change."""

import pytest
import torch
from test_training import METHOD, pretrain_one

from cromss.gpu_memory import enough_gpu_memory
from cromss.objective import CrossModalObjective

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


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), enough_gpu_memory("lower --batch_size"):
        raise RuntimeError("CUDA error")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("epoch", ["train", "val"])
def test_trainings_name_their_flags(noisy, tmp_path, monkeypatch, epoch):
    whole = CrossModalObjective.__call__

    def objective(self, *args, **kwargs):
        return run_out() if torch.is_grad_enabled() is (epoch == "train") else whole(self, *args, **kwargs)

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)
    with pytest.raises(
        ValueError, match=r"is free; lower --batch_size, with --accumulate .* --test_batch_size .* --grad_"
    ):
        pretrain_one(tmp_path, noisy, f"{METHOD} --epochs 1 --batch_size 2 --name run")
