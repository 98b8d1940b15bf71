"""Verdicts from wherever they lie, with what their set lacks: a scored folder, a results file, a published arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import EvalReport
from softalign.evaluation.intervals import Interval, counts_by_tag, score_intervals
from softalign.geneval.completeness import Lack, Suite, inspect_verdicts, require_complete
from softalign.geneval.results import folders_of, read_any_results
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, SuiteScore, summarize

NUM_BOOTSTRAP, CONFIDENCE, SEED = 2000, 0.95, 0
"""The intervals' resamplings, confidence and seed: those that recipes have by default."""
_FIX = "score the whole set, or go on with --allow-partial: it prints what is missing"


@dataclass(frozen=True)
class VerdictSet:
    """The verdicts of a set: where they are from, in the set's order, and what it lacks."""

    source: str
    results: tuple[ImageResult, ...]
    lacks: tuple[Lack, ...]


@dataclass(frozen=True)
class SetStatistics:
    """A set's summary, and the interval of each tag and of the mean."""

    summary: SuiteScore
    intervals: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return the summary with ``intervals``: ``{tag: [low, high]}``."""
        return {
            **self.summary.to_json(),
            "confidence": CONFIDENCE,
            "intervals": {tag: [interval.low, interval.high] for tag, interval in self.intervals.items()},
        }

    def to_text(self) -> str:
        """Return the summary's lines with the intervals behind them."""
        head, *rest = self.summary.to_text().split("\n\n")
        rows = [
            f"{line:<34} [{interval.low:.4f}, {interval.high:.4f}]"
            for line, interval in zip(head.splitlines(), self.intervals.values(), strict=True)
        ]
        return "\n\n".join(["\n".join(rows), *rest])


def read_verdicts(source: str, suite: Suite | None = None, *, is_partial_allowed: bool = False) -> VerdictSet:
    """Return the verdicts of one set.

    Args:
        source: a results file of any tool, a folder that holds ``results.jsonl``, or ``STORE/evaluate/KEY``.
        suite: what the set must have; unset: the official suite, or whatever the verdicts say.
        is_partial_allowed: go on with an incomplete set.

    Raises:
        MissingInputError: there are no results.
        DataError: they cannot be read, or the set is not complete.
    """
    path = Path(source)
    if path.is_dir() and (path / RESULTS_FILENAME).is_file() and not (path / EvalReport.filename).is_file():
        path = path / RESULTS_FILENAME
    elif not path.is_file() and "/evaluate/" in source:
        from softalign.evaluation.unpacking import fetch_arm  # loads torch

        path = fetch_arm(source) / RESULTS_FILENAME
    results = read_any_results(path)
    lacks = inspect_verdicts(folders_of(results, source), suite)
    if not is_partial_allowed:
        require_complete(lacks, source, _FIX)
    return VerdictSet(source, results, lacks)


def statistics(results: tuple[ImageResult, ...], lacks: tuple[Lack, ...]) -> SetStatistics:
    """Return the scores of some verdicts, with intervals by resampling prompts."""
    summary = summarize(results).model_copy(update={"missing": lacks})
    counts = counts_by_tag(results)
    intervals = score_intervals(counts, num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED)
    return SetStatistics(summary, intervals)
