"""The study's page: one file with verdicts, fronts over guidance, learning curves and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.pages import page_environment
from softalign.study.charts import Line, Point, line_chart
from softalign.study.matrix import PublishedTable
from softalign.study.results import MEASURED, Comparison, Measured, Score, StudyResult

NUM_COLOURS = 8
KINDS = ("base", "untrained", *(f"c{number}" for number in range(NUM_COLOURS)))
TITLES: dict[Measured, str] = {"overall": "Overall", "adherence": "Adherence", "counting": "Counting"}


def study_page(result: StudyResult) -> str:
    """Return the page as HTML that loads nothing."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"points": _points, "signed": _signed, "p": _p, "told": _told}
    models = [Model(result, name) for name in dict.fromkeys(cell.recipe for cell in result.cells)]
    published = [{"source": one.source, "columns": one.columns, "rows": _rows(one, result)} for one in result.published]
    template = environment.get_template("study.html.j2")
    return template.render(result=result, models=models, published=published, kinds=KINDS)


def _points(ratio: float) -> str:
    return f"{100 * ratio:.1f}"


def _signed(ratio: float) -> str:
    return f"{100 * ratio:+.1f}"


def _p(value: float) -> str:
    return "< .0001" if value < 0.0001 else f"{value:.4f}".removeprefix("0") if value < 1 else "1"


def _told(one: Comparison, confidence: float) -> str:
    if one.p_adjusted > 1.0 - confidence:
        return ""
    return "shown" if one.value > 0 else "contradicted"


@dataclass(frozen=True)
class Model:
    """What the page shows of one base model."""

    result: StudyResult
    name: str

    @property
    def legend(self) -> list[dict[str, str]]:
        """Each arm with its colour."""
        return [{"name": arm, "kind": self._kind(arm)} for arm in self._arms]

    @property
    def fronts(self) -> list[dict[str, str]]:
        """Adherence against counting, and the overall score by guidance, with what an image costs."""
        across = [self._front(arm) for arm in self._arms]
        by_guidance = [self._by_guidance(arm) for arm in self._arms]
        calls = {one.guidance_scale: one.denoiser_calls_per_image for one in self._scores("overall")}
        costs = ", ".join(f"{number} at {guidance:g}" for guidance, number in sorted(calls.items()))
        return [
            _chart("Adherence against counting", across, "adherence, points", "counting, points"),
            _chart(f"Score by guidance (denoiser calls an image: {costs})", by_guidance, "guidance", "overall, points"),
        ]

    @property
    def curves(self) -> list[dict[str, str]]:
        """Each column of the tables by images seen; none where all trainings are of one length."""
        lengths = {one.samples_seen for one in self.result.curves if one.recipe == self.name}
        return [
            _chart(TITLES[measured], self._curves(measured), "images seen in training", f"{measured}, points")
            for measured in MEASURED
            if len(lengths) > 1
        ]

    @property
    def started_otherwise(self) -> tuple[str, list[str]]:
        """The arm whose untrained tokens the tables have, and the arms that start from others."""
        drawn: dict[str, set[str]] = {}
        for cell in self.result.cells:
            if (cell.recipe, cell.scored_on) == (self.name, "report"):
                images = {one.digest for one in cell.arms if one.arm == "untrained"}
                drawn.setdefault(cell.arm, set()).update(images)
        first = next(arm for arm in self._arms if arm in drawn)
        return first, [arm for arm in drawn if drawn[arm] != drawn[first]]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The rows of the table of scores."""
        return [
            {
                "arm": one.arm,
                "steps": f"{one.num_steps:,}" if one.num_steps else "",
                "guidance": f"{one.guidance_scale:g}",
                "calls": one.denoiser_calls_per_image,
                "scores": self._at(one.arm, one.guidance_scale),
            }
            for one in self._scores("overall")
        ]

    @property
    def differences(self) -> list[dict[str, Any]]:
        """The rows of the table of differences."""
        rows: dict[tuple[str, str, float], list[Comparison]] = {}
        for one in self.result.comparisons:
            if one.recipe == self.name:
                rows.setdefault((one.arm, one.control, one.guidance_scale), []).append(one)
        return [
            {"arm": arm, "control": control, "guidance": f"{guidance:g}", "scores": found}
            for (arm, control, guidance), found in rows.items()
        ]

    @property
    def _arms(self) -> list[str]:
        return list(dict.fromkeys(one.arm for one in self._scores("overall")))

    def _kind(self, arm: str) -> str:
        trained = [name for name in self._arms if name not in KINDS]
        return arm if arm in KINDS else f"c{trained.index(arm) % NUM_COLOURS}"

    def _scores(self, measured: Measured) -> list[Score]:
        return [one for one in self.result.scores if one.recipe == self.name and one.measured == measured]

    def _at(self, arm: str, guidance: float) -> list[Score]:
        wanted = (self.name, arm, guidance)
        return [one for one in self.result.scores if (one.recipe, one.arm, one.guidance_scale) == wanted]

    def _front(self, arm: str) -> Line:
        counting = {one.guidance_scale: one.value for one in self._scores("counting") if one.arm == arm}
        return self._line(
            arm,
            (
                Point(
                    100 * one.value,
                    100 * counting[one.guidance_scale],
                    f"{one.guidance_scale:g}",
                    f"guidance {one.guidance_scale:g}: adherence {_points(one.value)}, "
                    f"counting {_points(counting[one.guidance_scale])}",
                )
                for one in self._scores("adherence")
                if one.arm == arm
            ),
        )

    def _by_guidance(self, arm: str) -> Line:
        scores = [one for one in self._scores("overall") if one.arm == arm]
        return self._line(
            arm,
            (
                Point(
                    one.guidance_scale,
                    100 * one.value,
                    "",
                    f"guidance {one.guidance_scale:g}, {one.denoiser_calls_per_image} calls: {_points(one.value)}",
                )
                for one in scores
            ),
        )

    def _curves(self, measured: Measured) -> list[Line]:
        mine = [one for one in self.result.curves if one.recipe == self.name and one.measured == measured]
        return [
            self._line(
                arm,
                (
                    Point(one.samples_seen, 100 * one.value, "", f"{one.samples_seen:,} images: {_points(one.value)}")
                    for one in mine
                    if one.arm == arm
                ),
            )
            for arm in dict.fromkeys(one.arm for one in mine)
        ]

    def _line(self, arm: str, points: Iterator[Point]) -> Line:
        return Line(arm, self._kind(arm), tuple(points))


def _chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> dict[str, str]:
    return {"title": title, "svg": line_chart(title, lines, x_label, y_label)}


def _rows(table: PublishedTable, result: StudyResult) -> list[dict[str, Any]]:
    """Return a published table's rows, the study's own number behind each that it has."""
    return [
        {
            "name": name,
            "cells": [
                _cell(number, _own(name, column, result)) for number, column in zip(row, table.columns, strict=True)
            ],
        }
        for name, row in table.rows.items()
    ]


def _cell(published: float, own: float | None) -> str:
    return f"{published:g}" if own is None else f"{published:g} / {own:.2f}"


def _own(arm: str, column: str, result: StudyResult) -> float | None:
    """Return what an arm scores in a column, at the guidance where it is best overall; None: it has no such score."""
    overall = [one for one in result.scores if one.arm == arm and one.measured == "overall"]
    if not overall:
        return None
    best = max(overall, key=lambda one: one.value)
    found = [
        one
        for one in result.tag_scores
        if (one.recipe, one.arm, one.guidance_scale) == (best.recipe, arm, best.guidance_scale)
    ]
    return best.value if column == "overall" else next((one.value for one in found if one.tag == column), None)
