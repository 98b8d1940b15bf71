"""Long work in a child process that is watched: its lines are relayed, its silence is noticed, its death is an error.

A child runs one stage (``softalign.stages.worker``). It learns its request from a file and answers in another; it
checkpoints and leaves with exit code 75 when it gets SIGTERM or when its parent is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from softalign import errors
from softalign.errors import PreemptedError, SoftAlignError, WorkerDiedError
from softalign.processes.launch import TERMINATION_GRACE_S, RankProcesses

KEPT_LINES = 30
"""How many of a dead child's last lines, or of a bug's traceback, an error shows."""
CHECK_INTERVAL_S = 1.0
"""How often silent ranks are looked at: one that died ends the others."""

OnLine = Callable[[str], None]


def error_to_json(error: SoftAlignError) -> dict[str, str]:
    """Return an error as the strings ``error_from_json`` takes."""
    names = ("what", "expected", "found", "where", "fix")
    return {"type": type(error).__name__, **{name: getattr(error, name) for name in names}}


def error_from_json(payload: dict[str, str]) -> SoftAlignError:
    """Return the error a child reported, as the class it was raised as."""
    kind = getattr(errors, payload.get("type", ""), SoftAlignError)
    names = ("expected", "found", "where", "fix")
    error: SoftAlignError = kind(payload["what"], **{name: payload.get(name, "") for name in names})
    return error


def run_child(
    request: dict[str, Any],
    folder: Path,
    *,
    stall_timeout_s: float,
    on_line: OnLine,
    environments: Sequence[dict[str, str]] = ({},),
) -> dict[str, Any]:
    """Run one stage in a child process, or in several that end together, and return its answer.

    Args:
        request: JSON for ``softalign.stages.worker``.
        folder: where request and answer are exchanged; made if absent.
        stall_timeout_s: a child that writes no line for this long is killed (seconds).
        on_line: called with each line the child writes.
        environments: one for each child, see ``launch.rank_environments``.

    Raises:
        SoftAlignError: what the child raised.
        WorkerDiedError: it died without an answer, or stalled.
        PreemptedError: it was stopped after a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tag = f"{os.getpid()}-{threading.get_ident()}"
    request_path, answer_path = folder / f"request-{tag}.json", folder / f"answer-{tag}.json"
    request_path.write_text(json.dumps({**request, "parent_pid": os.getpid()}), encoding="utf-8")
    answer_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "softalign.stages.worker", str(request_path), str(answer_path)]
    ranks = RankProcesses(command, environments, _child_environment())
    try:
        last_lines = _relay(ranks, stall_timeout_s, on_line)
        return _answer(ranks, answer_path, last_lines, str(request.get("stage")))
    finally:
        has_left = ranks.stop()
        request_path.unlink(missing_ok=True)
        answer_path.unlink(missing_ok=True)
        if not has_left:
            on_line(f"no checkpoint within {TERMINATION_GRACE_S:g} s: killed; earlier checkpoints are kept")


def _child_environment() -> dict[str, str]:
    """Return this process's environment, OpenMP threads waiting asleep unless it says otherwise.

    Measured with two threads on two busy cores: spinning threads generate 0.7 images/s, sleeping ones 2.8.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def _relay(ranks: RankProcesses, stall_timeout_s: float, on_line: OnLine) -> deque[str]:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(ranks.output, lines), daemon=True).start()
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    last_sign = time.monotonic()
    while True:
        ranks.check()
        try:
            line = lines.get(timeout=min(CHECK_INTERVAL_S, stall_timeout_s))
        except queue.Empty:
            if time.monotonic() - last_sign < stall_timeout_s:
                continue
            ranks.kill()
            raise WorkerDiedError(
                "The child process stalled and was killed; its checkpoints are kept.",
                expected=f"a line at least every {stall_timeout_s:g} s",
                found=" | ".join(last_lines) or "no output at all",
                fix="run again to resume; raise runtime.stall_timeout_s if one step takes that long",
            ) from None
        if line is None:
            return last_lines
        last_sign = time.monotonic()
        last_lines.append(line)
        on_line(line)


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _answer(ranks: RankProcesses, path: Path, last_lines: deque[str], stage: str) -> dict[str, Any]:
    code = ranks.exit_code()
    if path.is_file():
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "error" in answer:
            raise error_from_json(answer["error"])
        return answer
    if code == PreemptedError.exit_code:
        raise PreemptedError(f"{stage} was stopped after a checkpoint.", fix="run again to continue there")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    which = f"Process {ranks.failed[0]}" if ranks.failed and len(ranks) > 1 else "The child process"
    raise WorkerDiedError(
        f"{which} of {stage} died ({how}); its checkpoints are kept.",
        found="\n    ".join(last_lines) or "no output",
        fix="run again to resume",
    )


def watch_parent(parent_pid: int, *, interval_s: float = 2.0) -> None:
    """Send this process SIGTERM once its parent is gone, so that no orphan goes on writing."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
