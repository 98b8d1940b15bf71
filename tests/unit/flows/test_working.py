"""The worker that outlives its runs, without a server."""

from types import SimpleNamespace
from uuid import uuid4

import anyio
from prefect.client.schemas.objects import FlowRun


def test_a_run_that_is_queued_again_before_its_process_is_settled_waits():
    """Another worker, or the server's automation, may be faster than this one, which still holds the run's slot."""
    from flows.server.working import Worker

    async def offered_again():
        worker, run = Worker(work_pool_name="gpu"), FlowRun(id=uuid4(), flow_id=uuid4())
        worker._limiter = anyio.CapacityLimiter(2)
        worker.limiter.acquire_on_behalf_of_nowait(run.id)
        return await worker._submit_scheduled_flow_runs([SimpleNamespace(flow_run=run)])

    assert anyio.run(offered_again) == []
