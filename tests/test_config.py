"""Command line and YAML: flag > YAML > default, one line for what is wrong."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, load_script
from processes import Script

from cromss.config import parse, read, run, save_yaml, suggestion, to_flat
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings

ALL = [MultiModalSettings, SingleModalSettings, FinetuneSettings]
PREPARATION = [
    load_script("write_pretrain_lmdb").PretrainSet,
    load_script("write_downstream_lmdb").DownstreamFolders,
    load_script("inspect_lmdb").Inspection,
]
PUBLISHED = """
    --data_path D --data_name_s1 0k_251k_uint8_s1.lmdb --data_name_s2 0k_251k_uint8_s2c.lmdb
    --data_name_label dw_labels.lmdb --input_type s12 --fusion_type mid --save_dir S --model_type resnet50
    --n_channels 13 --n_classes 9 --loss_type cd --consist_loss_type ce --label_smoothing
    --label_smoothing_factor 0.15 0.05 --label_smoothing_prior_type ts --sample_selection
    --sample_selection_rmup_func exp --sample_selection_rmdown_epoch 80 --sample_selection_prop 0.5
    --sample_selection_confidence_type ce --experiment ns_labels --validation 0.01 --batch_size 128 --num_workers 12
    --accelerator gpu --slurm --epochs 200 --optimizer adam --learning_rate 0.005 --lr_adjust_type rop --lr_adjust 30
