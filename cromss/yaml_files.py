"""Plain YAML files, read safely; one line for whatever is wrong."""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_ENTRIES, MAX_DEPTH, MAX_DIGITS = 1 << 20, 100_000, 40, 64
"""Size of a file, entries that it has once its aliases are written out, how deep they lie in each other (the time to
read them grows with its square), and characters of a whole number."""


def read_yaml(path: Path, flag: str) -> Any:
    """Plain content of a YAML file; no key may be given twice, and no number is octal.

    Args:
        path: The file.
        flag: The flag that names it.

    Raises:
        ValueError: Not readable, too large, not plain YAML, a key given twice, or an integer with a leading zero, in
            one line.
    """
    try:
        loader = _PlainLoader(_text(path))
        node = loader.get_single_node()
        if node is None:
            return None
        _num_entries(node, {})
        return loader.construct_document(node)
    except OSError as error:
        raise ValueError(f"--{flag} {path}: {error.strerror}; give another file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ValueError(f"--{flag} {path}: not plain YAML (line {line}: {error.problem}); mend it") from None
    except RecursionError:
        raise ValueError(f"--{flag} {path}: not plain YAML (nested too deeply); mend it") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # the last two of wrong tags
        raise ValueError(f"--{flag} {path}: not plain YAML ({' '.join(str(error).split())[:120]}); mend it") from None


def _text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return raw.decode()


def _num_entries(node: yaml.Node, known: dict[int, int]) -> int:
    """Entries that a node has once its aliases are written out; an alias of what it is in counts nothing.

    Raises:
        yaml.MarkedYAMLError: Over `MAX_ENTRIES`, as of a few lines of aliases of aliases.
    """
    if id(node) not in known:
        known[id(node)] = 0
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_num_entries(part, known) for part in inner)
        if known[id(node)] > MAX_ENTRIES:
            problem = f"more than {MAX_ENTRIES} entries, with its aliases written out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return known[id(node)]


_INT = "tag:yaml.org,2002:int"


def _told(key: yaml.Node) -> object:
    """What tells a key from others; lists and mappings are no keys, which is said when they are made."""
    return key.value if isinstance(key, yaml.ScalarNode) else id(key)


class _PlainLoader(yaml.SafeLoader):
    """Safe loader that refuses what is easily misread: a key given twice, and `011`, which YAML 1.1 takes for 9."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            told = str(self.construct_yaml_int(key)) if key.tag == _INT else _told(key)
            if told in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(told)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if isinstance(node, yaml.ScalarNode) and re.fullmatch("[-+]?0[0-7_]+", node.value):
            problem = f"{node.value} would be octal; leave the leading zero out, or quote it if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if len(node.value) > MAX_DIGITS:
            problem = f"a whole number of {len(node.value)} characters, at most {MAX_DIGITS} are read"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor(_INT, _PlainLoader.construct_yaml_int)
