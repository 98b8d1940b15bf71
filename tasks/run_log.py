"""The library's own log lines in the log of the run they belong to, on the console and on the server."""

from __future__ import annotations

import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

LIBRARY = "softalign"
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
        run_log.log(record.levelno, "%s", record.getMessage())


def relay_library_log() -> None:
    """Let the library's log reach the log of runs, from INFO on where no level was chosen; once is enough."""
    logger = logging.getLogger(LIBRARY)
    if not any(isinstance(handler, RunLogHandler) for handler in logger.handlers):
        logger.addHandler(RunLogHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