"""


def error_of(settings, arguments, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(settings, arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_published_command_sets_every_flag():
    flat = to_flat(parse(MultiModalSettings, PUBLISHED.split()))
    assert flat["data_path"] == "D"
    assert flat["label_smoothing_factor"] == [0.15, 0.05]
    assert flat["label_smoothing"] is flat["sample_selection"] is flat["slurm"] is True
    assert (flat["epochs"], flat["batch_size"], flat["num_workers"]) == (200, 128, 12)
    assert (flat["learning_rate"], flat["lr_adjust"], flat["validation"]) == (0.005, 30, 0.01)


@pytest.mark.parametrize("settings", ALL)
def test_defaults_are_valid_and_survive_yaml(settings, tmp_path):
    save_yaml(settings(), tmp_path / "a.yaml")
    assert parse(settings, ["--config", str(tmp_path / "a.yaml")]) == settings()


@pytest.mark.parametrize("settings", ALL)
def test_flag_names_are_unique(settings):
    def names(kind):
        for entry in dataclasses.fields(kind):
            inner = entry.default_factory() if callable(entry.default_factory) else None
            yield from names(type(inner)) if dataclasses.is_dataclass(inner) else [entry.name]

    flags = list(names(settings))
    assert len(flags) == len(set(flags)) == len(to_flat(settings()))


def test_precedence(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 7\nlearning_rate: 5e-3\nlabel_smoothing: true\nsample_selection: true\n")
    settings = parse(MultiModalSettings, ["--config", str(tmp_path / "a.yaml"), "-e", "9", "--no_sample_selection"])
    assert settings.optimisation.epochs == 9
    assert settings.optimisation.learning_rate == 5e-3
    assert settings.smoothing.label_smoothing
    assert not settings.selection.sample_selection
    assert settings.optimisation.batch_size == MultiModalSettings().optimisation.batch_size


def test_short_flags():
    settings = parse(MultiModalSettings, ["-e", "3", "-l", "0.1", "-v", "0.2", "-n", "4", "--pre-train"])
    assert (settings.optimisation.epochs, settings.optimisation.learning_rate) == (3, 0.1)
    assert (settings.data.validation, settings.runtime.num_workers, settings.model.pre_train) == (0.2, 4, True)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (MultiModalSettings, "--fusion_type mid --input_type s1", "--input_type s1"),
        (MultiModalSettings, "--nope 3", "Unrecognized options: --nope"),
        (MultiModalSettings, "--wandb_mode offline", "--wandb_mode"),
        (MultiModalSettings, "--project_name x", "--project_name"),
        (MultiModalSettings, "--entity_name x", "--entity_name"),
        (MultiModalSettings, "--label_smoothing_factor 0.9 0.3", "--label_smoothing_factor 0.9 0.3"),
        (MultiModalSettings, "--label_smoothing_factor 0.1 0.1 0.1", "--label_smoothing_factor"),
        (MultiModalSettings, "--label_smoothing_factor -0.1", "--label_smoothing_factor"),
        (MultiModalSettings, "--sample_selection_prop 1.5", "--sample_selection_prop 1.5"),
        (MultiModalSettings, "--sample_selection_agreement", "must be given with --sample_selection"),
        (SingleModalSettings, "--label_smoothing_sigma 0", "--label_smoothing_sigma 0"),
        (MultiModalSettings, "--loss_type xy", "--loss_type xy"),
        (MultiModalSettings, "--n_channels 11", "--n_channels 11"),
        (MultiModalSettings, "--epochs 0", "--epochs 0"),
        (MultiModalSettings, "--epochs three", "epochs"),
        (MultiModalSettings, "--batch_size 0", "--batch_size 0"),
        (MultiModalSettings, "--validation 1", "--validation 1"),
        (MultiModalSettings, "--fusion_type early", "--fusion_type"),
        (SingleModalSettings, "--input_type s12", "--input_type"),
        (SingleModalSettings, "--fusion_type mid", "--fusion_type"),
        (FinetuneSettings, "--dataset NYC", "--input_type s2: must be ortho with --dataset NYC"),
        (FinetuneSettings, "--dataset OSCD --input_type s12", "--input_type s12: must be s2 with --dataset OSCD"),
        (FinetuneSettings, "--input_type ortho", "must be s1 or s2 or s12 with --dataset DFC2020"),
        (FinetuneSettings, "--fraction 0", "--fraction 0.0"),
        (FinetuneSettings, "--fraction 101", "--fraction 101.0"),
        (FinetuneSettings, "--fraction 10 --n_train 5", "--n_train 5: must be 0 where --fraction is given"),
        (FinetuneSettings, "--train_path a", "--train_path a: must be given together with --test_path"),
        (FinetuneSettings, "--train_path a --test_path b --data_path c", "--data_path c: must be empty"),
        (FinetuneSettings, "--split_file a.txt", "--split_file a.txt: must be empty but for --n_train or --fraction"),
        (FinetuneSettings, "--train_path a --test_path a", "--test_path a: must be another part than --train_path"),
        (FinetuneSettings, "--seed 4294967296", "--seed 4294967296: must be at least 0 and under"),
        (FinetuneSettings, "--seed 1 2 --resume a.ckpt", "--seed 1 2: must be a single one with --resume a.ckpt"),
        (FinetuneSettings, "--cal_tr_acc", "--cal_tr_acc"),
        (FinetuneSettings, "--seed 1 1", "--seed 1 1: must be different numbers"),
        (FinetuneSettings, "--seed 1 -1", "--seed 1 -1"),
        (FinetuneSettings, "--synthetic_size 8", "--synthetic_size 8"),
        (MultiModalSettings, "--config=missing.yaml", "missing.yaml: No such file"),
        (MultiModalSettings, "--limit_batches -1", "--limit_batches"),
        (MultiModalSettings, "--max_steps 0", "--max_steps 0"),
        (MultiModalSettings, "--crop_size -5", "--crop_size -5"),
        (FinetuneSettings, "--crop_size 1", "--crop_size 1: must be 2 to 8192"),
        (MultiModalSettings, "--n_classes 0", "--n_classes 0"),
        (MultiModalSettings, "--devices -3", "--devices -3"),
        (MultiModalSettings, "--seed -1", "--seed -1"),
        (MultiModalSettings, "--test_season -7", "--test_season -7"),
        (MultiModalSettings, "--consist_loss_weight -1", "--consist_loss_weight"),
        (FinetuneSettings, "--n_train -3", "--n_train -3"),
        (MultiModalSettings, "--config", "--config wants a YAML file"),
        (MultiModalSettings, "--config missing.yaml", "missing.yaml: No such file"),
    ],
)
def test_bad_flags_end_in_one_line(settings, arguments, message, capsys):
    assert message in error_of(settings, arguments.split(), capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learing_rate: 1", "unknown key 'learing_rate'; did you mean 'learning_rate'?"),
        ("xyzzy: 1", "unknown key 'xyzzy'"),
        ("epochs: many", "epochs"),
        ("epochs: null", "epochs wants a plain value"),
        ("epochs: {a: 1}", "epochs wants a plain value"),
        ("epochs: true", "epochs wants a plain value"),
        ("label_smoothing: 3", "label_smoothing wants true or false"),
        ("label_smoothing: 'yes'", "label_smoothing wants true or false"),
        ("- a\n- b", "expected a mapping"),
        ("just words", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: [", "not plain YAML"),
        ("a: !!python/object/apply:os.system ['echo broken']", "not plain YAML"),
        ("epochs: 3\nbatch_size: 2\nepochs: 4", "a.yaml: not plain YAML (line 3: 'epochs' is given twice)"),
        ("{epochs: 3, 'epochs': 4}", "(line 1: 'epochs' is given twice)"),
        ("epochs: 2024-13-45", "a.yaml: not plain YAML (month must be in 1..12"),
        ("fusion_type: early", "fusion_type"),
    ],
)
def test_bad_yaml_ends_in_one_line_that_names_the_file(content, message, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(content)
    assert message in error_of(MultiModalSettings, ["--config", str(tmp_path / "a.yaml")], capsys)


def test_binary_yaml_is_refused(tmp_path, capsys):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "not plain YAML" in error_of(MultiModalSettings, ["--config", str(tmp_path / "a.yaml")], capsys)


@pytest.mark.parametrize(
    "arguments", ["--nope 3", "--epochs 0", "--epochs three", "--config missing.yaml", "--config", "--fraction 0"]
)
def test_reading_says_what_parsing_prints(arguments, capsys):
    with pytest.raises(ValueError) as caught:
        read(FinetuneSettings, arguments.split())
    assert capsys.readouterr() == ("", "")
    assert error_of(FinetuneSettings, arguments.split(), capsys) == f"error: {caught.value}\n"


def test_unknown_keys_are_compared_with_known_ones():
    assert suggestion("seed", ["seeds", "flags"]) == "did you mean 'seeds'?"
    assert suggestion("xyz", ["seeds"]) == "--help lists them"
    assert suggestion("xyz", ["seeds"], "known: seeds") == "known: seeds"


def test_settings_are_plain_values():
    for settings in ALL:
        assert yaml.safe_load(yaml.safe_dump(to_flat(settings()))) == to_flat(settings())


@dataclasses.dataclass(frozen=True)
class Needy:
    """Settings with required fields, paths and nothing."""

    source: Path
    parts: tuple[Path, ...]
    limit: int | None = None
    target: Path = Path("out")


def test_required_fields_come_from_yaml_and_flags(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("source: raw\nparts: [a, b]\nlimit: null\n")
    assert parse(Needy, ["--config", str(file)]) == Needy(Path("raw"), (Path("a"), Path("b")))
    assert parse(Needy, ["--config", str(file), "--limit", "3", "--source", "x"]).limit == 3


def test_paths_are_plain_in_yaml(tmp_path):
    settings = Needy(tmp_path, (Path("a"),), 2)
    assert to_flat(settings) == {"source": str(tmp_path), "parts": ["a"], "limit": 2, "target": "out"}
    save_yaml(settings, tmp_path / "a.yaml")
    assert parse(Needy, ["--config", str(tmp_path / "a.yaml")]) == settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ("required", "--source", "--parts", "(see --help)")),
        ("--source x", ("required", "--parts", "(see --help)")),
        ("--source x --parts a --limit some", ("limit",)),
    ],
)
def test_missing_flags_are_named(arguments, words, capsys):
    message = error_of(Needy, arguments.split(), capsys)
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sorce: x", "unknown key 'sorce'; did you mean 'source'?"),
        ("source: null\nparts: [a]", "--source"),
        ("source: {a: 1}", "source wants a plain value, got {'a': 1}"),
        ("target: null", "target wants a plain value like 'out', got None"),
    ],
)
def test_bad_yaml_of_required_fields(content, message, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(content)
    assert message in error_of(Needy, ["--config", str(tmp_path / "a.yaml")], capsys)


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (SystemExit(), 143, "error: terminated; the same command goes on where it stopped\n"),
        (None, 0, ""),
        (1, 1, ""),
        (ValueError("--limit 0:\nat least 1"), 2, "error: --limit 0: at least 1\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), 2, "error: a/b: No such file or directory\n"),
        (FileNotFoundError(2, "No such file", "a", None, "b"), 2, "error: a -> b: No such file\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; the same command goes on where it stopped\n"),
    ],
)
def test_the_end_of_a_run_is_a_status_and_at_most_one_line(outcome, status, message, monkeypatch, capsys):
    def main(settings):
        assert settings == Needy(Path("x"), (Path("a"),))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(sys, "argv", ["script", "--source", "x", "--parts", "a"])
    with pytest.raises(SystemExit) as stop:
        run(main, Needy)
    assert (stop.value.code or 0, capsys.readouterr().err) == (status, message)


def test_mistakes_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--source", "x", "--parts", "a"])
    with pytest.raises(KeyError):
        run(lambda settings: {}["a"], Needy)


ALONE = """
import atexit, sys
import torch.distributed
from cromss.config import exit_with

