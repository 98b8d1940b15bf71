"""The run of a registration: parameters, curves over samples seen, scores of the three arms, report and lineage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from softalign.artifacts import Adapter, ArmReports, ComparisonReport, Usage
from softalign.config.evaluation import RegisterConfig
from softalign.registry.links import ORCHESTRATOR_TAG
from softalign.registry.model_folder import flat_parameters
from softalign.registry.versions import STAGE_KEY_TAG
from softalign.run_context import orchestrator_run_url
from softalign.store.adapter_files import CONFIG_FILENAME, METRICS_FILENAME, TRAIN_CONFIG_FILENAME
from softalign.store.metrics_log import read_metrics
from softalign.store.usage import USAGE_FILENAME
from softalign.version import __version__

MAX_METRICS_PER_REQUEST = 1000
MAX_PARAMETERS_PER_REQUEST = 100
"""Limits of MLflow's log-batch request (its REST API reference)."""
MAX_DATASET_DIGEST_CHARS = 36
"""Limit of MLflow's dataset inputs; the whole digest is in the run's tags."""
X_AXIS = "samples_seen"
USAGE_METRICS = ("wall_s", "gpu_s", "cpu_s", "read_bytes", "written_bytes", "attempts")


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
) -> str:
    """Return the id of the finished run of a stage key; an unfinished one is completed, not repeated.

    Logging twice adds nothing: parameters are equal, and a metric's point with the run's own start as its time is the
    same row. What stages cost (``usages``) is read from beside their records, where it does not change.
    """
    run = _find_or_create(client, experiment_id, key, f"{config.name} {adapter.digest[:8]}")
    if run.info.status == "FINISHED":
        return str(run.info.run_id)
    run_id, at_ms = run.info.run_id, run.info.start_time
    _log_parameters(client, run_id, adapter, adapter_path, config)
    metrics = [*_curves(adapter_path / METRICS_FILENAME), *_scores(adapter, comparison, reports)]
    _log_metrics(client, run_id, metrics, at_ms)
    _log_metrics(client, run_id, list(_usages(usages, adapter)), at_ms)
    _log_lineage(client, run_id, adapter, comparison, reports)
    client.log_artifacts(run_id, str(model_path), "model")
    for path in sorted(path for path in report_path.iterdir() if path.is_file() and path.name != USAGE_FILENAME):
        client.log_artifact(run_id, str(path), "report")
    client.set_terminated(run_id, "FINISHED")
    return str(run_id)


def _find_or_create(client: Any, experiment_id: str, key: str, name: str) -> Any:
    found = client.search_runs([experiment_id], f"tags.`{STAGE_KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else client.create_run(experiment_id, run_name=name, tags={STAGE_KEY_TAG: key})


def _log_parameters(client: Any, run_id: str, adapter: Adapter, adapter_path: Path, config: RegisterConfig) -> None:
    from mlflow.entities import Param

    values = flat_parameters(adapter_path / CONFIG_FILENAME)
    values |= {f"train.{name}": value for name, value in flat_parameters(adapter_path / TRAIN_CONFIG_FILENAME).items()}
    values |= {f"policy.{name}": str(value) for name, value in config.policy.model_dump().items()}
    for name in ("num_parameters", "num_steps", X_AXIS, "objective", "base_model"):
        values[f"adapter.{name}"] = str(getattr(adapter, name))
    rows = [Param(name, value) for name, value in sorted(values.items())]
    for start in range(0, len(rows), MAX_PARAMETERS_PER_REQUEST):
        client.log_batch(run_id, params=rows[start : start + MAX_PARAMETERS_PER_REQUEST])


def _curves(path: Path) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, samples seen) of every number of the training log."""
    for row in read_metrics(path):
        for name, value in row.values.items():
            yield f"{row.split}/{name.removeprefix(f'{row.split}_')}", value, row.samples_seen


def _scores(adapter: Adapter, comparison: ComparisonReport, reports: ArmReports) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, samples seen) of every arm's scores and of the paired differences."""
    for report in reports.compared:
        yield f"{report.arm}/overall", report.overall_score, adapter.samples_seen
        for tag in report.tags:
            yield f"{report.arm}/{tag.tag}", tag.score, adapter.samples_seen
    if comparison.guided_base is not None:
        yield "guided_base/overall", comparison.guided_base.overall_score, adapter.samples_seen
    pairs = (("gain_over_base", comparison.adapter_vs_base), ("gain_over_untrained", comparison.adapter_vs_untrained))
    for name, differences in pairs:
        for entry in differences:
            yield f"{name}/{entry.tag}", entry.difference, adapter.samples_seen
            yield f"{name}_ci_low/{entry.tag}", entry.ci_low, adapter.samples_seen
            yield f"{name}_ci_high/{entry.tag}", entry.ci_high, adapter.samples_seen


def _usages(usages: Mapping[str, Usage], adapter: Adapter) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, samples seen) of what each stage cost."""
    for stage, usage in usages.items():
        for name in USAGE_METRICS:
            yield f"usage/{stage}/{name}", float(getattr(usage, name)), adapter.samples_seen


def _log_metrics(client: Any, run_id: str, rows: list[tuple[str, float, int]], at_ms: int) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(name, value, at_ms, step) for name, value, step in rows]
    for start in range(0, len(metrics), MAX_METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_REQUEST])


def _log_lineage(
    client: Any,
    run_id: str,
    adapter: Adapter,
    comparison: ComparisonReport,
    reports: ArmReports,
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

    tags = {
        "softalign.adapter_digest": adapter.digest,
        "softalign.backbone_digest": adapter.backbone_digest,
        "softalign.comparison_digest": comparison.digest,
        "softalign.dataset_digest": adapter.dataset_digest,
        "softalign.library_version": __version__,
        "softalign.parents": json.dumps(adapter.parents),
        "softalign.weights_sha256": adapter.weights_sha256,
        **{f"softalign.report_digest.{report.arm}": report.digest for report in reports.compared},
    }
    if url := orchestrator_run_url():
        tags[ORCHESTRATOR_TAG] = url
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    dataset = Dataset(
        name=adapter.name,
        digest=adapter.dataset_digest[:MAX_DATASET_DIGEST_CHARS],
        source_type="softalign",
        source=json.dumps({"dataset_digest": adapter.dataset_digest}),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])])
