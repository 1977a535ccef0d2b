"""Run folders: what is finished, what may go on, and from which checkpoint."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import REPOSITORY
from test_training import COMMON, METHOD, pretrain_with, table

from cromss.config import parse, save_yaml, to_flat
from cromss.optimisers import schedule, staged_optimiser
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.training.run_folder import OtherSettings, RunFolder, newest_checkpoint
from cromss.training.runs import optimiser_fits

pytestmark = pytest.mark.usefixtures("one_thread", "narrow")


@pytest.fixture(scope="module")
def twins(noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    return folder, pretrain_with(folder, noisy, f"{METHOD} --name a")


def test_finished_run_is_not_done_again(twins, noisy, capsys):
    folder, metrics = twins
    before = (folder / "a" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = pretrain_with(folder, noisy, f"{METHOD} --name a")
    assert again == metrics
    assert (folder / "a" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


def test_run_with_other_settings_is_refused(twins, noisy):
    with pytest.raises(ValueError, match=r"learning_rate 0.001 -> 0.1\); choose another --name"):
        pretrain_with(twins[0], noisy, f"{METHOD} --name a --learning_rate 0.1")


def test_resume_none_moves_the_old_run_aside(noisy, tmp_path):
    arguments = "--name a --epochs 1"
    pretrain_with(tmp_path, noisy, arguments)
    pretrain_with(tmp_path, noisy, f"{arguments} --resume none --learning_rate 0.01")
    assert (tmp_path / "a.1" / "metrics.json").exists()
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["learning_rate"] == 0.01


def test_resumed_run_equals_an_undisturbed_one(noisy, tmp_path):
    """With rates on a plateau; tests/test_vit_training.py has those of a schedule."""
    flags = f"{METHOD} --lr_adjust_type rop --lr_adjust 0"
    pretrain_with(tmp_path, noisy, f"{flags} --name straight --epochs 3")
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --epochs 1")
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --epochs 3")
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("straight", "parts")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    rows = [table(tmp_path / name / "metrics.csv") for name in ("straight", "parts")]
    assert [row["epoch"] for row in rows[1]] == ["0", "1", "2"]
    assert [row["lr"] for row in rows[0]] == [row["lr"] for row in rows[1]]
    with pytest.raises(ValueError, match=r"other settings \(epochs 3 -> 2\)"):
        pretrain_with(tmp_path, noisy, f"{flags} --name parts --epochs 2")


@pytest.mark.parametrize("resume", ["missing.ckpt", "/", "setup.cfg"])
def test_resume_from_nothing_is_refused(noisy, tmp_path, resume, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ValueError, match=r"--resume|setup\.cfg: cannot be read"):
        pretrain_with(tmp_path, noisy, f"--resume {resume} --max_steps 1")


def test_resume_from_another_model_or_weights_alone_is_refused(twins, noisy, tmp_path):
    checkpoints = twins[0] / "a" / "checkpoints"
    with pytest.raises(ValueError, match="weights of another model"):
        pretrain_with(tmp_path, noisy, f"--resume {checkpoints / 'last.ckpt'} --fusion_type late --epochs 3")
    with pytest.raises(ValueError, match="weights without training state"):
        pretrain_with(tmp_path, noisy, f"--resume {checkpoints / 'best.ckpt'} --epochs 3")


def test_broken_newest_checkpoint_is_passed_over(noisy, tmp_path, capsys):
    flags = "--name a --save_interval 1"
    pretrain_with(tmp_path, noisy, f"{flags} --epochs 1")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    pretrain_with(tmp_path, noisy, f"{flags} --epochs 2")
    said = capsys.readouterr().out
    assert "passing it over" in said
    assert f"goes on from {last.parent / 'epoch=0000.ckpt'}, after step 1" in said
    assert [row["epoch"] for row in table(tmp_path / "a" / "metrics.csv")] == ["0", "1"]
    for path in last.parent.iterdir():
        path.write_bytes(b"")
    folder = RunFolder(tmp_path / "a")
    assert folder.open(parse(MultiModalSettings, yaml_words(folder))) is None
    assert f"{last.parent}: nothing there can be gone on from, so the run begins anew" in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"--model {folder.path}: no checkpoint in this folder; a run folder or a"):
        newest_checkpoint(folder.path, "model")


def yaml_words(folder):
    return ["--config", str(folder.path / "config.yaml")]


def test_a_run_limited_in_steps_goes_on_like_an_unlimited_one(noisy, tmp_path):
    """An interruption at an epoch's end, then the same command with more steps; and no step beyond the limit."""
    flags = "--label_smoothing --validation 0.2 --save_interval 1 --epochs 9"
    pretrain_with(tmp_path, noisy, f"{flags} --name straight --max_steps 3", SingleModalSettings)
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --max_steps 1", SingleModalSettings)
    pretrain_with(tmp_path, noisy, f"{flags} --name parts --max_steps 3", SingleModalSettings)
    straight, parts = (table(tmp_path / name / "metrics.csv") for name in ("straight", "parts"))
    assert [row["step"] for row in parts] == ["1", "2", "3"]
    assert [row["train/loss"] for row in parts] == [row["train/loss"] for row in straight]
    with pytest.raises(ValueError, match="--max_steps 2: the run has done 3 steps already"):
        pretrain_with(tmp_path, noisy, f"{flags} --name parts --max_steps 2", SingleModalSettings)


