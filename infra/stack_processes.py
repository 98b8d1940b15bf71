"""Starting, watching and stopping the local stack's processes, by the ids written down when they were started."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from stack_settings import HOST, ROOT, STATE, fail, say

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Process:
    """A started process; the start time tells it from another one that got its id later."""

    pid: int
    started_at: float


@dataclass(frozen=True)
class Service:
    """How a service is started and how it says that it is ready."""

    name: str
    command: list[str]
    env: dict[str, str]
    is_ready: Callable[[], bool]
    user: str | None = None


def start(service: Service) -> None:
    """Start a service unless it runs; its output goes to its log."""
    if running(service.name) is not None:
        return
    if not Path(service.command[0]).is_file():
        fail(f"{service.command[0]} is not there; run: pip install -c infra/constraints.txt -e '.[pipeline,stack]'")
    with log_path(service).open("ab") as log:
        child = subprocess.Popen(  # noqa: S603
            service.command,
            env={**os.environ, **service.env},
            user=service.user,
            cwd="/" if service.user else ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = Process(child.pid, psutil.Process(child.pid).create_time())
    (STATE / f"{service.name}.process.json").write_text(json.dumps(asdict(process)), encoding="utf-8")


def wait(service: Service) -> None:
    """Return when a service is ready; end with its last lines if it died or takes too long."""
    begin = time.monotonic()
    while not service.is_ready():
        is_late = time.monotonic() - begin > START_TIMEOUT_S
        if is_late or running(service.name) is None:
            lines = log_path(service).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            what = f"was not ready after {START_TIMEOUT_S:.0f} s" if is_late else "ended"
            fail(f"{service.name} {what}; the last lines of {log_path(service)}:\n" + "\n".join(lines))
        time.sleep(0.5)
    say(f"{service.name} ready")


def running(name: str) -> Process | None:
    """Return a service's process if it is the one this stack started and still runs."""
    path = STATE / f"{name}.process.json"
    if not path.is_file():
        return None
    process = Process(**json.loads(path.read_text(encoding="utf-8")))
    try:
        found = psutil.Process(process.pid)
        is_ours = abs(found.create_time() - process.started_at) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_ours else None


def stop(process: Process, first_signal: signal.Signals) -> None:
    """Ask a process to end, then end what is left of it and its children."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    parent.send_signal(first_signal)
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in left:
        member.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)


def log_path(service: Service) -> Path:
    """Return where a service writes."""
    return STATE / "logs" / f"{service.name}.log"


def request(port: int, method: str, path: str, body: str | None = None) -> bytes | None:
    """Return the body of a 200 answer from a loopback port, or None."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
