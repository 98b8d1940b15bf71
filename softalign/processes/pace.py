"""Lines of long work at a pace for people: one every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

LINE_INTERVAL_S = 5.0
LONG_RUN_INTERVAL_S = 10.0
LONG_RUN_S = 600.0
"""After so long the lines come less often: a run of days shall not fill a log."""


class Pace:
    """Says when another line is due: every few seconds."""

    def __init__(self) -> None:
        self.started = self._last_line = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started

    def is_due(self) -> bool:
        """Return whether a line is due, and if so begin to wait for the next one."""
        now = time.monotonic()
        interval_s = LINE_INTERVAL_S if now - self.started < LONG_RUN_S else LONG_RUN_INTERVAL_S
        if now - self._last_line < interval_s:
            return False
        self._last_line = now
        return True


class Counting:
    """Logs ``WHAT done/total`` every few seconds while things are gone through.

    Args:
        what: one word, such as ``images``.
        total: how many there are at most.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done, self._pace = what, total, 0, Pace()

    def over(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yield the items and count them on."""
        for item in items:
            yield item
            self._done += 1
            if self._pace.is_due():
                rate = self._done / self._pace.elapsed_s
                left_s = (self._total - self._done) / rate
                left = duration(max(left_s, 0.0))
                logger.info("%s %d/%d  %s left  %.0f/s", self._what, self._done, self._total, left, rate)


def duration(seconds: float) -> str:
    """Return a time as ``0:01:23``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
