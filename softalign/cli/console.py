"""What running stages say on standard error: lines, and how far they are, as bars on a terminal and as lines elsewhere.

Where nothing is said for some seconds (a library loads, a database is made), a line says what is being waited for.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO

from softalign.credentials import without_secrets
from softalign.processes.lines import PacedLines
from softalign.processes.messages import plain_text
from softalign.processes.progress import StageProgress, listening
from softalign.processes.structured import error_fields, speaking
from softalign.run_context import log_fields

if TYPE_CHECKING:
    from softalign.cli.bars import Bars

from softalign.errors import SoftAlignError, os_error_fix, os_error_text

SILENCE_S = 5.0
"""After so long without a line a person wonders whether anything happens."""
SILENCE_IN_PROGRESS_S = 15.0
"""The same where the last line was one of progress: the next of them is more welcome."""
_STAGE = re.compile(r"^Stage \d+ of \d+, [^:]+")
_WAIT = re.compile(r"^(Starting|Loading|Stopping) [^:(]+")
"""Lines that announce a wait: it lasts until the next line."""
_IMPORTS_LOGGER = "transformers.utils.import_utils"


class _Activity(NamedTuple):
    name: str
    since: float


def open_closed_streams() -> None:
    """Give a process that was started without standard output or error (``2>&-``) one that leads nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # as long as the process


def can_show_bars(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that a person looks at and whose lines can be replaced."""
    return stream.isatty() and "CI" not in os.environ and os.environ.get("TERM") not in {None, "dumb", "unknown"}


class ConsoleLines:
    """Writes lines and progress to a stream: bars where it may have them, plain lines every few seconds elsewhere.

    As a context it also breaks silences: after SILENCE_S seconds without a line it says what goes on, and for how long.
    """

    def __init__(self, stream: TextIO, silence_s: float = SILENCE_S, *, has_bars: bool = False) -> None:
        self._stream, self._silence_s, self._has_bars = stream, silence_s, has_bars
        self._bars: Bars | None = None
        self._paced = PacedLines(self._write)
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
            if self._bars is not None:
                self._bars.close()
            self._stream.flush()

    def __call__(self, line: str) -> None:
        """Show one line."""
        with self._lock:
            self._is_progress, self._last_line = False, time.monotonic()
            if stage := _STAGE.match(line):
                self._stage = _Activity(stage[0], self._last_line)
            wait = _WAIT.match(line)
            self._activity = _Activity(wait[0].strip(), self._last_line) if wait else self._stage
            self._write(line)

    def show(self, progress: StageProgress) -> None:
        """Show how far a stage is."""
        with self._lock:
            self._is_progress, self._last_line = not progress.is_last, time.monotonic()
            self._activity = self._stage
            if self._has_bars:
                self._open_bars().show(progress)
            else:
                self._paced(progress)

    def make_way(self) -> None:
        """Take away what is being waited for: something else is printed now, maybe on the same terminal."""
        with self._lock:
            self._last_line = time.monotonic()
            if self._bars is not None:
                self._bars.wait("")

    def _write(self, line: str) -> None:
        if self._bars is not None:
            self._bars.say(plain_text(line))
        else:
            self._stream.write(plain_text(line) + "\n")
            self._stream.flush()

    def _open_bars(self) -> Bars:
        if self._bars is None:
            from softalign.cli.bars import Bars

            self._bars = Bars(self._stream)
        return self._bars

    def _break_silences(self) -> None:
        while not self._is_over.wait(min(1.0, self._silence_s / 5)):
            with self._lock:
                limit = max(SILENCE_IN_PROGRESS_S, self._silence_s) if self._is_progress else self._silence_s
                now = time.monotonic()
                if self._is_over.is_set() or now - self._last_line < limit:
                    continue
                text = f"  ... {self._activity.name}: {now - self._activity.since:.0f} s so far"
                if self._has_bars:
                    self._open_bars().wait(text)
                else:
                    self._last_line = now
                    self._write(text)


_CONSOLE: ContextVar[ConsoleLines | None] = ContextVar("the console that shows this command", default=None)


@contextmanager
def shown_on(console: ConsoleLines) -> Iterator[None]:
    """Let progress be shown on a console, and results be printed in its company."""
    token = _CONSOLE.set(console)
    try:
        with listening(console.show):
            yield
    finally:
        _CONSOLE.reset(token)


def make_way() -> None:
    """Make room for a result: what the console shows for a while only is taken away."""
    console = _CONSOLE.get()
    if console is not None:
        console.make_way()


class ConsoleHandler(logging.Handler):
    """Shows log records as lines of a console, text alone."""

    def __init__(self, lines: ConsoleLines) -> None:
        super().__init__()
        self.say = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, with its traceback if it carries one."""
        with speaking(record):
            self.say(without_secrets(self.format(record)))


@contextmanager
def narrating(
    stream: TextIO, handler_type: type[ConsoleHandler] = ConsoleHandler, *, is_quiet: bool = False
) -> Iterator[ConsoleLines]:
    """Show this process's log and progress on a stream, its silences broken, and yield where other lines go.

    Args:
        stream: a terminal, file or pipe.
        handler_type: decides what of the log is shown, and how.
        is_quiet: no bars, on a terminal neither.
    """
    root, lines = logging.getLogger(), ConsoleLines(stream, has_bars=not is_quiet and can_show_bars(stream))
    previous, root.handlers = root.handlers, [handler_type(lines)]
    logging.getLogger(_IMPORTS_LOGGER).addFilter(_is_of_use)
    try:
        with lines, shown_on(lines):
            yield lines
    finally:
        root.handlers = previous


def report_error(error: SoftAlignError | OSError) -> int:
    """Say on standard error what went wrong and what to do, without a traceback; return the exit code."""
    known = (
        error if isinstance(error, SoftAlignError) else SoftAlignError(os_error_text(error), fix=os_error_fix(error))
    )
    with log_fields(level="error", error=error_fields(known)):
        sys.stderr.write(f"error: {known}\n")
    return known.exit_code


def _is_of_use(record: logging.LogRecord) -> bool:
    """Leave out that image processors, which nothing here calls, have no torchvision."""
    return "requires torchvision" not in str(record.msg)
