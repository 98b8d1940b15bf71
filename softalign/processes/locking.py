"""One process at a time in a folder; the lock goes with the process, however it ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from softalign.errors import TrainingError

SAID_EVERY_S = 60.0
"""Who waits says so again after so long."""
POLL_INTERVAL_S = 0.2
logger = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path, timeout_s: float = math.inf) -> Iterator[None]:
    """Hold a folder against other processes; who has to wait says so.

    The lock goes with its holder, so who waits without end waits for a process that lives: its supervisor ends one that
    hangs.

    Args:
        folder: made if absent, and made again where the holder removes it at its end.
        timeout_s: how long to wait, in seconds.

    Raises:
        TrainingError: another process still holds it after ``timeout_s`` seconds.
    """
    begun = time.monotonic()
    # not a soft lock where the filesystem has no real one: that would outlive a process that is killed
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    if not _acquire(lock, timeout_s=0.0):
        logger.info("Waiting for another process that works on this very run: %s", folder)
        while not _acquire(lock, timeout_s=max(0.0, min(SAID_EVERY_S, begun + timeout_s - time.monotonic()))):
            waited_s = time.monotonic() - begun
            logger.info("Still waiting for another process that works on this very run: %.0f s so far", waited_s)
            if waited_s >= timeout_s:
                raise TrainingError(
                    "Another process is working on this very run.",
                    expected=f"it to stop within {timeout_s:g} s",
                    where=str(folder),
                    fix="wait for it, or stop it, and run again",
                )
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Return whether another process holds a folder now."""
    if not (folder / ".lock").is_file():
        return False
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    if not _acquire(lock, timeout_s=0.0):
        return True
    lock.release()
    return False


def _acquire(lock: FileLock, timeout_s: float) -> bool:
    """Return whether the lock was taken; False while another process holds it or has just removed the folder."""
    try:
        lock.acquire(timeout=timeout_s, poll_interval=POLL_INTERVAL_S)
    except (Timeout, FileNotFoundError):
        return False
    return True
