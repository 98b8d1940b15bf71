"""Commands of GenEval for sets that are scored: read and compare."""

from __future__ import annotations

from typing import Annotated

import typer

from softalign.cli.geneval import PartialOption, SuiteOption, geneval_app
from softalign.cli.options import JsonOption, emit

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
    summary = statistics(found.results, found.lacks)
    emit(summary.to_json(), as_json, summary.to_text())


@geneval_app.command("compare")
def geneval_compare(
    sets: Annotated[list[str], typer.Argument(metavar="A B [C]", help=_SOURCE)],
    suite: SuiteOption = None,
    allow_partial: PartialOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two or three scored sets in pairs of images, with intervals of the differences."""
    from softalign.evaluation.set_comparison import compare_sets
    from softalign.evaluation.suites import suite_named

    comparison = compare_sets(sets, suite_named(suite), is_partial_allowed=allow_partial)
    emit(comparison.to_json(), as_json, comparison.to_text())
