"""What is worth a second attempt, and when a GPU slot is taken."""

import pytest
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from softalign import errors
from tasks import policies
from tasks.stages import TASKS


@pytest.mark.parametrize(
    ("error", "is_worth_it"),
    [
        (errors.StorageUnavailableError("The store is away."), True),
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
    ],
)
def test_what_is_retried(error, is_worth_it):
    assert policies.is_worth_retrying(error) is is_worth_it
    assert policies.retry_condition(TASKS["curate"], None, Failed(data=error)) is is_worth_it


def test_a_state_without_an_error_is_not_retried():
    assert not policies.retry_condition(TASKS["curate"], None, Completed(data="fine"))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_has_the_policies(task):
    assert task.retries == len(policies.RETRY_DELAYS_S)
    assert list(task.retry_delay_seconds) == list(policies.RETRY_DELAYS_S)
    assert task.retry_jitter_factor == policies.RETRY_JITTER
    assert task.retry_condition_fn is policies.retry_condition
    assert task.cache_policy == NO_CACHE
    assert "softalign" in task.tags
    assert ("gpu" in task.tags) == (task.name in {"encode", "train", "evaluate"})


@pytest.mark.parametrize(("device", "is_needed"), [("cpu", True), ("auto", False), ("cuda", False)])
def test_no_slot_where_none_is_needed(monkeypatch, device, is_needed):
    monkeypatch.setattr(policies, "_has_limit", lambda _: pytest.fail("asked the server"))
    with policies.gpu_slot(device, is_needed=is_needed):
        pass


@pytest.mark.parametrize("has_limit", [True, False])
def test_a_slot_is_taken_where_there_is_a_limit(monkeypatch, has_limit):
    from contextlib import contextmanager

    taken = []

    @contextmanager
    def concurrency(name, **options):
        taken.append((name, options["occupy"], options["lease_duration"]))
        yield

    monkeypatch.setattr(policies, "_has_limit", lambda _: has_limit)
    monkeypatch.setattr(policies, "concurrency", concurrency)
    with policies.gpu_slot("auto", is_needed=True):
        pass
    assert taken == ([("gpu", 1, 60.0)] if has_limit else [])
