"""Commands of GenEval for sets that are scored: read and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.geneval import PageOption, PartialOption, SuiteOption, geneval_app
from softalign.cli.options import JsonOption, emit
from softalign.errors import ConfigError
from softalign.store.files import write_atomically

_SOURCE = "a scored folder, a results.jsonl of any tool, or STORE/evaluate/KEY"


@geneval_app.command("read")
def geneval_read(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help=_SOURCE)],
    suite: SuiteOption = None,
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Summarise results, the official tool's too, with intervals."""
    from softalign.evaluation.suites import suite_named
    from softalign.evaluation.verdicts import read_verdicts, statistics

    found = read_verdicts(results, suite_named(suite), is_partial_allowed=allow_partial)
    summary = statistics(found.results, found.lacks, found.judge)
    emit(summary.to_json(), as_json, summary.to_text())


@geneval_app.command("compare")
def geneval_compare(
    sets: Annotated[list[str], typer.Argument(metavar="A B [C]", help=_SOURCE)],
    suite: SuiteOption = None,
    allow_partial: PartialOption = False,
    out: Annotated[Path, typer.Option("--out", help="the page's file")] = Path("comparison.html"),
    has_page: PageOption = True,
    as_json: JsonOption = False,
) -> None:
    """Compare two or three scored sets in pairs of images, with intervals of the differences, and write a page."""
    from softalign.evaluation.set_comparison import compare_sets
    from softalign.evaluation.suites import suite_named

    require_place(out)
    comparison = compare_sets(sets, suite_named(suite), is_partial_allowed=allow_partial)
    if has_page:
        from softalign.evaluation.report.sets_page import render_compared

        write_atomically(out, render_compared(comparison).encode())
    text = comparison.to_text() + (f"\n\npage  {out}" if has_page else "")
    emit({**comparison.to_json(), **({"page": str(out)} if has_page else {})}, as_json, text)


def require_place(out: Path) -> None:
    """Refuse a file that cannot be written, before anything is done.

    Raises:
        ConfigError: it is a folder, or its folder is not there.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError("The page cannot be written there.", expected="a file in a folder", where=str(out))
