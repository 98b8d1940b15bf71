"""What is posted for people cannot fail a task, or hold it for long."""

import logging
import threading
import time

from tasks.posting import post


def test_what_is_posted_is_posted_in_the_callers_context(caplog):
    caplog.set_level(logging.WARNING, "tasks")
    seen = []
    post("The summary", lambda: seen.append(threading.current_thread() is threading.main_thread()))
    assert seen == [False]
    assert not caplog.records


def test_a_server_that_refuses_costs_a_warning(caplog):
    caplog.set_level(logging.WARNING, "tasks")

    def refuse():
        raise RuntimeError("500 Internal Server Error")

    post("The summary of train", refuse)
    (record,) = caplog.records
    assert record.getMessage() == ("The summary of train is not shown at the orchestrator: 500 Internal Server Error")


def test_a_server_that_does_not_answer_costs_the_timeout(caplog):
    caplog.set_level(logging.WARNING, "tasks")
    answered = threading.Event()
    begun = time.monotonic()
    post("The summary", answered.wait, timeout_s=0.1)
    assert time.monotonic() - begun < 5
    assert "no answer in 0.1 s" in caplog.text
    answered.set()
