"""Runs whose process is gone go on: each is looked at, and settled by the state it is in at that moment.

Several may do this at once: each reads the state again before it proposes another, nothing is forced, and the server
refuses to crash a run that has finished. Silence is measured by the one who looks, on its own clock, and from its first
look: neither a clock that is off nor a server that was away for a while makes a living run look lost.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed

from flows.server.asking import (
    OPEN,
    open_runs,
    progress_of,
    server_time,
    sign_of_life,
    unknown_parameters,
    was_cancelling,
)
from flows.server.decision import Action, Limits, Owner, Sight, decide
from flows.server.ownership import MACHINE, is_own, owner_of

logger = logging.getLogger("softalign.recover")
NUM_RECOVERIES, PROGRESS = "softalign.recoveries", "softalign.progress"
"""Labels of a run: how often it was taken up without progress, and how far it was then."""
DUE_SINCE = timedelta(days=1)
"""A run that is queued again is due at once, also if the server's clock is set back before somebody takes it."""
UNSIGNED_S = 20.0
"""A state younger than this may be one whose worker has not signed yet: an earlier owner's signature says nothing."""


class Recoverer:
    """Looks at the runs of some work pools, again and again.

    Args:
        pools: names of the work pools.
        limits: when a run counts as lost.
        max_gap_s: looks that are further apart start anew: the server was away meanwhile, and missed signs of life.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        pools: Sequence[str],
        limits: Limits | None = None,
        max_gap_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pools, self._limits, self._max_gap_s, self._clock = list(pools), limits or Limits(), max_gap_s, clock
        self._looked_at = -math.inf
        self._seen: dict[UUID, tuple[str, float]] = {}

    def look(self) -> dict[UUID, Action]:
        """Settle the runs of the pools that have lost their process; return what was done, by run.

        Raises:
            httpx.HTTPError: the server did not answer; what was seen before is forgotten, as signs of life were missed.
        """
        done: dict[UUID, Action] = {}
        try:
            with get_client(sync_client=True) as client:
                runs = open_runs(client, self._pools)
                signs = {run.id: sign_of_life(client, run) for run in runs}
                now = self._clock()
                self._note(signs, now)
                for run in runs:
                    action = settle(client, run.id, self._limits, silent_s=now - self._seen[run.id][1])
                    if action is not Action.LEAVE:
                        done[run.id] = action
        except Exception:
            self._seen = {}
            raise
        return done

    def _note(self, signs: dict[UUID, str], now: float) -> None:
        """Keep since when each run has given no other sign of life."""
        before = self._seen if now - self._looked_at <= self._max_gap_s else {}
        kept = {key: seen for key, seen in before.items() if signs.get(key) == seen[0]}
        self._seen = {key: kept.get(key, (sign, now)) for key, sign in signs.items()}
        self._looked_at = now


class Watch:
    """Looks at one run, which its server has found silent, again and again.

    Args:
        run_id: of the flow run.
        confirm_s: it is lost if between two looks, so far apart, it gave no sign of life.
    """

    def __init__(self, run_id: UUID, confirm_s: float) -> None:
        self._run_id, self._confirm_s = run_id, confirm_s
        self._seen: tuple[str, float] | None = None
        self.is_open = False
        """Whether the run was in a state that needs somebody, at the last look."""

    def look(self) -> Action:
        """Settle the run if it is lost; return what was done."""
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(self._run_id)
            self.is_open = run.state is not None and run.state.type.value in OPEN
            sign, now = sign_of_life(client, run), time.monotonic()
            if self._seen is None or self._seen[0] != sign:
                self._seen = (sign, now)
            limits = Limits(silent_s=self._confirm_s, pending_s=self._confirm_s)
            return settle(client, self._run_id, limits, silent_s=now - self._seen[1])


def recover(run_id: UUID, *, is_stopped: bool = False, limits: Limits | None = None) -> Action:
    """Settle one run whose process this worker has seen end; return what was done.

    Args:
        run_id: of the flow run.
        is_stopped: it was stopped on purpose, which does not count as a loss.
        limits: how often it is taken up.
    """
    with get_client(sync_client=True) as client:
        return settle(client, run_id, limits or Limits(), has_ended=True, is_counted=not is_stopped)


def settle(
    client: SyncPrefectClient,
    run_id: UUID,
    limits: Limits,
    *,
    silent_s: float = 0.0,
    has_ended: bool = False,
    is_counted: bool = True,
) -> Action:
    """Look at a run, and do what `decide` says; return what was done (LEAVE: another one was faster, or it had ended).

    Args:
        client: of the server.
        run_id: of the flow run.
        limits: when it counts as lost.
        silent_s: since its last sign of life.
        has_ended: the present process ran it, and it has ended; False: look.
        is_counted: this is a loss; False: it was stopped on purpose.
    """
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:
        return Action.LEAVE
    if run.state is None or run.state.type.value not in OPEN:
        return Action.LEAVE
    progress = progress_of(client, run)
    num_before = int(run.labels.get(NUM_RECOVERIES, 0)) if run.labels.get(PROGRESS) == progress else 0
    sight = _sight(client, run, silent_s, num_before, has_ended=has_ended)
    action = decide(sight, limits)
    if action is Action.LEAVE or client.read_flow_run(run_id).state_id != run.state_id:
        return Action.LEAVE
    if action in {Action.RESCHEDULE, Action.CRASH_AND_RESCHEDULE}:
        if _is_refused(client, run):
            return Action.GIVE_UP
        _unsign(client, run_id, num_before + is_counted, progress)
    if not _apply(client, run, action, sight, is_stop=not is_counted):
        return Action.LEAVE
    logger.warning("%s: %s (it was %s)", run.name, action.value, run.state.name)
    return action


def _is_refused(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Let a run fail whose parameters no process can begin with; return whether that was so."""
    unknown, known = unknown_parameters(client, run)
    text = f"The flow has no parameter {', '.join(map(repr, unknown))}; it takes {', '.join(known)}: start another run."
    return bool(unknown) and _propose(client, run.id, Failed(message=text))


