"""The one template of all pages: of a recipe's evaluation, of a scored folder, of sets that are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softalign.artifacts import GuidedBase
from softalign.evaluation.report.charts import Curve, training_curve
from softalign.evaluation.report.columns import Column, Pair
from softalign.evaluation.report.curves import CurveDefinition
from softalign.evaluation.report.gallery import ShownImages, gallery_of, script_json
from softalign.evaluation.report.guidance import GuidanceSection
from softalign.evaluation.report.metric_table import MetricRow
from softalign.evaluation.report.tables import difference_cards, pair_tables, reference_card, score_cards, score_rows
from softalign.pages import page_environment

if TYPE_CHECKING:
    import jinja2

TEMPLATE_FILENAME = "template.html.j2"


@dataclass(frozen=True)
class Lacking:
    """What a column's set lacks of its suite, in lines."""

    label: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What a page shows; a section without content is left out.

    Attributes:
        verdict: the result in one sentence; empty: there is nothing to compare.
        notes: how the images were made and judged, a paragraph each.
        num_prompts: of each column.
        confidence: of all intervals, a ratio.
        columns: what stands side by side.
        pairs: what is compared with what.
        shown: the columns' images.
        planned_detectable: the smallest overall difference that was to be found, as said beforehand (ratio).
        reference: the base at another guidance.
        metrics: beside the suite's scores.
        guidance: of a sweep.
        curves: of training; None where nothing was trained.
        lacking: of columns whose sets are incomplete.
        records: name, digest and stage key of each.
        settings: title and text of each.
    """

    title: str
    verdict: str
    notes: tuple[str, ...]
    num_prompts: int
    confidence: float
    columns: tuple[Column, ...]
    pairs: tuple[Pair, ...]
    shown: tuple[ShownImages, ...]
    planned_detectable: float | None = None
    reference: GuidedBase | None = None
    metrics: tuple[MetricRow, ...] = ()
    guidance: GuidanceSection | None = None
    curves: tuple[Curve, ...] | None = None
    lacking: tuple[Lacking, ...] = ()
    records: tuple[tuple[str, str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


def render(page: Page) -> str:
    """Return a page as HTML that needs no other file; the same page is the same bytes."""
    gallery = gallery_of(page.shown, page.columns, page.pairs)
    curves = page.curves or ()
    return _template().render(
        page=page,
        confidence=f"{100 * page.confidence:g} %",
        score_cards=score_cards(page.columns),
        difference_cards=difference_cards(page.pairs, page.columns),
        reference_card=reference_card(page.reference, page.columns[0].judge),
        score_rows=score_rows(page.columns),
        pair_tables=pair_tables(page.pairs, page.columns),
        curves=[(curve, training_curve(curve)) for curve in curves],
        curve_notes={definition.title: definition.note for definition in CurveDefinition.ALL},
        tags=gallery.tags,
        has_pictures=not gallery.is_empty,
        gallery_json=script_json(asdict(gallery)),
    )


def _template() -> jinja2.Template:
    return page_environment(Path(__file__).parent).get_template(TEMPLATE_FILENAME)
