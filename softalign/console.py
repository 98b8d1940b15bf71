"""Lines of running stages on standard error: as they are, or on a terminal as a bar that moves in place."""

from __future__ import annotations

import re
from typing import TextIO

BAR_WIDTH = 24
_PROGRESS = re.compile(r"^(?P<what>\w+) (?P<done>\d+)/(?P<total>\d+)\s*(?P<rest>.*)$")
_CLEAR_LINE = "\r\x1b[K"


class ConsoleLines:
    """Writes lines to a stream; ``step 40/300  loss ...`` becomes a bar where the stream is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_in_place = False

    def __call__(self, line: str) -> None:
        """Show one line."""
        match = _PROGRESS.match(line) if self._is_terminal else None
        if match is None:
            self._stream.write(("\n" if self._is_in_place else "") + line + "\n")
            self._is_in_place = False
        else:
            done, total = int(match["done"]), int(match["total"])
            self._stream.write(f"{_CLEAR_LINE}{match['what']} {bar(done, total)} {done}/{total}  {match['rest']}")
            self._is_in_place = True
        self._stream.flush()


def bar(done: int, total: int) -> str:
    """Return a bar of BAR_WIDTH characters."""
    filled = BAR_WIDTH * done // max(total, 1)
    return "[" + "#" * filled + "." * (BAR_WIDTH - filled) + "]"
