"""Plain YAML files, read safely; one line for whatever is wrong."""

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path, flag: str) -> Any:
    """Plain content of a YAML file; no key may be given twice.

    Args:
        path: The file.
        flag: The flag that names it.

    Raises:
        ValueError: Not readable, not plain YAML, or a key given twice, in one line.
    """
    try:
        return _UniqueKeys(path.read_text()).get_single_data()
    except OSError as error:
        raise ValueError(f"--{flag} {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ValueError(f"--{flag} {path}: not plain YAML (line {line}: {error.problem})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"--{flag} {path}: not plain YAML ({' '.join(str(error).split())[:120]})") from None


class _UniqueKeys(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, of which others keep the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.append(key.value)
        return node
