"""Progress as plain lines: for logs, pipes, and wherever nothing can move in place."""

from __future__ import annotations

import time
from collections.abc import Callable

from softalign.processes.pace import Clock, Pace
from softalign.processes.progress import StageProgress
from softalign.run_context import log_fields


class PacedLines:
    """A listener that says progress in plain lines: every few seconds, and always the first and the last of a count.

    Args:
        say: takes a line.
        clock: for the pace.
    """

    def __init__(self, say: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._counts: dict[tuple[str, str], Pace] = {}
        self._said: tuple[str, str, int] | None = None

    def __call__(self, progress: StageProgress) -> None:
        """Say it, if a line is due; an end that was said when it was reached is not said again."""
        is_end = progress.is_last or progress.is_complete
        if not is_end and progress.done == progress.num_reused:
            return  # nothing of this attempt yet
        count = (progress.stage, progress.unit)
        is_first = count not in self._counts
        pace = self._counts.setdefault(count, Pace(self._clock))
        is_said = progress.is_last and self._said == (*count, progress.done)
        if (pace.is_due() or is_first or is_end) and not is_said:
            self._said = (*count, progress.done)
            with log_fields(progress=progress.counts()):
                self._say(progress.to_text())
        if progress.is_last:
            del self._counts[count]
