"""Two processes with half a batch each learn what one learns from the whole, where the losses see all of it."""

import pytest
import torch
from processes import FORKS, free_port, run_together
from sets import NAMES, season_arrays, write_ours
from test_training import table
from torch import distributed

from cromss.gathering import largest_of_processes, mean_over_processes, whole_batch

FLAGS = """--model_type tu-test_resnet --crop_size 32 --label_smoothing --sample_selection --validation 0.1 --epochs 6
    --optimizer sgd --learning_rate 0.001 --lr_adjust_type none --accelerator cpu --use_common_feature
    --sample_selection_rmdown_epoch 4 --display_interval 0 --save_interval 1000 --save_seconds 1000
    --test_batch_size 1"""
SHORT = 2
FROZEN = """
import runpy

import torch

from cromss.training import pretraining

build = pretraining.pretraining_network


def frozen(settings):
    network = build(settings)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return network


pretraining.pretraining_network = frozen
torch.set_num_threads(1)
runpy.run_path("train_scripts/train_pretrain_mm.py", run_name="__main__")
"""


def test_one_process_has_the_batch_already():
    tensor = torch.ones(2, requires_grad=True)
    assert whole_batch(tensor) is tensor


def test_one_process_agrees_with_itself_and_asks_no_device():
    loss = torch.tensor(3.0, requires_grad=True)
    mean = mean_over_processes(loss)
    assert (mean, mean.requires_grad) == (3, False)
    assert largest_of_processes(7, None) == 7


def test_the_mean_is_no_view_of_what_it_is_of():
    loss = torch.tensor(3.0)
    mean_over_processes(loss).zero_()
    assert loss == 3


def squares(rank, port, found):
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    weight = torch.tensor(2.0, requires_grad=True)
    values = weight * torch.arange(2 * rank, 2 * rank + 2).float()[:, None]
    batch = whole_batch(values)
    (batch**2).mean().backward()
    agreed = largest_of_processes(5 - rank, torch.device("cpu"))
    found.put((rank, batch.detach().flatten().tolist(), float(mean_over_processes(weight.grad)), agreed))
    distributed.destroy_process_group()


def test_gradients_of_three_processes_are_those_of_one():
    found = FORKS.Queue()
    port = free_port()
    processes = [FORKS.Process(target=squares, args=(rank, port, found)) for rank in range(3)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    weight = torch.tensor(2.0, requires_grad=True)
    ((weight * torch.arange(6.0)) ** 2).mean().backward()
    for _, batch, gradient, agreed in results:
        assert agreed == 5
        assert batch == (2 * torch.arange(6.0)).tolist()
        assert gradient == pytest.approx(float(weight.grad))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of one process with batches of 6, and of two with batches of 3, each seeing all or its own."""
    home = tmp_path_factory.mktemp("runs")
    write_ours(home / "set", season_arrays(), NAMES)
    script = home / "frozen.py"
    script.write_text(FROZEN)
    common = [*FLAGS.split(), "--data_path", home / "set", "--save_dir", home]
    run_together(home, 1, str(script), *common, "--name", "one", "--batch_size", 6, "--devices", 1)
    for name, flags in (("all", ["--whole_batch"]), ("own", ["--epochs", SHORT])):
        run_together(home, 2, str(script), *common, "--name", name, "--batch_size", 3, "--devices", 2, *flags)
    return home


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def losses(folder):
    return [float(row["train/loss"]) for row in table(folder / "metrics.csv")]


def test_losses_and_weights_are_those_of_one_process(runs):
    one, two = weights(runs / "one"), weights(runs / "all")
    assert losses(runs / "all") == pytest.approx(losses(runs / "one"), rel=1e-6)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_as_published_each_process_selects_among_its_own(runs):
    """So that the losses differ, by no more than some percent here."""
    own, one = losses(runs / "own"), losses(runs / "one")[:SHORT]
    assert own != pytest.approx(one, rel=1e-4)
    assert own == pytest.approx(one, rel=0.1)


def test_validation_scores_of_the_same_weights_are_the_same(runs):
    rows = [table(runs / name / "metrics.csv")[-1] for name in ("one", "all")]
    scores = [name for name in rows[0] if name.startswith(("val/miou", "val/oa", "val_iou"))]
    assert len(scores) > 10
    assert float(rows[1]["val/loss"]) == pytest.approx(float(rows[0]["val/loss"]), rel=1e-4)
    assert {name: rows[0][name] for name in scores} == {name: rows[1][name] for name in scores}
