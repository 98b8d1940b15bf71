"""What hangs says where: every thread's stack on standard error, and the process ends, so that its run can resume."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Watchdog:
    """Ends this process with its threads' stacks when nothing was finished for too long.

    A C timer does it (faulthandler), so a thread that holds the interpreter's lock, such as one inside a collective
    whose peer is gone, cannot keep it from running.

    Args:
        timeout_s: seconds that one piece of work may take; None: no watch.
        file: where the stacks go; it must have a file descriptor.
    """

    def __init__(self, timeout_s: float | None, file: TextIO | None = None) -> None:
        self._timeout_s, self._file = timeout_s, file

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block is left."""
        self.note_progress()
        try:
            yield
        finally:
            if self._timeout_s is not None:
                faulthandler.cancel_dump_traceback_later()

    def note_progress(self) -> None:
        """Count the seconds from now on: something was finished."""
        if self._timeout_s is not None:
            file = sys.stderr if self._file is None else self._file
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=file)
