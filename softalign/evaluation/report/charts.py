"""The report's charts as inline SVG: bars with intervals, differences around zero, training curves.

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

BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 280.0, 9.0, 14.0
DIFFERENCE_WIDTH, DIFFERENCE_HEIGHT = 190.0, 24.0
CURVE_WIDTH, CURVE_HEIGHT = 380.0, 200.0
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


def difference_dot(value: float, low: float, high: float, limit: float) -> str:
    """Return a dot with its interval on an axis from -limit to limit, zero in the middle."""
    scale = DIFFERENCE_WIDTH / 2 / limit
    centre, middle = DIFFERENCE_WIDTH / 2, DIFFERENCE_HEIGHT / 2
    kind = "better" if low > 0 else "worse" if high < 0 else "unclear"
    parts = [
        f'<line class="zero" x1="{_n(centre)}" x2="{_n(centre)}" y1="0" y2="{_n(DIFFERENCE_HEIGHT)}"/>',
        _whisker(centre + low * scale, centre + high * scale, middle),
        f'<circle class="dot {kind}" cx="{_n(centre + value * scale)}" cy="{_n(middle)}" r="5"/>',
    ]
    label = f"{100 * value:+.1f} points, interval {100 * low:+.1f} to {100 * high:+.1f}"
    return _svg(DIFFERENCE_WIDTH, DIFFERENCE_HEIGHT, label, parts)


@dataclass(frozen=True)
class _Axes:
    """Where values stand in a curve's chart: samples seen from left to right, the curve's values upwards."""

    first: float
    x_span: float
    low: float
    high: float

    def x(self, samples_seen: float) -> float:
        return _LEFT + (samples_seen - self.first) / self.x_span * (CURVE_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (CURVE_HEIGHT - _TOP - _BOTTOM)


def training_curve(curve: Curve) -> str:
    """Return a line chart: every value faint, their moving average strong, the reference dashed."""
    xs, ys = _binned(np.array(curve.samples_seen), np.array(curve.values))
    smooth = _moving_average(ys)
    axes = _Axes(float(xs[0]), max(float(xs[-1] - xs[0]), 1.0), *_value_range(ys, curve.reference))
    parts = [*_grid(axes), *_reference_line(curve, axes)]
    for values, kind in ((ys, "raw"), (smooth, "smooth")):
        points = " ".join(f"{_n(axes.x(float(x)))},{_n(axes.y(float(y)))}" for x, y in zip(xs, values, strict=True))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    label = f"{curve.title}: {curve.values[0]:.4g} at first, {float(smooth[-1]):.4g} at the end (moving average)"
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, label, parts)


def _grid(axes: _Axes) -> Iterator[str]:
    """Yield the grid's lines and the labels of both axes."""
    for tick in ticks(axes.low, axes.high, 5):
        at = _n(axes.y(tick))
        yield f'<line class="grid" x1="{_n(_LEFT)}" x2="{_n(CURVE_WIDTH - _RIGHT)}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{_n(_LEFT - 6)}" y="{at}" dy="0.32em" text-anchor="end">{tick:.4g}</text>'
    for tick in ticks(axes.first, axes.first + axes.x_span, 4):
        x, y = _n(axes.x(tick)), _n(CURVE_HEIGHT - _BOTTOM + 15)
        yield f'<text x="{x}" y="{y}" text-anchor="middle">{tick:,.0f}</text>'
    middle = _n(_LEFT + (CURVE_WIDTH - _LEFT - _RIGHT) / 2)
    yield f'<text x="{middle}" y="{_n(CURVE_HEIGHT - 3)}" text-anchor="middle">samples seen</text>'


def _reference_line(curve: Curve, axes: _Axes) -> Iterator[str]:
    if curve.reference is not None:
        y, right = axes.y(curve.reference), CURVE_WIDTH - _RIGHT
        yield f'<line class="reference" x1="{_n(_LEFT)}" x2="{_n(right)}" y1="{_n(y)}" y2="{_n(y)}"/>'
        label = escape(curve.reference_label)
        yield f'<text class="reference" x="{_n(right - 2)}" y="{_n(y - 4)}" text-anchor="end">{label}</text>'


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
