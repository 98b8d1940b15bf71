"""Prefect's process worker with an end in order: see ``flows.worker``."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Self
from uuid import UUID

import anyio
import anyio.to_thread
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound
from prefect.runner._flow_run_executor import FlowRunExecutorContext
from prefect.workers import process
from prefect.workers.process import ProcessWorker

from flows.server.asking import seconds_behind
from flows.server.automations import install
from flows.server.ownership import MACHINE, is_own, signature
from flows.server.recover import Recoverer, recover
from flows.worker_settings import WorkerOptions
from tasks.policies import is_of_the_server

logger = logging.getLogger("prefect.workers.softalign")
POLL_S = 0.2
GAP_SLACK_S = 15.0
"""What a look may take; one that takes longer waited for a server that was away."""
MAX_BEHIND_S = 30.0
"""So much later than they are due, runs may start without a word."""
SETTLING_S = 30.0
"""How long a stopping worker waits for the server; what it cannot say there, the next worker finds."""


class OpenContext(FlowRunExecutorContext):
    """The context of one run's process, known as long as it is open."""

    opened: ClassVar[set[OpenContext]] = set()

    async def __aenter__(self) -> Self:
        """Open it."""
        await super().__aenter__()
        self.opened.add(self)
        return self

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        """Close it."""
        self.opened.discard(self)
        return await super().__aexit__(*exc_info)

    async def stop(self, told: set[UUID]) -> None:
        """Tell the processes that are not told yet to stop; the engine leaves the run's state to us."""
        for run_id in self.process_manager.flow_run_ids() - told:
            told.add(run_id)
            await self.control_channel.signal(run_id, "reschedule")
            self._each(run_id, "graceful_kill")

    def kill(self) -> None:
        """End the processes."""
        for run_id in self.process_manager.flow_run_ids():
            self._each(run_id, "hard_kill")

    def _each(self, run_id: UUID, method: str) -> None:
        handle = self.process_manager.get(run_id)
        if handle is not None:
            with suppress(ProcessLookupError):
                getattr(handle, method)()


class Worker(ProcessWorker):
    """Prefect's process worker, whose runs survive it."""

    _is_stopping = False

    def __init__(self, *args: Any, **options: Any) -> None:
        """Make a worker; the arguments are those of Prefect's."""
        super().__init__(*args, **options)
        self._taken: set[UUID] = set()
        """Runs that were taken and are not settled yet."""

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take the runs that are due; none while stopping."""
        return [] if self._is_stopping else await super().get_and_submit_flow_runs()

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        """Submit runs; later those whose last process is not settled here yet, though another one queued them again.

        Prefect's worker would end by asking for the slot that such a run still holds.
        """
        held = self.limiter.statistics().borrowers
        return await super()._submit_scheduled_flow_runs(
            [entry for entry in flow_run_response if entry.flow_run.id not in held]
        )

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Submit a run; one that does not come to run gives its slot back.

        Prefect's worker keeps the slot of a run whose deployment was removed, and with a limit takes no run ever after.
        """
        try:
            await super()._submit_run(flow_run)
        finally:
            if flow_run.id not in self._taken:
                self._release_limit_slot(flow_run.id)

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """Sign a run, so that others can tell whether its owner lives."""
        await super()._give_worker_labels_to_flow_run(flow_run_id)
        await self.client.update_flow_run_labels(flow_run_id, dict(signature()))

    async def _propose_crashed_state(
        self, flow_run: FlowRun, message: str, client: PrefectClient | None = None
    ) -> None:
        """Say that a run crashed, unless another one has queued it again or taken it since its process ended."""
        try:
            run = await (client or self.client).read_flow_run(flow_run.id)
        except ObjectNotFound:
            return
        except Exception as error:
            if not is_of_the_server(error):
                raise
            logger.warning("That %s crashed could not be said, as the server did not answer: %s", flow_run.name, error)
            return  # whoever looks next finds its process gone
        is_of_others = run.labels.get(MACHINE) and not is_own(run.labels)
        if not is_of_others and not (run.state and run.state.is_scheduled()):
            await super()._propose_crashed_state(flow_run, message, client)

    async def _submit_run_and_capture_errors(self, flow_run: FlowRun, task_status: Any = None) -> Any:
        """Run a flow run, and queue it again if it was lost: its process has ended by then."""
        self._taken.add(flow_run.id)
        try:
            result = await super()._submit_run_and_capture_errors(flow_run, task_status)
            await _say_at_most(partial(recover, flow_run.id, is_stopped=self._is_stopping))
            return result
        finally:
            self._taken.discard(flow_run.id)

    async def end_runs(self, grace_s: float) -> None:
        """Take no more runs, and return when those under way have ended and are queued again."""
        self._is_stopping = True
        told: set[UUID] = set()
        with anyio.move_on_after(grace_s) as limit:
            while OpenContext.opened or self._submitting_flow_run_ids:
                for context in list(OpenContext.opened):
                    await context.stop(told)
                await anyio.sleep(POLL_S)
        if limit.cancelled_caught:
            logger.warning(
                "The flows did not end within %.0f s and are killed; they go on at their checkpoints", grace_s
            )
            for context in list(OpenContext.opened):
                context.kill()
        with anyio.move_on_after(SETTLING_S):
            while self._taken or self._submitting_flow_run_ids:
                await anyio.sleep(POLL_S)


def work(options: WorkerOptions) -> None:
    """Work until SIGTERM or SIGINT."""
    # the worker makes one for each run, by this name
    process.FlowRunExecutorContext = OpenContext  # type: ignore[attr-defined]
    anyio.run(_work, options)


async def _work(options: WorkerOptions) -> None:
    worker = Worker(work_pool_name=options.pool, name=options.name, limit=options.limit)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.start)
        group.start_soon(_look_after_runs, options)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
            logger.info("Stopping: the flows get up to %.0f s to write their checkpoints", options.grace_s)
            await worker.end_runs(options.grace_s)
            group.cancel_scope.cancel()


async def _look_after_runs(options: WorkerOptions) -> None:
    recoverer = Recoverer([options.pool], max_gap_s=options.look_every_s + GAP_SLACK_S)
    while True:
        await _say_at_most(partial(_look, recoverer))
        await _say_at_most(partial(install, options.pool))
        await anyio.sleep(options.look_every_s)


def _look(recoverer: Recoverer) -> None:
    recoverer.look()
    _look_at_clock()


def _look_at_clock() -> None:
    """Say that runs will start late, where this machine's clock is behind: Prefect's worker goes by its own."""
    with get_client(sync_client=True) as client:
        behind_s = seconds_behind(client)
    if behind_s > MAX_BEHIND_S:
        logger.warning("This machine's clock is %.0f s behind the server's: runs start that much late here", behind_s)


async def _say_at_most(call: Any) -> None:
    """Call it in a thread; what goes wrong is said, and tried again at the next look: other runs are under way."""
    try:
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
    except Exception as error:
        if is_of_the_server(error):
            logger.warning("Runs without a process were not looked for, as the server did not answer: %s", error)
        else:
            logger.exception("Runs without a process could not be looked for")
