"""Putting the page together: what each section shows, the data behind the gallery, and the template around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from softalign.artifacts import Adapter, ComparisonReport, EvalReport, Record, TagDifference
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.report.charts import Bar, difference_dot, difference_limit, score_bars, training_curve
from softalign.evaluation.report.curves import CurveDefinition, read_curves
from softalign.evaluation.report.pictures import SMALL_IMAGE_PX, data_uris, image_size
from softalign.evaluation.suites import known_classes
from softalign.geneval.decision import select_objects
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.layout import read_folders
from softalign.geneval.scoring import ImageResult

if TYPE_CHECKING:
    import jinja2

TEMPLATE_FILENAME = "template.html.j2"
ARM_LABELS = {"base": "base model", "untrained": "untrained tokens", "adapter": "adapter"}
TAG_LABELS = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
    OVERALL: "overall",
}


class ArmData(Protocol):
    """What the page needs of an arm (``softalign.evaluation.compare.ArmFiles``)."""

    @property
    def report(self) -> EvalReport:
        """The arm's record."""
        ...

    @property
    def results(self) -> tuple[ImageResult, ...]:
        """One result an image, in the suite's order."""
        ...

    @property
    def images_root(self) -> Path:
        """The folder in the official layout."""
        ...

    @property
    def detections_path(self) -> Path:
        """The recorded detections."""
        ...


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
    curves = read_curves(adapter_path / "metrics.jsonl")
    return _template().render(
        name=adapter.name,
        suite=comparison.suite,
        confidence=f"{100 * config.confidence:g} %",
        verdict=verdict_sentence(comparison, config),
        guidance=comparison.guidance_text(),
        arm_cards=[_arm_card(report) for report in reports],
        reference_card=_reference_card(comparison),
        difference_cards=[
            _difference_card("adapter − base model", comparison.adapter_vs_base),
            _difference_card("adapter − untrained tokens", comparison.adapter_vs_untrained),
        ],
        arms=[{"name": report.arm, "label": ARM_LABELS[report.arm]} for report in reports],
        score_rows=_score_rows(reports),
        difference_tables=_difference_tables(comparison),
        curves=[(curve, training_curve(curve)) for curve in curves],
        curve_notes={definition.title: definition.note for definition in CurveDefinition.ALL},
        num_images=comparison.num_images_per_arm,
        num_prompts=reports[0].num_prompts,
        any_correct=[(ARM_LABELS[report.arm], report.num_prompts_any_correct) for report in reports],
        tags=[(task.tag, TAG_LABELS[task.tag]) for task in reports[0].tags],
        gallery_json=_script_json(_gallery(arms)),
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
        value=f"{report.overall_score:.3f}",
        interval=f"{report.overall_ci_low:.3f} to {report.overall_ci_high:.3f}",
        kind=report.arm,
    )


def _reference_card(comparison: ComparisonReport) -> Card | None:
    base = comparison.guided_base
    if base is None:
        return None
    return Card(
        title=f"for reference: base model at guidance {base.guidance_scale:g}",
        value=f"{base.overall_score:.3f}",
        interval=f"{base.overall_ci_low:.3f} to {base.overall_ci_high:.3f}",
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
        rows.append(_score_row(TAG_LABELS[task.tag], bars, is_overall=False))
    overall = [Bar(r.arm, ARM_LABELS[r.arm], r.overall_score, r.overall_ci_low, r.overall_ci_high) for r in reports]
    return [*rows, _score_row(TAG_LABELS[OVERALL], overall, is_overall=True)]


def _score_row(label: str, bars: Sequence[Bar], is_overall: bool) -> Row:
    cells = tuple(f"{bar.value:.2f} ({bar.low:.2f}–{bar.high:.2f})" for bar in bars)
    return Row(label=label, chart=score_bars(bars), cells=cells, is_overall=is_overall)


def _difference_tables(comparison: ComparisonReport) -> list[tuple[str, list[Row]]]:
    tables = (
        ("Adapter − base model", comparison.adapter_vs_base),
        ("Adapter − untrained tokens", comparison.adapter_vs_untrained),
    )
    bounds = [bound for _, entries in tables for entry in entries for bound in (entry.ci_low, entry.ci_high)]
    limit = difference_limit(bounds)
    return [(title, [_difference_row(entry, limit) for entry in entries]) for title, entries in tables]


def _difference_row(entry: TagDifference, limit: float) -> Row:
    return Row(
        label=TAG_LABELS[entry.tag],
        chart=difference_dot(entry.difference, entry.ci_low, entry.ci_high, limit),
        cells=(
            f"{100 * entry.difference:+.1f}",
            f"{100 * entry.ci_low:+.1f} to {100 * entry.ci_high:+.1f}",
        ),
        is_overall=entry.tag == OVERALL,
    )


def _gallery(arms: Sequence[ArmData]) -> dict[str, Any]:
    """Return the gallery's data: one entry an image, with each arm's verdict, reason, objects and picture."""
    paths = [arm.images_root / result.filename for arm in arms for result in arm.results]
    width, height = image_size(paths[0])
    pictures = data_uris(paths)
    classes = known_classes(read_folders(arms[0].images_root))
    detections = [read_detections(arm.detections_path, classes) for arm in arms]
    num_images = len(arms[0].results)
    entries = []
    for index, first in enumerate(arms[0].results):
        shown = []
        for number, arm in enumerate(arms):
            result = arm.results[index]
            shown.append(
                {
                    "ok": result.correct,
                    "why": result.reason,
                    "src": pictures[number * num_images + index],
                    "found": _objects(result, detections[number][result.filename]),
                }
            )
        entries.append({"file": first.filename, "tag": first.tag, "prompt": first.prompt, "arms": shown})
    return {
        "width": width,
        "height": height,
        "crisp": max(width, height) <= SMALL_IMAGE_PX,
        "arms": [ARM_LABELS[arm.report.arm] for arm in arms],
        "tags": TAG_LABELS,
        "entries": entries,
    }


def _objects(result: ImageResult, detections: Sequence[Detection]) -> list[dict[str, Any]]:
    counted = {id(one) for group in select_objects(detections, result.tag).values() for one in group}
    return [
        {
            "name": f"{detection.color} {detection.class_name}" if detection.color else detection.class_name,
            "score": round(detection.score, 2),
            "box": [round(value, 1) for value in detection.box],
            "counted": id(detection) in counted,
        }
        for detection in detections
    ]


def _records(
    comparison: ComparisonReport, reports: Sequence[EvalReport], adapter: Adapter
) -> list[tuple[str, str, str]]:
    named: list[tuple[str, Record]] = [("adapter", adapter), *((f"evaluation: {r.arm}", r) for r in reports)]
    rows = [(name, record.digest, record.stage_key) for name, record in named]
    return [*rows, ("comparison", "(see comparison.json)", comparison.stage_key)]


def _settings(config: EvalConfig, adapter_path: Path) -> list[tuple[str, str]]:
    settings = [("evaluation", json.dumps(config.model_dump(mode="json"), indent=1))]
    path = adapter_path / "adapter_config.json"
    if path.is_file():
        settings.append(("adapter_config.json", path.read_text(encoding="utf-8").strip()))
    return settings


def _script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no ``<`` can end it early."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
