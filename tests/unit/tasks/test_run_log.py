"""What the library logs in a task run says which run it is of, also where a worker's own console shows it."""

import io
import json
import logging
import sys

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, temporary_settings

from softalign import run_context
from softalign.run_context import current_fields, identify_run, orchestrator_run_url, run_id
from tasks import run_log
from tasks.run_log import RunLogHandler


def test_a_workers_console_writes_json_lines_where_they_are_asked_for(monkeypatch):
    root, raw = logging.getLogger(), io.StringIO()
    monkeypatch.setenv("SOFTALIGN_LOG", "json")
    monkeypatch.setattr(root, "handlers", [PrefectConsoleHandler()])
    monkeypatch.setattr(sys, "stderr", raw)
    run_log.relay_library_log()
    run_log.relay_library_log()
    logging.getLogger("softalign.store").warning("full")
    (line,) = (json.loads(line) for line in raw.getvalue().splitlines())
    assert (line["logger"], line["level"], line["message"]) == ("softalign.store", "warning", "full")


def test_a_workers_console_says_a_line_once(monkeypatch):
    console, relay = PrefectConsoleHandler(stream=io.StringIO()), RunLogHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [console])
    monkeypatch.setattr(logging.getLogger("softalign"), "handlers", [relay])
    monkeypatch.setattr(run_log, "get_run_logger", lambda: logging.getLogger("prefect.task_runs"))
    monkeypatch.setattr(logging.getLogger("prefect.task_runs"), "handlers", [console])
    monkeypatch.setattr(logging.getLogger("prefect.task_runs"), "propagate", False)
    run_log.relay_library_log()
    run_log.relay_library_log()
    logging.getLogger("softalign.stages.run").warning("Stage 5 of 9")
    assert console.console.file.getvalue().count("Stage 5 of 9") == 1 and len(console.filters) == 1


class Run:
    def __init__(self, found, ui_url=""):
        self.id, self.ui_url = found, ui_url


def test_a_task_run_says_whose_it_is_and_where_its_page_is(monkeypatch):
    monkeypatch.setattr(run_context, "_RUN", run_context._Run("mine"))
    monkeypatch.setattr(run_log, "task_run", Run("task-1"))
    monkeypatch.setattr(run_log, "flow_run", Run(None))
    with run_log.identified():
        assert run_id() == "mine" and current_fields() == {"task_run_id": "task-1"}
    monkeypatch.setattr(run_log, "flow_run", Run("flow-1", "http://prefect/runs/flow-1"))
    with temporary_settings({PREFECT_API_URL: None}), run_log.identified():  # that server ends with the run
        assert (run_id(), orchestrator_run_url()) == ("flow-1", "")
        assert current_fields() == {"run_id": "flow-1", "task_run_id": "task-1"}
    identify_run("flow-2", "http://prefect/runs/flow-2")
    assert orchestrator_run_url() == "http://prefect/runs/flow-2"
