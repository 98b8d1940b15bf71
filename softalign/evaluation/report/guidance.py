"""The section of a sweep over guidance: the fronts as a chart, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softalign.artifacts.fronts import FrontPoint, GuidanceFronts
from softalign.evaluation.report.charts import FrontLine, FrontMark, front_chart, front_key
from softalign.evaluation.report.columns import ARM_LABELS


@dataclass(frozen=True)
class FrontRow:
    """One arm at one guidance, as text."""

    kind: str
    label: str
    guidance: str
    calls: int
    overall: str
    counting: str
    is_on_front: bool
    distance: str
    is_on_distance_front: bool | None


@dataclass(frozen=True)
class GuidanceSection:
    """What a sweep shows.

    Attributes:
        chart: empty where the suite does not count.
        distance_chart: empty where no distance was measured.
        distance_name: likewise.
        keys: of the charts' marks, each with its arm.
        gain: what is left where each arm has the guidance that suits it best.
    """

    chart: str
    distance_chart: str
    distance_name: str
    keys: tuple[tuple[str, str], ...]
    rows: tuple[FrontRow, ...]
    gain: str
    judge: str


def guidance_section(fronts: GuidanceFronts, judge: str) -> GuidanceSection:
    """Return the section of a sweep; rows by arm, and in each by guidance."""
    arms = [arm for arm in ARM_LABELS if any(point.arm == arm for point in fronts.points)]
    of_arms = {arm: [point for point in fronts.points if point.arm == arm] for arm in arms}
    lines = [FrontLine(arm, ARM_LABELS[arm], _counting_marks(points)) for arm, points in of_arms.items()]
    nearer = [FrontLine(arm, ARM_LABELS[arm], _distance_marks(points)) for arm, points in of_arms.items()]
    is_drawn = all(point.counting is not None for point in fronts.points)
    name = fronts.distance_name
    return GuidanceSection(
        chart=front_chart(lines, "counting", "counting, points") if is_drawn else "",
        distance_chart=_distance_chart(nearer, name) if name else "",
        distance_name=name,
        keys=tuple((front_key(arm), ARM_LABELS[arm]) for arm in arms),
        rows=tuple(_row(point) for points in of_arms.values() for point in points),
        gain=_gain(fronts),
        judge=judge,
    )


def _distance_chart(lines: Sequence[FrontLine], name: str) -> str:
    farthest = max(mark.across for line in lines for mark in line.marks)
    return front_chart(lines, "distance", f"{name}, lower is nearer", least=0.02 * farthest or 1.0)


def _counting_marks(points: list[FrontPoint]) -> tuple[FrontMark, ...]:
    return tuple(
        FrontMark(point.guidance_scale, 100 * point.counting, point.overall_score, point.is_on_front)
        for point in points
        if point.counting is not None
    )


def _distance_marks(points: list[FrontPoint]) -> tuple[FrontMark, ...]:
    return tuple(
        FrontMark(point.guidance_scale, point.distance, point.overall_score, bool(point.is_on_distance_front))
        for point in points
        if point.distance is not None
    )


def _row(point: FrontPoint) -> FrontRow:
    low, high = 100 * point.overall_ci_low, 100 * point.overall_ci_high
    return FrontRow(
        kind=point.arm,
        label=ARM_LABELS[point.arm],
        guidance=f"{point.guidance_scale:g}",
        calls=point.denoiser_calls_per_image,
        overall=f"{100 * point.overall_score:.1f} ({low:.1f}–{high:.1f})",
        counting="none" if point.counting is None else f"{100 * point.counting:.1f}",
        is_on_front=point.is_on_front,
        distance="" if point.distance is None else f"{point.distance:.4g}",
        is_on_distance_front=point.is_on_distance_front,
    )


def _gain(fronts: GuidanceFronts) -> str:
    gain = fronts.adapter_over_base_at_best
    return (
        f"Each at its best guidance, {fronts.best_adapter:g} and {fronts.best_base:g}, the adapter has "
        f"{100 * gain.difference:+.1f} points over the base, {100 * gain.ci_low:+.1f} to {100 * gain.ci_high:+.1f}. "
        "Both are chosen by the scores that are compared, so this interval is a little too narrow."
    )
