"""What every hostile file must lead to: one line that names it and says what to do, soon, and in little memory."""

import re
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import processes

SECONDS, MEGABYTES = 5, 256
"""Processor time, and memory beyond the most held before, that one file may take."""

REMEDY = re.compile(
    r"\b(wanted|wants|want|expected|must be|give|copy|writes?|save|remove|delete|choose|keep|leave|put|fill|say|update|"
    r"mend|feed|lists|see --help|download|get (it|the release|the product) anew|separate|quote|cut|warp|assign|missing|"
    r"start afresh|did you mean|reads up to|name (one|every)|are separated by|pack it anew|detect and calibrate|map|"
    r"six hex digits|no such (file|folder)|run|every)\b"
)
"""Words of a line that says what to do, or what would be right."""


class Case(NamedTuple):
    """One hostile file.

    Attributes:
        make: Empty folder -> the file, made there.
        read: The way of a user's command into it.
        apart: It is read in a process of its own, as a fault would end the process.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    apart: bool = False


class Outcome(NamedTuple):
    """What came of reading a file."""

    error: str
    message: str
    seconds: float
    megabytes: float


def outcome_of(read: Callable[[Path], object], path: Path) -> Outcome:
    """Read a file and tell."""
    peak, start, error, message = _peak(), time.process_time(), "", ""
    try:
        read(path)
    except (Exception, SystemExit) as raised:
        error, message = type(raised).__name__ if not isinstance(raised, ValueError) else "ValueError", str(raised)
    return Outcome(error, message, time.process_time() - start, (_peak() - peak) / 1024)


def faults(outcome: Outcome, path: Path) -> list[str]:
    """What an outcome lacks."""
    told = {
        f"{outcome.error or 'nothing'} instead of a ValueError": outcome.error != "ValueError",
        "the file is not named": path.name not in outcome.message,
        "more than one line": "\n" in outcome.message,
        "no remedy": not REMEDY.search(outcome.message),
        f"{outcome.seconds:.1f} s": outcome.seconds > SECONDS,
        f"{outcome.megabytes:.0f} MB": outcome.megabytes > MEGABYTES,
    }
    return [fault for fault, there in told.items() if there]


class Reader:
    """A process that reads files one after the other; after a crash or a hang there is another one."""

    def __init__(self) -> None:
        self._process = None

    def read(self, read: Callable[[Path], object], path: Path, seconds: float = 60) -> Outcome:
        """Outcome of a file; that of a process which crashed or hung names the signal or the time."""
        if self._process is None:
            self._pipe, there = processes.FORKS.Pipe()
            self._process = processes.FORKS.Process(target=_serve, args=(there,))
            self._process.start()
            there.close()
        self._pipe.send((read, path))
        if not self._pipe.poll(seconds):
            self.close()
            return Outcome("hang", f"no end in {seconds:.0f} s", seconds, 0)
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code, self._process = self._process.exitcode, None
            return Outcome("crash", f"exit status {code}", 0, 0)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Connection) -> None:
    while True:
        pipe.send(outcome_of(*pipe.recv()))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
