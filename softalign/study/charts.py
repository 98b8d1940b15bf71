"""The study page's charts as inline SVG: a line for each arm, with its points. The same numbers are the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 470.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 12.0, 40.0
_FACTORS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Point:
    """One point; ``label`` stands beside it, ``said`` is shown when it is pointed at."""

    x: float
    y: float
    label: str
    said: str


@dataclass(frozen=True)
class Line:
    """One arm's points in order, and the class that its colour is of."""

    name: str
    kind: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Return a chart of lines; both axes end at the points' own range."""
    points = [point for line in lines for point in line.points]
    across = _axis([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    up = _axis([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, x_label, y_label), *(part for line in lines for part in _line(line, across, up))]
    said = "; ".join(f"{line.name}: {', '.join(point.said for point in line.points)}" for line in lines)
    return (
        f'<svg class="chart" viewBox="0 0 {_n(WIDTH)} {_n(HEIGHT)}" role="img" '
        f'aria-label="{escape(f"{title}. {said}")}">{"".join(parts)}</svg>'
    )


def _axis(values: Sequence[float], first: float, last: float) -> _Axis:
    low, high = min(values), max(values)
    margin = 0.07 * (high - low) or max(abs(high), 1.0) * 0.05
    return _Axis(low - margin, high + margin, first, last)


def _line(line: Line, across: _Axis, up: _Axis) -> Iterator[str]:
    places = [(_n(across.at(point.x)), _n(up.at(point.y))) for point in line.points]
    yield f'<g class="{line.kind}"><polyline points="{" ".join(f"{x},{y}" for x, y in places)}"/>'
    for point, (x, y) in zip(line.points, places, strict=True):
        yield f'<circle cx="{x}" cy="{y}" r="3.5"><title>{escape(f"{line.name}: {point.said}")}</title></circle>'
        if point.label:
            yield f'<text x="{x}" y="{y}" dx="5" dy="-4">{escape(point.label)}</text>'
    yield "</g>"


def _grid(across: _Axis, up: _Axis, x_label: str, y_label: str) -> Iterator[str]:
    for tick in _ticks(up):
        y = _n(up.at(tick))
        yield f'<line class="grid" x1="{_n(_LEFT)}" x2="{_n(WIDTH - _RIGHT)}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{_n(_LEFT - 6)}" y="{y}" dy="0.32em" text-anchor="end">{tick:,g}</text>'
    for tick in _ticks(across):
        x = _n(across.at(tick))
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{_n(_TOP)}" y2="{_n(HEIGHT - _BOTTOM)}"/>'
        yield f'<text x="{x}" y="{_n(HEIGHT - _BOTTOM + 16)}" text-anchor="middle">{tick:,g}</text>'
    middle = _n((_LEFT + WIDTH - _RIGHT) / 2)
    yield f'<text x="{middle}" y="{_n(HEIGHT - 6)}" text-anchor="middle">{escape(x_label)}</text>'
    height = _n((_TOP + HEIGHT - _BOTTOM) / 2)
    yield f'<text transform="translate(11 {height}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'


def _ticks(axis: _Axis) -> list[float]:
    """Return about five round numbers within an axis."""
    raw = (axis.high - axis.low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in _FACTORS if magnitude * factor >= raw)
    return [round(index * step, 12) for index in range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
