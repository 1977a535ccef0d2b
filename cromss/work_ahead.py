"""Work done ahead in threads and handed out in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Items with what becomes of them, in order; at most two items a thread wait, so that memory stays flat.

    Close the iterator where it is left early: what has not been begun is dropped then.
    """
    pool, waiting, following = ThreadPoolExecutor(workers), deque(), iter(items)
    try:
        for item in islice(following, 2 * workers):
            waiting.append((item, pool.submit(work, item)))
        while waiting:
            yield waiting.popleft()
            for item in islice(following, 1):
                waiting.append((item, pool.submit(work, item)))
    finally:
        pool.shutdown(cancel_futures=True)
