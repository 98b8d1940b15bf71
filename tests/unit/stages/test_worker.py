"""What a child process is asked, and what it answers: records and errors."""

import io
import logging
import os
import signal

import pytest

from softalign.artifacts import Adapter, DatasetManifest
from softalign.config import load_recipe
from softalign.errors import DataError, UnexpectedError
from softalign.processes.messages import Channel, Failure, LogLine, Result, from_line
from softalign.processes.metering import ChildUsage
from softalign.processes.reporter import Reporter
from softalign.stages import worker
from softalign.stages.jobs import EncodeJob, EvaluateJob, TrainJob, from_json, to_json
from softalign.store.holder import Held
from tests.killing import exit_codes
from tests.sample_records import ADAPTER, ENCODED

RECIPE = load_recipe("shapes", ["train.seed=3"])
DATASET = DatasetManifest(
    stage_key="k",
    name="test",
    **dict.fromkeys(("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen"), 1),
)
JOB = TrainJob(recipe=RECIPE, store="s3://bucket", key="k", encoded=ENCODED)


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        EncodeJob(recipe=RECIPE, store="store", key="k", held=(Held(name="a/b", number=3),), dataset=DATASET),
        EvaluateJob(recipe=RECIPE, store="store", key="k", arm="untrained", adapter=ADAPTER),
        EvaluateJob(recipe=load_recipe("shapes-unet"), store="store", key="k", arm="base", adapter=None),
    ],
    ids=["train", "encode", "untrained", "base"],
)
def test_a_job_arrives_as_it_was(job):
    assert from_json(to_json(job).encode()) == job


@pytest.fixture
def answer_of(monkeypatch):
    """Return a function that lets the worker answer a job with a function in place of the stage."""
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger().level

    def run(work, *, is_usage_wanted=False):
        stream = io.StringIO()
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
        monkeypatch.setattr(worker, "run_job", lambda _job: work())
        code = worker.answer(JOB, Channel(stream))
        said = [from_line(line) for line in stream.getvalue().splitlines()]
        return code, [message for message in said if is_usage_wanted or not isinstance(message, ChildUsage)]

    yield run
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger().setLevel(level)


def raising(error):
    def work():
        raise error

    return work


def at_work():
    logging.getLogger("softalign").warning("a line")
    with Reporter("train", "step", 2) as steps:
        steps.reach(2)
    return ADAPTER


def test_lines_progress_and_the_record_are_sent(answer_of, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    code, (line, *progress, result) = answer_of(at_work)
    assert code == 0
    assert line == LogLine(text="a line", level="warning")
    assert [(report.done, report.is_last) for report in progress] == [(0, False), (2, False), (2, True)]
    assert Adapter.model_validate(result.payload) == ADAPTER


def test_of_several_ranks_the_first_alone_says_how_far_it_is(answer_of, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    _, messages = answer_of(at_work)
    line = LogLine(text="process 1: a line", level="warning")
    assert messages == [line, Result(payload=ADAPTER.model_dump(mode="json"))]


@pytest.mark.parametrize("work", [at_work, raising(DataError("bad")), raising(KeyError("bug"))])
def test_however_it_ends_the_child_says_what_it_has_taken(answer_of, work):
    _, messages = answer_of(work, is_usage_wanted=True)
    (usage,) = (message for message in messages if isinstance(message, ChildUsage))
    assert (usage.pid, usage.num_gpus) == (os.getpid(), 0)
    assert usage.peak_memory_bytes > 10e6


def test_an_error_of_ours_is_sent_with_its_exit_code(answer_of):
    error = DataError("bad", found="x")
    assert answer_of(raising(error)) == (1, [Failure.of(error)])


def test_a_bug_is_an_error_that_is_not_tried_again_and_shows_where_it_is(answer_of):
    code, (failure,) = answer_of(raising(KeyError("no such field")))
    error = failure.to_error()
    assert code == 1
    assert isinstance(error, UnexpectedError)
    assert not error.is_retriable
    assert "KeyError: 'no such field'" in error.found
    assert "in work" in error.found


@pytest.mark.parametrize(
    ("error", "world_size"), [(ConnectionResetError("gone"), "1"), (RuntimeError("Connection closed by peer"), "2")]
)
def test_what_may_come_from_outside_ends_the_child_as_before(answer_of, monkeypatch, error, world_size):
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(type(error)):
        answer_of(raising(error))


def test_a_stop_is_not_waited_for_while_there_is_nothing_to_keep(answer_of):
    assert exit_codes(lambda _: answer_of(lambda: signal.raise_signal(signal.SIGTERM)), 1) == [75]