@pytest.mark.parametrize("resume", ["none", "path"])
def test_a_requeued_job_goes_on_from_what_it_has_saved_itself(noisy, tmp_path, monkeypatch, resume):
    """Not once more from where its command began; the newest checkpoint of others is none of its own."""
    flags = "--validation 0.2 --name a --epochs"
    pretrain_with(tmp_path, noisy, f"{flags} 2", SingleModalSettings)
    origin = tmp_path / "origin.ckpt"
    shutil.copy(tmp_path / "a" / "checkpoints" / "last.ckpt", origin)
    command = f"{flags} 9 --resume {'none' if resume == 'none' else origin} --max_steps"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # as if it had been requeued before it saved anything
    pretrain_with(tmp_path, noisy, f"{command} 3", SingleModalSettings)
    folder, started = RunFolder(tmp_path / "a"), {"none": [0, 1, 2], "path": [2]}[resume]
    assert [int(row["epoch"]) for row in table(folder.path / "metrics.csv")][-len(started) :] == started
    settings = parse(SingleModalSettings, [*COMMON.split(), "--data_path", str(noisy), *f"{command} 4".split()])
    assert folder.open(settings).path == folder.last
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    state = folder.open(settings)
    assert (state and state.path) == (None if resume == "none" else origin)


def test_a_lower_rate_is_taken_where_a_checkpoint_is_gone_on_from(noisy, tmp_path):
    flags = f"{METHOD} --lr_adjust_type exp --lr_adjust 0.5 --learning_rate"
    pretrain_with(tmp_path, noisy, f"{flags} 0.008 --epochs 1 --name a")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    pretrain_with(tmp_path, noisy, f"{flags} 0.0008 --epochs 3 --name b --resume {last}")
    rates = [float(row["lr"]) for row in table(tmp_path / "b" / "metrics.csv")]
    assert rates == pytest.approx([0.0004, 0.0002])


def test_steps_may_be_left_out_from_now_on(twins, noisy):
    with pytest.raises(ValueError, match=r"other settings \(whole_batch False -> True\)"):
        pretrain_with(twins[0], noisy, f"{METHOD} --name a --non_finite skip --whole_batch")


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.checkpoints.mkdir(parents=True)
    for name in (".last.ckpt.123", ".epoch=0001.ckpt.4", "best.ckpt"):
        (folder.checkpoints / name).write_bytes(b"half")
    save_yaml(MultiModalSettings(), folder.path / "config.yaml")
    folder.open(MultiModalSettings())
    assert [path.name for path in folder.checkpoints.iterdir()] == ["best.ckpt"]


def test_damaged_run_folders_are_named(noisy, tmp_path):
    pretrain_with(tmp_path, noisy, "--max_steps 1 --name a")
    for name, content in (
        *(("metrics.json", "{"), ("metrics.json", "[" * 100_000)),
        *(("config.yaml", ""), ("config.yaml", "[1"), ("config.yaml", "[" * 1000)),
    ):
        (tmp_path / "a" / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: damaged; delete it"):
            pretrain_with(tmp_path, noisy, "--max_steps 1 --name a")
        (tmp_path / "a" / "metrics.json").unlink(missing_ok=True)


OLDER = ("warmup_epochs", "layer_decay", "patch_size", "wavelengths")


def finished_run(folder, settings, without=()):
    """The files of a finished run, its config.yaml from before some settings."""
    flat = to_flat(settings)
    (folder / "config.yaml").write_text(yaml.safe_dump({key: flat[key] for key in flat if key not in without}))
    (folder / "metrics.json").write_text(json.dumps({"epochs": flat["epochs"], "max_steps": -1, "score": 0.5}))
    return RunFolder(folder)


@pytest.mark.parametrize("kind", [MultiModalSettings, SingleModalSettings, FinetuneSettings])
def test_runs_from_before_a_setting_are_not_spoilt_by_it(kind, tmp_path):
    settings = parse(kind, ["--epochs", "7", "--batch_size", "3"])
    assert finished_run(tmp_path, settings, OLDER).finished(settings)["score"] == 0.5


def test_a_run_from_before_a_setting_had_its_default(tmp_path):
    kept = ["--epochs", "7", "--lr_adjust_type", "none"]
    folder = finished_run(tmp_path, parse(MultiModalSettings, kept), OLDER)
    with pytest.raises(OtherSettings, match=r"\(warmup_epochs 0 -> 2, layer_decay 1\.0 -> 0\.8\)"):
        folder.finished(parse(MultiModalSettings, [*kept, "--warmup_epochs", "2", "--layer_decay", "0.8"]))


@pytest.mark.parametrize("change", ["--test_batch_size 2", "--grad_checkpointing", "--accelerator cpu"])
def test_what_a_smaller_or_older_machine_wants_may_change(change, tmp_path):
    """Without the loss of what has been trained."""
    folder = finished_run(tmp_path, parse(MultiModalSettings, []))
    assert folder.finished(parse(MultiModalSettings, change.split()))["score"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "free"),
    [
        ("--lr_adjust_type rop", True),
        ("--lr_adjust_type exp --lr_adjust 0.9", True),
        ("--lr_adjust_type none --warmup_epochs 2", True),
        ("--lr_adjust_type cos --lr_adjust 1e-5", False),
    ],
)
def test_the_cosine_follows_from_the_number_of_epochs(arguments, free, tmp_path):
    before, after = (parse(MultiModalSettings, f"{arguments} --epochs {count}".split()) for count in (7, 8))
    folder = finished_run(tmp_path, before)
    if free:
        assert folder.finished(after) is None
    else:
        with pytest.raises(OtherSettings, match="epochs 7 -> 8"):
            folder.finished(after)


