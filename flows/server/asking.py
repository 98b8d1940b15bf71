"""What a server knows of the runs under way: which they are, their signs of life, how far they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, TaskRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, StateType

OPEN = ("PENDING", "RUNNING", "CANCELLING", "CRASHED")
HEARTBEAT = "prefect.flow-run.heartbeat"
PAGE = 200
FoundT = TypeVar("FoundT")


def open_runs(client: SyncPrefectClient, pools: Sequence[str]) -> list[FlowRun]:
    """Return the runs of some work pools that are under way, or have crashed."""
    runs = FlowRunFilter.model_validate({"state": {"type": {"any_": OPEN}}, "deployment_id": {"is_null_": False}})
    in_pools = WorkPoolFilter.model_validate({"name": {"any_": list(pools)}})
    return list(_all(partial(client.read_flow_runs, flow_run_filter=runs, work_pool_filter=in_pools)))


def _all(read: Callable[..., list[FoundT]]) -> Iterator[FoundT]:
    """Yield what a question finds, page by page."""
    for offset in itertools.count(0, PAGE):
        page = read(limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return


def silent_runs(client: SyncPrefectClient, pools: Sequence[str]) -> list[tuple[FlowRun, float]]:
    """Return the runs under way, and for how many seconds each has given no sign of life, by the server's clock."""
    now = server_time(client)
    found = []
    for run in open_runs(client, pools):
        if run.state is not None and run.state.type == StateType.RUNNING:
            heartbeat = _last_heartbeat(client, run)
            moments = [run.state.timestamp, *([datetime.fromisoformat(heartbeat["occurred"])] if heartbeat else [])]
            found.append((run, (now - max(moments)).total_seconds()))
    return found


def sign_of_life(client: SyncPrefectClient, run: FlowRun) -> str:
    """Return what changes as long as a run lives: its state, and its last heartbeat."""
    heartbeat = _last_heartbeat(client, run)
    return f"{run.state_id} {heartbeat['id'] if heartbeat else ''}"


def _last_heartbeat(client: SyncPrefectClient, run: FlowRun) -> dict[str, Any] | None:
    wanted = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        # by default up to now, on a clock that may be off
        "occurred": {"since": "2020-01-01T00:00:00Z", "until": "2200-01-01T00:00:00Z"},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    answer.raise_for_status()
    events = answer.json()["events"]
    return dict(events[0]) if events else None


def progress_of(client: SyncPrefectClient, run: FlowRun) -> str:
    """Return how far a run has come in all its attempts: its finished tasks, and the furthest point of each count."""
    this_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    completed = TaskRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}})
    done = _all(partial(client.read_task_runs, flow_run_filter=this_run, task_run_filter=completed))
    counts = ArtifactFilter.model_validate({"type": {"any_": ["progress"]}})
    furthest: dict[str | None, float] = {}
    for artifact in _all(partial(client.read_artifacts, flow_run_filter=this_run, artifact_filter=counts)):
        if isinstance(artifact.data, int | float):
            furthest[artifact.key] = max(furthest.get(artifact.key, 0.0), float(artifact.data))
    num_tasks = len({task.name for task in done})  # reused ones are done anew in every attempt
    return f"{num_tasks} tasks, {sum(furthest.values()):.2f} %"


def was_cancelling(states: Sequence[State[Any]]) -> bool:
    """Return whether somebody cancelled the run since it was last scheduled."""
    for state in reversed(states):
        if state.type is StateType.SCHEDULED:
            return False
        if state.type is StateType.CANCELLING:
            return True
    return False


def server_time(client: SyncPrefectClient) -> datetime:
    """Return the server's time of day: states carry it, and the clock of this machine may be off."""
    return parsedate_to_datetime(client.request("GET", "/health").headers["date"])


def seconds_behind(client: SyncPrefectClient) -> float:
    """Return the seconds that this machine's clock is behind the server's: a worker sees so late that runs are due."""
    return (server_time(client) - datetime.now(UTC)).total_seconds()


def unknown_parameters(client: SyncPrefectClient, run: FlowRun) -> tuple[list[str], list[str]]:
    """Return the parameters of a run that its flow does not know, and those that it knows.

    The server takes them with a request; no process can begin such a run.
    """
    if run.deployment_id is None:
        return [], []
    known = client.read_deployment(run.deployment_id).parameter_openapi_schema or {}
    names = sorted(known.get("properties", {}))
    return sorted(set(run.parameters) - set(names)) if names else [], names
