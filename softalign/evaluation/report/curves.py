"""Reading an adapter's ``metrics.jsonl`` into the curves the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from softalign.evaluation.report.charts import Curve
from softalign.store.metrics_log import LoggedRow, read_metrics


@dataclass(frozen=True)
class CurveDefinition:
    """One curve: the metric's key, the key of the level it is compared with, and how to read it."""

    title: str
    key: str
    note: str
    reference_key: str | None = None
    reference: float | None = None
    reference_label: str = ""

    ALL: ClassVar[tuple[CurveDefinition, ...]] = ()


CurveDefinition.ALL = (
    CurveDefinition("Loss", "loss", "Falling loss is no proof of better images: read the scores."),
    CurveDefinition(
        "Win rate",
        "win_rate",
        "Share of images whose own caption has the best reward among the candidates.",
        reference_key="chance",
        reference_label="chance",
    ),
    CurveDefinition(
        "Match weight",
        "match_weight",
        "Mean weight of the own caption; at chance the rewards cannot tell captions apart.",
        reference_key="chance",
        reference_label="chance",
    ),
    CurveDefinition(
        "Score margin",
        "margin",
        "Own caption's weight minus the best other one's.",
        reference=0.0,
        reference_label="no margin",
    ),
    CurveDefinition(
        "Held-out accuracy",
        "val_accuracy",
        "Share of held-out images whose own caption has the smallest error.",
        reference_key="val_chance",
        reference_label="chance",
    ),
)


def read_curves(path: Path) -> list[Curve]:
    """Return the curves whose metric the file has, over samples seen; none without a file.

    Raises:
        DataError: a line is not a JSON object with ``samples_seen``.
    """
    rows = read_metrics(path)
    curves = []
    for definition in CurveDefinition.ALL:
        points = [(row.samples_seen, row.values[definition.key]) for row in rows if definition.key in row.values]
        if len(points) > 1:
            curves.append(_curve(definition, points, rows))
    return curves


def _curve(definition: CurveDefinition, points: Sequence[tuple[int, float]], rows: Sequence[LoggedRow]) -> Curve:
    reference, key = definition.reference, definition.reference_key
    if key is not None:
        reference = next((row.values[key] for row in rows if key in row.values), None)
    return Curve(
        title=definition.title,
        samples_seen=tuple(float(x) for x, _ in points),
        values=tuple(y for _, y in points),
        reference=reference,
        reference_label=definition.reference_label,
    )
