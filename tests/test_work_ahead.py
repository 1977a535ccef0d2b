"""Work in threads: in order, and never far ahead."""

import threading
import time
from contextlib import closing

import pytest

from cromss.work_ahead import work_ahead


def test_results_come_in_order_with_their_items():
    def work(item):
        time.sleep(0.001 * (7 - item))
        return item * item

    results = [(item, future.result()) for item, future in work_ahead(work, range(7), 3)]
    assert results == [(i, i * i) for i in range(7)]


def test_errors_stay_with_their_item():
    def work(item):
        if item == 1:
            raise KeyError("one")
        return item

    outcomes = dict(work_ahead(work, range(3), 2))
    assert outcomes[0].result() == 0
    assert outcomes[2].result() == 2
    with pytest.raises(KeyError):
        outcomes[1].result()


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_two_items_a_thread_are_begun_before_the_first_is_taken(workers):
    begun, lock = [], threading.Lock()

    def work(item):
        with lock:
            begun.append(item)

    with closing(work_ahead(work, iter(range(100)), workers)) as results:
        next(results)
        time.sleep(0.05)
        assert max(begun) <= 2 * workers - 1
    assert len(begun) <= 2 * workers


def test_items_are_taken_as_needed():
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    with closing(work_ahead(lambda item: item, items(), 2)) as results:
        next(results)
    assert len(taken) == 4