def fail():
    raise {error}("wrong")

atexit.register(print, "farewell")
if {together}:
    torch.distributed.init_process_group("gloo", init_method="file://{file}", rank=0, world_size=1)
print("said")
exit_with(fail)
"""


@pytest.mark.parametrize(
    ("error", "together", "status", "line"),
    [
        ("ValueError", True, 2, "error: wrong"),
        ("ValueError", False, 2, "error: wrong"),
        ("KeyError", True, 1, "KeyError: 'wrong'"),
    ],
)
def test_one_of_several_processes_does_not_wait_for_the_others_where_it_fails(tmp_path, error, together, status, line):
    """What is to be done at the end of a process is left out, among it NCCL's farewell."""
    script = ALONE.format(error=error, together=together, file=tmp_path / "meeting")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, cwd=REPOSITORY)
    assert done.returncode == status
    assert done.stdout == ("said\n" if together else "said\nfarewell\n")
    assert done.stderr.splitlines()[-1] == line
    assert done.stderr.splitlines().count(line) == 1


MEETING = """
import sys
import torch.distributed
from cromss.config import exit_with

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://{file}", rank=rank, world_size=2)
torch.distributed.barrier()

def work():
    if rank:
        raise ValueError("a.tif: wrong")
    torch.distributed.all_reduce(torch.zeros(1))

exit_with(work)
"""


