"""A comparison's metrics as numbers of its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from softalign.artifacts.metrics import METRIC_SCORES_FILENAME, MetricsReport
from softalign.registry.curves import Point


def metric_points(report_path: Path) -> Iterator[Point]:
    """Yield each arm's mean by each metric, the adapter's gain over the base, and each arm's distances.

    Nothing where none was asked for.
    """
    path = report_path / METRIC_SCORES_FILENAME
    if not path.is_file():
        return
    report = MetricsReport.model_validate_json(path.read_bytes())
    for arm in report.arms:
        for found in arm.means:
            yield f"metric/{found.metric}/{arm.arm}", found.mean, 0
    own = [one for one in report.distances if one.guidance_scale == report.distances[0].guidance_scale]
    for one in own:
        for name, value in one.found.distances.items():
            yield f"metric/{name.partition('[')[0]}/{one.arm}", value, 0
    for gain in report.adapter_vs_base:
        yield f"metric/{gain.metric}/gain_over_base", gain.difference, 0
        yield f"metric/{gain.metric}/gain_over_base_ci_low", gain.ci_low, 0
