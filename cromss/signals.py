"""Requests to stop a run: noted when a signal comes, acted on between steps."""

import atexit
import multiprocessing.util  # whose own end of child processes, by SIGTERM, is then registered before ours
import signal
import threading
from types import FrameType

REQUEUE, TERMINATE = signal.SIGUSR1, signal.SIGTERM
"""What SLURM sends before the time limit (`--signal=USR1@180`), and before it takes a node away."""

_noted: list[int] = []


class StopRequested(Exception):
    """A run has saved its state and stops, as a signal asked it to.

    Attributes:
        signal: The signal.
        requeued: Whether SLURM was asked to start the job again.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name}: stopped after step {step}")
        self.signal, self.requeued = signal.Signals(number), False

    @property
    def status(self) -> int:
        """Exit status of the process."""
        return 0 if self.requeued else 128 + self.signal

    def __str__(self) -> str:
        asked, told = "SLURM was asked to start the job again", "the same command goes on where it stopped"
        return f"{self.args[0]}; {asked if self.requeued else told}"


def listen(*signals: int) -> None:
    """From now on note these signals, which else would end the process.

    Python hears signals in its main thread alone: a run in another one is not asked.

    Args:
        signals: `REQUEUE`, from the start of a script on; `TERMINATE`, while there is something to save.
    """
    for number in signals if threading.current_thread() is threading.main_thread() else ():
        signal.signal(number, _note)


def ignore(worker: int) -> None:
    """Let a loader process pass over what a whole job is sent: the run wants its batches until it has saved."""
    for number in (REQUEUE, TERMINATE):
        signal.signal(number, signal.SIG_IGN)


def end_children() -> None:
    """At the end of a program end its daemons, such as loader processes, those too that pass over SIGTERM."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error where a loader process is killed
    daemons = [child for child in multiprocessing.active_children() if child.daemon]
    for child in daemons:
        child.terminate()
    for child in daemons:
        child.join(PATIENCE_S)
        child.kill()


PATIENCE_S = 0.5
atexit.register(end_children)


def noted() -> int:
    """The first signal that was noted, or 0."""
    return _noted[0] if _noted else 0


def forget() -> None:
    """Begin anew, as if none had come."""
    _noted.clear()


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(number)
