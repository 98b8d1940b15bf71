"""The report's charts as inline SVG: bars with intervals, differences around zero, fronts, training curves.

Colours are CSS variables of the page, so that charts follow its light and dark schemes. Lengths are SVG units (px at
scale 1); all numbers are rounded, so that the same data are the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from softalign.artifacts.paired import Standing

BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 280.0, 9.0, 14.0
DIFFERENCE_WIDTH, DIFFERENCE_HEIGHT = 190.0, 24.0
CURVE_WIDTH, CURVE_HEIGHT = 380.0, 200.0
FRONT_WIDTH, FRONT_HEIGHT = 380.0, 300.0
MAX_CURVE_POINTS = 400
"""More points than pixels only make the page large: longer curves are averaged into this many bins."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 10.0, 34.0


@dataclass(frozen=True)
class Bar:
    """One arm's score with its interval (ratios 0..1)."""

    arm: str
    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One training curve over samples seen; ``reference`` is a level worth comparing with, such as chance."""

    title: str
    samples_seen: tuple[float, ...]
    values: tuple[float, ...]
    reference: float | None = None
    reference_label: str = ""


@dataclass(frozen=True)
class FrontMark:
    """One arm at one guidance: its place across, its overall score as a ratio, and whether it is on the arm's front."""

    guidance_scale: float
    across: float
    overall: float
    is_on_front: bool


@dataclass(frozen=True)
class FrontLine:
    """One arm's marks, by guidance."""

    arm: str
    label: str
    marks: tuple[FrontMark, ...]


def score_bars(bars: Sequence[Bar]) -> str:
    """Return horizontal bars from 0 to 100 points, one an arm, each with its interval."""
    height = BAR_STEP * len(bars) + 2
    parts = [
        f'<line class="grid" x1="{_n(x * BAR_WIDTH)}" x2="{_n(x * BAR_WIDTH)}" y1="0" y2="{_n(height)}"/>'
        for x in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for index, bar in enumerate(bars):
        top = index * BAR_STEP + 3
        middle = top + BAR_HEIGHT / 2
        parts.append(
            f'<rect class="bar {bar.arm}" x="0" y="{_n(top)}" width="{_n(bar.value * BAR_WIDTH)}"'
            f' height="{_n(BAR_HEIGHT)}" rx="2"/>'
        )
        parts.append(_whisker(bar.low * BAR_WIDTH, bar.high * BAR_WIDTH, middle))
    label = "; ".join(
        f"{bar.label} {bar.value * 100:.1f} ({bar.low * 100:.1f} to {bar.high * 100:.1f})" for bar in bars
    )
    return _svg(BAR_WIDTH, height, label, parts)


def difference_dot(value: float, low: float, high: float, limit: float, kind: Standing) -> str:
    """Return a dot with its interval on an axis from -limit to limit, zero in the middle; ``kind`` is its colour."""
    scale = DIFFERENCE_WIDTH / 2 / limit
    centre, middle = DIFFERENCE_WIDTH / 2, DIFFERENCE_HEIGHT / 2
    parts = [
        f'<line class="zero" x1="{_n(centre)}" x2="{_n(centre)}" y1="0" y2="{_n(DIFFERENCE_HEIGHT)}"/>',
        _whisker(centre + low * scale, centre + high * scale, middle),
        f'<circle class="dot {kind}" cx="{_n(centre + value * scale)}" cy="{_n(middle)}" r="5"/>',
    ]
    label = f"{100 * value:+.1f} points, interval {100 * low:+.1f} to {100 * high:+.1f}"
    return _svg(DIFFERENCE_WIDTH, DIFFERENCE_HEIGHT, label, parts)


@dataclass(frozen=True)
class _Axes:
    """Where values stand: ``first`` to ``first + x_span`` from left to right, ``low`` to ``high`` upwards."""

    first: float
    x_span: float
    low: float
    high: float
    width: float = CURVE_WIDTH
    height: float = CURVE_HEIGHT

    def x(self, value: float) -> float:
        return _LEFT + (value - self.first) / self.x_span * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (self.height - _TOP - _BOTTOM)


def training_curve(curve: Curve) -> str:
    """Return a line chart: every value faint, their moving average strong, the reference dashed."""
    xs, ys = _binned(np.array(curve.samples_seen), np.array(curve.values))
    smooth = _moving_average(ys)
    axes = _Axes(float(xs[0]), max(float(xs[-1] - xs[0]), 1.0), *_value_range(ys, curve.reference))
    parts = [*_grid(axes, "samples seen"), *_reference_line(curve, axes)]
    for values, kind in ((ys, "raw"), (smooth, "smooth")):
        points = " ".join(f"{_n(axes.x(float(x)))},{_n(axes.y(float(y)))}" for x, y in zip(xs, values, strict=True))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    label = f"{curve.title}: {curve.values[0]:.4g} at first, {float(smooth[-1]):.4g} at the end (moving average)"
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, label, parts)


