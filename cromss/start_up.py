"""What lets programs start sooner."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fast_imports() -> Iterator[None]:
    """For programs: import without looking for garbage. Where PyTorch is imported already, nothing is done.

    PyTorch, Lightning and what they import make half a million objects and no garbage. Looking for it takes a quarter
    of the time, and half a second at every full collection after. All objects that there are at the end are left alone
    until the program ends, so that loader processes share them for longer, too.
    """
    if "torch" in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
        atexit.register(gc.unfreeze)  # extension modules would complain of leaks
