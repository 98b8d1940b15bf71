"""Progress of a training run: a log line every few seconds."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from softalign.processes.pace import Pace, duration
from softalign.training.metrics import TrainRow

logger = logging.getLogger(__name__)


class _Clock:
    """Speed since the start of this process, in steps and images."""

    def __init__(self, num_steps: int, done_steps: int) -> None:
        self.num_steps, self.first_step = num_steps, done_steps
        self.started = time.monotonic()
        self.first_samples: int | None = None

    def summary(self, row: TrainRow) -> str:
        elapsed_s = max(time.monotonic() - self.started, 1e-6)
        steps = row.step - self.first_step
        images_per_s = row.samples_seen / row.step * steps / elapsed_s
        left_s = (self.num_steps - row.step) * elapsed_s / max(steps, 1)
        return f"{duration(left_s)} left  {_figures(row)}  {images_per_s:.1f} images/s"


class ProgressLines:
    """Logs ``step N/TOTAL`` with the step's figures while it is open; a terminal's console makes a bar of it."""

    def __init__(self, num_steps: int, done_steps: int) -> None:
        self._clock = _Clock(num_steps, done_steps)
        self._pace = Pace()

    def __enter__(self) -> Self:
        logger.info("training: step %d of %d", self._clock.first_step, self._clock.num_steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, row: TrainRow) -> None:
        """Show a finished step if it is the first, the last, or a line is due."""
        is_first = row.step == self._clock.first_step + 1
        if self._pace.is_due() or is_first or row.step == self._clock.num_steps:
            logger.info("step %d/%d  %s", row.step, self._clock.num_steps, self._clock.summary(row))


def _figures(row: TrainRow) -> str:
    figures = [f"loss {_number(row.loss)}"]
    if row.win_rate is not None:
        figures.append(f"win rate {_number(row.win_rate)}")
        figures.append(f"match weight {_number(row.match_weight)} (chance {_number(row.chance)})")
    return "  ".join(figures)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
