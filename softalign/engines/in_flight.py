"""Memory of a pool's results: bounded by their bytes, whatever order they come in."""

from __future__ import annotations

import threading

LIMIT_BYTES = 256 << 20
"""Of items and results that wait for their turn: 2,500 photographs of 100 kB."""


class InFlight:
    """Counts bytes between the moment they arrive and the moment they are taken; who is next in order never waits.

    Args:
        limit_bytes: above it the others do.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes, self._used_bytes = limit_bytes, 0
        self._next, self._is_over = 0, False
        self._changed = threading.Condition()

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be asked for."""
        return self._used_bytes >= self._limit_bytes

    def wait(self, order: int) -> None:
        """Wait until there is room, or it is the turn of ``order``."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or order <= self._next or not self.is_full)

    def add(self, num_bytes: int) -> None:
        """Count bytes that came, or with a negative number such as were taken."""
        with self._changed:
            self._used_bytes += num_bytes
            self._changed.notify_all()

    def turn_of(self, order: int) -> None:
        """Let ``order`` be the next."""
        with self._changed:
            self._next = order
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
