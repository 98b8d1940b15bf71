"""One process at a time in a folder; the lock goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from softalign.errors import TrainingError

LOCK_TIMEOUT_S = 60.0
"""How long to wait for a predecessor that was told to stop and is still writing its checkpoint."""


@contextmanager
def exclusive(folder: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a folder against other processes; the lock goes with the process, however it ends.

    Raises:
        TrainingError: another process still holds it after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while (lock := _lock(folder)) is None:
        if time.monotonic() > deadline:
            raise TrainingError(
                "Another process is working on this very run.",
                expected=f"it to stop within {timeout_s:g} s",
                where=str(folder),
                fix="wait for it, or stop it, and run again",
            )
        time.sleep(0.2)
    with lock:
        yield


def _lock(folder: Path) -> TextIO | None:
    """Return a folder's lock file, locked; None while another process holds it or has just removed the folder."""
    path = folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(BlockingIOError, FileNotFoundError), ExitStack() as opened:
        lock = opened.enter_context(path.open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):  # else it was removed with its folder
            opened.pop_all()
            return lock
    return None
