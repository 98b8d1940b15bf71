"""Long work in a child process that is watched: its lines are relayed, its silence is noticed, its death is an error.

A child reads one request from its standard input and answers with ``messages`` on its standard output; it checkpoints
and leaves with exit code 75 when it gets SIGTERM or when its parent is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO

from pydantic import JsonValue

from softalign.errors import PreemptedError, WorkerDiedError
from softalign.processes.launch import TERMINATION_GRACE_S, RankProcesses
from softalign.processes.lines import PacedLines
from softalign.processes.messages import Failure, LogLine, Message, Result, from_line, plain_line
from softalign.processes.metering import ChildUsage, note_child
from softalign.processes.progress import StageProgress, report
from softalign.run_context import log_fields

KEPT_LINES = 30
"""How many of a dead child's last lines, or of a bug's traceback, an error shows."""
CHECK_INTERVAL_S = 1.0
"""How often silent ranks are looked at: one that died ends the others."""

OnLine = Callable[[str], None]


def run_child(
    module: str,
    request: str,
    *,
    label: str,
    stall_timeout_s: float,
    on_line: OnLine,
    environments: Sequence[dict[str, str]] = ({},),
    common: Mapping[str, str] = MappingProxyType({}),
    require: Callable[[], None] = lambda: None,
) -> JsonValue:
    """Run one stage in a child process, or in several that end together, and return its result.

    Progress goes to those that listen; where nobody does, to ``on_line``, as a line every few seconds.

    Args:
        module: what the child runs (``python -m MODULE PARENT_PID``).
        request: what it reads; it alone knows the form.
        label: what the stage is called, in errors and progress.
        stall_timeout_s: a child that says nothing for this long is killed (seconds).
        on_line: called with each line that the child logs, or that anything in it prints.
        environments: one for each child, see ``launch.rank_environments``.
        common: what all of them have in their environment besides the inherited one.
        require: raises what ends the work; the children checkpoint first.

    Raises:
        SoftAlignError: what the child raised, or ``require``.
        WorkerDiedError: it died without an answer, or stalled.
        PreemptedError: it was stopped after a checkpoint.
    """
    command = [sys.executable, "-m", module, str(os.getpid())]
    ranks = RankProcesses(command, environments, {**_child_environment(), **common}, request)
    heard = _Heard(label, on_line)
    try:
        for message in _messages(ranks, stall_timeout_s, heard, require):
            heard.take(message)
        return _answer(ranks, heard)
    finally:
        if not ranks.stop():
            on_line(f"no checkpoint within {TERMINATION_GRACE_S:g} s: killed; earlier checkpoints are kept")


class _Heard:
    """What the children of a stage have said."""

    def __init__(self, label: str, on_line: OnLine) -> None:
        self.label, self._on_line, self._lines = label, on_line, PacedLines(on_line)
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._progress: StageProgress | None = None
        self.results: list[Result] = []
        self.failures: list[Failure] = []

    def take(self, message: Message) -> None:
        """Relay a message, or keep an answer."""
        match message:
            case LogLine():
                self._last_lines.append(message.text)
                with log_fields(level=message.level, logger=message.logger):
                    self._on_line(message.text)
            case StageProgress():
                self._progress = message.model_copy(update={"stage": self.label})
                report(self._progress, self._lines)
            case ChildUsage():
                note_child(message)
            case Result():
                self.results.append(message)
            case Failure():
                self.failures.append(message)

    def last_words(self, separator: str) -> str:
        """Return the last lines and how far it was; empty where nothing was said."""
        return separator.join([*self._last_lines, *([self._progress.to_text()] if self._progress else [])])


def _child_environment() -> dict[str, str]:
    """Return this process's environment, OpenMP threads waiting asleep and transformers quiet unless it says otherwise.

    Measured with two threads on two busy cores: spinning threads generate 0.7 images/s, sleeping ones 2.8. What
    transformers says when it is imported is of image processors that are never used.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error", **os.environ}


def _messages(
    ranks: RankProcesses, stall_timeout_s: float, heard: _Heard, require: Callable[[], None]
) -> Iterator[Message]:
    """Yield what the ranks say until all have closed their streams.

    Raises:
        WorkerDiedError: they said nothing for too long, and were killed.
    """
    said: queue.Queue[Message | None] = queue.Queue()
    streams = [(stream, from_line) for stream in ranks.outputs] + [(stream, plain_line) for stream in ranks.errors]
    for stream, parse in streams:
        threading.Thread(target=_pump, args=(stream, parse, said), daemon=True).start()
    num_open, last_sign = len(streams), time.monotonic()
    while num_open:
        ranks.check()
        require()
        try:
            message = said.get(timeout=min(CHECK_INTERVAL_S, stall_timeout_s))
        except queue.Empty:
            if time.monotonic() - last_sign < stall_timeout_s:
                continue
            ranks.kill()
            raise WorkerDiedError(
                "The child process stalled and was killed; its checkpoints are kept.",
                expected=f"a line at least every {stall_timeout_s:g} s",
                found=heard.last_words(" | ") or "no output at all",
                fix="run again to resume; raise runtime.stall_timeout_s if one step takes that long",
            ) from None
        if message is None:
            num_open -= 1
            continue
        last_sign = time.monotonic()
        yield message


def _pump(stream: IO[str], parse: Callable[[str], Message], said: queue.Queue[Message | None]) -> None:
    with stream:
        for line in filter(str.strip, stream):
            said.put(parse(line))
    said.put(None)


def _answer(ranks: RankProcesses, heard: _Heard) -> JsonValue:
    """Return the result that a rank sent; an error that any of them sent goes first."""
    code = ranks.exit_code()
    if heard.failures:
        raise heard.failures[0].to_error()
    if heard.results:
        return heard.results[0].payload
    if code == PreemptedError.exit_code:
        raise PreemptedError(f"{heard.label} was stopped after a checkpoint.", fix="run again to continue there")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    which = f"Process {ranks.failed[0]}" if ranks.failed and len(ranks) > 1 else "The child process"
    raise WorkerDiedError(
        f"{which} of {heard.label} died ({how}); its checkpoints are kept.",
        found=heard.last_words("\n    ") or "no output",
        fix="run again to resume",
    )


def watch_parent(parent_pid: int, *, interval_s: float = 2.0) -> None:
    """Send this process SIGTERM once its parent is gone, so that no orphan goes on writing."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
