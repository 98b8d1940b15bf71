"""Posting a training's curves to its run: each point once, whoever posts it, and however often.

A point's time is the start of the run, so that the same point is the same row of MLflow's. Points up to the last one
that the run holds are left out: a resumed training goes over a few steps again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from softalign.store.metrics_log import LoggedRow

MAX_METRICS_PER_REQUEST = 1000
"""Limit of MLflow's log-batch request (its REST API reference)."""
Point = tuple[str, float, int]
"""A metric's name, value and step."""


class Curves:
    """The curves of one run.

    Args:
        run: as the registry returned it.
    """

    def __init__(self, run: Any) -> None:
        self._run_id, self._at_ms = run.info.run_id, run.info.start_time
        self._last_steps: dict[str, int] = {metric.key: metric.step for metric in run.data.to_proto().metrics}

    def post(self, client: Any, rows: Iterable[LoggedRow]) -> None:
        """Post the points of some rows that the run does not hold; rows come in the order of their steps."""
        new = [point for point in points_of(rows) if point[2] > self._last_steps.get(point[0], -1)]
        for start in range(0, len(new), MAX_METRICS_PER_REQUEST):
            batch = new[start : start + MAX_METRICS_PER_REQUEST]
            log_points(client, self._run_id, batch, self._at_ms)
            self._last_steps |= {name: step for name, _, step in batch}


def points_of(rows: Iterable[LoggedRow]) -> Iterator[Point]:
    """Yield every number of a training log; steps are samples seen."""
    for row in rows:
        for name, value in row.values.items():
            yield f"{row.split}/{name.removeprefix(f'{row.split}_')}", value, row.samples_seen


def log_points(client: Any, run_id: str, points: Iterable[Point], at_ms: int) -> None:
    """Log points in one request."""
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(name, value, at_ms, step) for name, value, step in points])
