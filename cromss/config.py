"""Settings from the command line and YAML: flag > YAML > default, one line for whatever is wrong."""

import contextlib
import dataclasses
import datetime
import difflib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
import yaml

from cromss.signals import StopRequested
from cromss.yaml_files import read_yaml

Settings = TypeVar("Settings")

_CONFIG_HELP = "--config FILE reads the same settings from YAML; flags win over it."
_LOST_PROCESS = re.compile(r"connection (closed|reset) by peer|remote process exited", re.IGNORECASE)
"""What gloo and NCCL say where a process that trains with this one is gone."""


def parse(settings: type[Settings], arguments: Sequence[str] | None = None) -> Settings:
    """Read settings from the command line and `--config FILE`: flag > YAML > default.

    A wrong flag, value, key or file ends the program with status 2 and one line on stderr.
    """
    try:
        return read(settings, sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        sys.exit(_fail(error))


def read(settings: type[Settings], arguments: Sequence[str]) -> Settings:
    """Read settings from arguments, as `parse` does.

    Raises:
        ValueError: A wrong flag, value, key or file, in one line.
        SystemExit: The help was asked for, and has been printed.
    """
    path, told, flags = _with_config(settings, list(arguments))
    try:
        return _parse_flags(settings, told + flags)
    except ValueError as error:
        if told and str(error) == _complaint(settings, told):
            raise ValueError(f"--config {path}: {error}") from None
        raise


def suggestion(key: str, known: Iterable[str], otherwise: str = "--help lists them") -> str:
    """What to say of an unknown key: the known one that it resembles, or `otherwise`."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def to_flat(settings: Any) -> dict[str, Any]:
    """Settings as one flat mapping of flag -> plain value, ready for YAML and checkpoints."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        flat |= to_flat(value) if dataclasses.is_dataclass(value) else {entry.name: _plain(value)}
    return flat


def save_yaml(settings: Any, path: Path) -> None:
    """Write settings so that `--config` reads them back."""
    replace_text(path, yaml.safe_dump(to_flat(settings), sort_keys=False))


def replace_text(path: Path, text: str) -> None:
    """Write a file that others see whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def run(main: Callable[[Settings], int | None], settings: type[Settings]) -> NoReturn:
    """Parse the command line, call `main(settings)`, and exit with the status it returns.

    A foreseen error (ValueError, OSError) ends in one line on stderr and status 2, Ctrl-C in 130.
    """
    parsed = parse(settings)
    exit_with(lambda: main(parsed))


def exit_with(work: Callable[[], int | None]) -> NoReturn:
    """Do the work of a command line and exit as `run` says."""
    try:
        status = work()
    except (ValueError, OSError) as error:
        status = _fail(error)
        _leave_at_once(status)
    except StopRequested as stop:
        print(stop, file=sys.stderr)
        status = stop.status
    except KeyboardInterrupt:
        status = _interrupted()
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit of its own
        status = _interrupted() if isinstance(stop.__context__, KeyboardInterrupt) else stop.code
        if status is None:  # and SIGTERM into one without a status
            status = _fail("terminated; the same command goes on where it stopped", status=143)
    except Exception as error:
        _leave_at_once(1, error)
        raise
    sys.exit(status)


def _leave_at_once(status: int, unforeseen: Exception | None = None) -> None:
    """Exit here and now where others train with this process: a farewell by NCCL waits for them, and they for it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        if lost := _LOST_PROCESS.search(str(unforeseen)):
            _fail(f"another process of this training is gone ({lost[0]}); it says why, or the network is at fault")
        elif unforeseen:
            traceback.print_exception(unforeseen)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # nobody may read it any more
                stream.flush()
        os._exit(status)


def _interrupted() -> int:
    return _fail("interrupted; the same command goes on where it stopped", status=130)


def _complaint(settings: type, arguments: list[str]) -> str:
    """What is wrong with flags, but for those that are missing among them."""
    try:
        _parse_flags(settings, arguments)
    except ValueError as error:
        return "" if str(error).startswith("required") else str(error)
    return ""


def _with_config(settings: type, arguments: list[str]) -> tuple[Path | None, list[str], list[str]]:
    """The YAML file that is told, if any, the flags that it stands for, and the others."""
    arguments = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    if "--config" not in arguments:
        return None, [], arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise ValueError("--config wants a YAML file")
    path = Path(arguments[at + 1])
    return path, _yaml_arguments(settings, path), arguments[:at] + arguments[at + 2 :]


def _yaml_arguments(settings: type, path: Path) -> list[str]:
    """YAML mapping -> the flags it stands for, so that both are parsed and checked by the same code."""
    content = read_yaml(path, "config")
    if not isinstance(content, dict):
        raise ValueError(f"--config {path}: expected a mapping of settings, got {type(content).__name__}")
    known = _defaults(settings)
    tokens: list[str] = []
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"--config {path}: unknown key {key!r:.80}; {suggestion(str(key), known)}")
        tokens += _tokens(path, key, value, known[key])
    return tokens


def _defaults(settings: type) -> dict[str, Any]:
    """Flag -> plain default, `None` where it is required; fields that are settings themselves are walked."""
    known: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        default = None if entry.default is dataclasses.MISSING else entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        known |= _defaults(type(default)) if dataclasses.is_dataclass(default) else {entry.name: _plain(default)}
    return known


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _tokens(path: Path, key: str, value: Any, default: Any) -> list[str]:
    if value is None and default is None:
        return []
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"--config {path}: {key} wants true or false, got {value!r:.200}")
        return [f"--{key}" if value else f"--no_{key}"]
    values = value if isinstance(value, list) else [value]
    if not all(map(_is_plain_text, values)):
        like = "" if default is None else f" like {default!r}"
        raise ValueError(f"--config {path}: {key} wants a plain value{like}, got {value!r:.200}")
    return [f"--{key}", *map(str, values)]


def _is_plain_text(value: Any) -> bool:
    """A number, a date, or text of one line that is no flag itself."""
    if isinstance(value, str):
        return value.isprintable() and not value.startswith("--")
    return isinstance(value, (int, float, datetime.date)) and not isinstance(value, bool)


def _parse_flags(settings: type[Settings], arguments: list[str]) -> Settings:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                settings,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
                use_underscores=True,
                description=f"{settings.__doc__}\n\n{_CONFIG_HELP}",
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_first_words(said.getvalue())) from None


def _first_words(box: str) -> str:
    """The message under the title of the box that the parser draws, on one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    ruled = "\n".join("" if set(line) <= set("─-╰╯") else line for line in lines).strip()
    words = ruled.split("\n\n")[0]
    if words.startswith("Missing from"):
        flags = re.findall(r"^--\w+", words, re.MULTILINE)
        return f"required: {' '.join(flags)} (see --help)"
    message = " ".join(words.split())
    return re.sub(r"^Error parsing \w+: ", "", message) + " (see --help)"


def _fail(error: Exception | str, status: int = 2) -> int:
    said = _of_file(error) if isinstance(error, OSError) else str(error)
    print(f"error: {' '.join(said.split())}", file=sys.stderr)
    return status


def _of_file(error: OSError) -> str:
    """`file: reason`, without the number of the error; of two files, `one -> other: reason`."""
    names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name)
    return f"{names}: {error.strerror}".removeprefix(": ") if error.strerror else str(error)