def _unsign(client: SyncPrefectClient, run_id: UUID, num_recoveries: int, progress: str) -> None:
    """Take the lost owner's signature off a run, and count."""
    client.update_flow_run_labels(run_id, {MACHINE: "", NUM_RECOVERIES: num_recoveries, PROGRESS: progress})


def _sight(client: SyncPrefectClient, run: FlowRun, silent_s: float, num_before: int, *, has_ended: bool) -> Sight:
    if run.state is None:
        raise ValueError("a run that is looked at has a state")
    states = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    age_s = max(0.0, (server_time(client) - run.state.timestamp).total_seconds())
    if has_ended:
        owner = Owner.GONE if is_own(run.labels) else Owner.ALIVE  # another worker has taken it meanwhile
    else:
        owner = owner_of(str(run.id), run.labels, run.infrastructure_pid)
        if owner is Owner.GONE and run.state.type is StateType.PENDING and age_s < UNSIGNED_S:
            owner = Owner.ALIVE
    return Sight(
        state=run.state.type.value,
        owner=owner,
        silent_s=silent_s,
        state_age_s=age_s,
        num_recoveries=num_before,
        was_cancelling=was_cancelling(states),
    )


def _apply(client: SyncPrefectClient, run: FlowRun, action: Action, sight: Sight, *, is_stop: bool) -> bool:
    """Propose the action's states, and return whether the server took them; none is forced."""
    name = run.state.name if run.state else "unknown"
    why = "Its worker was stopped." if is_stop else f"Its process was lost in the state {name}."
    if action is Action.CANCEL:
        return _propose(client, run.id, Cancelled(message=f"{why} It was being cancelled."))
    if action is Action.GIVE_UP:
        text = (
            f"{why} It was lost {sight.num_recoveries + 1} times without getting any further, so it is given up: "
            "look at the worker's log and memory, then retry the run; what is published and checkpointed is reused."
        )
        return _propose(client, run.id, Failed(message=text))
    if action is Action.CRASH_AND_RESCHEDULE and not _propose(client, run.id, Crashed(message=why)):
        return False  # it has finished meanwhile
    due, text = server_time(client) - DUE_SINCE, f"{why} It goes on at its last checkpoint."
    return _propose(client, run.id, AwaitingRetry(scheduled_time=due, message=text))


def _propose(client: SyncPrefectClient, run_id: UUID, state: State[Any]) -> bool:
    return bool(client.set_flow_run_state(run_id, state).status.value == "ACCEPT")
