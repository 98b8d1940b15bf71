"""What a worker and its flows need from Prefect's settings so that they outlast faults: in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

HARDENED = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # a request is repeated after 2, 4, ... 512 s: a server or database that is away for 10 minutes ends no run
    "PREFECT_CLIENT_MAX_RETRIES": "9",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
}
"""Environment of workers; what is set already stays as it is."""


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker runs."""

    pool: str
    name: str | None = None
    limit: int = 1
    """Runs at a time."""
    grace_s: float = 120.0
    """How long flows that are stopped may take for a last step, a checkpoint, and its upload."""
    look_every_s: float = 60.0
    """How often runs are looked for that have lost their process."""


def harden() -> None:
    """Set the environment for this process and what it starts; before Prefect is imported."""
    for name, value in HARDENED.items():
        os.environ.setdefault(name, value)
