"""What kills do to a training: each killed run goes on to the end, and is compared with one that was left alone.

python benchmarks/kills.py

A small twin is trained on a small set, with checkpoints between steps. In each trial it is killed once, at a random
moment, and the same command is started again: with SIGKILL in one process and in two (all of them, or one), and with
SIGUSR1, at which it saves and stops. In the end weights and TensorBoard's curves are compared bit by bit, and steps may
neither lack nor be double. Results go to benchmarks/kills.csv.
"""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from small_runs import differences, write_set
from tqdm import tqdm

from cromss.config import replace_text, run
from cromss.tables import to_csv

SCRIPT = Path(__file__).resolve().parents[1] / "train_scripts" / "train_pretrain_mm.py"
FORKS = multiprocessing.get_context("forkserver")
LATEST, PATIENCE = 300, 15
"""Seconds after which a process counts as hanging, and in which one may end by itself when another was killed."""


@dataclass(frozen=True)
class Kills:
    """Kills of a training at random moments, each resumed to the end."""

    kills: int = 30
    """SIGKILLs that hit the training in one process, and in two."""
    requeues: int = 20
    """SIGUSR1 that hit the training in two processes."""
    num_locations: int = 26
    """Locations of the set."""
    epochs: int = 4
    """Epochs of a run."""
    num_workers: int = 0
    """Loader processes."""
    seed: int = 0
    """Seed of set and moments."""
    results: Path = Path("benchmarks/kills.csv")
    """Table to write."""


@dataclass(frozen=True)
class Training:
    """A training that is started, again and again, in some processes.

    Attributes:
        home: Folder of set, runs and logs.
        processes: How many there are.
        flags: Further flags.
    """

    home: Path
    processes: int
    flags: tuple[str, ...]

    def start(self, name: str) -> list[multiprocessing.Process]:
        """Start the run of this name, or let it go on."""
        flags = ["--data_path", str(self.home), "--save_dir", str(self.home / "runs"), "--name", name, *self.flags]
        with socket.create_server(("127.0.0.1", 0)) as server:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        shared |= {"WORLD_SIZE": str(self.processes), "TORCHELASTIC_RUN_ID": "kills"} if self.processes > 1 else {}
        ranks = [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} if shared else {} for i in range(self.processes)]
        started = [FORKS.Process(target=_train, args=(self.log(name, i), flags, rank)) for i, rank in enumerate(ranks)]
        for process in started:
            process.start()
        return started

    def log(self, name: str, rank: int) -> Path:
        """What a process prints."""
        return self.home / f"{name}.{rank}.log"

    def finish(self, name: str) -> None:
        """Start it and wait for its end.

        Raises:
            ValueError: It fails or hangs.
        """
        for rank, process in enumerate(self.start(name)):
            process.join(LATEST)
            if process.exitcode != 0:
                process.kill()
                raise ValueError(f"{name}: process {rank} ended with {process.exitcode}: {self.said(name, rank)}")

    def said(self, name: str, rank: int) -> str:
        """The end of what a process printed."""
        return self.log(name, rank).read_text()[-1500:]


def main(settings: Kills) -> None:
    """Kill, resume, compare, and write the table."""
    FORKS.set_forkserver_preload(["cromss.training.pretraining"])
    draw, machine = random.Random(settings.seed), {"cores": os.cpu_count(), "torch": torch.__version__}
    trials = [(2, signal.SIGKILL, settings.kills), (2, signal.SIGUSR1, settings.requeues)]
    trials.append((1, signal.SIGKILL, settings.kills))
    rows = []
    with tempfile.TemporaryDirectory(dir=settings.results.absolute().parent) as home:
        write_set(Path(home), settings.num_locations, settings.seed)
        for processes, kind, count in trials:
            training = Training(Path(home), processes, flags_of(settings, processes))
            rows.append(tried(training, kind, count, draw) | machine | {"date": date.today().isoformat()})
            replace_text(settings.results, to_csv(rows))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()))


def flags_of(settings: Kills, processes: int) -> tuple[str, ...]:
    """Flags of the training: all parts of the method, and a schedule that has a state."""
    return tuple(
        f"""--model_type tu-test_resnet --crop_size 32 --batch_size {4 // processes} --epochs {settings.epochs}
        --validation 0.2 --label_smoothing --sample_selection --use_common_feature --lr_adjust_type rop --lr_adjust 0
        --cal_tr_acc --accelerator cpu --save_seconds 0.3 --save_interval 2 --display_interval 2 --drop_path 0
        --num_workers {settings.num_workers} {"--devices 1" if processes == 1 else "--devices 2"}""".split()
    )


def tried(training: Training, kind: signal.Signals, count: int, draw: random.Random) -> dict[str, Any]:
    """What came of runs that were sent a signal at a random moment, until `count` of them were hit at work."""
    name = f"{kind.name}_{training.processes}"
    training.finish(f"{name}_first")  # with cold caches it takes longer
    start = time.monotonic()
    training.finish(f"{name}_undisturbed")
    length = time.monotonic() - start
    figures = {"signal": kind.name, "processes": training.processes, "runs": 0, "hit": 0, "within_an_epoch": 0}
    figures["that_differ"] = 0
    title = f"{kind.name}, {training.processes} process(es)"
    with tqdm(total=count, desc=title, unit="hit") as bar:
        while figures["hit"] < count:
            run_name = f"{name}_{figures['runs']}"
            is_hit = struck(training, run_name, kind, draw.uniform(0, length), draw)
            figures["runs"] += 1
            figures["hit"] += is_hit
            figures["within_an_epoch"] += is_within_an_epoch(training.home / "runs" / run_name)
            bar.update(is_hit)
            training.finish(run_name)
            runs = training.home / "runs"
            figures["that_differ"] += bool(differences(runs / f"{name}_undisturbed", runs / run_name))
    return figures


def struck(training: Training, name: str, kind: signal.Signals, wait: float, draw: random.Random) -> bool:
    """Whether a run was still at work after so many seconds, when it was sent the signal.

    A kill hits all of its processes or a single one; those that wait for it to join them are ended then, as launchers
    do. Other signals hit one, and all must save and stop.

    Raises:
        ValueError: A process hangs, or ends otherwise than it should.
    """
    processes = training.start(name)
    time.sleep(wait)
    alive = all(process.is_alive() for process in processes)
    hit = processes if kind == signal.SIGKILL and draw.random() < 0.5 else [draw.choice(processes)]
    for process in hit:
        if process.is_alive():
            os.kill(process.pid, kind)
    for rank, process in enumerate(processes):
        process.join(PATIENCE if kind == signal.SIGKILL else LATEST)
        if kind == signal.SIGKILL and process.is_alive():
            process.kill()
            process.join(LATEST)
        if process.exitcode is None:
            process.kill()
            raise ValueError(f"{name}: process {rank} hangs: {training.said(name, rank)}")
        if kind != signal.SIGKILL and process.exitcode not in (0, 128 + kind):
            raise ValueError(f"{name}: process {rank} ended with {process.exitcode}: {training.said(name, rank)}")
    return alive


def is_within_an_epoch(folder: Path) -> bool:
    """Whether the checkpoint that a run goes on from lies between two steps of an epoch."""
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return False
    epochs = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]
    return epochs["ready"] > epochs["processed"]


def _train(log: Path, flags: list[str], environment: dict[str, str]) -> None:
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ |= environment
    torch.set_num_threads(1)
    sys.argv = [str(SCRIPT), *flags]
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    run(main, Kills)
