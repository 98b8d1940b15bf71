"""The stages of a run with the records they published, as an SVG drawn from the table of stages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape

from softalign.artifacts import EvalReport, ModelVersion, Record
from softalign.config import Recipe
from softalign.stages.narration import figures
from softalign.stages.published import Published, label_of
from softalign.stages.table import STAGES, StageRow, steps_of
from softalign.store.store import Store

WIDTH_PX, CARD_PX, GAP_PX, TOP_PX = 920, 84, 28, 16
LEFT_PX, MIDDLE_PX, RIGHT_PX = 24, 330, 820
"""Left edge of the cards, where the record begins, and the right edge; lines to later stages run right of it."""
LANE_PX = 22
WRAP_CHARS = 68
STYLE = """
  text { font: 14px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .stage { font-size: 18px; font-weight: 600 } .record { font-weight: 600 } .faint { fill: #59636e; font-size: 13px }
  .digest { text-anchor: end }
  .paper { fill: #ffffff } .card { fill: #f6f8fa; stroke: #d1d9e0 } .published { fill: #ddf4ff; stroke: #54aeff }
  .line { fill: none; stroke: #59636e; stroke-width: 1.6; marker-end: url(#head) }
"""


def diagram_svg(recipe: Recipe, published: Published, store: Store) -> str:
    """Return the diagram of a finished run."""
    height = 2 * TOP_PX + len(STAGES) * (CARD_PX + GAP_PX) - GAP_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height}" width="{WIDTH_PX}" '
        f'height="{height}" role="img" aria-label="The stages and the records they publish">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#59636e"/></marker></defs>',
        f'<rect class="paper" width="{WIDTH_PX}" height="{height}" rx="8"/>',
    ]
    for number, row in enumerate(STAGES):
        parts += _card(number, row, _records(row, recipe, published), store)
        if number + 1 < len(STAGES) and row.name in STAGES[number + 1].parents:
            parts.append(_arrow_down(number))
    for lane, (start, ends) in enumerate(_edges()):
        parts += _lines(lane, start, ends)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _records(row: StageRow, recipe: Recipe, published: Published) -> list[Record]:
    labels = [step.label for step in steps_of(recipe) if step.row is row]
    return [record for label, record in zip(published.labels, published.records, strict=True) if label in labels]


def _top(number: int) -> int:
    return TOP_PX + number * (CARD_PX + GAP_PX)


def _card(number: int, row: StageRow, records: list[Record], store: Store) -> Iterator[str]:
    top = _top(number)
    yield _box("card", LEFT_PX, top, RIGHT_PX - LEFT_PX)
    yield _box("published", MIDDLE_PX, top, RIGHT_PX - MIDDLE_PX)
    yield _text("stage", LEFT_PX + 14, top + 30, row.name)
    for place, line in enumerate(textwrap.wrap(row.does.partition(" (")[0], 38)):
        yield _text("faint", LEFT_PX + 14, top + 52 + 18 * place, line)
    kind = f"{row.record.__name__} ({row.record.filename})"
    yield _text("record", MIDDLE_PX + 14, top + 24, kind)
    # a version's digest holds the id of MLflow's run, which is another one each time
    digests = [record.digest[:6] for record in records if not isinstance(record, ModelVersion)]
    yield _text("faint digest", RIGHT_PX - 14, top + 24, " ".join(digests))
    for place, line in enumerate(textwrap.wrap(_said(records, store), WRAP_CHARS)):
        yield _text("faint", MIDDLE_PX + 14, top + 44 + 16 * place, line)


def _said(records: list[Record], store: Store) -> str:
    """Return a stage's counts and figures; of several evaluations the scores."""
    if len(records) == 1:
        return figures(records[0], store)
    reports = [record for record in records if isinstance(record, EvalReport)]
    return ", ".join(f"{label_of(r.stage, r.arm)[10:-1]} {r.overall_score * 100:.1f}" for r in reports)


def _edges() -> Iterator[tuple[int, list[int]]]:
    """Yield each stage whose record is taken further down than by the next one, and who takes it there."""
    names = [row.name for row in STAGES]
    for number, name in enumerate(names):
        takers = [place for place, row in enumerate(STAGES) if name in row.parents]
        if far := [place for place in takers if place > number + 1]:
            yield number, far


def _lines(lane: int, start: int, ends: list[int]) -> Iterator[str]:
    x = RIGHT_PX + LANE_PX * (lane + 1)
    for end in ends:
        yield (
            f'<path class="line" d="M{RIGHT_PX} {_top(start) + 28 + 8 * lane}H{x}V{_top(end) + 28 + 14 * lane}'
            f'H{RIGHT_PX + 2}"/>'
        )


def _arrow_down(number: int) -> str:
    x = (MIDDLE_PX + RIGHT_PX) // 2
    return f'<path class="line" d="M{x} {_top(number) + CARD_PX}V{_top(number + 1) - 1}"/>'


def _box(kind: str, left: int, top: int, width: int) -> str:
    return f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{CARD_PX}" rx="6"/>'


def _text(kind: str, left: int, top: int, text: str) -> str:
    return f'<text class="{kind}" x="{left}" y="{top}">{escape(text)}</text>'
