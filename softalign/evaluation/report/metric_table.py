"""What the page says of metrics beside the suite's scores: means of the arms, and the adapter's gains in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softalign.artifacts.metrics import MetricDifference, MetricsReport
from softalign.evaluation.report.columns import ARM_LABELS


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A row of the table: a metric of an arm, or the adapter's gain in it.

    Attributes:
        metric: its name.
        about: what the number is, and the model that gave it.
        subject: the arm, or what the gain is over.
        value: mean or difference.
        interval: of it.
        p_value: of a gain; empty of an arm.
    """

    metric: str
    about: str
    subject: str
    value: str
    interval: str
    p_value: str = ""


def metric_rows(report: MetricsReport | None) -> tuple[MetricRow, ...]:
    """Return the rows metric by metric: each arm, then the adapter's gains; at last distances; none without any."""
    return () if report is None else (*_rows(report), *_distance_rows(report))


def _distance_rows(report: MetricsReport) -> Iterator[MetricRow]:
    """Yield the distances of every arm and guidance, which have no interval."""
    own = report.distances[0].guidance_scale if report.distances else 0.0
    for one in report.distances:
        about = f"of {one.found.num_images} images with {one.found.num_features} features each; lower is nearer"
        at = "" if one.guidance_scale == own else f" at guidance {one.guidance_scale:g}"
        for name, value in one.found.distances.items():
            yield MetricRow(name, about, f"{ARM_LABELS[one.arm]}{at}", f"{value:.4g}", "")


def _rows(report: MetricsReport) -> Iterator[MetricRow]:
    pairs: tuple[tuple[str, tuple[MetricDifference, ...]], ...] = (
        ("base", report.adapter_vs_base),
        ("untrained", report.adapter_vs_untrained),
        ("champion", report.adapter_vs_champion),
    )
    for place, mean in enumerate(report.arms[0].means):
        about = f"{mean.definition}, by {mean.model}"
        for arm in report.arms:
            found = arm.means[place]
            interval = f"{found.ci_low:.4g} to {found.ci_high:.4g}"
            yield MetricRow(mean.metric, about, ARM_LABELS[arm.arm], f"{found.mean:.4g}", interval)
        for name, gains in pairs:
            for gain in gains:
                if gain.metric == mean.metric:
                    interval = f"{gain.ci_low:+.4g} to {gain.ci_high:+.4g}"
                    subject = f"adapter − {ARM_LABELS[name]}"
                    yield MetricRow(
                        mean.metric, about, subject, f"{gain.difference:+.4g}", interval, f"{gain.p_value:.4f}"
                    )
