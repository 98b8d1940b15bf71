"""Lines of running stages on standard error: as they are, or on a terminal as a bar that moves in place.

Where nothing is said for some seconds (a library loads, a database is made), a line says what is being waited for.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self, TextIO

from softalign.errors import SoftAlignError, os_error_fix, os_error_text

BAR_WIDTH = 24
SILENCE_S = 5.0
"""After so long without a line a person wonders whether anything happens."""
SILENCE_IN_PROGRESS_S = 15.0
"""The same where the last line was one of progress: the next of them is more welcome."""
_PROGRESS = re.compile(r"^(?P<what>\w+) (?P<done>\d+)/(?P<total>\d+)\s*(?P<rest>.*)$")
_STAGE = re.compile(r"^Stage \d+ of \d+, [^:]+")
_WAIT = re.compile(r"^(Starting|Loading|Stopping) [^:(]+")
"""Lines that announce a wait: it lasts until the next line."""
_IMPORTS_LOGGER = "transformers.utils.import_utils"
_CLEAR_LINE = "\r\x1b[K"


class _Activity(NamedTuple):
    name: str
    since: float


class ConsoleLines:
    """Writes lines to a stream; ``step 40/300  loss ...`` becomes a bar where the stream is a terminal.

    As a context it also breaks silences: every SILENCE_S seconds without a line it says what goes on, and for how long.
    """

    def __init__(self, stream: TextIO, silence_s: float = SILENCE_S) -> None:
        self._stream, self._silence_s = stream, silence_s
        self._is_terminal = stream.isatty()
        self._is_in_place = False
        self._is_progress = False
        self._last_line = time.monotonic()
        self._stage = self._activity = _Activity("working", self._last_line)
        self._lock, self._is_over = threading.RLock(), threading.Event()

    def __enter__(self) -> Self:
        self._last_line = time.monotonic()
        self._stage = self._activity = _Activity("working", self._last_line)
        threading.Thread(target=self._break_silences, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        with self._lock:
            self._end_line()
            self._stream.flush()

    def __call__(self, line: str) -> None:
        """Show one line."""
        match = _PROGRESS.match(line)
        with self._lock:
            self._is_progress, self._last_line = match is not None, time.monotonic()
            if stage := _STAGE.match(line):
                self._stage = _Activity(stage[0], self._last_line)
            wait = _WAIT.match(line)
            self._activity = _Activity(wait[0].strip(), self._last_line) if wait else self._stage
            if match is None or not self._is_terminal:
                self._end_line()
                self._stream.write(line + "\n")
            else:
                done, total = int(match["done"]), int(match["total"])
                self._write_in_place(f"{match['what']} {bar(done, total)} {done}/{total}  {match['rest']}")
            self._stream.flush()

    def _write_in_place(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be replaced
        self._stream.write(_CLEAR_LINE + text[:width])
        self._is_in_place = True

    def _end_line(self) -> None:
        if self._is_in_place:
            self._stream.write("\n")
        self._is_in_place = False

    def _break_silences(self) -> None:
        while not self._is_over.wait(min(1.0, self._silence_s / 5)):
            with self._lock:
                limit = max(SILENCE_IN_PROGRESS_S, self._silence_s) if self._is_progress else self._silence_s
                now = time.monotonic()
                if self._is_over.is_set() or now - self._last_line < limit:
                    continue
                self._last_line = now
                text = f"  ... {self._activity.name}: {now - self._activity.since:.0f} s so far"
                if self._is_terminal and not self._is_progress:
                    self._write_in_place(text)
                else:
                    self._end_line()
                    self._stream.write(text + "\n")
                self._stream.flush()


class ConsoleHandler(logging.Handler):
    """Shows log records as lines of a console, text alone."""

    def __init__(self, lines: ConsoleLines) -> None:
        super().__init__()
        self.say = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, with its traceback if it carries one."""
        self.say(self.format(record))


@contextmanager
def narrating(stream: TextIO, handler_type: type[ConsoleHandler] = ConsoleHandler) -> Iterator[ConsoleLines]:
    """Show this process's log on a stream, its silences broken, and yield where other lines go.

    Args:
        stream: a terminal, file or pipe.
        handler_type: decides what of the log is shown, and how.
    """
    root, lines = logging.getLogger(), ConsoleLines(stream)
    previous, root.handlers = root.handlers, [handler_type(lines)]
    logging.getLogger(_IMPORTS_LOGGER).addFilter(_is_of_use)
    try:
        with lines:
            yield lines
    finally:
        root.handlers = previous


def report_error(error: SoftAlignError | OSError) -> int:
    """Say on standard error what went wrong and what to do, without a traceback; return the exit code."""
    if isinstance(error, SoftAlignError):
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    fix = os_error_fix(error)
    sys.stderr.write(f"error: {os_error_text(error)}\n" + (f"  to do: {fix}\n" if fix else ""))
    return SoftAlignError.exit_code


def _is_of_use(record: logging.LogRecord) -> bool:
    """Leave out that image processors, which nothing here calls, have no torchvision."""
    return "requires torchvision" not in str(record.msg)


def bar(done: int, total: int) -> str:
    """Return a bar of BAR_WIDTH characters."""
    filled = BAR_WIDTH * done // max(total, 1)
    return "[" + "#" * filled + "." * (BAR_WIDTH - filled) + "]"
