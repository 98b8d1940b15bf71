"""Putting the page together: what each section shows, the data behind the gallery, and the template around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softalign.artifacts import Adapter, ComparisonReport, EvalReport, Record, TagDifference
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.report.charts import Bar, difference_dot, difference_limit, score_bars, training_curve
from softalign.evaluation.report.curves import CurveDefinition, read_curves
from softalign.evaluation.report.gallery import ARM_LABELS, ArmData, gallery_of, script_json, tag_label
from softalign.store.adapter_files import CONFIG_FILENAME, METRICS_FILENAME

if TYPE_CHECKING:
    import jinja2

TEMPLATE_FILENAME = "template.html.j2"


@dataclass(frozen=True)
class Card:
    """One headline number with its interval, as text."""

    title: str
    value: str
    interval: str
    kind: str


@dataclass(frozen=True)
class Row:
    """One table row: a task, its chart, and its cells as text."""

    label: str
    chart: str
    cells: tuple[str, ...]
    is_overall: bool


def render_page(
    comparison: ComparisonReport, arms: Sequence[ArmData], adapter: Adapter, adapter_path: Path, config: EvalConfig
) -> str:
    """Return the report as one HTML page; the same inputs are the same bytes.

    Args:
        comparison: the paired differences.
        arms: base, untrained tokens and adapter, in this order.
        adapter: the adapter's record.
        adapter_path: its folder: ``metrics.jsonl`` and ``adapter_config.json``.
        config: the evaluation's configuration.
    """
    reports = [arm.report for arm in arms]
    curves = read_curves(adapter_path / METRICS_FILENAME)
    return _template().render(
        name=adapter.name,
        suite=comparison.suite,
        confidence=f"{100 * config.confidence:g} %",
        verdict=verdict_sentence(comparison, config),
        guidance=comparison.guidance_text(),
        stopping=comparison.stopping_text(),
        arm_cards=[_arm_card(report) for report in reports],
        reference_card=_reference_card(comparison),
        difference_cards=[_difference_card(title, entries) for title, entries in _differences(comparison)],
        arms=[{"name": report.arm, "label": ARM_LABELS[report.arm]} for report in reports],
        score_rows=_score_rows(reports),
        difference_tables=_difference_tables(comparison),
        curves=[(curve, training_curve(curve)) for curve in curves],
        curve_notes={definition.title: definition.note for definition in CurveDefinition.ALL},
        num_images=comparison.num_images_per_arm,
        num_prompts=reports[0].num_prompts,
        any_correct=[(ARM_LABELS[report.arm], report.num_prompts_any_correct) for report in reports],
        tags=[(task.tag, tag_label(task.tag)) for task in reports[0].tags],
        gallery_json=script_json(asdict(gallery_of(arms))),
        records=_records(comparison, reports, adapter),
        settings=_settings(config, adapter_path),
        num_inference_steps=config.num_inference_steps,
    )


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE_FILENAME)


def verdict_sentence(comparison: ComparisonReport, config: EvalConfig) -> str:
    """Return the result in one sentence, no stronger than the intervals allow."""
    parts = []
    for name, differences in (
        ("the base model", comparison.adapter_vs_base),
        ("untrained tokens", comparison.adapter_vs_untrained),
    ):
        overall = next(entry for entry in differences if entry.tag == OVERALL)
        points = f"{abs(100 * overall.difference):.1f} points"
        if overall.ci_low > 0:
            parts.append(f"beats {name} by {points}")
        elif overall.ci_high < 0:
            parts.append(f"is {points} worse than {name}")
        else:
            parts.append(f"cannot be told apart from {name} ({100 * overall.difference:+.1f} points)")
    return f"The adapter {parts[0]} and {parts[1]}, at {100 * config.confidence:g} % confidence."


def _arm_card(report: EvalReport) -> Card:
    return Card(
        title=ARM_LABELS[report.arm],
        value=f"{report.overall_score * 100:.1f}",
        interval=f"{report.overall_ci_low * 100:.1f} to {report.overall_ci_high * 100:.1f}",
        kind=report.arm,
    )


def _reference_card(comparison: ComparisonReport) -> Card | None:
    base = comparison.guided_base
    if base is None:
        return None
    return Card(
        title=f"for reference: base model at guidance {base.guidance_scale:g}",
        value=f"{base.overall_score * 100:.1f}",
        interval=f"{base.overall_ci_low * 100:.1f} to {base.overall_ci_high * 100:.1f}",
        kind="reference",
    )


def _difference_card(title: str, differences: Sequence[TagDifference]) -> Card:
    overall = next(entry for entry in differences if entry.tag == OVERALL)
    return Card(
        title=title,
        value=f"{100 * overall.difference:+.1f} points",
        interval=f"{100 * overall.ci_low:+.1f} to {100 * overall.ci_high:+.1f}",
        kind="better" if overall.ci_low > 0 else "worse" if overall.ci_high < 0 else "unclear",
    )


def _score_rows(reports: Sequence[EvalReport]) -> list[Row]:
    rows = []
    for index, task in enumerate(reports[0].tags):
        bars = [
            Bar(r.arm, ARM_LABELS[r.arm], r.tags[index].score, r.tags[index].ci_low, r.tags[index].ci_high)
            for r in reports
        ]
        rows.append(_score_row(tag_label(task.tag), bars, is_overall=False))
    overall = [Bar(r.arm, ARM_LABELS[r.arm], r.overall_score, r.overall_ci_low, r.overall_ci_high) for r in reports]
    return [*rows, _score_row(tag_label(OVERALL), overall, is_overall=True)]


def _score_row(label: str, bars: Sequence[Bar], is_overall: bool) -> Row:
    cells = tuple(f"{bar.value * 100:.1f} ({bar.low * 100:.1f}–{bar.high * 100:.1f})" for bar in bars)
    return Row(label=label, chart=score_bars(bars), cells=cells, is_overall=is_overall)


def _differences(comparison: ComparisonReport) -> list[tuple[str, tuple[TagDifference, ...]]]:
    """Return what the adapter is compared with, in pairs; the champion last, where it was drawn."""
    champion = comparison.champion.partition("#")[0]
    beside = [(f"adapter − champion {champion}", comparison.adapter_vs_champion)] if champion else []
    return [
        ("adapter − base model", comparison.adapter_vs_base),
        ("adapter − untrained tokens", comparison.adapter_vs_untrained),
        *beside,
    ]


def _difference_tables(comparison: ComparisonReport) -> list[tuple[str, list[Row]]]:
    tables = [(title[:1].upper() + title[1:], entries) for title, entries in _differences(comparison)]
    bounds = [bound for _, entries in tables for entry in entries for bound in (entry.ci_low, entry.ci_high)]
    limit = difference_limit(bounds)
    return [(title, [_difference_row(entry, limit) for entry in entries]) for title, entries in tables]


def _difference_row(entry: TagDifference, limit: float) -> Row:
    return Row(
        label=tag_label(entry.tag),
        chart=difference_dot(entry.difference, entry.ci_low, entry.ci_high, limit),
        cells=(
            f"{100 * entry.difference:+.1f}",
            f"{100 * entry.ci_low:+.1f} to {100 * entry.ci_high:+.1f}",
        ),
        is_overall=entry.tag == OVERALL,
    )


def _records(
    comparison: ComparisonReport, reports: Sequence[EvalReport], adapter: Adapter
) -> list[tuple[str, str, str]]:
    named: list[tuple[str, Record]] = [("adapter", adapter), *((f"evaluation: {r.arm}", r) for r in reports)]
    rows = [(name, record.digest, record.stage_key) for name, record in named]
    return [*rows, ("comparison", "(see comparison.json)", comparison.stage_key)]


def _settings(config: EvalConfig, adapter_path: Path) -> list[tuple[str, str]]:
    settings = [("evaluation", json.dumps(config.model_dump(mode="json"), indent=1))]
    path = adapter_path / CONFIG_FILENAME
    if path.is_file():
        settings.append((CONFIG_FILENAME, path.read_text(encoding="utf-8").strip()))
    return settings
