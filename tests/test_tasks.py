"""Losses and gradients that are not finite, and batches at the edge of what there is to learn."""

from itertools import count, pairwise
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_training import METHOD, pretrain_with, table
from torch.utils._python_dispatch import TorchDispatchMode

from cromss import tasks
from cromss.objective import CrossModalObjective
from cromss.tasks import CardedTask, shortened

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")

FLAGS = f"{METHOD} --epochs 2 --batch_size 2 --name run --lr_adjust_type none"


class Reads(TorchDispatchMode):
    """Counts numbers that are read out of tensors one by one, for each of which a GPU is waited for."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def test_a_step_reads_no_number_but_the_one_that_is_shown(noisy, tmp_path, monkeypatch):
    """Which Lightning reads twice, and is not on the GPU; losses and gradients are read together."""
    reads, seen = Reads(), []
    monkeypatch.setattr(tasks.PretrainTask, "on_train_batch_end", lambda *_: seen.append(reads.count))
    with reads:
        pretrain_with(tmp_path, noisy, f"{FLAGS} --epochs 1")
    assert len(seen) == 3
    assert max(after - before for before, after in pairwise(seen)) <= 2


def spoil_losses(monkeypatch, spoilt, value=float("nan")):
    """The loss of the batches of these numbers becomes another value."""
    whole, seen = CrossModalObjective.__call__, []

    def objective(self, logits, labels, prior=None, epoch=0):
        terms = whole(self, logits, labels, prior, epoch)
        if not labels.requires_grad and torch.is_grad_enabled():
            seen.append(epoch)
            if len(seen) - 1 in spoilt:
                return terms | {"loss": terms["loss"] * value, "seg_s1": terms["seg_s1"] * value}
        return terms

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(noisy, tmp_path, monkeypatch, value):
    spoil_losses(monkeypatch, {1}, value)
    with pytest.raises(ValueError, match=r"loss is not finite in loss, seg_s1 at locations 000000\d, 000000\d; lower"):
        pretrain_with(tmp_path, noisy, FLAGS)


def test_a_step_left_out_changes_nothing(noisy, tmp_path, monkeypatch, capsys):
    """Weights and state of the optimiser are those before it; the mean of the epoch leaves it out."""
    kept = []

    def note(self, *_):
        optimiser = self.trainer.optimizers[0].state_dict()["state"]
        values = [*self.model.parameters(), *(v for state in optimiser.values() for v in state.values())]
        kept.append([value.detach().clone() for value in values])

    monkeypatch.setattr(tasks.PretrainTask, "on_train_batch_end", note)
    spoil_losses(monkeypatch, {1})
    metrics = pretrain_with(tmp_path, noisy, f"{FLAGS} --non_finite skip")
    assert all(torch.equal(a, b) for a, b in zip(kept[0], kept[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(kept[1], kept[2], strict=True))
    said = capsys.readouterr().out
    assert "warning: loss is not finite in loss, seg_s1 at locations 0" in said
    assert "the step is left out" in said
    assert all(float(row["train/loss"]) > 0 for row in table(tmp_path / "run" / "metrics.csv"))
    assert metrics["train/loss"] > 0


def test_a_step_of_an_infinite_loss_is_left_out_though_its_gradients_are_finite(noisy, tmp_path, monkeypatch, capsys):
    whole, seen, weights = CrossModalObjective.__call__, count(), []

    def objective(self, *given):
        terms = whole(self, *given)
        return terms | {"loss": terms["loss"] + float("inf")} if next(seen) == 0 else terms

    def note(self, *_):
        weights.append([parameter.detach().clone() for parameter in self.model.parameters()])

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)
    monkeypatch.setattr(tasks.PretrainTask, "on_train_batch_end", note)
    monkeypatch.setattr(tasks.PretrainTask, "on_train_start", note, raising=False)
    pretrain_with(tmp_path, noisy, f"{FLAGS} --max_steps 2 --non_finite skip")
    assert "loss is not finite in loss at locations 0" in capsys.readouterr().out
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not all(map(torch.equal, weights[1], weights[2]))


@pytest.mark.parametrize("kind", ["loss", "statistics", "validation"])
def test_what_is_not_finite_in_another_process_ends_this_one_too(noisy, tmp_path, monkeypatch, kind):
    """The own loss is no culprit."""
    if kind == "loss":
        monkeypatch.setattr(tasks, "mean_over_processes", lambda loss: torch.full_like(loss, float("nan")))
        said = "loss of another process is not finite; lower"
    elif kind == "statistics":
        spoil_losses(monkeypatch, {0})
        monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda *_, **__: True)
        said = "--non_finite skip: statistics of another process not finite"
    else:
        monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", lambda *_, **__: True)
        said = "loss of another process is not finite; lower --learning_rate or look"
    with pytest.raises(ValueError, match=said):
        pretrain_with(tmp_path, noisy, f"{FLAGS} --non_finite {'stop' if kind == 'loss' else 'skip'}")


def test_a_validation_loss_that_is_not_finite_is_named(noisy, tmp_path, monkeypatch):
    whole = CrossModalObjective.__call__

    def objective(self, *given):
        terms = whole(self, *given)
        return terms if torch.is_grad_enabled() else terms | {"seg_s2": terms["seg_s2"] * float("nan")}

    monkeypatch.setattr(CrossModalObjective, "__call__", objective)
    with pytest.raises(ValueError, match=r"loss is not finite in seg_s2 at locations 000000\d, 000000\d; lower"):
        pretrain_with(tmp_path, noisy, FLAGS)


def test_ten_steps_in_a_row_are_too_many(noisy, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "SKIPS_IN_A_ROW", 2)
    spoil_losses(monkeypatch, {1, 2})
    with pytest.raises(ValueError, match="--non_finite skip: 2 steps in a row; go on from an earlier checkpoint"):
        pretrain_with(tmp_path, noisy, f"{FLAGS} --non_finite skip")


@pytest.mark.parametrize("kind", ["stop", "skip"])
def test_a_gradient_that_is_not_finite_is_named(noisy, tmp_path, monkeypatch, capsys, kind):
    first = iter([float("nan")])

    def spoil(self, *_):
        next(self.model.parameters()).grad.mul_(next(first, 1.0))

    monkeypatch.setattr(tasks.PretrainTask, "on_after_backward", spoil)
    flags = f"{FLAGS} --non_finite {kind}"
    if kind == "skip":
        pretrain_with(tmp_path, noisy, flags)
        assert "warning: gradient is not finite in encoders.s1." in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match=r"gradient is not finite in encoders\.s1\.\S+ at step 0; lower"):
            pretrain_with(tmp_path, noisy, flags)


def test_statistics_of_batchnorm_that_are_spoilt_stop_the_run(noisy, tmp_path, monkeypatch):
    def spoil(self, *_):
        next(buffer for name, buffer in self.model.named_buffers() if name.endswith("running_mean")).fill_(float("nan"))

    monkeypatch.setattr(tasks.PretrainTask, "on_after_backward", spoil)
    spoil_losses(monkeypatch, {0})
    with pytest.raises(ValueError, match=r"--non_finite skip: \S+running_mean not finite; go on from an earlier"):
        pretrain_with(tmp_path, noisy, f"{FLAGS} --non_finite skip")


def test_long_lists_are_shortened():
    assert shortened(list("abc")) == "a, b, c"
    assert shortened([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


NUM_CLASSES, SIDE = 5, 8
CASES = ("one class", "one pixel of a class", "all ignored", "one labelled pixel", "every class")


def labels_of(case):
    labels = torch.full((2, SIDE, SIDE), 1)
    if case == "one pixel of a class":
        labels[0, 0, 0] = 3
    elif case == "all ignored":
        labels[:] = 255
    elif case == "one labelled pixel":
        labels[:] = 255
        labels[1, 2, 3] = 4
    elif case == "every class":
        labels = torch.arange(2 * SIDE * SIDE).reshape(2, SIDE, SIDE) % NUM_CLASSES
    return labels


def logits_of(case, labels):
    logits = torch.zeros(2, NUM_CLASSES, SIDE, SIDE)
    if case == "certain":
        logits[:, 1] = 1e4
    elif case == "certain and wrong":
        logits[:, 2] = 1e4
    elif case == "huge differences":
        logits = torch.linspace(-3e4, 3e4, logits.numel()).reshape(logits.shape)
    return logits


@pytest.mark.parametrize("loss_type", ["cd", "f"])
@pytest.mark.parametrize("consistency", ["ce", "kl", "mse"])
@pytest.mark.parametrize("kind", ["entropy", "gini"])
@pytest.mark.parametrize("confidence", ["equal", "certain", "certain and wrong", "huge differences"])
@pytest.mark.parametrize(
    "case", ["one class", "one pixel of a class", "all ignored", "one labelled pixel", "every class"]
)
def test_losses_and_gradients_at_the_edge_are_finite(case, confidence, kind, consistency, loss_type):
    labels = labels_of(case)
    twins = {name: logits_of(confidence, labels).requires_grad_() for name in ("s1", "s2")}
    objective = CrossModalObjective(
        NUM_CLASSES, loss_type, consistency, smoothing_factors=(0.15,), selection=True, confidence_kind=kind
    )
    for epoch in (0, 200):
        terms = objective(twins, labels, epoch=epoch)
        assert all(torch.isfinite(value) for value in terms.values()), terms
        for gradient in torch.autograd.grad(terms["loss"], list(twins.values())):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("device", "wanted"), [("cuda", torch.channels_last), ("cpu", torch.contiguous_format)])
def test_kernels_have_the_channels_last_on_gpus_alone(device, wanted):
    """Known before a process is on its GPU, and shares gradients with others."""
    task = CardedTask()
    task.model = torch.nn.Conv2d(4, 4, 3)
    task._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    task.setup("fit")
    assert task.model.weight.is_contiguous(memory_format=wanted)