def _grid(axes: _Axes, x_label: str, num_x_ticks: int = 4, least: float = -math.inf) -> Iterator[str]:
    """Yield the grid's lines and the labels of both axes; nothing below ``least``, where values end."""
    for tick in ticks(max(axes.low, least), axes.high, 5):
        at = _n(axes.y(tick))
        yield f'<line class="grid" x1="{_n(_LEFT)}" x2="{_n(axes.width - _RIGHT)}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{_n(_LEFT - 6)}" y="{at}" dy="0.32em" text-anchor="end">{tick:.4g}</text>'
    for tick in ticks(max(axes.first, least), axes.first + axes.x_span, num_x_ticks):
        x, y = _n(axes.x(tick)), _n(axes.height - _BOTTOM + 15)
        yield f'<text x="{x}" y="{y}" text-anchor="middle">{tick:,.10g}</text>'
    middle = _n(_LEFT + (axes.width - _LEFT - _RIGHT) / 2)
    yield f'<text x="{middle}" y="{_n(axes.height - 3)}" text-anchor="middle">{escape(x_label)}</text>'


def _reference_line(curve: Curve, axes: _Axes) -> Iterator[str]:
    if curve.reference is not None:
        y, right = axes.y(curve.reference), CURVE_WIDTH - _RIGHT
        yield f'<line class="reference" x1="{_n(_LEFT)}" x2="{_n(right)}" y1="{_n(y)}" y2="{_n(y)}"/>'
        label = escape(curve.reference_label)
        yield f'<text class="reference" x="{_n(right - 2)}" y="{_n(y - 4)}" text-anchor="end">{label}</text>'


_MARKS = {
    "base": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "untrained": "M-4,-4h8v8h-8z",
    "champion": "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
}
_TRIANGLE = "M0,-5.5l5,9h-10z"
_LABEL_PLACES = {"base": (-7, 12, "end"), "untrained": (7, 13, "start"), "champion": (-7, -6, "end")}
"""Where an arm's guidance stands beside its marks, and how it is anchored: apart from the other arms'."""


def front_chart(lines: Sequence[FrontLine], across: str, x_label: str, least: float = 2.0) -> str:
    """Return the arms' overall scores over another number, each a line along its guidance.

    Marks have a shape for each arm, filled where they are on the arm's front, and the guidance beside them.

    Args:
        lines: the arms.
        across: what the other number is, in a word.
        x_label: of its axis.
        least: how much of it is shown on either side of the marks, at least.
    """
    marks = [mark for line in lines for mark in line.marks]
    first, last = _spread([mark.across for mark in marks], least)
    axes = _Axes(first, last - first, *_spread([100 * mark.overall for mark in marks]), FRONT_WIDTH, FRONT_HEIGHT)
    parts = list(_grid(axes, x_label, num_x_ticks=6, least=0.0))
    parts.append(f'<text x="{_n(_LEFT + 4)}" y="{_n(_TOP + 4)}">overall, points</text>')
    for line in lines:
        parts += _front_line(line, axes)
    label = "; ".join(f"{line.label}: {', '.join(_said(mark, across) for mark in line.marks)}" for line in lines)
    return _svg(FRONT_WIDTH, FRONT_HEIGHT, f"Overall, points, over {x_label}. {label}", parts)


