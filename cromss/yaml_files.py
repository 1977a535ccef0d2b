"""Plain YAML files, read safely; one line for whatever is wrong."""

import re
from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path, flag: str) -> Any:
    """Plain content of a YAML file; no key may be given twice, and no number is octal.

    Args:
        path: The file.
        flag: The flag that names it.

    Raises:
        ValueError: Not readable, not plain YAML, a key given twice, or an integer with a leading zero, in one line.
    """
    try:
        return _PlainLoader(path.read_text()).get_single_data()
    except OSError as error:
        raise ValueError(f"--{flag} {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ValueError(f"--{flag} {path}: not plain YAML (line {line}: {error.problem})") from None
    except RecursionError:
        raise ValueError(f"--{flag} {path}: not plain YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # the last two of wrong tags
        raise ValueError(f"--{flag} {path}: not plain YAML ({' '.join(str(error).split())[:120]})") from None


_INT = "tag:yaml.org,2002:int"


class _PlainLoader(yaml.SafeLoader):
    """Safe loader that refuses what is easily misread: a key given twice, and `011`, which YAML 1.1 takes for 9."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), []
        for key, _ in node.value:
            told = str(self.construct_yaml_int(key)) if key.tag == _INT else key.value
            if told in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.append(told)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if re.fullmatch("[-+]?0[0-7_]+", node.value):
            problem = f"{node.value} would be octal; leave the leading zero out, or quote it if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor(_INT, _PlainLoader.construct_yaml_int)
