"""Every promise of SECURITY.md names tests that exist."""

import ast
import re

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")][2:]


def test_there_are_promises_on_one_page():
    assert len(ROWS) >= 10
    assert len(PAGE.splitlines()) <= 60
    assert len({promise for promise, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_promises_are_held_by_tests_that_exist(row):
    promise, tests = row
    named = re.findall(r"`(tests/\w+\.py)::(test_\w+)`", tests)
    assert promise
    assert named
    assert tests == ", ".join(f"`{path}::{test}`" for path, test in named)
    for path, test in named:
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", re.findall(r"`((?:tests|benchmarks|train_scripts|data_prepare)/[\w/.]+)`", PAGE))
def test_paths_on_the_page_exist(path):
    assert (REPOSITORY / path).exists()
