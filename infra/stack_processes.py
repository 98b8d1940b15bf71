"""Starting, watching and stopping the local stack's processes, by the ids written down when they were started."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from stack_settings import HOST, ROOT, STATE, fail, is_listening, say

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.25
MARK = "SOFTALIGN_STACK_SERVICE"
"""Variable that every process of a service, and whatever it starts, carries: nothing else is ever killed."""
OF_OTHERS = ("AWS_", "MLFLOW_", "PREFECT_")
"""What services do not inherit: a person's variables for another deployment."""


@dataclass(frozen=True)
class Process:
    """A started process; the start, in seconds since the machine's, tells it from another one that got its id later."""

    pid: int
    started_at: float


@dataclass(frozen=True)
class Service:
    """How a service is started and stopped, where it listens and how it says that it is ready."""

    name: str
    command: list[str]
    env: dict[str, str]
    is_ready: Callable[[], bool]
    ports: tuple[int, ...] = ()
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = STOP_TIMEOUT_S


def start(service: Service) -> None:
    """Start a service unless it runs; its output goes to its log."""
    if running(service.name) is not None:
        return
    if not Path(service.command[0]).is_file():
        fail(f"{service.command[0]} is not there; run: pip install -c infra/constraints.txt -e '.[pipeline,stack]'")
    end(marked([service]))  # what outlived a service that was killed would hold its ports
    if taken := [str(port) for port in service.ports if is_listening(port)]:
        fail(
            f"{service.name}: another program listens at port {', '.join(taken)}; stop it, "
            f"or choose another port in {STATE / 'settings.json'}"
        )
    with log_path(service).open("ab") as log:
        child = subprocess.Popen(  # noqa: S603
            service.command,
            env={**inherited(), **service.env, MARK: mark_of(service.name)},
            user=service.user,
            cwd="/" if service.user else ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = Process(child.pid, started_at(psutil.Process(child.pid)))
    record_path(service.name).write_text(json.dumps(asdict(process)), encoding="utf-8")


def inherited() -> dict[str, str]:
    """Return the part of this process' environment that services and commands of the stack get."""
    quiet = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)} | quiet


def wait(service: Service) -> None:
    """Return when a service is ready; end with its last lines if it died or takes too long."""
    begin = time.monotonic()
    while not service.is_ready():
        is_late = time.monotonic() - begin > START_TIMEOUT_S
        if is_late or running(service.name) is None:
            lines = log_path(service).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            what = f"was not ready after {START_TIMEOUT_S:.0f} s" if is_late else "ended"
            fail(f"{service.name} {what}; the last lines of {log_path(service)}:\n" + "\n".join(lines))
        time.sleep(POLL_S)
    say(f"{service.name} ready")


def running(name: str) -> Process | None:
    """Return a service's process if it is the one this stack started and still runs."""
    if not record_path(name).is_file():
        return None
    process = Process(**json.loads(record_path(name).read_text(encoding="utf-8")))
    try:
        found = psutil.Process(process.pid)
        is_ours = abs(started_at(found) - process.started_at) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_ours else None


def started_at(process: psutil.Process) -> float:
    """Return when a process began, on a clock that nobody sets."""
    return float(process.create_time() - psutil.boot_time())


def stop(services: Sequence[Service]) -> None:
    """Ask services to end, all at once; then end what is left of them and of what they started."""
    found = {service.name: process for service in services if (process := running(service.name))}
    family = [member for process in found.values() for member in family_of(process)]
    for service in services:
        if service.name in found:
            psutil.Process(found[service.name].pid).send_signal(service.stop_signal)
    _, late = psutil.wait_procs(family, timeout=max(service.stop_timeout_s for service in services))
    end({*late, *marked(services)})
    for service in services:
        record_path(service.name).unlink(missing_ok=True)
        if service.name in found:
            say(f"{service.name} stopped")


def end(processes: Collection[psutil.Process]) -> None:
    """Kill processes and return when they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)


def family_of(process: Process) -> list[psutil.Process]:
    """Return a process and its descendants."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def marked(services: Sequence[Service]) -> list[psutil.Process]:
    """Return what services started and still lives, also where the service itself is gone."""
    marks = {mark_of(service.name) for service in services}

    def is_marked(process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) in marks and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if is_marked(process)]


def mark_of(name: str) -> str:
    """Return what the processes of a service carry."""
    return f"{STATE}:{name}"


def log_path(service: Service) -> Path:
    """Return where a service writes."""
    return STATE / "logs" / f"{service.name}.log"


def record_path(name: str) -> Path:
    """Return where a service's process id is written down."""
    return STATE / f"{name}.process.json"


def request(port: int, method: str, path: str, body: str | None = None) -> bytes | None:
    """Return the body of a good answer from a loopback port, or None."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.read() if 200 <= response.status < 300 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
