"""Plain YAML files: what is read, and what is said of the rest."""

import datetime

import pytest
import yaml

from cromss.yaml_files import read_yaml


def test_keys_may_return_in_other_mappings(tmp_path):
    text = "a: &first {x: 1, y: [{x: 2}, {x: 3}]}\nb: {<<: *first, x: 4}\nc: [*first, *first]\n"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml", "grid") == yaml.safe_load(text)


def test_other_numbers_and_text_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("[0, -0, 10, 1_000, 0x0A, 0.5, 0e0, '011', 08, 1.0e-08, 2020-01-01]")
    numbers = [0, 0, 10, 1000, 10, 0.5, "0e0", "011", "08", 1e-8, datetime.date(2020, 1, 1)]
    assert read_yaml(tmp_path / "a.yaml", "grid") == numbers


def test_yaml_that_refers_to_itself_ends(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a [*a]\n")
    assert list(read_yaml(tmp_path / "a.yaml", "grid")) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not plain YAML (line"),
        (b"a: 1\na: 2", "(line 2: 'a' is given twice)"),
        (b"a: !!python/object/apply:os.system ['echo']", "not plain YAML"),
        (b"\xff\xfe\x00\x01", "not plain YAML"),
        (b"a: 1\nb: [011]", "(line 2: 011 would be octal; leave the leading zero out, or quote it if it is text)"),
        (b"011: a", "(line 1: 011 would be octal"),
        (b"-07: a", "(line 1: -07 would be octal"),
        (b"1: a\n0x1: b", "(line 2: '0x1' is given twice)"),
        (b"10: a\n1_0: b", "(line 2: '1_0' is given twice)"),
        (b"a: " + b"[" * 1200 + b"]" * 1200, "not plain YAML (nested too deeply)"),
        (b"a: !!bool x", "not plain YAML"),
        (b"a: !!int [1]", "(line 1: expected a scalar node, but found sequence); mend it"),
        (b"a: " + b"[" * 41 + b"]" * 41, "not plain YAML (nested too deeply); mend it"),
        (b"a: " + b"1" * 65, "(line 1: a whole number of 65 characters, at most 64 are read)"),
        (b"a: &a [" + b"1, " * 400 + b"]\nb: [" + b"*a, " * 300 + b"]", "more than 100000 entries, with its aliases"),
        (b"# " + b"a" * 2**20, "more than 1048576 bytes"),
        (b"a: !!timestamp x", "not plain YAML"),
    ],
)
def test_other_files_are_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_yaml(path, "rules")
    assert message in str(error.value)
    assert str(error.value).startswith(f"--rules {path}: ")
    assert "\n" not in str(error.value)


def test_the_limits_themselves_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: " + b"[" * 38 + b"]" * 38 + b"\nb: " + b"1" * 64)
    assert read_yaml(tmp_path / "a.yaml", "grid")["b"] == int("1" * 64)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--rules .*no\.yaml: No such file"):
        read_yaml(tmp_path / "no.yaml", "rules")
