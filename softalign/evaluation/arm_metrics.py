"""Metrics of an evaluation's arms: scores of every image beside its verdict, and what they say of the arms in pairs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from softalign.artifacts import EvalReport
from softalign.artifacts.metrics import ArmDistances, ArmMetrics, MetricDifference, MetricMean, MetricsReport
from softalign.config.evaluation import EvalConfig
from softalign.config.metrics import MetricConfig
from softalign.config.runtime import Runtime
from softalign.engines.work import Engine, Work
from softalign.errors import IntegrityError
from softalign.evaluation.image_files import load_image
from softalign.evaluation.image_lines import line_text
from softalign.evaluation.metric_statistics import Resampling, Values, metric_difference, metric_mean
from softalign.geneval.scoring import ImageResult
from softalign.metrics.scorer import load_scorer

VALUES_FILENAME = "metric_values.jsonl"
"""Of an arm: a line an image, its name and its score by each metric."""
ScoredImage = tuple[bytes, str]
"""An image file and its prompt."""


class ScoredArm(Protocol):
    """A published arm: its record and its folder."""

    @property
    def report(self) -> EvalReport:
        """The record."""
        ...

    @property
    def root(self) -> Path:
        """The folder."""
        ...


def write_metric_values(
    images_root: Path,
    results: Sequence[ImageResult],
    metrics: tuple[MetricConfig, ...],
    runtime: Runtime,
    engine: Engine,
    out: Path,
    lent: Path | None = None,
) -> None:
    """Score the images of an arm by every metric and write them to a folder; without metrics nothing is written.

    Args:
        images_root: the images, in the official layout.
        results: of the images, in order.
        metrics: what to score by.
        runtime: the device.
        engine: what does it.
        out: the folder.
        lent: the folder of the arm with fewer or more images that some were taken from: those are scored already.

    Raises:
        CompatibilityError: a score is no number.
    """
    if not metrics:
        return
    known = {} if lent is None else _rows(lent)
    missing = [result for result in results if result.filename not in known]
    scoring = Work(file_scorer, (metrics, runtime), uses_model=True)
    images = (((images_root / result.filename).read_bytes(), result.prompt) for result in missing)
    names = [metric.name for metric in metrics]
    for result, found in zip(missing, engine.map(scoring, images), strict=True):
        known[result.filename] = {"filename": result.filename, **dict(zip(names, found, strict=True))}
        line_text(known[result.filename], images_root)  # a score that is none ends it here
    rows = [known[result.filename] for result in results]
    (out / VALUES_FILENAME).write_text("".join(line_text(row, images_root) for row in rows), encoding="utf-8")


def file_scorer(metrics: tuple[MetricConfig, ...], runtime: Runtime) -> Callable[[ScoredImage], list[float]]:
    """Return the function that scores an image by every metric; loads their models."""
    from softalign.backbones.frozen_pipeline import resolve_device

    device = resolve_device(runtime)
    scorers = [load_scorer(metric, device) for metric in metrics]

    def score(image: ScoredImage) -> list[float]:
        file, prompt = image
        pixels = load_image(io.BytesIO(file))
        return [scorer(pixels, prompt) for scorer in scorers]

    return score


def metrics_report(
    arms: Sequence[ScoredArm], config: EvalConfig, distances: tuple[ArmDistances, ...] = ()
) -> MetricsReport:
    """Return the arms' means and the adapter's differences from the others.

    Args:
        arms: base, untrained tokens and adapter, and the champion where there is one.
        config: metrics and intervals.
        distances: of these arms and those of the sweep.

    Raises:
        IntegrityError: an arm has no scores by these metrics.
    """
    how = Resampling(config.num_bootstrap, config.confidence, config.seed)
    values = {arm.report.arm: [_read(arm, metric) for metric in config.metrics] for arm in arms}
    return MetricsReport(
        arms=tuple(ArmMetrics(arm=arm, means=_means(config, own, how)) for arm, own in values.items()),
        adapter_vs_base=_differences(config, values["adapter"], values["base"], how),
        adapter_vs_untrained=_differences(config, values["adapter"], values["untrained"], how),
        adapter_vs_champion=_differences(config, values["adapter"], values["champion"], how)
        if "champion" in values
        else (),
        distances=distances,
    )


def _means(config: EvalConfig, values: Sequence[Values], how: Resampling) -> tuple[MetricMean, ...]:
    return tuple(metric_mean(metric, own, how) for metric, own in zip(config.metrics, values, strict=True))


def _differences(
    config: EvalConfig, candidate: Sequence[Values], reference: Sequence[Values], how: Resampling
) -> tuple[MetricDifference, ...]:
    return tuple(
        metric_difference(metric.name, mine, theirs, how)
        for metric, mine, theirs in zip(config.metrics, candidate, reference, strict=True)
    )


def _read(arm: ScoredArm, metric: MetricConfig) -> Values:
    path = arm.root / VALUES_FILENAME
    try:
        return {name: float(row[metric.name]) for name, row in _rows(arm.root).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"An arm has no scores by {metric.name}.",
            expected=f"{VALUES_FILENAME} with a score of each image",
            found=str(error),
            where=str(path),
            fix="evaluate it again",
        ) from error


def _rows(root: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a published arm, by image."""
    lines = (root / VALUES_FILENAME).read_text(encoding="utf-8").splitlines()
    return {row["filename"]: row for row in map(json.loads, lines)}
