"""What work takes while it is done: time, processors, GPUs, memory, bytes of the store; child processes say their part.

A child's word is sent with its progress and at its end, so that of one that is killed the last is known.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from softalign.artifacts import Frozen, Usage
from softalign.processes.pace import Clock, Pace
from softalign.processes.progress import StageProgress, overhearing
from softalign.store.traffic import traffic

STATUS_FILE = Path("/proc/self/status")


class ChildUsage(Frozen):
    """What a child process has taken so far.

    Attributes:
        pid: which process; a later word of it replaces an earlier one.
        num_gpus: 1 where it computes on one.
        peak_memory_bytes: its largest resident memory; None where the system does not say.
    """

    kind: Literal["usage"] = "usage"
    pid: int
    num_gpus: int
    read_bytes: int
    written_bytes: int
    peak_memory_bytes: int | None


def own_usage() -> ChildUsage:
    """Return what this process has taken since it began."""
    moved = traffic()
    return ChildUsage(
        pid=os.getpid(),
        num_gpus=int(computes_on_gpu()),
        read_bytes=moved.read_bytes,
        written_bytes=moved.written_bytes,
        peak_memory_bytes=_peak_memory_bytes(),
    )


def computes_on_gpu() -> bool:
    """Return whether this process has a CUDA device in use; torch is not loaded for the question."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _peak_memory_bytes() -> int | None:
    """Return the peak since this program began: what ``getrusage`` says includes the parent it was forked from."""
    if not STATUS_FILE.is_file():
        return None
    lines = STATUS_FILE.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


class UsageSender:
    """A listener to progress that sends what this process has taken, every few seconds.

    Args:
        send: takes it to the parent.
        clock: for the pace.
    """

    def __init__(self, send: Callable[[ChildUsage], None], clock: Clock = time.monotonic) -> None:
        self._send, self._pace = send, Pace(clock)

    def __call__(self, _progress: StageProgress) -> None:
        """Send it, if that is due."""
        if self._pace.is_due():
            self._send(own_usage())


class Meter:
    """Measures what one attempt takes, from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu, self._traffic = time.monotonic(), _cpu_s(), traffic()
        self._children: dict[int, ChildUsage] = {}
        self._rates: dict[str, float] = {}

    def take(self, said: ChildUsage) -> None:
        """Take what a child says of itself."""
        self._children[said.pid] = said

    def follow(self, progress: StageProgress) -> None:
        """Keep how fast a count is."""
        if progress.per_second is not None:
            self._rates[progress.unit] = round(progress.per_second, 3)

    def usage(self, *, uses_gpu: bool) -> Usage:
        """Return what was taken; asked once, at the end.

        Args:
            uses_gpu: this process's own GPU, where it has one, is at work for this attempt.
        """
        wall_s, moved, children = time.monotonic() - self._started, traffic().since(self._traffic), self._children
        num_gpus = sum(child.num_gpus for child in children.values()) or int(uses_gpu and computes_on_gpu())
        peaks = [child.peak_memory_bytes for child in children.values() if child.peak_memory_bytes is not None]
        return Usage(
            wall_s=round(wall_s, 3),
            gpu_s=round(wall_s * num_gpus, 3),
            cpu_s=round(_cpu_s() - self._cpu, 3),
            slot_wait_s=_take_slot_waits(),
            read_bytes=moved.read_bytes + sum(child.read_bytes for child in children.values()),
            written_bytes=moved.written_bytes + sum(child.written_bytes for child in children.values()),
            peak_memory_bytes=max(peaks, default=None),
            rates=self._rates,
        )


def _cpu_s() -> float:
    """Return the processor seconds of this process and of its children that have ended, killed ones included."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


_SLOT_WAITS: list[float] = []
"""Seconds that no attempt has been charged with yet: a slot is waited for before the attempt begins."""


def note_slot_wait(seconds: float) -> None:
    """Charge the attempt under way, or the next one, with a wait for a GPU slot."""
    _SLOT_WAITS.append(seconds)


def _take_slot_waits() -> float:
    waits = [_SLOT_WAITS.pop() for _ in range(len(_SLOT_WAITS))]
    return round(sum(waits), 3)


_METER: ContextVar[Meter | None] = ContextVar("the meter of the attempt under way", default=None)


@contextmanager
def metering() -> Iterator[Meter]:
    """Measure what the block takes, its child processes included."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        with overhearing(meter.follow):
            yield meter
    finally:
        _METER.reset(token)


def note_child(said: ChildUsage) -> None:
    """Hand what a child says to the meter of the attempt under way, if there is one."""
    meter = _METER.get()
    if meter is not None:
        meter.take(said)
