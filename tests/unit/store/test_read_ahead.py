"""Reading ahead: in order, bounded, and never waited for when it blocks."""

import threading
import time

import pytest

from softalign.store.read_ahead import ReadAhead


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
