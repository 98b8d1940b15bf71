"""See to one run that may have lost its process; the server's automations start it."""

from __future__ import annotations

import time
from uuid import UUID

from prefect import flow

from flows.server.decision import Action
from flows.server.recover import Watch


@flow(name="softalign-recover", flow_run_name="recover-{run}", persist_result=False)
def recover_run(run: str, confirm_s: float = 45.0) -> str:
    """Look at a run, wait for a sign of life, look again, and settle it if there was none.

    Args:
        run: its id, or the name that events give it (``prefect.flow-run.ID``).
        confirm_s: the wait; longer than the time between two heartbeats.

    Returns:
        What was done.
    """
    watch = Watch(UUID(run.removeprefix("prefect.flow-run.")), confirm_s)
    action = watch.look()
    if action is Action.LEAVE and watch.is_open:
        time.sleep(confirm_s + 1.0)
        action = watch.look()
    return action.value
