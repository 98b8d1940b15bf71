"""``python -m flows.NAME RECIPE``: one flow from a shell, with the options and exit codes of the ``softalign`` command.

The result goes to standard output, as text or (``--json``) as one JSON document; logs and errors to standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Protocol, TypeVar

import typer
from prefect import Flow

from flows.console import FlowConsoleHandler, has_server, is_not_the_servers, server_error, server_line
from flows.server.start import start_server
from softalign.cli.console import narrating, open_closed_streams, report_error
from softalign.cli.options import (
    HELP_OPTIONS,
    JsonOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    emit,
    open_recipe,
)
from softalign.errors import SoftAlignError
from softalign.processes.leaving import leaving_in_order
from softalign.processes.structured import structure_stderr
from softalign.stages.kept import kept_line
from softalign.store.store import DEFAULT_STORE
from tasks.run_log import RUN_LOGGERS


class Summary(Protocol):
    """What a flow returns: a record with a text for people."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the JSON form."""

    def to_text(self) -> str:
        """Return the text for people."""


SummaryT = TypeVar("SummaryT", bound=Summary)


def run_command(flow: Flow[[str, Sequence[str], str], SummaryT], arguments: Sequence[str] | None = None) -> int:
    """Run a flow with the recipe, overrides and store of a command line; errors are messages, as of ``softalign``.

    Args:
        flow: takes ``recipe``, ``overrides`` and ``store`` and returns a Summary.
        arguments: instead of ``sys.argv``.

    Returns:
        The exit code: 0 ok, 1 failed, 2 bad usage or configuration, 75 stopped with a checkpoint (by Ctrl-C, SIGTERM or
        a closed terminal).
    """

    def call() -> None:
        structure_stderr()
        _app(flow)(arguments)

    return exit_code_of(call)


def exit_code_of(call: Callable[[], object]) -> int:
    """Run a command's application and return its exit code; errors, also of a server that is away, are messages."""
    open_closed_streams()
    try:
        call()
    except SystemExit as stop:  # Typer's, of an end of any kind
        return int(stop.code or 0)
    except (SoftAlignError, OSError) as error:
        return report_error(error)
    except Exception as error:
        unreachable = server_error(error)
        if unreachable is None:
            raise
        return report_error(unreachable)
    return 0


def _app(flow: Flow[[str, Sequence[str], str], SummaryT]) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)

    @app.command(help=(flow.description or "").split("\n", maxsplit=1)[0])
    def command(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        store: StoreOption = DEFAULT_STORE,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show Prefect's own lines too")] = False,
        as_json: JsonOption = False,
    ) -> None:
        for name in RUN_LOGGERS:
            logging.getLogger(name).addFilter(_is_news)
        loaded, opened = open_recipe(recipe, overrides, store)  # refused here before a server starts
        with leaving_in_order(lambda: kept_line(loaded, opened)), narration(verbose, is_quiet=as_json):
            start_server()
            summary = flow(recipe, overrides or [], store)
        emit(summary.model_dump(mode="json"), as_json, summary.to_text())
        if not verbose and not has_server():
            sys.stderr.write("Stopping Prefect's server\n")

    return app


@contextmanager
def narration(is_verbose: bool, *, is_quiet: bool) -> Iterator[None]:
    """Show what the stages say on standard error, quietly without bars; verbosely Prefect's own console does."""
    if is_verbose:
        yield
        return
    with narrating(sys.stderr, FlowConsoleHandler, is_quiet=is_quiet) as say:
        say(server_line())
        logging.getLogger("prefect").addFilter(is_not_the_servers)  # also of its end, after the command's last word
        yield


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what Prefect says of SIGTERM, which we speak of."""
    return "aborted by a termination signal" not in record.getMessage()