def _said(mark: FrontMark, across: str) -> str:
    return f"guidance {mark.guidance_scale:g} {across} {mark.across:.4g} overall {100 * mark.overall:.1f}"


def _front_line(line: FrontLine, axes: _Axes) -> Iterator[str]:
    places = [(axes.x(mark.across), axes.y(100 * mark.overall)) for mark in line.marks]
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    yield f'<polyline class="front {line.arm}" points="{points}"/>'
    dx, dy, anchor = _LABEL_PLACES.get(line.arm, (7, -5, "start"))
    for mark, (x, y) in zip(line.marks, places, strict=True):
        kind = f"mark {line.arm}" if mark.is_on_front else f"mark {line.arm} behind"
        shape = _MARKS.get(line.arm, _TRIANGLE)
        yield f'<path class="{kind}" transform="translate({_n(x)},{_n(y)})" d="{shape}"/>'
        text = f"{mark.guidance_scale:g}"
        yield f'<text class="guidance" x="{_n(x + dx)}" y="{_n(y + dy)}" text-anchor="{anchor}">{text}</text>'


def front_key(arm: str) -> str:
    """Return an arm's mark alone, for a legend."""
    path = f'<path class="mark {arm}" transform="translate(7,7)" d="{_MARKS.get(arm, _TRIANGLE)}"/>'
    return f'<svg class="chart key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{path}</svg>'


def _spread(values: Sequence[float], least: float = 2.0) -> tuple[float, float]:
    """Return an axis around some values: with room for marks and their labels."""
    margin = max(least, 0.12 * (max(values) - min(values)))
    return min(values) - margin, max(values) + margin


def difference_limit(bounds: Sequence[float]) -> float:
    """Return the axis limit for differences with these bounds: the next 0.05 beyond the largest, at least 0.05."""
    largest = max((abs(bound) for bound in bounds), default=0.0)
    return max(0.05, math.ceil(largest * 20 + 1e-9) / 20)


def _binned(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(xs) <= MAX_CURVE_POINTS:
        return xs.astype(np.float64), ys.astype(np.float64)
    bins = np.array_split(np.arange(len(xs)), MAX_CURVE_POINTS)
    return np.array([xs[part].mean() for part in bins]), np.array([ys[part].mean() for part in bins])


def _moving_average(ys: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a window of a twelfth of the curve, cut off at its ends."""
    half = max(1, len(ys) // 24)
    sums = np.concatenate([[0.0], np.cumsum(ys)])
    index = np.arange(len(ys))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(ys))
    averages: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return averages


def _value_range(ys: NDArray[np.float64], reference: float | None) -> tuple[float, float]:
    """Return the axis range: the middle 98 % of the values and the reference, with a margin."""
    low, high = (float(bound) for bound in np.quantile(ys, [0.01, 0.99]))
    if reference is not None:
        low, high = min(low, reference), max(high, reference)
    margin = 0.06 * (high - low) or max(abs(high), 1e-6) * 0.06
    return low - margin, high + margin


def ticks(low: float, high: float, num_ticks: int) -> list[float]:
    """Return round numbers within a range, about ``num_ticks`` of them."""
    raw = (high - low) / num_ticks
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def _whisker(low: float, high: float, y: float) -> str:
    ends = "".join(f'<line x1="{_n(x)}" x2="{_n(x)}" y1="{_n(y - 3)}" y2="{_n(y + 3)}"/>' for x in (low, high))
    return f'<g class="whisker"><line x1="{_n(low)}" x2="{_n(high)}" y1="{_n(y)}" y2="{_n(y)}"/>{ends}</g>'


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
        f' role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
