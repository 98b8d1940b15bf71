"""The worker that outlives its runs, without a server."""

from contextlib import nullcontext
from types import SimpleNamespace
from uuid import uuid4

import anyio
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
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


def test_a_run_whose_deployment_was_removed_gives_its_slot_back(monkeypatch):
    """Else a worker with a limit would take no run ever after."""
    from flows.server.working import Worker

    async def gone(_deployment_id):
        raise ObjectNotFound(Exception("404"))

    async def cancelled(*_args, **_options):
        return None

    async def slots_after():
        worker, run = Worker(work_pool_name="gpu"), FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=uuid4())
        worker._limiter, worker._client = anyio.CapacityLimiter(1), SimpleNamespace(read_deployment=gone)
        monkeypatch.setattr(worker, "_mark_flow_run_as_cancelled", cancelled)
        worker.limiter.acquire_on_behalf_of_nowait(run.id)
        worker._submitting_flow_run_ids.add(run.id)
        await worker._submit_run(run)
        return worker.limiter.available_tokens

    assert anyio.run(slots_after) == 1


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


@pytest.mark.parametrize(("behind_s", "is_said"), [(600.0, True), (2.0, False), (-600.0, False)])
def test_a_clock_that_is_behind_is_said(monkeypatch, caplog, behind_s, is_said):
    from flows.server import working

    monkeypatch.setattr(working, "get_client", lambda **_: nullcontext(None))
    monkeypatch.setattr(working, "seconds_behind", lambda _client: behind_s)
    working._look_at_clock()
    assert ("clock is 600 s behind the server's" in caplog.text) is is_said
