"""Reading ahead: in order, bounded, and never waited for when it blocks."""

import threading
import time

import pytest

from softalign.store.read_ahead import ReadAhead, map_ahead


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_threads_compute_some_items_ahead_in_order_and_an_error_comes_at_its_turn(at_once):
    taken, found = [], []
    items = (taken.append(number) or number for number in range(40))
    with pytest.raises(ZeroDivisionError):
        for result in map_ahead(lambda number: 20 // (20 - number), items, 2, at_once=at_once):
            assert len(taken) <= len(found) + 1 + 4 * at_once
            found.append(result)
    assert found == [20 // (20 - number) for number in range(20)]


def test_results_come_in_order_and_no_more_than_two_are_read_ahead():
    asked = []
    ahead = ReadAhead(lambda item: asked.append(item) or item, range(20))
    time.sleep(0.2)
    assert asked == [0, 1]
    assert [ahead.get(5.0) for _ in range(20)] == list(range(20))
    ahead.close()


def test_an_error_comes_at_its_items_turn():
    ahead = ReadAhead(lambda item: 1 / item, [1, 0, 2])
    assert ahead.get(5.0) == 1.0
    with pytest.raises(ZeroDivisionError):
        ahead.get(5.0)
    assert ahead.get(5.0) == 0.5
    ahead.close()


def test_nobody_waits_for_a_thread_that_blocks():
    never = threading.Event()
    ahead = ReadAhead(lambda item: never.wait(60), [1])
    started = time.monotonic()
    assert ahead.get(0.1) is None
    ahead.close()
    assert time.monotonic() - started < 10
    never.set()


@pytest.mark.parametrize("num_taken", [0, 1, 5])
def test_a_thread_that_does_not_block_ends_when_it_is_closed(num_taken):
    ahead = ReadAhead(lambda item: item, range(1000))
    for _ in range(num_taken):
        ahead.get(5.0)
    ahead.close()
    assert not ahead._thread.is_alive()
