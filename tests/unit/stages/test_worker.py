"""What a child process answers to errors that are not of this library."""

import json
import os
import signal
import sys

import pytest

from softalign.errors import UnexpectedError
from softalign.processes.supervise import error_from_json
from softalign.stages import worker
from tests.killing import exit_codes


@pytest.fixture
def answer_to(tmp_path, monkeypatch):
    """Return a function that runs the worker's main with an error in place of the stage."""
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(json.dumps({"stage": "train", "parent_pid": os.getpid()}))
    monkeypatch.setattr(sys, "argv", ["worker", str(request), str(answer)])
    monkeypatch.setattr(worker, "watch_parent", lambda _pid: None)

    before = signal.getsignal(signal.SIGTERM)

    def run(error):
        def fail(_request):
            raise error

        monkeypatch.setattr(worker, "run_request", fail)
        code = worker.main()
        return code, json.loads(answer.read_text())

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_bug_is_an_error_that_is_not_tried_again_and_shows_where_it_is(answer_to):
    code, answer = answer_to(KeyError("no such field"))
    error = error_from_json(answer["error"])
    assert code == 1
    assert isinstance(error, UnexpectedError)
    assert not error.is_retriable
    assert "KeyError: 'no such field'" in error.found
    assert "in fail" in error.found


@pytest.mark.parametrize(
    ("error", "world_size"), [(ConnectionResetError("gone"), "1"), (RuntimeError("Connection closed by peer"), "2")]
)
def test_what_may_come_from_outside_ends_the_child_as_before(answer_to, monkeypatch, error, world_size):
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(type(error)):
        answer_to(error)


def test_a_stop_is_not_waited_for_while_there_is_nothing_to_keep(answer_to, monkeypatch):
    def work():
        monkeypatch.setattr(worker, "error_to_json", lambda _error: signal.raise_signal(signal.SIGTERM))
        answer_to(KeyError("loading a model"))

    assert exit_codes(lambda _: work(), 1) == [75]
