"""Verdicts from wherever they lie, with what their set lacks: a scored folder, a results file, a published arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from softalign.artifacts import EvalReport
from softalign.config.families import judge_of
from softalign.evaluation.intervals import Interval, counts_by_tag, score_intervals
from softalign.geneval.completeness import Lack, Suite, inspect_verdicts, require_complete
from softalign.geneval.results import folders_of, read_any_results
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, SuiteScore, summarize
from softalign.store.files import sha256_of_file

NUM_BOOTSTRAP, CONFIDENCE, SEED = 2000, 0.95, 0
"""The intervals' resamplings, confidence and seed: those that recipes have by default."""
_FIX = (
    "score the whole set; name the prompts of another suite, or of a cut one, with --suite FILE; or go on with "
    "--allow-partial: it prints what is missing"
)


@dataclass(frozen=True)
class VerdictSet:
    """The verdicts of a set: where they are from, in the set's order, and what it lacks.

    Attributes:
        judge: what its scores are called by who judged the images (``judge_of``).
        root: the folder that its images lie in, if they are at hand.
        is_published: it is an arm's, with its images in packs.
    """

    source: str
    results: tuple[ImageResult, ...]
    lacks: tuple[Lack, ...]
    judge: str
    root: Path
    is_published: bool = False


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
        lines = head.splitlines()
        width = max(map(len, lines))
        rows = [
            f"{line:<{width}}  [{interval.low:.4f}, {interval.high:.4f}]"
            for line, interval in zip(lines, self.intervals.values(), strict=True)
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
    path, report = Path(source), None
    if path.is_dir() and (path / RESULTS_FILENAME).is_file() and not (path / EvalReport.filename).is_file():
        path = path / RESULTS_FILENAME
    elif not path.is_file() and "/evaluate/" in source:
        from softalign.evaluation.unpacking import fetch_arm  # loads torch

        fetched = fetch_arm(source)
        path, report = fetched.files / RESULTS_FILENAME, fetched.report
    results = read_any_results(path)
    lacks = inspect_verdicts(folders_of(results, source), suite)
    if not is_partial_allowed:
        require_complete(lacks, source, _FIX)
    judge = judge_of("", _detector_of(path)) if report is None else judge_of(report.suite, report.detector)
    return VerdictSet(source, results, lacks, judge, path.parent, is_published=report is not None)


def summary_path(results_path: Path) -> Path:
    """Return where ``geneval score`` keeps the summary of some results."""
    return results_path.with_name(f"{results_path.stem}.summary.json")


def _detector_of(results_path: Path) -> str:
    """Return whose scores some results are, as the summary beside them says; empty where none says it of them."""
    path = summary_path(results_path)
    try:
        summary = _Summary.model_validate_json(path.read_bytes()) if path.is_file() else _Summary()
    except ValidationError:
        return ""
    return summary.detector if summary.results_sha256 == sha256_of_file(results_path) else ""


class _Summary(BaseModel):
    """Of a summary file, what says who judged, and which results."""

    results_sha256: str = ""
    detector: str = ""


def statistics(results: tuple[ImageResult, ...], lacks: tuple[Lack, ...], detector: str = "") -> SetStatistics:
    """Return the scores of some verdicts, with intervals by resampling prompts.

    Args:
        results: the verdicts.
        lacks: what the set lacks.
        detector: the label of who detected (``SuiteScore.detector``).
    """
    summary = summarize(results).model_copy(update={"missing": lacks, "detector": detector})
    counts = counts_by_tag(results)
    intervals = score_intervals(counts, num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED)
    return SetStatistics(summary, intervals)
