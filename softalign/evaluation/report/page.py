"""The page of a recipe's evaluation: base, untrained tokens, champion and adapter, from their published records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import (
    Adapter,
    ComparisonReport,
    EvalReport,
    PairEvidence,
    PairStatistics,
    Record,
    TagDifference,
)
from softalign.artifacts.fronts import GuidanceFronts
from softalign.artifacts.metrics import MetricsReport
from softalign.artifacts.paired import standing
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.report.columns import Column, Pair
from softalign.evaluation.report.curves import read_curves
from softalign.evaluation.report.gallery import ArmData, ShownImages
from softalign.evaluation.report.guidance import guidance_section
from softalign.evaluation.report.metric_table import metric_rows
from softalign.evaluation.report.rendering import Page, render
from softalign.store.adapter_files import CONFIG_FILENAME, METRICS_FILENAME


@dataclass(frozen=True)
class Compared:
    """A comparison as it is shown.

    Attributes:
        comparison: its record.
        statistics: what its pairs show.
        fronts: of the sweep over guidance, where there was one.
        metrics: what scores beside the suite's, where ``evaluate.metrics`` asked for them.
        arms: in the order of the columns; the adapter last.
    """

    comparison: ComparisonReport
    statistics: PairStatistics
    fronts: GuidanceFronts | None
    metrics: MetricsReport | None
    arms: Sequence[ArmData]


def render_page(compared: Compared, adapter: Adapter, adapter_path: Path, config: EvalConfig) -> str:
    """Return the report as one HTML page; the same inputs are the same bytes.

    Args:
        compared: what is shown.
        adapter: the adapter's record.
        adapter_path: its folder: ``metrics.jsonl`` and ``adapter_config.json``.
        config: the evaluation's configuration.
    """
    comparison, reports = compared.comparison, [arm.report for arm in compared.arms]
    columns = tuple(Column.of_report(report) for report in reports)
    fronts = compared.fronts
    return render(
        Page(
            title=f"Evaluation of {adapter.name}",
            verdict=verdict_sentence(comparison, config),
            notes=_notes(comparison, reports),
            num_prompts=reports[0].num_prompts,
            confidence=config.confidence,
            columns=columns,
            pairs=_pairs(comparison, compared.statistics, [report.arm for report in reports], config.confidence),
            shown=tuple(ShownImages.of_arm(arm) for arm in compared.arms),
            planned_detectable=compared.statistics.planned_detectable,
            reference=comparison.guided_base,
            metrics=metric_rows(compared.metrics),
            guidance=None if fronts is None else guidance_section(fronts, columns[0].judge),
            curves=tuple(read_curves(adapter_path / METRICS_FILENAME)),
            records=_records(comparison, reports, adapter),
            settings=_settings(config, adapter_path),
        )
    )


def verdict_sentence(comparison: ComparisonReport, config: EvalConfig) -> str:
    """Return the result in one sentence, no stronger than intervals and p-values allow."""
    found = [
        ("the base model", comparison.adapter_vs_base, comparison.over_base),
        ("untrained tokens", comparison.adapter_vs_untrained, comparison.over_untrained),
    ]
    if comparison.adapter_vs_champion:
        found.append(("the champion", comparison.adapter_vs_champion, comparison.over_champion))
    *parts, last = [_verdict(name, differences, shown, config.confidence) for name, differences, shown in found]
    return f"The adapter {', '.join(parts)} and {last}, at {100 * config.confidence:g} % confidence."


def _verdict(name: str, differences: Sequence[TagDifference], shown: PairEvidence | None, confidence: float) -> str:
    overall = next(entry for entry in differences if entry.tag == OVERALL)
    points = f"{abs(100 * overall.difference):.1f} points"
    return {
        "better": f"beats {name} by {points}",
        "worse": f"is {points} worse than {name}",
        "unclear": f"cannot be told apart from {name} ({100 * overall.difference:+.1f} points)",
    }[standing(overall, None if shown is None else shown.p_value, confidence)]


def _notes(comparison: ComparisonReport, reports: Sequence[EvalReport]) -> tuple[str, ...]:
    stopping = comparison.stopping_text()
    return (
        f"{reports[-1].sampling_text()} {comparison.guidance_text()}",
        *([stopping] if stopping else []),
        f"Suite {comparison.suite}: {reports[0].num_prompts} prompts, {comparison.num_images_per_arm} images an arm, "
        "the same noise in every arm.",
    )


def _pairs(
    comparison: ComparisonReport, statistics: PairStatistics, arms: Sequence[str], confidence: float
) -> tuple[Pair, ...]:
    """Return what the adapter is compared with; the champion last, where it was drawn."""
    version = comparison.champion.partition("#")[0]
    found = [
        ("base", "base model", comparison.adapter_vs_base, statistics.adapter_vs_base),
        ("untrained", "untrained tokens", comparison.adapter_vs_untrained, statistics.adapter_vs_untrained),
        ("champion", f"champion {version}", comparison.adapter_vs_champion, statistics.adapter_vs_champion),
    ]
    return tuple(
        Pair(len(arms) - 1, arms.index(arm), f"adapter − {title}", differences, shown, confidence)
        for arm, title, differences, shown in found
        if arm in arms
    )


def _records(
    comparison: ComparisonReport, reports: Sequence[EvalReport], adapter: Adapter
) -> tuple[tuple[str, str, str], ...]:
    named: list[tuple[str, Record]] = [("adapter", adapter), *((f"evaluation: {r.arm}", r) for r in reports)]
    rows = [(name, record.digest, record.stage_key) for name, record in named]
    return (*rows, ("comparison", "(see comparison.json)", comparison.stage_key))


def _settings(config: EvalConfig, adapter_path: Path) -> tuple[tuple[str, str], ...]:
    settings = [("evaluation", json.dumps(config.model_dump(mode="json"), indent=1))]
    path = adapter_path / CONFIG_FILENAME
    if path.is_file():
        settings.append((CONFIG_FILENAME, path.read_text(encoding="utf-8").strip()))
    return tuple(settings)
