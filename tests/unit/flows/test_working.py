"""The worker that outlives its runs, without a server."""

from types import SimpleNamespace
from uuid import uuid4

import anyio
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending, Running, Scheduled
from prefect.workers.process import ProcessWorker

from flows.server.ownership import MACHINE, WORKER_PID, signature


def test_a_run_that_is_queued_again_before_its_process_is_settled_waits():
    """Another worker, or the server's automation, may be faster than this one, which still holds the run's slot."""
    from flows.server.working import Worker

    async def offered_again():
        worker, run = Worker(work_pool_name="gpu"), FlowRun(id=uuid4(), flow_id=uuid4())
        worker._limiter = anyio.CapacityLimiter(2)
        worker.limiter.acquire_on_behalf_of_nowait(run.id)
        return await worker._submit_scheduled_flow_runs([SimpleNamespace(flow_run=run)])

    assert anyio.run(offered_again) == []


@pytest.mark.parametrize(
    ("state", "labels", "is_said"),
    [
        (Running(), signature(), True),
        (Pending(), {}, True),  # not signed yet: submitting it failed
        (Scheduled(), {MACHINE: ""}, False),
        (Running(), {**signature(), WORKER_PID: "1"}, False),
    ],
    ids=["own", "unsigned", "queued again", "of another"],
)
def test_only_a_run_that_nobody_else_has_taken_up_is_said_to_have_crashed(monkeypatch, state, labels, is_said):
    from flows.server.working import Worker

    run, said = FlowRun(id=uuid4(), flow_id=uuid4(), state=state, labels=labels), []

    async def read(_run_id):
        return run

    async def say(_worker, given, *_rest):
        said.append(given.id)

    monkeypatch.setattr(ProcessWorker, "_propose_crashed_state", say)
    client = SimpleNamespace(read_flow_run=read)
    anyio.run(Worker(work_pool_name="gpu")._propose_crashed_state, run, "its process has ended", client)
    assert said == [run.id] * is_said
