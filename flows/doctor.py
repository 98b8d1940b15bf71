"""The orchestrator's part of ``softalign doctor``: ``python -m flows.doctor [--fix]`` prints its findings as JSON."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from prefect import __version__ as client_version
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from flows.console import has_server, server_error
from softalign.doctor.finding import Check, Finding, examine, failed, ok, skipped, warning
from softalign.doctor.places import LARGE_SKEW_S

POOLS = ("cpu", "gpu")
"""Work pools that the deployments name."""


def main() -> int:
    """Print the findings as a JSON list."""
    findings = server_findings(is_mending="--fix" in sys.argv[1:])
    sys.stdout.write(json.dumps([one.model_dump(mode="json") for one in findings]) + "\n")
    return 0


def server_findings(*, is_mending: bool) -> tuple[Finding, ...]:
    """Return what the checks of the server found; one finding where it does not answer or is none."""
    if not has_server():
        return (skipped("server", "no PREFECT_API_URL: each run starts a server of its own"),)
    reached = _look_at_server()
    if reached.status == "failed":
        return (reached,)
    with get_client(sync_client=True) as client:
        checks = (
            Check("server database", lambda: _look_at_database(client)),
            Check("server clock", lambda: _look_at_clock(client)),
            Check("work pools", lambda: _look_at_pools(client)),
        )
        return (reached, *examine(checks, is_mending=is_mending))


def _look_at_server() -> Finding:
    """Return whether the server answers, lets us in, and has this client's version."""
    where = _place()
    try:
        with get_client(sync_client=True) as client:
            version = json.loads(client._client.get("/admin/version").text)
    except PrefectHTTPStatusError as error:
        fix = "set PREFECT_API_AUTH_STRING to the server's" if error.response.status_code == 401 else "look at its log"
        return failed("server", f"{where} answers HTTP {error.response.status_code}", fix)
    except Exception as error:
        known = server_error(error)
        if known is None:
            raise
        return failed("server", f"{where} did not answer", known.fix)
    if _release(version) != _release(client_version):
        fix = "run the same 3.x release on both sides: infra/constraints.txt has the tested one"
        return warning("server", f"{where} is Prefect {version}, this client is {client_version}", fix)
    return ok("server", f"{where}, Prefect {version}")


def _place() -> str:
    parts = urlsplit(get_current_settings().api.url or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _settings(client: SyncPrefectClient) -> dict[str, Any]:
    return dict(client._client.get("/admin/settings").json())


def _look_at_database(client: SyncPrefectClient) -> Finding:
    """Return which database the server has: its automations lock one another out on SQLite (measured)."""
    said = _settings(client).get("server", {}).get("database", {})
    driver = str(said.get("driver") or "")
    hidden = str(said.get("connection_url") or "")
    if "sqlite" in f"{driver} {hidden}":
        fix = "give the server Postgres (PREFECT_API_DATABASE_CONNECTION_URL): on SQLite lost runs are not recovered"
        return warning("server database", "SQLite", fix)
    return ok("server database", driver or "not SQLite")


def _look_at_clock(client: SyncPrefectClient) -> Finding:
    date = client._client.get("/health").headers.get("date")
    if date is None:
        return skipped("server clock", "the server does not say its time")
    skew_s = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    if abs(skew_s) > LARGE_SKEW_S:
        return failed(
            "server clock", f"{skew_s:+.0f} s off", "set the clocks (NTP): schedules and heartbeats go by them"
        )
    return ok("server clock", f"within {abs(skew_s):.0f} s")


def _look_at_pools(client: SyncPrefectClient) -> Finding:
    """Return whether there are the pools that the deployments name, and somebody who serves them."""
    pools = {pool.name: pool for pool in client.read_work_pools()}
    absent = [name for name in POOLS if name not in pools]
    if absent:
        return warning("work pools", f"no {' and no '.join(absent)}", "softalign deploy makes them")
    unserved = [name for name in POOLS if str(pools[name].status) not in {"WorkPoolStatus.READY", "READY"}]
    if unserved:
        return warning("work pools", f"no worker for {' and '.join(unserved)}", "python -m flows.worker --pool NAME")
    return ok("work pools", ", ".join(POOLS))


if __name__ == "__main__":
    sys.exit(main())
