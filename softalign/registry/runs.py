"""The run of a registration: its training's, completed with whatever is missing, and with scores, report and model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from softalign.artifacts import Adapter, ArmReports, ComparisonReport, EvalReport, TagDifference, Usage
from softalign.config.families import judge_of
from softalign.config.recipe import Recipe
from softalign.config.registration import RegisterConfig
from softalign.registry.curves import Curves, Point, log_points
from softalign.registry.experiments import NOTE_TAG
from softalign.registry.metric_points import metric_points
from softalign.registry.run_facts import SAMPLES_FOLDER, RunFacts, log_facts
from softalign.registry.tables import log_table
from softalign.registry.training_runs import registration_run
from softalign.store.adapter_files import METRICS_FILENAME, TRAIN_CONFIG_FILENAME
from softalign.store.metrics_log import read_metrics
from softalign.store.usage import USAGE_FILENAME

COMPLETE_TAG = "softalign.is_complete"
"""Of a run that has all that a registration adds to it."""
SCORES_FILENAME = "scores.json"
"""Names the files that MLflow's pages show as tables, those of several runs beneath one another."""
USAGE_ARTIFACT = "usage.json"


def ensure_run(
    client: Any,
    *,
    key: str,
    experiment_id: str,
    adapter: Adapter,
    adapter_path: Path,
    model_path: Path,
    comparison: ComparisonReport,
    report_path: Path,
    reports: ArmReports,
    config: RegisterConfig,
    usages: Mapping[str, Usage],
    recipe: Recipe | None = None,
) -> str:
    """Return the id of the finished run of a stage key; an unfinished one is completed, not repeated.

    It is the run of the adapter's training, unless another registration has that. Logging twice adds nothing:
    parameters are equal, and a metric's point with the run's own start as its time is the same row. What stages cost
    (``usages``) is read from beside their records, where it does not change.
    """
    name = f"{config.name} {adapter.digest[:8]}"
    run = registration_run(client, experiment_id, key, adapter.stage_key, name)
    run_id, is_complete = str(run.info.run_id), COMPLETE_TAG in run.data.tags
    if is_complete and run.info.status == "FINISHED":
        return run_id
    if not is_complete:
        _log_training(client, run, _facts_of(adapter, adapter_path, recipe), adapter_path)
        log_points(client, run_id, [*_scores(comparison, reports, report_path), *_costs(usages)], run.info.start_time)
        _log_tables(client, run_id, comparison, reports, usages)
        client.log_artifacts(run_id, str(model_path), "model")
        for path in sorted(path for path in report_path.iterdir() if path.is_file() and path.name != USAGE_FILENAME):
            client.log_artifact(run_id, str(path), "report")
        _log_tags(client, run, adapter, comparison, reports)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _facts_of(adapter: Adapter, adapter_path: Path, recipe: Recipe | None) -> RunFacts:
    path = adapter_path / TRAIN_CONFIG_FILENAME
    return RunFacts(
        name=adapter.name,
        base_model=adapter.base_model,
        train=json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {},
        dataset_digest=adapter.dataset_digest,
        encoded_digest=adapter.parents[0],
        recipe=recipe,
    )


def _log_training(client: Any, run: Any, facts: RunFacts, adapter_path: Path) -> None:
    """Log what the training has not posted itself: all of it, where no registry was there meanwhile."""
    log_facts(client, run, facts)
    Curves(run).post(client, read_metrics(adapter_path / METRICS_FILENAME))
    samples = adapter_path / SAMPLES_FOLDER
    if samples.is_dir():
        client.log_artifacts(run.info.run_id, str(samples), SAMPLES_FOLDER)


