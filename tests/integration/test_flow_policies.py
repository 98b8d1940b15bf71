"""Retries as the real engine and server apply them."""

import pytest
from prefect import flow

from softalign.errors import ConfigError, StorageUnavailableError, WorkerDiedError
from tasks.attempts import remember
from tasks.policies import RETRY_DELAYS_S, stage_task

pytestmark = pytest.mark.usefixtures("prefect_server")


def attempts_of(errors):
    """Run a task whose attempts raise these errors in turn, and return how often it was called."""
    calls = []

    @stage_task("flaky")
    def flaky():
        calls.append(None)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return "done"

    @flow(name="flaky")
    def run():
        return flaky.with_options(retry_delay_seconds=0)()

    outcome = run(return_state=True)
    return len(calls), outcome


def test_a_passing_fault_is_retried_and_succeeds():
    num_calls, outcome = attempts_of([StorageUnavailableError("away"), ConnectionResetError("gone")])
    assert num_calls == 3
    assert outcome.result() == "done"


def test_retries_end():
    num_calls, outcome = attempts_of([StorageUnavailableError("away")] * 9)
    assert num_calls == 1 + len(RETRY_DELAYS_S)
    assert isinstance(outcome.result(raise_on_failure=False), StorageUnavailableError)


def test_attempts_that_get_further_have_no_end():
    errors = [WorkerDiedError("died") for _ in range(2 * len(RETRY_DELAYS_S) + 1)]
    for number, error in enumerate(errors, start=1):
        remember(error, f"{number} steps")
    num_calls, outcome = attempts_of(errors)
    assert num_calls == len(errors) + 1
    assert outcome.result() == "done"


@pytest.mark.parametrize("error", [ConfigError("bad field"), ValueError("bug"), FileNotFoundError("nowhere")])
def test_a_lasting_fault_is_not_retried(error):
    num_calls, outcome = attempts_of([error])
    assert num_calls == 1
    assert outcome.is_failed()
