"""Threads for reading ahead, in order and bounded."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

CLOSING_TIMEOUT_S = 1.0
"""How long a thread that does not block gets to be gone."""


def map_ahead(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int, *, at_once: int = 1
) -> Generator[ResultT]:
    """Yield results in the items' order, computed in threads at most ``2 * num_threads * at_once`` items ahead.

    Args:
        function: of an item.
        items: may be many.
        num_threads: how many compute.
        at_once: items that a thread is handed, which takes as long as some of these take themselves.

    Raises:
        Exception: what ``function`` raised, at that item's turn.
    """
    if at_once == 1:
        yield from _map_ahead(function, items, num_threads)
        return
    rest = iter(items)
    handed = iter(lambda: [*islice(rest, at_once)], [])
    for results, error in _map_ahead(partial(_as_far, function), handed, num_threads):
        yield from results
        if error is not None:
            raise error


def _as_far(function: Callable[[ItemT], ResultT], items: list[ItemT]) -> tuple[list[ResultT], Exception | None]:
    """Return the results before the first error, and that."""
    results: list[ResultT] = []
    try:
        for item in items:
            results.append(function(item))
    except Exception as error:
        return results, error
    return results, None


def _map_ahead(function: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int) -> Generator[ResultT]:
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class ReadAhead(Generic[ResultT]):
    """Results in the items' order, computed by one thread, two items ahead at most.

    The thread may block for ever: neither ``get`` nor ``close`` nor the end of the process waits for it.

    Args:
        function: of an item.
        items: a finite sequence; ``get`` may be called once for each.
    """

    def __init__(self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> None:
        self._results: queue.Queue[Future[ResultT]] = queue.Queue(maxsize=1)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(function, items), daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> ResultT | None:
        """Return the next result, or None if it is not there within ``timeout_s`` seconds.

        Raises:
            Exception: what ``function`` raised for this item.
        """
        try:
            return self._results.get(timeout=timeout_s).result()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Ask the thread to end after its present item."""
        self._is_closed.set()
        with suppress(queue.Empty):  # makes room for what the thread holds
            self._results.get_nowait()
        self._thread.join(CLOSING_TIMEOUT_S)

    def _read(self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> None:
        for item in items:
            if self._is_closed.is_set():
                return
            result: Future[ResultT] = Future()
            try:
                result.set_result(function(item))
            except Exception as error:
                result.set_exception(error)
            self._results.put(result)
