"""A pace for people: lines of long work come every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since some moment."""

LINE_INTERVAL_S = 5.0
LONG_RUN_INTERVAL_S = 10.0
LONG_RUN_S = 600.0
"""After so long the lines come less often: a run of days shall not fill a log."""


class Pace:
    """Says when another line is due: every few seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._started = self._last_line = clock()

    def is_due(self) -> bool:
        """Return whether a line is due, and if so begin to wait for the next one."""
        now = self._clock()
        interval_s = LINE_INTERVAL_S if now - self._started < LONG_RUN_S else LONG_RUN_INTERVAL_S
        if now - self._last_line < interval_s:
            return False
        self._last_line = now
        return True


def duration(seconds: float) -> str:
    """Return a time as ``0:01:23``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
