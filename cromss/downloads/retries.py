"""Calls to services that fail for a while: tried again, each time after a longer pause."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

LONGEST_PAUSE, LONGEST_WAIT = 300.0, 3600.0
"""Seconds, of our own choice and as a service asks for it."""

Result = TypeVar("Result")


class Unavailable(Exception):
    """A service that did not answer, or asked to wait; the same call may go through later.

    Attributes:
        wait: Seconds that the service asked for, if it did.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def with_retries(
    call: Callable[[], Result], attempts: int, pause: float = 2.0, sleep: Callable[[float], None] = time.sleep
) -> Result:
    """What `call` returns, tried up to `attempts` times while it raises `Unavailable`.

    The pauses double from `pause` seconds up to `LONGEST_PAUSE`, spread by half to either side, so that many workers
    do not come back together; a service that says how long to wait is given that, up to
    `LONGEST_WAIT`.

    Raises:
        Unavailable: Of the last attempt.
    """
    for attempt in range(attempts):
        try:
            return call()
        except Unavailable as error:
            if attempt + 1 == attempts:
                raise
            ours = min(pause * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.5)
            sleep(ours if error.wait is None else min(error.wait, LONGEST_WAIT))
    raise ValueError(f"--attempts {attempts}: at least 1")
