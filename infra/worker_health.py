"""Exit code 0 if the Prefect server sees this machine's worker: ``python infra/worker_health.py POOL``.

The worker is started with the machine's name (``--name "$(hostname)"``). For probes of readiness only: a server that is
away for a while is no reason to stop a worker whose runs go on.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import urllib.request


def is_online(pool: str, name: str) -> bool:
    """Return whether the server at ``PREFECT_API_URL`` has heard from this worker of the pool lately."""
    url = f"{os.environ['PREFECT_API_URL']}/work_pools/{pool}/workers/filter"
    headers = {"Content-Type": "application/json"}
    if credentials := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    asked = urllib.request.Request(url, b"{}", headers, method="POST")  # noqa: S310 - the operator's own server
    with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
        workers = json.load(answer)
    return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in workers)


if __name__ == "__main__":
    sys.exit(0 if is_online(sys.argv[1], socket.gethostname()) else 1)
