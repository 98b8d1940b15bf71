"""How far long work is: records that whoever does it reports (``reporter``), and whoever shows it listens to.

The work knows nothing of terminals and servers, and who shows it nothing of stages. A child process hands its records
on to its parent, which reports them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from softalign.artifacts import Frozen
from softalign.processes.pace import duration

RATED_AFTER_S = 1.0
"""What the first few took says little about the others."""


class Figure(Frozen):
    """A figure that people watch beside a count: what it is, and what it would be by chance where that is known.

    ``value`` is None where it is not finite.
    """

    name: str
    value: int | float | None
    chance: float | None = None

    def to_text(self) -> str:
        """Return ``loss 0.4512`` or ``match weight 0.31 (chance 0.25)``."""
        beside = "" if self.chance is None else f" (chance {self.chance:.4g})"
        return f"{self.name} {_number(self.value)}{beside}"


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class StageProgress(Frozen):
    """How far one count of a stage is.

    Attributes:
        stage: what the stage is called, as ``train`` or ``evaluate (base)``.
        unit: what is counted, as ``step`` or ``images``.
        done: how many are done, ``num_reused`` included.
        total: how many there are; None where it is not known yet.
        num_reused: how many were there when this attempt began.
        elapsed_s: seconds since this attempt began to count.
        figures: what people watch beside the count.
        is_last: nothing follows, however far the count is.
    """

    kind: Literal["progress"] = "progress"
    stage: str
    unit: str
    done: int
    total: int | None
    num_reused: int = 0
    elapsed_s: float
    figures: tuple[Figure, ...] = ()
    is_last: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all are done."""
        return self.done == self.total

    @property
    def per_second(self) -> float | None:
        """How many this attempt does a second; None where it has hardly begun."""
        is_known = self.elapsed_s >= RATED_AFTER_S or (self.is_complete and self.elapsed_s > 0)
        number = self.done - self.num_reused
        return number / self.elapsed_s if is_known and number > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until all are done at this rate; None where that is not known."""
        rate = self.per_second
        return None if rate is None or self.total is None else max(self.total - self.done, 0) / rate

    def counts(self) -> dict[str, Any]:
        """Return the numbers, for programs."""
        numbers = {"done": self.done, "total": self.total, "per_second": self.per_second, "left_s": self.left_s}
        rounded = {name: round(value, 3) for name, value in numbers.items() if value is not None}
        figures = {figure.name: figure.value for figure in self.figures}
        return {"stage": self.stage, "unit": self.unit, **rounded, "figures": figures}

    def counts_text(self) -> str:
        """Return ``40/300``, with what was there before this attempt."""
        text = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        return f"{text} ({self.num_reused} done before)" if self.num_reused else text

    def rate_text(self) -> str:
        """Return ``12.3/s``; empty before the first."""
        return "" if self.per_second is None else f"{self.per_second:,.1f}/s"

    def time_text(self) -> str:
        """Return ``0:01:23 left``, or at the end what it took; empty where neither is known."""
        if self.is_last or self.is_complete:
            return f"in {duration(self.elapsed_s)}"
        return "" if self.left_s is None else f"{duration(self.left_s)} left"

    def figures_text(self) -> str:
        """Return the figures in a row."""
        return "  ".join(figure.to_text() for figure in self.figures)

    def to_text(self) -> str:
        """Return ``step 40/300  0:01:23 left  3.1/s  loss 0.45``."""
        parts = (f"{self.unit} {self.counts_text()}", self.time_text(), self.rate_text(), self.figures_text())
        return "  ".join(part for part in parts if part)


Listener = Callable[[StageProgress], None]
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners to progress", default=())
_OVERHEARING: ContextVar[tuple[Listener, ...]] = ContextVar("those that measure by progress", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener have what is reported in this context, beside those that listen already."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


@contextmanager
def overhearing(listener: Listener) -> Iterator[None]:
    """Let a listener have what is reported in this context, without counting as one who shows it."""
    token = _OVERHEARING.set((*_OVERHEARING.get(), listener))
    try:
        yield
    finally:
        _OVERHEARING.reset(token)


def report(progress: StageProgress, otherwise: Listener) -> None:
    """Hand progress to all that listen; where nobody does, to ``otherwise``."""
    for listener in _OVERHEARING.get():
        listener(progress)
    for listener in _LISTENERS.get() or (otherwise,):
        listener(progress)
