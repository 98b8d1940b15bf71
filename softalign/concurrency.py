"""Threads for reading ahead, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_ahead(function: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int) -> Generator[ResultT]:
    """Yield results in the items' order, computed in threads at most ``2 * num_threads`` items ahead.

    Raises:
        Exception: what ``function`` raised, at that item's turn.
    """
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