def _scores(comparison: ComparisonReport, reports: ArmReports, report_path: Path) -> Iterator[Point]:
    """Yield what runs are compared by: overall scores and gains, the adapter's scores by tag, metrics; no curves."""
    for report in reports.compared:
        yield f"score/{report.arm}/overall", report.overall_score, 0
    for tag in reports.adapter.tags:
        yield f"score/adapter/{tag.tag}", tag.score, 0
    for name, differences in _gains(comparison).items():
        for entry in differences:
            if entry.tag == "overall":
                yield f"gain/{name}", entry.difference, 0
                yield f"gain/{name}_ci_low", entry.ci_low, 0
    yield from metric_points(report_path)
    if comparison.stopping is not None:
        yield "evaluation/rounds", comparison.stopping.rounds, 0
        yield "evaluation/of_rounds", comparison.stopping.of_rounds, 0


def _gains(comparison: ComparisonReport) -> dict[str, tuple[TagDifference, ...]]:
    return {"over_base": comparison.adapter_vs_base, "over_untrained": comparison.adapter_vs_untrained}


def _costs(usages: Mapping[str, Usage]) -> Iterator[Point]:
    """Yield the GPU seconds of all stages together; what each stage cost is in a file."""
    if usages:
        yield "usage/gpu_s", sum(usage.gpu_s for usage in usages.values()), 0


def _log_tables(
    client: Any, run_id: str, comparison: ComparisonReport, reports: ArmReports, usages: Mapping[str, Usage]
) -> None:
    """Log all scores as a table that MLflow shows, and what each stage cost."""
    log_table(client, run_id, _score_table(comparison, reports), SCORES_FILENAME)
    if usages:
        client.log_dict(run_id, {stage: usage.model_dump() for stage, usage in usages.items()}, USAGE_ARTIFACT)


def _score_table(comparison: ComparisonReport, reports: ArmReports) -> dict[str, Any]:
    """Return scores and gains by tag, in the form of MLflow's tables: names of columns, and rows."""
    scores = {report.arm: _by_tag(report) for report in reports.all}
    gains = {name: {entry.tag: entry for entry in entries} for name, entries in _gains(comparison).items()}
    limits = [f"{name}{part}" for name in gains for part in ("", "_ci_low", "_ci_high")]
    rows = [
        [
            tag,
            *(by_tag.get(tag) for by_tag in scores.values()),
            *(value for by_tag in gains.values() for value in _limits(by_tag.get(tag))),
        ]
        for tag in scores["adapter"]
    ]
    return {"columns": ["tag", *scores, *limits], "data": rows}


def _by_tag(report: EvalReport) -> dict[str, float]:
    return {"overall": report.overall_score, **{tag.tag: tag.score for tag in report.tags}}


def _limits(entry: TagDifference | None) -> tuple[float | None, ...]:
    return (None, None, None) if entry is None else (entry.difference, entry.ci_low, entry.ci_high)


def _log_tags(client: Any, run: Any, adapter: Adapter, comparison: ComparisonReport, reports: ArmReports) -> None:
    """Say which bytes these are, and in the description how they scored; then the run is complete."""
    from mlflow.entities import RunTag

    run_id = run.info.run_id
    described = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
    tags = {
        "softalign.adapter_digest": adapter.digest,
        "softalign.backbone_digest": adapter.backbone_digest,
        "softalign.comparison_digest": comparison.digest,
        "softalign.parents": json.dumps(adapter.parents),
        "softalign.weights_sha256": adapter.weights_sha256,
        **{f"softalign.report_digest.{report.arm}": report.digest for report in reports.compared},
        NOTE_TAG: f"{described} {_result(comparison)}".strip(),
        COMPLETE_TAG: "true",
    }
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _result(comparison: ComparisonReport) -> str:
    return (
        f"On {comparison.suite} ({judge_of(comparison.suite, comparison.detector)}), {comparison.num_images_per_arm} "
        f"images an arm, it scores {100 * comparison.overall_adapter:.1f}, the base model "
        f"{100 * comparison.overall_base:.1f} and untrained tokens {100 * comparison.overall_untrained:.1f}. "
        f"{comparison.stopping_text()}"
    ).rstrip()
