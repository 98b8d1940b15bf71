"""Reading an adapter's ``metrics.jsonl`` into the curves the page shows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from softalign.errors import DataError
from softalign.evaluation.report.charts import Curve


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
    rows = _read_rows(path) if path.is_file() else []
    curves = []
    for definition in CurveDefinition.ALL:
        points = [
            (float(row["samples_seen"]), float(row[definition.key]))
            for row in rows
            if isinstance(row.get(definition.key), int | float) and math.isfinite(row[definition.key])
        ]
        if len(points) > 1:
            curves.append(_curve(definition, points, rows))
    return curves


def _curve(definition: CurveDefinition, points: list[tuple[float, float]], rows: list[dict[str, Any]]) -> Curve:
    reference = definition.reference
    if definition.reference_key is not None:
        levels = (row.get(definition.reference_key) for row in rows)
        reference = next((float(level) for level in levels if level is not None), None)
    return Curve(
        title=definition.title,
        samples_seen=tuple(x for x, _ in points),
        values=tuple(y for _, y in points),
        reference=reference,
        reference_label=definition.reference_label,
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            float(row["samples_seen"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "A line of the training metrics cannot be read.",
                expected="a JSON object with samples_seen",
                found=line[:80],
                where=f"{path.name}, line {number}",
            ) from error
        rows.append(row)
    return rows
