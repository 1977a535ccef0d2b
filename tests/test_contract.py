"""Every command in the README, the scripts and the YAML files parses."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from cromss.config import parse
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings

TRAINING = {
    "train_pretrain_mm.py": MultiModalSettings,
    "train_pretrain.py": SingleModalSettings,
    "finetune.py": FinetuneSettings,
}
README = (REPOSITORY / "README.md").read_text()


def python_commands(text):
    """(script, arguments) of every python command in a text."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for match in re.finditer(r"python3? ((?:train_scripts|data_prepare)/\S+\.py)([^`#|\n]*)", line):
            yield match[1], shlex.split(match[2])


COMMANDS = list(python_commands(README))


def test_readme_has_commands():
    assert {script for script, _ in COMMANDS} >= {
        "train_scripts/train_pretrain_mm.py",
        "train_scripts/train_pretrain.py",
    }


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=lambda value: str(value)[:60])
def test_readme_commands_parse(script, arguments, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    name = script.rpartition("/")[2]
    if name in TRAINING:
        parse(TRAINING[name], arguments)
        return
    flags = [argument for argument in arguments if argument.startswith("--")]
    said = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(flag in said for flag in flags)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "train_scripts" / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_configs_parse(path):
    kinds = [FinetuneSettings] if "finetune" in path.name else [MultiModalSettings]
    for kind in kinds:
        parse(kind, ["--config", str(path)])


@pytest.mark.parametrize("path", re.findall(r"`((?:cromss|data_prepare|train_scripts|tests)/[\w./]*)`", README))
def test_paths_in_the_readme_exist(path):
    assert (REPOSITORY / path).exists()


def test_slurm_script_parses(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = (REPOSITORY / "train_scripts" / "pretrain.slurm").read_text()
    ((script, arguments),) = python_commands(
        text.replace('"${1:?folder of the LMDB environments}"', "lmdb").replace('"${@:2}"', "")
    )
    assert parse(TRAINING[script.rpartition("/")[2]], arguments).runtime.slurm


SHOW = """#!/usr/bin/env bash
shift; printf '%s\\n' "$@"
"""


def run_script(script, arguments, tmp_path, **environment):
    """Run a bash script with an interpreter that prints the arguments it is given."""
    show = tmp_path / "show"
    show.write_text(SHOW)
    show.chmod(0o755)
    command = ["bash", str(REPOSITORY / "ft_scripts" / script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": str(show), **environment}
    )


@pytest.mark.parametrize("script", sorted(p.name for p in (REPOSITORY / "ft_scripts").glob("*.sh")))
def test_transfer_scripts_parse(script, tmp_path):
    for arguments in ([], ["s1"], ["s2", "a.ckpt", "tuned"], ["s2", "random", "frozen", "--epochs", "1"]):
        result = run_script(script, arguments, tmp_path, DATA="somewhere", SEED="7")
        assert result.returncode == 0, result.stderr
        settings = parse(FinetuneSettings, result.stdout.splitlines())
        assert settings.data.data_path == "somewhere"
        assert settings.runtime.seed == 7
        assert settings.model.encoder_finetune_tag == ("etr" if "tuned" in arguments else "efix")
    assert settings.optimisation.epochs == 1


@pytest.mark.parametrize("arguments", [["s3"], ["s2", "random", "thawed"]])
def test_transfer_scripts_explain_themselves(arguments, tmp_path):
    result = run_script("ft_dfc2020.sh", arguments, tmp_path)
    assert result.returncode == 2
    assert "usage:" in result.stderr