def test_who_waits_for_a_process_that_has_failed_says_so_in_a_line(tmp_path):
    script = tmp_path / "meeting.py"
    script.write_text(MEETING.format(file=tmp_path / "meeting"))
    both = [Script(tmp_path / f"{rank}.log", script, rank) for rank in (0, 1)]
    for rank in both:
        rank.process.join(100)
    waits, fails = (rank.log.read_text() for rank in both)
    assert fails == "error: a.tif: wrong\n"
    assert re.fullmatch(r"error: another process of this training is gone \(Connection \w+ by peer\); it .*\n", waits)
    assert [rank.process.exitcode for rank in both] == [1, 2]


@pytest.mark.parametrize(("settings", "number"), zip(PREPARATION, ("workers", "limit", "max_records")))
def test_scripts_of_data_prepare_refuse_bad_flags(settings, number, capsys):
    required = ["x"] if number == "max_records" else ["--data_path", "x", "--out", "y"]
    required += ["--dataset", "DW"] if number == "limit" else []
    assert "Unrecognized options: --nope" in error_of(settings, [*required, "--nope", "3"], capsys)
    assert number in error_of(settings, [*required, f"--{number}", "many"], capsys)
    assert "wants a YAML file" in error_of(settings, [*required, "--config"], capsys)


def test_scripts_of_data_prepare_read_yaml(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("dataset: DW\ndata_path: raw\nout: lmdb\nsplits: [test]\ndry_run: true\nworkers: 2\n")
    settings = parse(PREPARATION[1], ["--config", str(file), "--workers", "3"])
    assert settings == PREPARATION[1]("DW", Path("raw"), Path("lmdb"), ("test",), workers=3, dry_run=True)
    save_yaml(settings, file)
    assert parse(PREPARATION[1], ["--config", str(file)]) == settings
