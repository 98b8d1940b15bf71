"""What a person at a terminal is told of a flow run: the stages' own lines, without those of the orchestrator."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import prefect
from prefect.settings import get_current_settings

from softalign.cli.console import ConsoleHandler
from softalign.errors import StorageUnavailableError
from softalign.processes.structured import speaking
from tasks.policies import is_transport_error
from tasks.run_log import RELAYED, RUN_LOGGERS

PREFECT_FOLDER = Path(prefect.__file__).parent
NO_SERVER = ("Failed to reach API", "ephemeral Prefect API server", "Unable to find an available port")
"""In the messages of the RuntimeErrors that Prefect raises where it finds or starts no server."""
RETRY = "Task run failed with %s: %r - Retry"


class FlowConsoleHandler(ConsoleHandler):
    """Shows the records of a flow run that are for people; the run's log on the server has all of them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, or leave it out."""
        text = line_of(record)
        if text is not None:
            with speaking(record):
                self.say(text)


def line_of(record: logging.LogRecord) -> str | None:
    """Return what a person is told of a record; None where Prefect speaks of its own work.

    Its states and its errors are left out: the stages say what happens, and the command ends with the error itself. Its
    retries are kept, in words.
    """
    if getattr(record, RELAYED, False):
        return None
    if not Path(record.pathname).is_relative_to(PREFECT_FOLDER):
        return record.getMessage()
    if str(record.msg).startswith(RETRY) and isinstance(record.args, tuple) and len(record.args) == 5:
        _, error, number, _, moment = record.args
        return f"failed: {error}\nretry {number} starts {moment}"
    is_shown = record.levelno >= logging.WARNING and record.name not in RUN_LOGGERS
    return record.getMessage() if is_shown else None


def is_not_the_servers(record: logging.LogRecord) -> bool:
    """Leave out that a temporary server starts and stops: the command says so itself."""
    return "temporary server" not in str(record.msg)


def server_error(error: Exception) -> StorageUnavailableError | None:
    """Return Prefect's error where its server is not there as one that says what to do; None: it is another error."""
    is_connection = is_transport_error(error) and _is_of_client(error)  # other libraries may have such errors, too
    is_known = is_connection or (isinstance(error, RuntimeError) and any(part in str(error) for part in NO_SERVER))
    if not is_known:
        return None
    own = "look at what `prefect server start` says (is PREFECT_HOME writable?)"
    there = "start it, or unset PREFECT_API_URL (`prefect config unset PREFECT_API_URL`) for a server of the run's own"
    return StorageUnavailableError(
        "Prefect's server did not answer.",
        found=str(error) or type(error).__name__,
        where=get_current_settings().api.url or "a server for this run alone",
        fix=f"{there if has_server() else own}; or run without Prefect: softalign run RECIPE --plain",
    )


def _is_of_client(error: Exception) -> bool:
    """Return whether an error was raised while Prefect's client asked its server."""
    client = PREFECT_FOLDER / "client"
    return any(
        Path(frame.f_code.co_filename).is_relative_to(client) for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def has_server() -> bool:
    """Return whether runs go to a server that is there, instead of one that is started for the run."""
    return bool(get_current_settings().api.url)


def server_line() -> str:
    """Return which server the run goes to, or that one is started for it, which takes its time."""
    if has_server():
        return f"Prefect's server: {get_current_settings().api.url}"
    return "Starting Prefect's server for this run (about 15 s the first time)"
