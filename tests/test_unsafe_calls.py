"""No file of the package, scripts and benchmarks runs what it reads; and the walker sees what it should."""

import pytest
from conftest import REPOSITORY
from unsafe_calls import unsafe_calls

FOLDERS = ("cromss", "data_prepare", "train_scripts", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


def test_there_are_sources():
    assert len(SOURCES) > 150
    assert {path.relative_to(REPOSITORY).parts[0] for path in SOURCES} == set(FOLDERS)


def test_nothing_runs_what_it_reads():
    found = {str(path.relative_to(REPOSITORY)): unsafe_calls(path.read_text()) for path in SOURCES}
    assert {path: offences for path, offences in found.items() if offences} == {}


ATTACKS = {"os.system", "builtins.eval", "builtins.exec", "__import__"}
"""What tests of attacks name."""


def test_tests_run_nothing_but_attacks():
    for path in (REPOSITORY / "tests").glob("*.py"):
        assert {offence.partition(": ")[2] for offence in unsafe_calls(path.read_text())} <= ATTACKS, path


PLANTED = {
    "import pickle\npickle.load(f)": "2: pickle.load",
    "import pickle as p\np.loads(f)": "2: pickle.loads",
    "from pickle import loads": "1: pickle.loads",
    "from pickle import loads as read\nread(f)": "2: pickle.loads",
    "import pickle\nclass U(pickle.Unpickler): pass": "2: pickle.Unpickler",
    "import pickle\nread = pickle.load": "2: pickle.load",
    "import pickle\ngetattr(pickle, 'loads')(f)": "2: pickle.loads",
    "import _pickle\n_pickle.loads(f)": "2: _pickle.loads",
    "import dill\ndill.load(f)": "2: dill.load",
    "import joblib\njoblib.load(f)": "2: joblib.load",
    "import marshal\nmarshal.loads(f)": "2: marshal.loads",
    "import shelve\nshelve.open('a')": "2: shelve.open",
    "import pandas as pd\npd.read_pickle('a')": "2: pandas.read_pickle",
    "import yaml\nyaml.load(f)": "2: yaml.load",
    "import yaml\nyaml.load(f, Loader=yaml.SafeLoader)": "2: yaml.load",
    "import yaml\nyaml.unsafe_load(f)": "2: yaml.unsafe_load",
    "import yaml\nclass L(yaml.FullLoader): pass": "2: yaml.FullLoader",
    "from yaml import full_load": "1: yaml.full_load",
    "eval('1')": "1: eval",
    "exec('1')": "1: exec",
    "compile('1', 'a', 'eval')": "1: compile",
    "list(map(eval, texts))": "1: eval",
    "import builtins\nbuiltins.exec('1')": "2: builtins.exec",
    "__import__('os')": "1: __import__",
    "import torch\ntorch.load(f)": "2: torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=False)": "2: torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=safe)": "2: torch.load without weights_only=True",
    "from torch import load as read\nread(f)": "2: torch.load without weights_only=True",
    "import torch\ntorch.jit.load(f)": "2: torch.jit.load",
    "import torch\ntorch.hub.load('a', 'b')": "2: torch.hub.load",
    "import numpy as np\nnp.load(f, allow_pickle=True)": "2: allow_pickle=True",
    "import numpy as np\nnp.load(f, allow_pickle=trust)": "2: allow_pickle=trust",
    "import subprocess\nsubprocess.run('ls', shell=True)": "2: shell=True",
    "import os\nos.system('ls')": "2: os.system",
    "trainer.fit(task, ckpt_path=path)": "1: fit(ckpt_path=...) without weights_only=True",
    "trainer.test(task, ckpt_path='best')": "1: test(ckpt_path=...) without weights_only=True",
    "trainer.validate(task, ckpt_path=p, weights_only=False)": "1: validate(ckpt_path=...) without weights_only=True",
    "Task.load_from_checkpoint(path)": "1: load_from_checkpoint without weights_only=True",
}


@pytest.mark.parametrize("source", PLANTED)
def test_planted_offences_are_found(source):
    assert PLANTED[source] in unsafe_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "import re\nre.compile('a')",
        "torch.compile(model)",
        "import pickle\npickle.dumps(a)",
        "import torch\ntorch.load(f, weights_only=True)",
        "import yaml\nyaml.safe_load(f)",
        "import yaml\nclass L(yaml.SafeLoader): pass",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import json\njson.load(f)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "trainer.fit(task, ckpt_path=path, weights_only=True)",
        "trainer.test(task, ckpt_path=None)",
        "'eval(1); pickle.load(f)'",
    ],
)
def test_safe_calls_pass(source):
    assert unsafe_calls(source) == []
