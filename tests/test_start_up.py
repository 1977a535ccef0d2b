"""Imports that do not look for garbage: what they leave, and that all scripts make theirs so."""

import ast
import gc
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from cromss.start_up import fast_imports

HEAVY = ("cromss.training", "cromss.mapping", "cromss.models")
PROGRAM = """
import atexit, gc
atexit.register(lambda: print("frozen at the end:", gc.get_freeze_count()))
from cromss.start_up import fast_imports
try:
    with fast_imports():
        print("looking for garbage:", gc.isenabled())
        kept = [[] for _ in range(1000)]
        {body}
except ImportError as error:
    print(error)
print("looking for garbage:", gc.isenabled(), "frozen:", gc.get_freeze_count() > 1000)
"""


@pytest.mark.parametrize(("body", "said"), [("import json", ""), ("import nothing", "No module named 'nothing'\n")])
def test_what_is_imported_is_left_alone_until_the_end(body, said):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True)
    expected = "looking for garbage: False\n" + said + "looking for garbage: True frozen: True\nfrozen at the end: 0\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_nothing_is_done_once_all_is_there():
    before = gc.get_freeze_count()
    assert "torch" in sys.modules
    with fast_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("train_scripts/*.py")), ids=lambda path: path.name)
def test_scripts_import_fast_what_takes_long(path):
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith(HEAVY)]
    assert imports, "no slow import: leave this script out"
    in_with = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and ast.unparse(node.items[0]) == "fast_imports()"
        for inner in node.body
    ]
    first = min(imports, key=lambda node: node.lineno)
    assert first in in_with
    assert first not in tree.body
