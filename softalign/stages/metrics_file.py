"""Figures of finished stages for Prometheus: a file that node_exporter's textfile collector reads.

``SOFTALIGN_METRICS_FILE`` names it. Counters go on from what it holds, also across processes; it is replaced whole.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from softalign.artifacts import Usage
from softalign.errors import ConfigError
from softalign.store.files import write_atomically

METRICS_VARIABLE = "SOFTALIGN_METRICS_FILE"
LOCK_TIMEOUT_S = 10.0
Outcome = Literal["done", "reused", "failed"]
COUNTERS = {
    "softalign_stage_runs": "Stages that ended, by outcome: done, reused (already there) or failed.",
    "softalign_stage_seconds": "Seconds of work in stages.",
    "softalign_stage_gpu_seconds": "Seconds that stages held GPUs, times their number.",
    "softalign_stage_cpu_seconds": "Processor seconds of stages, their child processes included.",
    "softalign_stage_read_bytes": "Bytes that stages read from the store.",
    "softalign_stage_written_bytes": "Bytes that stages wrote into the store.",
    "softalign_stage_gpu_slot_wait_seconds": "Seconds that stages waited for a GPU slot.",
}
GAUGES = {
    "softalign_stage_last_seconds": "Seconds of work of the last attempt.",
    "softalign_stage_peak_memory_bytes": "Largest resident memory of a child process in the last attempt.",
    "softalign_stage_items_per_second": "What the last attempt counted, a second, by what it counts.",
    "softalign_stage_last_success_timestamp_seconds": "When the stage was last done or found done.",
}
Labels = tuple[tuple[str, str], ...]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One number: of which metric, with which labels."""

    metric: str
    labels: Labels
    value: float


def note_stage(recipe: str, stage: str, outcome: Outcome, attempt: Usage | None = None) -> None:
    """Add an ended stage to the file, where the environment names one; what hinders it is said, and hinders no work.

    Args:
        recipe: its name.
        stage: the step's label.
        outcome: how it ended.
        attempt: what this attempt took; None for one that was already there.

    Raises:
        ConfigError: prometheus_client is not installed.
    """
    place = os.environ.get(METRICS_VARIABLE)
    if not place:
        return
    path = Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_TIMEOUT_S):
            known = _read(path)
            for sample in _samples((("recipe", recipe), ("stage", stage)), outcome, attempt):
                before = known.get((sample.metric, sample.labels), 0.0) if sample.metric in COUNTERS else 0.0
                known[sample.metric, sample.labels] = before + sample.value
            write_atomically(path, _text(known))
    except (OSError, ValueError) as error:  # a disk that is full, a lock that is held, a file of another's
        logger.warning("The metrics of %s are not in %s: %s", stage, path, error)


def _samples(labels: Labels, outcome: Outcome, attempt: Usage | None) -> Iterator[_Sample]:
    yield _Sample("softalign_stage_runs", (*labels, ("outcome", outcome)), 1.0)
    if outcome != "failed":
        yield _Sample("softalign_stage_last_success_timestamp_seconds", labels, round(time.time(), 3))
    if attempt is None:
        return
    yield _Sample("softalign_stage_seconds", labels, attempt.wall_s)
    yield _Sample("softalign_stage_gpu_seconds", labels, attempt.gpu_s)
    yield _Sample("softalign_stage_cpu_seconds", labels, attempt.cpu_s)
    yield _Sample("softalign_stage_read_bytes", labels, attempt.read_bytes)
    yield _Sample("softalign_stage_written_bytes", labels, attempt.written_bytes)
    yield _Sample("softalign_stage_gpu_slot_wait_seconds", labels, attempt.slot_wait_s)
    yield _Sample("softalign_stage_last_seconds", labels, attempt.wall_s)
    if attempt.peak_memory_bytes is not None:
        yield _Sample("softalign_stage_peak_memory_bytes", labels, attempt.peak_memory_bytes)
    for unit, rate in attempt.rates.items():
        yield _Sample("softalign_stage_items_per_second", (*labels, ("unit", unit)), rate)


def _read(path: Path) -> dict[tuple[str, Labels], float]:
    """Return the numbers that a file holds, by metric and labels; those of other metrics are left out.

    Raises:
        ValueError: it is no such file.
        ConfigError: prometheus_client is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise ConfigError(
            "Metrics cannot be written.",
            expected="the package prometheus_client",
            where=METRICS_VARIABLE,
            fix="pip install 'softalign[pipeline]' brings it, or unset the variable",
        ) from error
    if not path.is_file():
        return {}
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {
        (family.name, tuple(sample.labels.items())): sample.value
        for family in families
        if family.name in COUNTERS or family.name in GAUGES
        for sample in family.samples
    }


def _text(known: dict[tuple[str, Labels], float]) -> bytes:
    """Return numbers in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Known(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, about in (COUNTERS | GAUGES).items():
                rows = [(dict(labels), value) for (metric, labels), value in sorted(known.items()) if metric == name]
                for keys in dict.fromkeys(tuple(labels) for labels, _ in rows):
                    kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
                    family = kind(name, about, labels=keys)
                    for labels, value in rows:
                        family.add_metric(list(labels.values()), value)
                    yield family

    registry = CollectorRegistry()
    registry.register(Known())
    return generate_latest(registry)
