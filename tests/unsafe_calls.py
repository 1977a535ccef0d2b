"""Calls that run what a file holds, found by walking syntax trees, whatever names they were imported under."""

import ast
from collections.abc import Iterator

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads", "_pickle.Unpickler"),
    *("cPickle.load", "cPickle.loads", "cloudpickle.load", "cloudpickle.loads", "pickle5.load", "pickle5.loads"),
    *("dill.load", "dill.loads", "dill.Unpickler", "joblib.load", "marshal.load", "marshal.loads"),
    *("shelve.open", "shelve.Shelf", "shelve.DbfilenameShelf", "pandas.read_pickle", "jsonpickle.decode"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load"),
    *("yaml.unsafe_load_all", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.serialization.legacy_load"),
    *("os.system", "os.popen", "os.execv", "subprocess.getoutput", "subprocess.getstatusoutput"),
    "code.InteractiveInterpreter",
}
"""Never called, nor handed on by name."""

SAFE_ONLY_WITH = {"torch.load": ("weights_only", True)}
"""Calls that need a keyword of a fixed value."""

NEVER_WITH = {"allow_pickle": True, "shell": True, "weights_only": False, "trust_remote_code": True}
"""Keywords that no call has with these values, nor with anything that is not a constant."""

WITH_CHECKPOINT = {"fit", "test", "validate", "predict"}
"""Methods of a trainer that open a checkpoint where `ckpt_path` is given, safely only with `weights_only=True`."""


def unsafe_calls(source: str) -> list[str]:
    """Every offence of a Python source, as `line: what`."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    return sorted({f"{node.lineno}: {what}" for node in ast.walk(tree) for what in _offences(node, names)})


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Local name -> what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Full name of a name or attribute; empty of anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _offences(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    is_used = isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load)
    if is_used and (name := _dotted(node, names)) in FORBIDDEN:
        yield name
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in FORBIDDEN)
    if not isinstance(node, ast.Call):
        return
    name = _dotted(node.func, names)
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if name in SAFE_ONLY_WITH:
        keyword, value = SAFE_ONLY_WITH[name]
        if not _is(given.get(keyword), value):
            yield f"{name} without {keyword}={value}"
    for keyword, value in NEVER_WITH.items():
        there = given.get(keyword)
        if there is not None and not (isinstance(there, ast.Constant) and there.value is not value):
            yield f"{keyword}={ast.unparse(there)}"
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    opens = given.get("ckpt_path")
    safe = _is(given.get("weights_only"), True)
    if method in WITH_CHECKPOINT and opens is not None and not _is(opens, None) and not safe:
        yield f"{method}(ckpt_path=...) without weights_only=True"
    if method == "load_from_checkpoint" and not safe:
        yield "load_from_checkpoint without weights_only=True"
    if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
        hidden = f"{_dotted(node.args[0], names)}.{node.args[1].value}"
        if hidden in FORBIDDEN:
            yield hidden


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
