"""Python scripts in processes of their own, forked from one that has imported the packages."""

import multiprocessing
import os
import random
import runpy
import socket
import sys
from contextlib import suppress
from pathlib import Path

from conftest import REPOSITORY

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cromss.training.finetuning", "cromss.training.pretraining"])
"""Processes that begin with the packages imported, and nothing else of the tests."""


class Script:
    """A script that runs, with output and errors in one file.

    Attributes:
        process: Its process.
        log: The file.
    """

    def __init__(self, log: Path, script: str | Path, *arguments: object, **environment: str) -> None:
        self.log = log
        self.process = FORKS.Process(target=_run, args=(log, str(script), [*map(str, arguments)], environment))
        self.process.start()

    def wait(self, timeout: float = 150) -> str:
        """What it has printed until its good end."""
        self.process.join(timeout)
        said = self.log.read_text()
        assert self.process.exitcode == 0, said[-2000:]
        return said


def run_together(folder: Path, count: int, script: str, *arguments: object) -> None:
    """Run a script as `count` processes of one distributed training, as a launcher starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared["TORCHELASTIC_RUN_ID"] = "test"
    ranks = [
        Script(folder / f"rank{i}.log", script, *arguments, RANK=str(i), LOCAL_RANK=str(i), **shared)
        for i in range(count)
    ]
    for rank in ranks:
        rank.wait()


def free_port() -> int:
    """A port that is free, and none of those that the system hands out to whoever asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 50):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("none of 50 ports is free")


def _run(log: Path, script: str, arguments: list[str], environment: dict[str, str]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
