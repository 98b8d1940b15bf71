"""A worker process as its pool sees it: started, killed, and what it died of."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from softalign.processes.leaving import shielded

NUM_CONNECTIONS = 4
"""Calls that one worker has at a time where items are small: as many wait for a store, and one computes."""
KEPT_BYTES = 2000
"""Of what a dead worker printed last."""


class WorkerProcess:
    """A running ``softalign.engines.worker``. It never outlives this process: its sockets end with it.

    It is a new interpreter, not a fork, so it inherits no thread, no lock and no open connection.

    Args:
        num_workers: how many share this machine.
    """

    def __init__(self, num_workers: int) -> None:
        pairs = [socket.socketpair() for _ in range(NUM_CONNECTIONS)]
        given = [theirs.fileno() for _, theirs in pairs]
        self._printed = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "softalign.engines.worker", str(os.getpid()), str(num_workers)]
        with shielded():  # from a terminal's Ctrl-C, which comes here too
            self._child = subprocess.Popen(  # noqa: S603
                [*command, *map(str, given)],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=given,
                env=_environment(),
            )
        for _, theirs in pairs:
            theirs.close()
        self.connections = tuple(Connection(ours.detach()) for ours, _ in pairs)

    def stop(self) -> None:
        """Kill it, if it is alive: what it publishes is whole at any moment."""
        with suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait()

    def last_words(self) -> str:
        """Wait for its end, which has begun, and return how it died and what it printed last."""
        try:
            code = self._child.wait(timeout=10.0)
        except subprocess.TimeoutExpired:  # it lost a socket and lives
            self.stop()
            code = self._child.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._printed.seek(max(0, self._printed.seek(0, os.SEEK_END) - KEPT_BYTES))
        printed = self._printed.read().decode("utf-8", "replace").strip()
        return f"{how}\n    {printed}" if printed else how


def _environment() -> dict[str, str]:
    """Return this process's environment, in which modules are found where they are found here."""
    places = dict.fromkeys(str(Path(place).resolve()) for place in sys.path)
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": os.pathsep.join(places)}
