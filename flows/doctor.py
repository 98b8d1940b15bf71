"""The orchestrator's part of ``softalign doctor``: ``python -m flows.doctor [--fix]`` prints its findings as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlsplit

from prefect import __version__ as client_version
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from flows.console import has_server, server_error
from flows.deployments import DEPLOYMENTS
from flows.server.asking import seconds_behind, silent_runs
from flows.server.automations import DEPLOYMENT as RECOVERY
from flows.server.automations import SILENT_S, automations, install
from flows.server.pools import POOLS
from flows.server.recover import Recoverer
from softalign.doctor.finding import Check, Finding, examine, failed, ok, skipped, warning
from softalign.doctor.places import LARGE_SKEW_S

RECOVERY_POOL = next(one.pool for one in DEPLOYMENTS if one.full_name == RECOVERY)


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
            Check("deployments", lambda: _look_at_deployments(client)),
            Check("automations", lambda: _look_at_automations(client), mend=lambda: install(RECOVERY_POOL)),
            Check("lost runs", lambda: _look_at_runs(client), mend=lambda: Recoverer(POOLS).look()),
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
    try:
        skew_s = -seconds_behind(client)
    except KeyError:  # a proxy between has left the date out
        return skipped("server clock", "the server does not say its time")
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


def _look_at_deployments(client: SyncPrefectClient) -> Finding:
    """Return whether the flows are deployed, to the pools that they belong to."""
    present = {deployment.name: deployment for deployment in client.read_deployments() if deployment.name is not None}
    absent = [one.full_name for one in DEPLOYMENTS if one.name not in present]
    if absent:
        return warning("deployments", f"not there: {', '.join(absent)}", "softalign deploy")
    elsewhere = [one.full_name for one in DEPLOYMENTS if present[one.name].work_pool_name != one.pool]
    if elsewhere:
        return warning("deployments", f"to another pool: {', '.join(elsewhere)}", "softalign deploy")
    return ok("deployments", f"{len(DEPLOYMENTS)} flows")


def _look_at_automations(client: SyncPrefectClient) -> Finding:
    """Return whether the server starts somebody who looks, where a run is silent or has crashed."""
    try:
        deployment = client.read_deployment_by_name(RECOVERY)
    except ObjectNotFound:
        return warning("automations", f"no deployment {RECOVERY}, which they start", "softalign deploy")
    wanted = automations(deployment.id)
    found = {one.name: one for each in wanted for one in client.read_automations_by_name(each.name)}
    absent = [one.name for one in wanted if one.name not in found]
    stale = [one.name for one in wanted if one.name in found and found[one.name].description != one.description]
    off = [one.name for one in wanted if one.name in found and not found[one.name].enabled]
    if absent or stale:
        said = "; ".join([*(f"no {name!r}" for name in absent), *(f"{name!r} is an older one" for name in stale)])
        return failed("automations", said, "softalign deploy", is_fixable=True)
    if off:
        return warning("automations", f"switched off: {', '.join(off)}", "switch them on in Prefect's page")
    return ok("automations", ", ".join(f"{one.name!r}" for one in wanted))


def _look_at_runs(client: SyncPrefectClient) -> Finding:
    """Return which runs look lost: no sign of life for so long that their process is likely gone."""
    silent = [run.name for run, silent_s in silent_runs(client, POOLS) if silent_s > SILENT_S]
    if silent:
        fix = "a worker of their pool sees to them within minutes"
        return warning("lost runs", f"no sign of life: {', '.join(silent[:5])}", fix, is_fixable=True)
    return ok("lost runs", "every open run gave a sign of life")


if __name__ == "__main__":
    sys.exit(main())
