"""How often a task is tried again: as long as its attempts get further, and a few times where they do not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from uuid import UUID

KEPT = "kept_by_the_attempt"
"""Attribute of a task's error: what the failed attempt has kept, in words that differ where it got further."""


@dataclass(slots=True)
class _Attempts:
    kept: str = ""
    num_without_progress: int = 0


class RetryBudget:
    """Counts, for each task run of this process, the failed attempts that got no further than the one before.

    Args:
        num_retries: so many of them in a row are tried again.
    """

    def __init__(self, num_retries: int) -> None:
        self._num_retries = num_retries
        self._attempts: dict[UUID, _Attempts] = {}
        self._lock = threading.Lock()

    def has_left(self, run_id: UUID, kept: str) -> bool:
        """Count a failed attempt, and return whether another one may follow.

        Args:
            run_id: of the task run.
            kept: what the attempt has kept; empty: nothing.
        """
        with self._lock:
            attempts = self._attempts.setdefault(run_id, _Attempts())
            has_progress = kept not in ("", attempts.kept)
            attempts.num_without_progress = 0 if has_progress else attempts.num_without_progress + 1
            attempts.kept = kept
            if attempts.num_without_progress <= self._num_retries:
                return True
            del self._attempts[run_id]
            return False


def remember(error: BaseException, kept: str) -> None:
    """Note on an error what its attempt has kept."""
    setattr(error, KEPT, kept)


def kept_by(error: BaseException) -> str:
    """Return what the attempt of an error has kept; empty where nothing is noted."""
    return str(getattr(error, KEPT, ""))
