"""The library's own log lines in the log of the run they belong to, on the console and on the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run, task_run
from prefect.settings import get_current_settings

from softalign.errors import SoftAlignError
from softalign.processes.structured import JsonHandler, is_structured, speaking
from softalign.run_context import identify_run, log_fields

LIBRARY = "softalign"
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
ENCOUNTERED = "Encountered exception"
"""What Prefect says of an error that ends a run begins so."""
RELAYED = "is_relayed"
"""Attribute of a record that a run's log has taken over: whoever shows both shows it once."""


class RunLogHandler(logging.Handler):
    """Hands records on to the log of the task or flow run they happen in; outside of one it does nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record on."""
        try:
            run_log = get_run_logger()
        except MissingContextError:
            return
        setattr(record, RELAYED, True)
        with speaking(record):
            run_log.log(record.levelno, "%s", record.getMessage())


class NoTraceback(logging.Filter):
    """Says an error of ours in its own words, without a traceback: it says what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change such a record; every record goes on."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SoftAlignError):
            record.exc_info, record.exc_text = None, None
            if str(record.msg).startswith(ENCOUNTERED):
                record.msg, record.args = str(error), ()
        return True


def relay_library_log() -> None:
    """Let the library's log reach the log of runs, from INFO on where no level was chosen; once is enough."""
    logger = logging.getLogger(LIBRARY)
    if not any(isinstance(handler, RunLogHandler) for handler in logger.handlers):
        logger.addHandler(RunLogHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for name in RUN_LOGGERS:
        of_runs = logging.getLogger(name)
        if not any(isinstance(known, NoTraceback) for known in of_runs.filters):
            of_runs.addFilter(NoTraceback())
    _settle_console()


def _settle_console() -> None:
    """Let the orchestrator's own console, which a worker's flow process has, say once what a run's log says too.

    Where JSON lines are asked for, it writes them.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, PrefectConsoleHandler):
            if is_structured():
                root.removeHandler(handler)
                root.addHandler(JsonHandler())
            elif _is_said_here_only not in handler.filters:
                handler.addFilter(_is_said_here_only)


def _is_said_here_only(record: logging.LogRecord) -> bool:
    return not getattr(record, RELAYED, False)


@contextmanager
def identified() -> Iterator[None]:
    """Let what this task run logs, and what it registers, say which run of the orchestrator it is of."""
    runs = {"run_id": flow_run.id, "task_run_id": task_run.id}
    if flow_run.id is not None:
        has_page = get_current_settings().api.url is not None  # a server of the run's own goes with it
        identify_run(str(flow_run.id), str(flow_run.ui_url or "") if has_page else "")
    with log_fields(**{name: str(found) for name, found in runs.items() if found is not None}):
        yield
