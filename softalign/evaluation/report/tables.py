"""The page's cards and tables: numbers as text, beside the charts that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softalign.artifacts import GuidedBase, TagDifference, TaskStatistics
from softalign.evaluation.intervals import OVERALL, Interval
from softalign.evaluation.report.charts import Bar, difference_dot, difference_limit, score_bars
from softalign.evaluation.report.columns import Column, Pair, tag_label

PARTIAL = "partial"


@dataclass(frozen=True)
class Card:
    """One headline number with its interval, as text; ``judge`` is empty where the number is no score."""

    title: str
    value: str
    interval: str
    kind: str
    judge: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One table row: a task, its chart, and its cells as text."""

    label: str
    chart: str
    cells: tuple[str, ...]
    is_overall: bool


@dataclass(frozen=True)
class PairTable:
    """The paired differences of one pair; its last columns are there where ``has_statistics``."""

    title: str
    rows: tuple[Row, ...]
    has_statistics: bool
    detectable: str


def score_cards(columns: Sequence[Column]) -> list[Card]:
    """Return each column's overall score."""
    return [
        Card(
            title=column.label,
            value=_points(column.overall.value),
            interval=f"{_points(column.overall.low)} to {_points(column.overall.high)}",
            kind=column.kind,
            judge=column.judge,
            note=PARTIAL if column.is_partial else "",
        )
        for column in columns
    ]


def difference_cards(pairs: Sequence[Pair], columns: Sequence[Column]) -> list[Card]:
    """Return each pair's overall difference."""
    return [
        Card(
            title=pair.title,
            value=f"{_signed(pair.overall.difference)} points",
            interval=f"{_signed(pair.overall.ci_low)} to {_signed(pair.overall.ci_high)}, paired",
            kind=pair.standing(pair.overall),
            judge=judge_of_pair(pair, columns),
            note=PARTIAL if any(columns[one].is_partial for one in (pair.candidate, pair.reference)) else "",
        )
        for pair in pairs
    ]


def reference_card(base: GuidedBase | None, judge: str) -> Card | None:
    """Return the base at other guidance, which no gate looks at, where it was drawn."""
    if base is None:
        return None
    return Card(
        title=f"for reference: base model at guidance {base.guidance_scale:g}",
        value=_points(base.overall_score),
        interval=f"{_points(base.overall_ci_low)} to {_points(base.overall_ci_high)}",
        kind="reference",
        judge=judge,
    )


def score_rows(columns: Sequence[Column]) -> list[Row]:
    """Return a row for each task, and the overall one last."""
    return [_score_row(tag, columns) for tag in columns[0].rows]


def _score_row(tag: str, columns: Sequence[Column]) -> Row:
    found = [(column, column.rows[tag]) for column in columns if tag in column.rows]
    bars = [Bar(column.kind, column.label, one.value, one.low, one.high) for column, one in found]
    cells = tuple(_score_cell(column.rows.get(tag), column) for column in columns)
    return Row(label=tag_label(tag), chart=score_bars(bars), cells=cells, is_overall=tag == OVERALL)


def _score_cell(one: Interval | None, column: Column) -> str:
    if one is None:
        return "none"
    text = f"{_points(one.value)} ({_points(one.low)}–{_points(one.high)})"
    return f"{text} {PARTIAL}" if column.is_partial else text


def pair_tables(pairs: Sequence[Pair], columns: Sequence[Column]) -> list[PairTable]:
    """Return a table for each pair, all with the same axis."""
    entries = [entry for pair in pairs for entry in pair.differences]
    limit = difference_limit([bound for entry in entries for bound in (entry.ci_low, entry.ci_high)])
    return [_pair_table(pair, limit, judge_of_pair(pair, columns)) for pair in pairs]


def _pair_table(pair: Pair, limit: float, judge: str) -> PairTable:
    overall = pair.shown(OVERALL)
    return PairTable(
        title=f"{pair.title[:1].upper()}{pair.title[1:]} ({judge})",
        rows=tuple(_difference_row(entry, limit, pair) for entry in pair.differences),
        has_statistics=bool(pair.statistics),
        detectable="" if overall is None else f"{100 * overall.detectable:.1f}",
    )


def _difference_row(entry: TagDifference, limit: float, pair: Pair) -> Row:
    shown = pair.shown(entry.tag)
    return Row(
        label=tag_label(entry.tag),
        chart=difference_dot(entry.difference, entry.ci_low, entry.ci_high, limit, pair.standing(entry)),
        cells=(
            _signed(entry.difference),
            f"{_signed(entry.ci_low)} to {_signed(entry.ci_high)}",
            *(() if shown is None else _statistics_cells(shown)),
        ),
        is_overall=entry.tag == OVERALL,
    )


def _statistics_cells(shown: TaskStatistics) -> tuple[str, ...]:
    return f"{shown.shown_p:.4f}", f"{shown.wins} : {shown.losses}", f"{100 * shown.detectable:.1f}"


def difference_verdict(pair: Pair, columns: Sequence[Column]) -> str:
    """Return a pair's result in one sentence, no stronger than its interval allows."""
    candidate, reference = columns[pair.candidate].name, columns[pair.reference].name
    points = f"{abs(100 * pair.overall.difference):.1f} points"
    return {
        "better": f"{candidate} beats {reference} by {points}.",
        "worse": f"{candidate} is {points} worse than {reference}.",
        "unclear": f"{candidate} cannot be told apart from {reference} ({_signed(pair.overall.difference)} points).",
    }[pair.standing(pair.overall)]


def judge_of_pair(pair: Pair, columns: Sequence[Column]) -> str:
    """Return what both columns' scores are called, or that they are not judged alike."""
    judges = dict.fromkeys(columns[number].judge for number in (pair.reference, pair.candidate))
    return " and ".join(judges)


def _points(ratio: float) -> str:
    return f"{100 * ratio:.1f}"


def _signed(ratio: float) -> str:
    return f"{100 * ratio:+.1f}"
