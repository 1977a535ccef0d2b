"""Python scripts in processes of their own, forked from one that has imported the packages."""

import multiprocessing
import os
import runpy
import socket
import sys
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
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared["TORCHELASTIC_RUN_ID"] = "test"
    ranks = [
        Script(folder / f"rank{i}.log", script, *arguments, RANK=str(i), LOCAL_RANK=str(i), **shared)
        for i in range(count)
    ]
    for rank in ranks:
        rank.wait()


def _run(log: Path, script: str, arguments: list[str], environment: dict[str, str]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
