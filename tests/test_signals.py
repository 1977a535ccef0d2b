"""Signals that ask a run to stop are noted, and nothing else happens."""

import os
import signal
import subprocess
import sys
from threading import Thread

import pytest

from cromss import signals
from cromss.config import exit_with
from cromss.signals import REQUEUE, StopRequested


@pytest.fixture
def unheard():
    before = signal.getsignal(REQUEUE)
    signals.forget()
    yield
    signal.signal(REQUEUE, before)
    signals.forget()


def test_the_first_signal_is_noted(unheard):
    assert signals.noted() == 0
    signals.listen(REQUEUE)
    os.kill(os.getpid(), REQUEUE)
    assert signals.noted() == REQUEUE
    signals.forget()
    assert signals.noted() == 0


def test_threads_other_than_the_first_hear_nothing(unheard):
    failed = []

    def listen():
        try:
            signals.listen(REQUEUE)
        except ValueError as error:
            failed.append(error)

    thread = Thread(target=listen)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("number", "requeued", "status", "said"),
    [
        (signal.SIGUSR1, True, 0, "SIGUSR1: stopped after step 7; SLURM was asked to start the job again"),
        (signal.SIGUSR1, False, 138, "SIGUSR1: stopped after step 7; the same command goes on where it stopped"),
        (signal.SIGTERM, False, 143, "SIGTERM: stopped after step 7; the same command goes on where it stopped"),
    ],
)
def test_the_command_line_tells_what_comes_next(number, requeued, status, said, capsys):
    def work():
        stop = StopRequested(number, 7)
        stop.requeued = requeued
        raise stop

    with pytest.raises(SystemExit) as stop:
        exit_with(work)
    assert stop.value.code == status
    assert capsys.readouterr().err.strip() == said


def test_a_program_does_not_wait_for_loader_processes_that_pass_over_signals():
    program = """
import multiprocessing, time
from cromss import signals

def load(ready):
    signals.ignore(0)
    ready.set()
    time.sleep(600)

context = multiprocessing.get_context("fork")
ready = context.Event()
context.Process(target=load, args=(ready,), daemon=True).start()
ready.wait()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_process_that_listens_outlives_the_signal():
    program = "from cromss import signals; import os; signals.listen(signals.REQUEUE); os.kill(os.getpid(), 10)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
