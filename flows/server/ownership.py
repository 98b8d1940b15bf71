"""Who runs a flow run: what our workers write on it, and whether the process that wrote it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.server.decision import Owner

MACHINE, WORKER_PID, WORKER_BORN = "softalign.machine", "softalign.worker-pid", "softalign.worker-born"
"""Labels of a flow run, set by the worker that takes it."""
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
"""In the environment of a flow run's processes."""


def machine() -> str:
    """Return what tells this machine's process ids from others': host, start of the machine, and container."""
    parts = [socket.gethostname(), _line("/proc/sys/kernel/random/boot_id")]
    namespace = Path("/proc/self/ns/pid")
    return " ".join([*parts, os.readlink(namespace) if namespace.is_symlink() else ""]).strip()


def signature() -> dict[str, str]:
    """Return the labels by which a worker, the present process, signs a run that it takes."""
    return {MACHINE: machine(), WORKER_PID: str(os.getpid()), WORKER_BORN: f"{_born(psutil.Process()):.1f}"}


def is_own(labels: Mapping[str, Any]) -> bool:
    """Return whether the present process has signed a run, and nobody since."""
    return all(labels.get(name) == value for name, value in signature().items())


def owner_of(run_id: str, labels: Mapping[str, Any], process_id: str | None) -> Owner:
    """Return what is known of a run's owner.

    Args:
        run_id: of the flow run.
        labels: of the flow run.
        process_id: of its process, as the worker wrote it down; None: it had not come so far.
    """
    if not labels.get(MACHINE):
        return Owner.UNKNOWN
    if labels[MACHINE] != machine():
        return Owner.ELSEWHERE
    is_worker_there = _is_there(str(labels.get(WORKER_PID)), str(labels.get(WORKER_BORN)))
    return Owner.ALIVE if is_worker_there or _runs(process_id, run_id) else Owner.GONE


def _is_there(pid: str, born: str) -> bool:
    try:
        process = psutil.Process(int(pid))
        return abs(_born(process) - float(born)) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


def _born(process: psutil.Process) -> float:
    """Return when a process began, in seconds since the machine's start: the time of day may be set meanwhile."""
    return float(process.create_time() - psutil.boot_time())


def _runs(pid: str | None, run_id: str) -> bool:
    """Return whether a process lives that works on a run, be it an orphan."""
    try:
        process = psutil.Process(int(pid or ""))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.environ().get(RUN_VARIABLE) == run_id)
    except (ValueError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:
        return True


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
