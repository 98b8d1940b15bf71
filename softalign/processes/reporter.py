"""How long work says how far it is: through a ``Reporter``; where nobody listens, the log has lines of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from softalign.processes.lines import PacedLines
from softalign.processes.pace import Clock
from softalign.processes.progress import Figure, StageProgress, report

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

REPORT_INTERVAL_S = 0.25
"""A count is reported this often at most: as often as an eye follows, and no cost to a step."""


class Reporter:
    """Reports one count of a stage while it is open: its beginning, its end, and what is due between them.

    Args:
        stage: what the stage is called.
        unit: what is counted.
        total: how many there are; None until ``expect`` says it.
        num_reused: how many are there already.
        clock: for the rate and the interval.
    """

    def __init__(
        self, stage: str, unit: str, total: int | None, *, num_reused: int = 0, clock: Clock = time.monotonic
    ) -> None:
        self._stage, self._unit, self._total, self._clock = stage, unit, total, clock
        self._done = self._num_reused = num_reused
        self._started = self._last_report = clock()
        self._is_begun = self._is_first_reported = False
        self._figures: Callable[[], tuple[Figure, ...]] = tuple
        self._lines = PacedLines(logger.info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_begun:
            self._report(is_last=True)

    @property
    def done(self) -> int:
        """How many are done, what was there already included."""
        return self._done

    def begin(self) -> None:
        """Report that the work begins; what came before it does not count as its time."""
        if not self._is_begun:
            self._is_begun, self._started = True, self._clock()
            self._report()

    def expect(self, total: int) -> None:
        """Take over how many there are, and begin."""
        self._total = total
        self.begin()

    def reach(self, done: int, figures: Callable[[], tuple[Figure, ...]] = tuple) -> None:
        """Count up to ``done``, and report it if that is due: the first, all, or after REPORT_INTERVAL_S.

        Args:
            done: how many are done.
            figures: returns what is watched beside them; asked when it is reported.
        """
        self.begin()
        self._done, self._figures = done, figures
        is_due = self._clock() - self._last_report >= REPORT_INTERVAL_S
        if is_due or not self._is_first_reported or done == self._total:
            self._is_first_reported = True
            self._report()

    def skip_to(self, done: int) -> None:
        """Count up to ``done`` what turned out to be there already."""
        self._num_reused += done - self._done
        self._done = done

    def over(self, items: Iterable[ItemT], figures: Callable[[], tuple[Figure, ...]] = tuple) -> Iterator[ItemT]:
        """Yield the items, and count each on when the next is asked for."""
        for item in items:
            yield item
            self.reach(self._done + 1, figures)

    def _report(self, *, is_last: bool = False) -> None:
        self._last_report = self._clock()
        progress = StageProgress(
            stage=self._stage,
            unit=self._unit,
            done=self._done,
            total=self._total,
            num_reused=self._num_reused,
            elapsed_s=self._last_report - self._started,
            figures=self._figures(),
            is_last=is_last,
        )
        report(progress, self._lines)
