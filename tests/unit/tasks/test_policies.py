"""What is worth a second attempt, and when a GPU slot is taken."""

from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Completed, Failed

from softalign import errors
from tasks import policies
from tasks.attempts import remember
from tasks.stages import TASKS


def answered(status):
    """Return the error of a request that Prefect's server answered with a status."""
    request = httpx.Request("POST", "http://127.0.0.1/api/artifacts/")
    return PrefectHTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def task_run():
    return SimpleNamespace(id=uuid4())


@pytest.mark.parametrize(
    ("error", "is_worth_it"),
    [
        (errors.StorageUnavailableError("The store is away."), True),
        (errors.LeaseLostError("Another one holds it."), True),
        (errors.WorkerDiedError("The child died."), True),
        (errors.PreemptedError("Stopped."), True),
        (errors.ConfigError("A bad field."), False),
        (errors.DataError("Bad data."), False),
        (errors.IntegrityError("Changed bytes."), False),
        (errors.MissingInputError("Nothing there."), False),
        (errors.TrainingError("Not finite."), False),
        (TimeoutError("too slow"), True),
        (ConnectionResetError("gone"), True),
        (OSError(5, "Input/output error"), True),
        (FileNotFoundError("nowhere"), False),
        (PermissionError("no"), False),
        (ValueError("a bug"), False),
        (KeyboardInterrupt(), False),
        (httpx.ConnectError("Prefect's server is away"), True),
        (httpx.ReadTimeout("Prefect's server is slow"), True),
        (answered(500), True),
        (answered(503), True),
        (answered(404), False),
        (answered(422), False),
    ],
)
def test_what_is_retried(error, is_worth_it):
    assert policies.is_worth_retrying(error) is is_worth_it
    assert policies.retry_condition(TASKS["curate"], task_run(), Failed(data=error)) is is_worth_it


def test_a_state_without_an_error_is_not_retried():
    assert not policies.retry_condition(TASKS["curate"], task_run(), Completed(data="fine"))


def test_attempts_that_get_further_are_repeated_and_those_that_do_not_a_few_times():
    run, died = task_run(), [errors.WorkerDiedError("The child died.") for _ in range(20)]

    def is_repeated(number, kept):
        remember(died[number], kept)
        return policies.retry_condition(TASKS["train"], run, Failed(data=died[number]))

    assert all(is_repeated(number, f"{10 * number} of 300 training steps") for number in range(1, 12))
    assert [is_repeated(number, "110 of 300 training steps") for number in range(12, 16)] == [True, True, True, False]
    assert all(policies.retry_condition(TASKS["train"], task_run(), Failed(data=died[0])) for _ in range(5))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_has_the_policies(task):
    assert task.retries == policies.MAX_RETRIES
    assert list(task.retry_delay_seconds) == list(policies.RETRY_DELAYS_S)
    assert task.retry_jitter_factor == policies.RETRY_JITTER
    assert task.retry_condition_fn is policies.retry_condition
    assert task.cache_policy == NO_CACHE
    assert "softalign" in task.tags
    assert ("gpu" in task.tags) == (task.name in {"encode", "train", "evaluate"})
