"""What of a flow run's log a person at a terminal is told."""

import logging

import pytest
from prefect import task_engine

from flows.console import FlowConsoleHandler, is_not_the_servers, line_of, server_error, server_line
from softalign.cli.console import ConsoleLines
from softalign.errors import DataError
from tasks.run_log import RELAYED, RunLogHandler, relay_library_log


def record(message, *arguments, level=logging.INFO, name="prefect.task_runs", path=task_engine.__file__):
    return logging.LogRecord(name, level, path, 1, message, arguments, None)


OURS = {"path": __file__}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (record("train: done", **OURS), "train: done"),
        (record("a warning", level=logging.WARNING, name="mlflow", **OURS), "a warning"),
        (record("Created task run 'train-0' for task 'train'"), None),
        (record("Finished in state Failed()", level=logging.ERROR), None),
        (record("The server is slow", level=logging.WARNING, name="prefect.events"), "The server is slow"),
        (record("Heartbeat", name="prefect.events"), None),
    ],
)
def test_the_stages_speak_and_the_orchestrator_does_not(entry, text):
    assert line_of(entry) == text


def test_retries_are_told_in_words():
    message = "Task run failed with %s: %r - Retry %s/%s will start %s"
    entry = record(message, "exception", DataError("Bad.", fix="look"), 1, 3, "10 second(s) from now")
    assert line_of(entry) == "failed: Bad.\n  to do: look\nretry 1 starts 10 second(s) from now"


def test_what_the_runs_log_has_taken_over_is_shown_once():
    entry = record("validation at step 3", name="softalign.training.train", **OURS)
    assert line_of(entry) == "validation at step 3"
    setattr(entry, RELAYED, True)
    assert line_of(entry) is None


def test_the_retry_message_is_still_prefects():
    source = open(task_engine.__file__, encoding="utf-8").read()
    assert '"Task run failed with %s: %r - Retry %s/%s will start %s"' in source


def test_a_server_that_starts_or_stops_is_said_by_the_command():
    assert not is_not_the_servers(record("Stopping temporary server on http://127.0.0.1:1"))
    assert is_not_the_servers(record("train: done"))


def test_which_server(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert server_line() == "Prefect's server: http://127.0.0.1:4200/api"
        said = str(server_error(RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/")))
        assert "unset PREFECT_API_URL" in said and "--plain" in said and "http://127.0.0.1:4200/api" in said
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert server_line().startswith("Starting Prefect's server")
        timeout = RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")
        assert "prefect server start" in str(server_error(timeout))


def test_only_a_missing_server_is_taken_for_one():
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    dead = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with dead, get_client(sync_client=True) as client, pytest.raises(httpx.ConnectError) as caught:
        client.hello()
    assert "did not answer" in str(server_error(caught.value))
    assert server_error(httpx.ConnectError("a hub's")) is None
    assert server_error(RuntimeError("a bug")) is None
    assert server_error(ValueError("Failed to reach API")) is None


def test_the_handler_writes_lines(tmp_path):
    with (tmp_path / "out").open("w+") as stream:
        handler = FlowConsoleHandler(ConsoleLines(stream))
        handler.emit(record("train: done", **OURS))
        handler.emit(record("Finished in state Completed()"))
        stream.seek(0)
        assert stream.read() == "train: done\n"


def test_outside_of_a_run_the_librarys_log_goes_nowhere_else():
    relay_library_log()
    relay_library_log()
    logger = logging.getLogger("softalign")
    assert sum(isinstance(handler, RunLogHandler) for handler in logger.handlers) == 1
    entry = record("x", name="softalign.x", **OURS)
    RunLogHandler().emit(entry)
    assert not getattr(entry, RELAYED, False)
