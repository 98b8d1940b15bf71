"""What a child process says to its parent: records, one a line of JSON, on a standard output that is theirs alone.

What anyone else prints there, or writes to standard error, is a plain line, and cannot disturb them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from contextlib import suppress
from typing import Annotated, Literal, Self, TextIO

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from softalign import errors
from softalign.artifacts import Frozen
from softalign.errors import SoftAlignError
from softalign.processes.metering import ChildUsage
from softalign.processes.progress import StageProgress

STDOUT, STDERR = 1, 2
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
"""Escape sequences that move, colour or name a terminal, and single control characters but for tab and line end."""


class LogLine(Frozen):
    """A line of a log, or what a library printed; who logged it, and how loud."""

    kind: Literal["log"] = "log"
    text: str
    level: str = "info"
    logger: str = "softalign"


class Result(Frozen):
    """What the child was asked for: JSON that its parent understands."""

    kind: Literal["result"] = "result"
    payload: JsonValue


class Failure(Frozen):
    """An error of this library: the name of its class, and its parts."""

    kind: Literal["failure"] = "failure"
    type: str
    what: str
    expected: str
    found: str
    where: str
    fix: str

    @classmethod
    def of(cls, error: SoftAlignError) -> Self:
        """Return an error as a record."""
        return cls(
            type=type(error).__name__,
            what=error.what,
            expected=error.expected,
            found=error.found,
            where=error.where,
            fix=error.fix,
        )

    def to_error(self) -> SoftAlignError:
        """Return the error, as the class it was raised as."""
        kind = getattr(errors, self.type, SoftAlignError)
        error: SoftAlignError = kind(
            self.what, expected=self.expected, found=self.found, where=self.where, fix=self.fix
        )
        return error


Message = LogLine | StageProgress | ChildUsage | Result | Failure
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def to_line(message: Message) -> str:
    """Return a message as one line, its end included."""
    return json.dumps(message.model_dump(mode="json")) + "\n"  # ASCII: what is no Unicode survives too


def from_line(line: str) -> Message:
    """Return the message of a line; what is none is a plain line."""
    try:
        return _MESSAGES.validate_python(json.loads(line))
    except (ValueError, ValidationError, RecursionError):
        return plain_line(line)


def plain_line(line: str) -> LogLine:
    """Return what a library printed as a line of the log."""
    return LogLine(text=plain_text(line))


def plain_text(text: str) -> str:
    """Return a text as any terminal, pipe and file can take it: no control characters, no lone surrogates."""
    return _CONTROLS.sub("", text).encode("utf-8", "backslashreplace").decode().rstrip("\n")


class Channel:
    """The child's way to its parent.

    Args:
        stream: takes lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    @classmethod
    def over_stdout(cls) -> Self:
        """Take standard output for messages alone; what others print goes to standard error from now on."""
        sys.stdout.flush()
        own = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
        return cls(os.fdopen(own, "w", encoding="utf-8"))

    def send(self, message: Message) -> None:
        """Send a message; a parent that is gone does not hear it, and ``watch_parent`` ends this process in order."""
        with self._lock, suppress(OSError):
            self._stream.write(to_line(message))
            self._stream.flush()


class ChannelHandler(logging.Handler):
    """Sends the log's records as lines."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, with its traceback if it carries one."""
        level, text = record.levelname.lower(), plain_text(self.format(record))
        self._channel.send(LogLine(text=text, level=level, logger=record.name))
