"""How tasks behave when something fails.

Prefect's own result caching is off everywhere: a stage's key already says whether its output is there, also across
machines and servers, and ``softalign plan`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectHTTPStatusError

from softalign.errors import SoftAlignError
from tasks.attempts import RetryBudget, kept_by
from tasks.run_log import relay_library_log

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
        uses_gpu: it may need a GPU; a tag says so.
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
