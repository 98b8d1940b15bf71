"""Pages of image sets without a recipe: of one that was scored, and of two or three that are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from softalign.artifacts import TagDifference
from softalign.evaluation.intervals import OVERALL, Interval
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.report.columns import Column, Pair
from softalign.evaluation.report.gallery import ShownImages
from softalign.evaluation.report.rendering import Lacking, Page, render
from softalign.evaluation.report.tables import difference_verdict
from softalign.evaluation.scored_set import ScoredSet, drawn_how, judged_by
from softalign.evaluation.set_comparison import LETTERS, OTHER_JUDGES, PairedDifference, SetComparison
from softalign.evaluation.verdicts import CONFIDENCE, VerdictSet, statistics
from softalign.geneval.completeness import Lack
from softalign.geneval.image_faults import image_fault
from softalign.geneval.layout import SAMPLES_FOLDER
from softalign.geneval.scoring import ImageResult, SuiteScore

_OF_LAYOUT = re.compile(rf"[0-9]+/{SAMPLES_FOLDER}/[^/\\]+\.[A-Za-z]+")
"""Names that are read: results of other people never lead out of their folder."""


def render_scored(scored: ScoredSet) -> str:
    """Return the page of a scored folder."""
    summary = scored.found.summary
    column = _column("set-a", scored.name, scored.name, scored.judge, summary, scored.found.intervals)
    return render(
        Page(
            title=f"GenEval scores of {scored.name}",
            verdict="",
            notes=(drawn_how(scored.drawn), judged_by(scored.judge), _counted(scored.results, 1)),
            num_prompts=_num_prompts(scored.results),
            confidence=CONFIDENCE,
            columns=(column,),
            pairs=(),
            shown=(ShownImages(scored.results, partial(_file, scored.root), scored.detections),),
            lacking=_lacking([(scored.name, summary.missing)]),
        )
    )


def render_compared(comparison: SetComparison) -> str:
    """Return the page of sets that are compared; A is the first column."""
    columns = tuple(map(partial(_column_of, comparison.num_unpaired), LETTERS, comparison.sets, comparison.results))
    pairs = tuple(map(_pair_of, comparison.pairs))
    named = list(zip(LETTERS, comparison.sets, strict=False))
    judges = (OTHER_JUDGES,) if len({column.judge for column in columns}) > 1 else ()
    left_out = (
        (f"Left out, as not every set has them: {comparison.num_unpaired} images.",) if comparison.num_unpaired else ()
    )
    return render(
        Page(
            title=f"GenEval scores of {' and '.join(column.name for column in columns)} compared",
            verdict=" ".join(difference_verdict(pair, columns) for pair in pairs),
            notes=(
                *(f"{letter} is {one.source}." for letter, one in named),
                _counted(comparison.results[0], len(columns)),
                *judges,
                *left_out,
            ),
            num_prompts=_num_prompts(comparison.results[0]),
            confidence=CONFIDENCE,
            columns=columns,
            pairs=pairs,
            shown=tuple(map(_shown_of, comparison.sets, comparison.results)),
            lacking=_lacking([(f"{letter}: {one.source}", one.lacks) for letter, one in named]),
        )
    )


def _column(
    kind: str,
    label: str,
    name: str,
    judge: str,
    summary: SuiteScore,
    intervals: Mapping[str, Interval],
    num_unpaired: int = 0,
) -> Column:
    return Column(
        kind=kind,
        label=label,
        name=name,
        judge=judge,
        overall=intervals[OVERALL],
        tags={tag: interval for tag, interval in intervals.items() if tag != OVERALL},
        num_prompts_any_correct=summary.num_prompts_any_correct,
        is_partial=bool(summary.missing or num_unpaired),
    )


def _column_of(num_unpaired: int, letter: str, one: VerdictSet, results: tuple[ImageResult, ...]) -> Column:
    found = statistics(results, one.lacks)
    kind = f"set-{letter.lower()}"
    return _column(kind, letter, letter, one.judge, found.summary, found.intervals, num_unpaired)


def _pair_of(pair: PairedDifference) -> Pair:
    return Pair(
        candidate=LETTERS.index(pair.candidate),
        reference=LETTERS.index(pair.reference),
        title=f"{pair.candidate} − {pair.reference}",
        differences=tuple(
            TagDifference(tag=tag, difference=one.value, ci_low=one.low, ci_high=one.high)
            for tag, one in pair.differences.items()
        ),
        statistics=pair.statistics,
    )


def _shown_of(one: VerdictSet, results: tuple[ImageResult, ...]) -> ShownImages:
    if one.is_published:
        read = ArmImages(one.root).read
        return ShownImages(results, lambda filename: partial(read, filename))
    return ShownImages(results, partial(_file, one.root))


def _file(root: Path, filename: str) -> Callable[[], bytes] | None:
    """Return what reads an image of a set; None where it is not at hand, or is no whole image."""
    path = root / filename
    if _OF_LAYOUT.fullmatch(filename) is None or not path.is_file() or image_fault(path):
        return None
    return path.read_bytes


def _num_prompts(results: Sequence[ImageResult]) -> int:
    return len({result.folder for result in results})


def _counted(results: Sequence[ImageResult], num_sets: int) -> str:
    each = "each, in pairs of the same prompt and number" if num_sets > 1 else "in all"
    return f"{_num_prompts(results)} prompts, {len(results)} images {each}."


def _lacking(found: Sequence[tuple[str, tuple[Lack, ...]]]) -> tuple[Lacking, ...]:
    return tuple(Lacking(label, tuple(lack.to_text() for lack in lacks)) for label, lacks in found if lacks)
