"""Progress: a bar on a terminal, few lines in a log."""

import re
import sys
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch.utils.data import DataLoader

from cromss.progress import ProgressLines, progress


class Line(L.LightningModule):
    """Learns a slope."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, x, index):
        self.log("train/loss", loss := ((self.slope - 2) * x).square().mean(), prog_bar=True)
        return loss

    def validation_step(self, x, index):
        self.log("val/loss", (self.slope - 2).square().mean(), prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(tmp_path, lines, **options):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[lines],
        **options,
    )
    numbers, model = DataLoader(torch.ones(3, 1)), Line()
    trainer.fit(model, numbers, DataLoader(torch.ones(2, 1)))
    trainer.test(model, numbers, verbose=False)


def printed(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if " of " in line]


@pytest.mark.filterwarnings("ignore")
def test_a_log_has_a_line_an_epoch(tmp_path, capsys):
    trained(tmp_path, ProgressLines())
    first, second = printed(capsys)
    # slope 0 -> 0.4 -> 0.72 -> 0.976: loss (2 - slope)^2 of the last step, and after it
    assert re.fullmatch(r"epoch 1 of 2, batch 3 of 3, [\d.e+]+ a second: train/loss 1\.638, val/loss 1\.049", first), (
        first
    )
    assert re.match(r"epoch 2 of 2, batch 3 of 3, ", second)


@pytest.mark.filterwarnings("ignore")
def test_what_takes_longer_is_told_within(tmp_path, capsys):
    trained(tmp_path, ProgressLines(seconds=0))
    told = [re.match(r"(epoch \d of 2, )?(validation, |test, )?batch \d of \d", line)[0] for line in printed(capsys)]
    epochs = [
        [f"epoch {epoch} of 2, batch {batch} of 3" for batch in (1, 2, 3)]
        + [f"validation, batch {batch} of 2" for batch in (1, 2)]
        + [f"epoch {epoch} of 2, batch 3 of 3"]
        for epoch in (1, 2)
    ]
    assert told == [*epochs[0], *epochs[1], *(f"test, batch {batch} of 3" for batch in (1, 2, 3))]


@pytest.mark.filterwarnings("ignore")
def test_other_processes_say_nothing(tmp_path, capsys):
    lines = ProgressLines(seconds=0)
    lines.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    trained(tmp_path, lines)
    assert not printed(capsys)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start"])
def test_the_pace_is_that_of_the_epoch_or_of_what_is_left_of_it(hook, monkeypatch, capsys):
    """Which Lightning does not start anew where a run goes on within it."""
    clock = SimpleNamespace(now=0, monotonic=lambda: clock.now)
    monkeypatch.setattr("cromss.progress.time", clock)
    counts = SimpleNamespace(current=SimpleNamespace(completed=9))
    trainer = SimpleNamespace(
        current_epoch=0,
        max_epochs=1,
        num_training_batches=9,
        progress_bar_metrics={},
        is_global_zero=True,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=counts)),
    )
    lines = ProgressLines(seconds=1000)
    lines.setup(trainer, None, "fit")
    clock.now = 100
    getattr(lines, hook)(trainer, None)
    for batch in (7, 8):
        clock.now += 1
        lines.on_train_batch_end(trainer, None, None, None, batch)
    lines.on_train_epoch_end(trainer, None)
    assert "epoch 1 of 1, batch 9 of 9, 1 a second" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_training_ends_where_nobody_listens(tmp_path, monkeypatch):
    lines, said = ProgressLines(seconds=0), []

    def broken(line, **_):
        said.append(line)
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    trained(tmp_path, lines)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (SimpleNamespace(isatty=lambda: True), TQDMProgressBar),
        (SimpleNamespace(isatty=lambda: False), ProgressLines),
        (None, ProgressLines),
    ],
)
def test_bars_are_for_terminals(output, kind, monkeypatch):
    monkeypatch.setattr(sys, "stdout", output)
    assert type(progress()) is kind
