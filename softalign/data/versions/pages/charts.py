"""Histograms as inline SVG: one or two datasets over the same bins. The same counts are the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

WIDTH, HEIGHT = 420.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 8.0, 8.0, 22.0, 26.0
_MAX_LABELS = 12


def histogram(title: str, labels: Sequence[str], *series: Sequence[int]) -> str:
    """Return upright bars, side by side where there are two series, each in share of its own largest sum.

    Args:
        title: what is counted.
        labels: of the bins; empty ones at both ends are left out.
        series: counts of one dataset, or of two: bars are shares, so that datasets of other sizes can be compared.
    """
    shares = [[count / max(1, sum(counts)) for count in counts] for counts in series]
    used = [index for index in range(len(labels)) if any(counts[index] for counts in series)]
    bins = range(used[0], used[-1] + 1) if used else range(0)
    top = max((share[index] for share in shares for index in bins), default=0.0) or 1.0
    parts = list(_bars(list(bins), shares, top, series)) + list(_labels([labels[index] for index in bins]))
    parts.append(f'<text x="{_n(_LEFT)}" y="12">highest bar {top:.0%}</text>')
    said = "; ".join(f"{labels[index]}: {', '.join(f'{counts[index]:,}' for counts in series)}" for index in bins)
    return (
        f'<svg class="chart" viewBox="0 0 {_n(WIDTH)} {_n(HEIGHT)}" role="img" '
        f'aria-label="{escape(f"{title}. {said}")}">{"".join(parts)}</svg>'
    )


def _bars(
    bins: Sequence[int], shares: Sequence[Sequence[float]], top: float, series: Sequence[Sequence[int]]
) -> Iterator[str]:
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(bins))
    width = min(0.84 * step, 60.0) / len(shares)
    base = HEIGHT - _BOTTOM
    yield f'<line class="axis" x1="{_n(_LEFT)}" x2="{_n(WIDTH - _RIGHT)}" y1="{_n(base)}" y2="{_n(base)}"/>'
    for place, index in enumerate(bins):
        first = _LEFT + (place + 0.5) * step - width * len(shares) / 2
        for number, share in enumerate(shares):
            height = share[index] / top * (base - _TOP)
            yield (
                f'<rect class="side-{number}" x="{_n(first + number * width)}" y="{_n(base - height)}" '
                f'width="{_n(width)}" height="{_n(height)}"><title>{series[number][index]:,}</title></rect>'
            )


def _labels(labels: Sequence[str]) -> Iterator[str]:
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    every = -(-len(labels) // _MAX_LABELS)
    for place, label in enumerate(labels):
        if place % every == 0:
            x = _n(_LEFT + (place + 0.5) * step)
            yield f'<text x="{x}" y="{_n(HEIGHT - 9)}" text-anchor="middle">{escape(label)}</text>'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