STAGES = ((64, 3), (64,), (8, 64), (8,))
DECAY = schedule("exp", (0.9,), 5, 1.0)


def optimiser(shapes=STAGES, factor=DECAY, **options):
    """Optimiser of two stages of two parameters, after a step."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    made = staged_optimiser([parameters[:2], parameters[2:]], order="ascending", factor=factor, **options)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made["optimizer"].step()
    return made


def checkpoint_of(made, **changes):
    schedules = [made["lr_scheduler"].state_dict()] if "lr_scheduler" in made else []
    return {"optimizer_states": [made["optimizer"].state_dict()], "lr_schedulers": schedules} | changes


@pytest.mark.parametrize(
    "options", [{}, {"ratio": 0.5}, {"factor": None}, {"name": "sgd"}, {"name": "adamw", "ratio": 0.5}]
)
def test_an_optimiser_takes_over_what_its_like_has_left(options):
    assert optimiser_fits(checkpoint_of(optimiser(**options)), optimiser(**options))


def test_parameters_that_have_not_trained_yet_have_no_state():
    made = optimiser()
    content = checkpoint_of(made)
    del content["optimizer_states"][0]["state"][1]
    assert optimiser_fits(content, made)


MADE = optimiser()
EXPONENTIAL = torch.optim.lr_scheduler.ExponentialLR(optimiser()["optimizer"], 0.9).state_dict()


@pytest.mark.parametrize(
    "content",
    [
        checkpoint_of(optimiser(ratio=0.5)),
        checkpoint_of(optimiser(name="adamw")),
        checkpoint_of(optimiser(name="sgd")),
        checkpoint_of(optimiser(STAGES[:3])),
        checkpoint_of(optimiser((*STAGES, (8,)))),
        checkpoint_of(optimiser((STAGES[0], STAGES[2], STAGES[1], STAGES[3]))),
        checkpoint_of(optimiser(((64, 4), *STAGES[1:]))),
        checkpoint_of(optimiser(factor=None)),
        checkpoint_of(MADE, optimizer_states=[]),
        checkpoint_of(MADE, optimizer_states=checkpoint_of(MADE)["optimizer_states"] * 2),
        checkpoint_of(MADE, lr_schedulers=[EXPONENTIAL]),
        checkpoint_of(MADE, lr_schedulers=checkpoint_of(MADE)["lr_schedulers"] * 2),
        checkpoint_of(MADE, lr_schedulers=checkpoint_of(optimiser(ratio=0.5))["lr_schedulers"]),
    ],
    ids=(
        *("groups", "decay groups", "momentum", "fewer", "more", "order", "shape", "no schedule", "no optimiser"),
        *("two optimisers", "other schedule", "two schedules", "schedule of two groups"),
    ),
)
def test_states_of_other_optimisers_do_not_fit(content):
    assert not optimiser_fits(content, MADE)


def as_before_stages(content):
    """Adam's states in another order of the parameters."""
    state = content["optimizer_states"][0]["state"]
    state[0], state[1] = state[1], state[0]


def as_before_schedules(content):
    content["lr_schedulers"] = [EXPONENTIAL]


@pytest.mark.parametrize("spoil", [as_before_stages, as_before_schedules])
def test_runs_of_earlier_versions_are_refused_in_one_line(spoil, noisy, tmp_path):
    flags = "--lr_adjust_type exp --lr_adjust 0.9 --name a"
    pretrain_with(tmp_path, noisy, f"{flags} --epochs 1", SingleModalSettings)
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    spoil(content)
    torch.save(content, last)
    with pytest.raises(ValueError, match=r"optimiser state is that of other settings .*; start afresh with") as caught:
        pretrain_with(tmp_path, noisy, f"{flags} --epochs 2", SingleModalSettings)
    assert str(caught.value).startswith(f"--resume {last}: ")
    assert "\n" not in str(caught.value)
