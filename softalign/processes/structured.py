"""Standard error as JSON lines, where ``SOFTALIGN_LOG=json`` asks for it: whatever is written there becomes objects.

It has ``time`` (UTC), ``level``, ``logger``, ``message``, ``run_id``, and what the context says: ``recipe``, ``stage``,
``stage_key``, ``dataset``, ``adapter``, ``progress`` with its counts, ``error`` with its parts.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from softalign.credentials import without_secrets
from softalign.errors import ConfigError, SoftAlignError
from softalign.run_context import current_fields, log_fields, run_id

LOG_VARIABLE = "SOFTALIGN_LOG"
JSON, TEXT = "json", "text"
ORCHESTRATED = {"flow_run_id": "run_id", "task_run_id": "task_run_id"}
"""What an orchestrator's loggers note on their records, and what it is called here."""


def is_structured() -> bool:
    """Return whether the log shall be JSON lines."""
    return os.environ.get(LOG_VARIABLE) == JSON


def check_log_variable() -> None:
    """Refuse another form than those there are.

    Raises:
        ConfigError: ``SOFTALIGN_LOG`` asks for one.
    """
    found = os.environ.get(LOG_VARIABLE) or TEXT
    if found not in {JSON, TEXT}:
        raise ConfigError("There is no such form of the log.", expected="json or text", found=found, where=LOG_VARIABLE)


def json_line(message: str) -> str:
    """Return a message with its context as one line of JSON, without its end."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    head = {"time": moment, "level": "info", "logger": "softalign", "message": message, "run_id": run_id()}
    return json.dumps({**head, **current_fields()}, default=str)


class JsonStream(io.TextIOBase):
    """A stream of text that arrives elsewhere as JSON lines: what is written at once, up to a line's end, is one.

    Args:
        stream: takes the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun, self._lock = stream, "", threading.RLock()

    def write(self, text: str) -> int:
        """Write text; a line's beginning waits for its end."""
        with self._lock:
            whole, end, rest = (self._begun + text).rpartition("\n")
            self._begun = rest
            if end and whole.strip():
                self._stream.write(json_line(whole.strip("\n")) + "\n")
        return len(text)

    def flush(self) -> None:
        """Let what is written arrive."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the descriptor below."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Say that nobody looks at it."""
        return False


def structure_stderr() -> None:
    """Turn this process's standard error into JSON lines where that is asked for; once is enough.

    Raises:
        ConfigError: another form is asked for that there is not.
    """
    check_log_variable()
    if is_structured() and not isinstance(sys.stderr, JsonStream):
        sys.stderr = JsonStream(sys.stderr)


@contextmanager
def speaking(record: logging.LogRecord) -> Iterator[None]:
    """Let what is written in this block carry a record's level, logger and run, unless it relays another's line."""
    said = {"level": record.levelname.lower(), "logger": record.name}
    said |= {name: str(value) for noted, name in ORCHESTRATED.items() if (value := getattr(record, noted, None))}
    with log_fields(**{**said, **current_fields()}):
        yield


class JsonHandler(logging.Handler):
    """Writes log records to standard error as JSON lines, for a process whose log another program has set up."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with its traceback if it carries one."""
        stream = sys.stderr if isinstance(sys.stderr, JsonStream) else JsonStream(sys.stderr)
        with speaking(record):
            stream.write(without_secrets(self.format(record)) + "\n")
            stream.flush()


def error_fields(error: SoftAlignError) -> dict[str, Any]:
    """Return the parts of an error of this library."""
    parts = {name: getattr(error, name) for name in ("what", "expected", "found", "where", "fix")}
    return {"type": type(error).__name__, **{name: text for name, text in parts.items() if text}}
