"""What a stage leaves in the orchestrator: a log line and artifacts for people; the stage's files are the truth."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from softalign.artifacts import ArmReports, ComparisonReport, ModelVersion, Record
from softalign.config.families import judge_of
from softalign.registry import report_url, run_url
from softalign.stages.published import Published
from softalign.stages.run import StageResult
from softalign.store.files import is_local, link_of
from tasks.posting import post

REPORT_FILENAME = "report.html"


def run_logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the logger of the current task run; its lines go to the console and to the server."""
    return get_run_logger()


def artifact_key(recipe_name: str, label: str) -> str:
    """Return an artifact's key: lower case, digits and dashes; runs of one recipe make one history per key."""
    kept = "".join(character if character.isalnum() else "-" for character in f"{recipe_name}-{label}".lower())
    return "-".join(part for part in kept.split("-") if part)


def stage_markdown(result: StageResult) -> str:
    """Return a stage's summary: whether it ran or was reused, then the record's fields as a table."""
    record: Record = result.record
    how = "**Already there: nothing was done.**" if result.is_reused else f"Done in {result.seconds:.1f} s."
    rows = [("digest", record.digest), *record.model_dump(mode="json", exclude={"schema_version"}).items()]
    if result.usage is not None:
        how = f"{how} Used, when it ran: {result.usage.to_text()}."
    table = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"# {result.label}", "", how, "", "| field | value |", "| --- | --- |", *table, ""])


def _cell(value: Any) -> str:
    """Return a value for one table cell; lists of rows as one line each."""
    if isinstance(value, list):
        return "<br>".join(_cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def score_rows(arms: ArmReports) -> list[dict[str, Any]]:
    """Return the scores of the three arms, one row per tag and one for ``overall``."""
    reports = arms.compared
    overall = {"tag": "overall"} | {report.arm: round(report.overall_score, 4) for report in reports}
    per_tag = [
        {"tag": scores[0].tag}
        | {report.arm: round(score.score, 4) for report, score in zip(reports, scores, strict=True)}
        for scores in zip(*(report.tags for report in reports), strict=True)
    ]
    return [*per_tag, overall]


def publish_stage(result: StageResult, published: Published, recipe_name: str) -> None:
    """Log what a stage did and leave its summary as an artifact; of a comparison the scores and the report too."""
    result.say(run_logger().info)
    summary = partial(
        create_markdown_artifact,
        stage_markdown(result),
        key=artifact_key(recipe_name, result.label),
        description="already there, reused" if result.is_reused else "done",
    )
    post(f"The summary of {result.label}", summary)
    if isinstance(result.record, ComparisonReport):
        comparison, reports = result.record, published.arm_reports
        post("The comparison", lambda: _publish_comparison(comparison, reports, recipe_name))
    if isinstance(result.record, ModelVersion):
        version = result.record
        post("The registered version", lambda: _publish_version(version, recipe_name))


def _publish_comparison(comparison: ComparisonReport, reports: ArmReports, recipe_name: str) -> None:
    """Leave the table of scores as an artifact, and the link to the report where it is a file of this machine."""
    judge = judge_of(comparison.suite, comparison.detector)
    said = f"GenEval scores of the three arms ({judge}). {comparison.stopping_text()}".rstrip(". ")
    create_table_artifact(score_rows(reports), key=artifact_key(recipe_name, "scores"), description=said)
    report_uri = f"{comparison.uri}/{REPORT_FILENAME}"
    if is_local(report_uri):
        _publish_link(recipe_name, "report", link_of(report_uri))


def _publish_version(version: ModelVersion, recipe_name: str) -> None:
    """Leave links that any browser opens, where the registry is a server: to the version's run, and to the report."""
    for label, address in (("registry-run", run_url(version)), ("report", report_url(version))):
        if address:
            _publish_link(recipe_name, label, address)


def _publish_link(recipe_name: str, label: str, address: str) -> None:
    create_link_artifact(address, link_text=label, key=artifact_key(recipe_name, label), description=label)
