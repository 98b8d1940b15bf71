"""``python -m flows.NAME RECIPE``: one flow from a shell, with the exit codes of the ``softalign`` command.

The result goes to standard output, as text or (``--json``) as one JSON document; logs and errors to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from prefect import Flow

from flows.console import RUN_LOGGERS, FlowConsoleHandler, has_server, is_not_the_servers, server_error, server_line
from flows.server import start_server
from softalign.cli.console import narrating
from softalign.config import load_recipe
from softalign.errors import SoftAlignError
from softalign.processes.leaving import leaving_in_order
from softalign.stages.kept import kept_line
from softalign.store.store import DEFAULT_STORE, STORE_VARIABLE, Store


class Summary(Protocol):
    """What a flow returns: a record with a text for people."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the JSON form."""

    def to_text(self) -> str:
        """Return the text for people."""


SummaryT = TypeVar("SummaryT", bound=Summary)


def run_command(flow: Flow[[str, Sequence[str], str], SummaryT], arguments: Sequence[str] | None = None) -> int:
    """Run a flow with the recipe, overrides and store of a command line.

    Args:
        flow: takes ``recipe``, ``overrides`` and ``store`` and returns a Summary.
        arguments: instead of ``sys.argv``.

    Returns:
        The exit code: 0 ok, 1 failed, 2 bad usage or configuration, 75 stopped with a checkpoint.

    Raises:
        SystemExit: with 75: it was stopped by Ctrl-C, SIGTERM or a closed terminal.
    """
    options = _parser(flow).parse_args(arguments)
    for name in RUN_LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    try:
        recipe = load_recipe(options.recipe, options.overrides)  # refused here before a server starts
        with (
            leaving_in_order(lambda: kept_line(recipe, Store(options.store))),
            narration(options.verbose, is_quiet=options.as_json),
        ):
            start_server()
            summary = flow(options.recipe, options.overrides, options.store)
    except SoftAlignError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except Exception as error:
        unreachable = server_error(error)
        if unreachable is None:
            raise
        sys.stderr.write(f"error: {unreachable}\n")
        return unreachable.exit_code
    text = json.dumps(summary.model_dump(mode="json"), indent=2) if options.as_json else summary.to_text()
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if not options.verbose and not has_server():
        sys.stderr.write("Stopping Prefect's server\n")
    return 0


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
    """Drop what Prefect says of SIGTERM, which we speak of; drop the traceback of an error that says what to do."""
    if record.exc_info and isinstance(record.exc_info[1], SoftAlignError):
        record.exc_info = None
    return "aborted by a termination signal" not in record.getMessage()


def _parser(flow: Flow[[str, Sequence[str], str], SummaryT]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(flow.description or "").split("\n", maxsplit=1)[0])
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name or the path of a YAML file")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override a field"
    )
    parser.add_argument(
        "--store",
        default=os.environ.get(STORE_VARIABLE) or DEFAULT_STORE,
        help="folder or s3:// URI where everything is published",
    )
    parser.add_argument("--verbose", action="store_true", help="show Prefect's own lines too")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as JSON")
    return parser
