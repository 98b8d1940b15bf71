"""Prefect's ephemeral server, started so that it outlives the Ctrl-C that stops the flow, but never the flow."""

from __future__ import annotations

import os
import subprocess

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from softalign.processes.leaving import shielded
from softalign.store.read_ahead import ReadAhead

CHECK_INTERVAL_S = 0.2


def start_server() -> None:
    """Start the ephemeral server and wait until it answers; where another one is configured do nothing.

    Prefect starts it with the first client, in the terminal's foreground group: there a Ctrl-C would end it at the same
    moment, and the flow, which has to tell it what happened, would ask a dead server again and again (measured: 155 s).

    Raises:
        RuntimeError: it did not start in time.
    """
    if get_current_settings().api.url is not None:
        return
    from prefect.server.api.server import SubprocessASGIServer  # half of all that a flow's process would load

    # in a thread, since that blocks the signals which this one must hear meanwhile
    starting = ReadAhead(_start, ("server",))
    server = SubprocessASGIServer()  # the one that clients share
    is_started, guarded = False, None
    while not is_started:
        is_started = starting.get(CHECK_INTERVAL_S) is not None
        process = server.server_process
        if process is not None and process is not guarded:  # Prefect starts another where somebody took the port
            _guard(process.pid)
            guarded = process


def _start(_name: str) -> bool:
    with shielded():
        get_client(sync_client=True)
    return True


def _guard(pid: int) -> None:
    """Let a process end with this one, though this one be killed: a shell waits for a pipe that we leave open."""
    reader, _writer = os.pipe()
    with shielded():
        subprocess.Popen(["/bin/sh", "-c", 'read -r _; kill "$0"', str(pid)], stdin=reader, stderr=subprocess.DEVNULL)  # noqa: S603
    os.close(reader)
