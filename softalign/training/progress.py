"""What a training run reports while it runs: its steps, and the figures that people watch."""

from __future__ import annotations

from collections import deque

from softalign.processes.progress import Figure
from softalign.training.metrics import TrainRow

NUM_AVERAGED_STEPS = 50
"""Figures are means over the last so many steps: single steps are noise."""


class WatchedFigures:
    """Loss, win rate, and the own caption's weight against chance; the latter two where there are rewards."""

    def __init__(self) -> None:
        self._rows: deque[TrainRow] = deque(maxlen=NUM_AVERAGED_STEPS)

    def add(self, row: TrainRow) -> None:
        """Take over a step."""
        self._rows.append(row)

    def __call__(self) -> tuple[Figure, ...]:
        """Return the figures of the latest steps; what was not finite is left out of a mean."""
        loss = Figure(name="loss", value=self._mean("loss"))
        if not self._rows or self._rows[-1].win_rate is None:
            return (loss,)
        weight = Figure(name="match weight", value=self._mean("match_weight"), chance=self._mean("chance"))
        return loss, Figure(name="win rate", value=self._mean("win_rate")), weight

    def _mean(self, name: str) -> float | None:
        values = [value for row in self._rows if (value := getattr(row, name)) is not None]
        return sum(values) / len(values) if values else None
