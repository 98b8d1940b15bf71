"""Lines over noise levels as inline SVG, in the colours of the evaluation's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from softalign.diagnosis.records import Estimate
from softalign.evaluation.report.charts import ticks
from softalign.method.soft_tokens import NUM_TRAIN_TIMESTEPS

WIDTH, HEIGHT = 380.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 18.0, 10.0, 34.0


@dataclass(frozen=True)
class Line:
    """One quantity over noise levels; ``kind`` is its colour's name on the page."""

    label: str
    kind: str
    points: tuple[tuple[int, Estimate], ...]


def level_chart(title: str, lines: Sequence[Line], chance: Sequence[tuple[int, float]] = ()) -> str:
    """Return a chart of lines with their intervals, zero and the largest value in view.

    Args:
        title: for those who cannot see it.
        lines: what is drawn; each has a point.
        chance: a level to compare with, dashed; empty: none.
    """
    values = [bound for line in lines for _, one in line.points for bound in (one.low, one.high)]
    values += [value for _, value in chance]
    axes = _Axes(min(0.0, *values), max(0.0, *values) or 1.0)
    parts = [*_grid(axes), *(part for line in lines for part in _line(line, axes))]
    if chance:
        points = " ".join(f"{_n(axes.x(at))},{_n(axes.y(value))}" for at, value in chance)
        parts.append(f'<polyline class="chance" points="{points}"/>')
    described = "; ".join(
        f"{line.label} {', '.join(f'{one.mean:.3g} at {at}' for at, one in line.points)}" for line in lines
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_n(WIDTH)} {_n(HEIGHT)}" width="{_n(WIDTH)}" height="{_n(HEIGHT)}" '
        f'role="img" aria-label="{escape(f"{title}: {described}")}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Axes:
    low: float
    high: float

    def x(self, timestep: float) -> float:
        return _LEFT + timestep / NUM_TRAIN_TIMESTEPS * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)


def _grid(axes: _Axes) -> Iterator[str]:
    for value in ticks(axes.low, axes.high, 5):
        at = _n(axes.y(value))
        yield f'<line class="grid" x1="{_n(_LEFT)}" x2="{_n(WIDTH - _RIGHT)}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{_n(_LEFT - 6)}" y="{at}" dy="0.32em" text-anchor="end">{value:.4g}</text>'
    if axes.low < 0.0:
        at = _n(axes.y(0.0))
        yield f'<line class="zero" x1="{_n(_LEFT)}" x2="{_n(WIDTH - _RIGHT)}" y1="{at}" y2="{at}"/>'
    for timestep in range(0, NUM_TRAIN_TIMESTEPS + 1, NUM_TRAIN_TIMESTEPS // 5):
        x = _n(axes.x(timestep))
        yield f'<text x="{x}" y="{_n(HEIGHT - _BOTTOM + 15)}" text-anchor="middle">{timestep}</text>'
    middle = _n(_LEFT + (WIDTH - _LEFT - _RIGHT) / 2)
    yield f'<text x="{middle}" y="{_n(HEIGHT - 3)}" text-anchor="middle">noise level (timestep)</text>'


def _line(line: Line, axes: _Axes) -> Iterator[str]:
    points = " ".join(f"{_n(axes.x(at))},{_n(axes.y(one.mean))}" for at, one in line.points)
    yield f'<polyline class="line {line.kind}" points="{points}"/>'
    for at, one in line.points:
        x, low, high = _n(axes.x(at)), _n(axes.y(one.low)), _n(axes.y(one.high))
        yield f'<line class="range {line.kind}" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        yield f'<circle class="point {line.kind}" cx="{x}" cy="{_n(axes.y(one.mean))}" r="3"/>'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
