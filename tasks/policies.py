"""How tasks behave when something fails, and who may use the GPU.

Prefect's own result caching is off everywhere: a stage's key already says whether its output is there, also across
machines and servers, and ``softalign plan`` shows it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from softalign.errors import SoftAlignError
from softalign.processes.metering import note_slot_wait
from tasks.attempts import RetryBudget, kept_by
from tasks.run_log import relay_library_log

logger = logging.getLogger("softalign.gpu_slot")
"""Below the library's own, so that its lines reach the log of the run."""

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS_S = (10.0, 60.0, 300.0)
"""Waits before the second, third and fourth attempt: a network hiccup, a restarting service, a longer outage.

So many attempts in a row may end no further than the one before; later waits are as long as the last."""
MAX_RETRIES = 1000
"""However far each attempt gets."""
_budget = RetryBudget(len(RETRY_DELAYS_S))
RETRY_JITTER = 0.3
"""Each wait is varied by this share, so that many runs do not come back at the same instant."""
GPU_LIMIT = "gpu"
"""Name of the global concurrency limit that holds one slot per GPU; where nobody created it, nothing is limited."""
SAID_AFTER_S = 1.0
"""A wait for a slot that is longer is said in the run's log."""
GPU_LEASE_S = 60.0
"""A holder that was killed gives its slot back after this long (measured: 63 s)."""
PERMANENT_OS_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Operating system errors that the same call would meet again."""


def is_worth_retrying(error: BaseException) -> bool:
    """Return whether the same call may succeed later: our retriable errors, timeouts and other passing OS errors."""
    if isinstance(error, SoftAlignError):
        return error.is_retriable
    if is_of_the_server(error):
        return True
    return isinstance(error, OSError) and not isinstance(error, PERMANENT_OS_ERRORS)


def is_of_the_server(error: BaseException) -> bool:
    """Return whether Prefect's server did not answer, or answered with an error of its own (5xx)."""
    if isinstance(error, PrefectHTTPStatusError):
        return bool(error.response.is_server_error)
    return is_transport_error(error)


def is_transport_error(error: BaseException) -> bool:
    """Return whether a server was not reached, by the library that Prefect's client uses: its choice, so by name."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def retry_condition(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Decide for Prefect whether a failed attempt is repeated: bad configuration and bad data never are.

    What may pass is repeated as long as attempts get further, however often, and else as often as there are waits.
    """
    error = state.data
    if not isinstance(error, BaseException) or not is_worth_retrying(error):
        return False
    return _budget.has_left(task_run.id, kept_by(error))


def stage_task(
    name: str, *, uses_gpu: bool = False, run_name: str | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator that makes a function a task with this module's policies.

    Args:
        name: of the task.
        uses_gpu: it may take a slot of the GPU limit; a tag says so.
        run_name: of its runs, with the function's parameters in braces; None: as Prefect names them.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        relay_library_log()
        return Task(
            function,
            name=name,
            task_run_name=run_name,
            tags=["softalign", *(["gpu"] if uses_gpu else [])],
            retries=MAX_RETRIES,
            retry_delay_seconds=list(RETRY_DELAYS_S),
            retry_jitter_factor=RETRY_JITTER,
            retry_condition_fn=retry_condition,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate


@contextmanager
def gpu_slot(device: str, *, is_needed: bool) -> Iterator[None]:
    """Hold one slot of the ``gpu`` limit, waiting for it as long as it takes.

    A lease that cannot be renewed (a server that is away for a moment) does not end the work: a GPU shared for a while
    costs less than a training run.

    Args:
        device: the recipe's device; with ``cpu`` no slot is taken.
        is_needed: False where the stage's output is already there, so that a rerun never waits.
    """
    if device == "cpu" or not is_needed or not _has_limit(GPU_LIMIT):
        yield
        return
    logger.info("Asking for a slot of the limit %s", GPU_LIMIT)
    asked = time.monotonic()
    with concurrency(
        GPU_LIMIT, occupy=1, strict=True, lease_duration=GPU_LEASE_S, raise_on_lease_renewal_failure=False
    ):
        waited_s = time.monotonic() - asked
        note_slot_wait(waited_s)
        if waited_s >= SAID_AFTER_S:
            logger.info("Waited %.0f s for a slot of the limit %s", waited_s, GPU_LIMIT)
        yield


def _has_limit(name: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return False
    return True
