"""How many bytes this process has taken from stores and put into them; whoever moves some says so here."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read from stores and written to them since the process began."""

    read_bytes: int = 0
    written_bytes: int = 0

    def since(self, before: Traffic) -> Traffic:
        """Return what came after an earlier count."""
        return Traffic(self.read_bytes - before.read_bytes, self.written_bytes - before.written_bytes)


class _Counter:
    """Counts from all threads: files are fetched and sent side by side."""

    def __init__(self) -> None:
        self._lock, self.traffic = threading.Lock(), Traffic()

    def add(self, read_bytes: int, written_bytes: int) -> None:
        with self._lock:
            before = self.traffic
            self.traffic = Traffic(before.read_bytes + read_bytes, before.written_bytes + written_bytes)


_COUNTER = _Counter()


def note_read(num_bytes: int) -> None:
    """Count bytes that came from a store."""
    _COUNTER.add(num_bytes, 0)


def note_written(num_bytes: int) -> None:
    """Count bytes that went into a store."""
    _COUNTER.add(0, num_bytes)


def traffic() -> Traffic:
    """Return the count so far."""
    return _COUNTER.traffic
