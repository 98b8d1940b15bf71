"""``diagnosis.html``: one file without outside references, with the style of the evaluation's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import softalign.evaluation.report
from softalign.config.training import EDIT_KINDS
from softalign.diagnosis.charts import Line, level_chart
from softalign.diagnosis.findings import KIND_NAMES
from softalign.diagnosis.records import Diagnosis, Estimate, GradientNorm

TEMPLATE_FILENAME = "template.html.j2"
ARM_NAMES = {"adapter": "trained tokens", "untrained": "untrained tokens"}
RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Figure:
    """A chart, its legend and the table of what it shows."""

    title: str
    note: str
    legend: tuple[tuple[str, str], ...]
    chart: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading with what it asks, and its figures."""

    name: str
    title: str
    question: str
    figures: tuple[Figure, ...]


def page_html(diagnosis: Diagnosis) -> str:
    """Return the page of a diagnosis."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style = files(softalign.evaluation.report).joinpath("report.css").read_text(encoding="utf-8")
    sections = [section for section in _sections(diagnosis) if section.figures]
    return environment.get_template(TEMPLATE_FILENAME).render(diagnosis=diagnosis, sections=sections, style=style)


def _sections(diagnosis: Diagnosis) -> list[Section]:
    return [
        Section("change", "Do the tokens change the prediction?", CHANGE, _change(diagnosis)),
        Section("guidance", "Is it only more guidance?", GUIDANCE, _likeness(diagnosis)),
        Section("attention", "Are the tokens read?", ATTENTION, _attention(diagnosis)),
        Section("captions", "Which captions are told apart?", CAPTIONS, _captions(diagnosis)),
        Section("gradients", "What pulls on the tokens?", GRADIENTS, _gradients(diagnosis)),
    ]


CHANGE = (
    "Norm of the change over the norm of the prediction, for images with their own captions. Beside it two yardsticks "
    "of the frozen model: guidance's direction, and another caption."
)
GUIDANCE = (
    "The change by the tokens beside the direction that classifier-free guidance goes: conditional minus unconditional "
    "prediction. Cosine 1 would be guidance and nothing else; unrelated directions have about 0."
)
ATTENTION = (
    "Shares of the softmax weights of the image's queries. Tokens far below the even share are hardly read; in CLIP's "
    "texts the first position draws most of the attention."
)
CAPTIONS = (
    "How often an image's own caption has the smallest error beside edits of it that are false. Where the frozen model "
    "is at chance there is nothing that training could amplify."
)
GRADIENTS = (
    "Norms of the gradients of the objective's parts, of single steps. Agreement is the norm of the mean gradient over "
    "the mean norm: near the dashed line steps pull in random directions."
)


def _change(diagnosis: Diagnosis) -> tuple[Figure, ...]:
    changes = diagnosis.changes
    lines = [
        _line("trained tokens", "adapter", changes, lambda one: one.adapter),
        _line("untrained tokens", "untrained", changes, lambda one: one.untrained),
        _line("trained against untrained", "better", changes, lambda one: one.training),
        _line("guidance", "base", changes, lambda one: one.guidance),
        _line("an edited caption", "worse", changes, lambda one: one.edit),
    ]
    errors = [_line("trained tokens − base model", "adapter", diagnosis.own_errors, lambda one: one.difference)]
    return (
        _figure("Relative change of the prediction", "", lines),
        _figure(
            "Change of the own captions' error", "Mean squared, paired; below 0 images are explained better.", errors
        ),
    )


def _likeness(diagnosis: Diagnosis) -> tuple[Figure, ...]:
    arms = [(arm, name, [one for one in diagnosis.likeness if one.arm == arm]) for arm, name in ARM_NAMES.items()]
    return (
        _figure("Cosine with guidance", "", [_line(name, arm, own, lambda one: one.cosine) for arm, name, own in arms]),
        _figure(
            "Nearest extra guidance",
            "What one would add to the guidance scale for the nearest change.",
            [_line(name, arm, own, lambda one: one.extra_guidance) for arm, name, own in arms],
        ),
    )


def _attention(diagnosis: Diagnosis) -> tuple[Figure, ...]:
    figures = []
    for block in dict.fromkeys(one.block for one in diagnosis.attention):
        own = [one for one in diagnosis.attention if one.block == block]
        trained = [one for one in own if one.arm == "adapter"]
        lines = [
            _line("trained tokens", "adapter", trained, lambda one: one.tokens),
            _line(
                "untrained tokens", "untrained", [one for one in own if one.arm == "untrained"], lambda one: one.tokens
            ),
            _line("first position of the text", "base", trained, lambda one: one.first_position),
        ]
        if any(one.text.mean < 0.999 for one in trained):
            lines.append(_line("whole text", "worse", trained, lambda one: one.text))
        even = [(one.timestep, one.even) for one in trained]
        figures.append(_figure(block, "Dashed: all keys alike.", lines, even))
    return tuple(figures)


def _captions(diagnosis: Diagnosis) -> tuple[Figure, ...]:
    figures = []
    for kind in EDIT_KINDS:
        own = [one for one in diagnosis.ranks if one.kind == kind]
        if own:
            lines = [
                _line("trained tokens", "adapter", own, lambda one: one.adapter),
                _line("base model", "base", own, lambda one: one.base),
            ]
            note = f"Share of {own[0].base.number} images. Dashed: chance."
            chance = [(one.timestep, one.chance) for one in own]
            figures.append(_figure(f"Edited {KIND_NAMES[kind]}", note, lines, chance))
    if diagnosis.weights:
        lines = [_line("own caption", "adapter", diagnosis.weights, lambda one: one.weight)]
        chance = [(one.timestep, one.chance) for one in diagnosis.weights]
        note = (
            "Among all its edits, at the objective's temperature: what training weighs captions with. Dashed: chance."
        )
        figures.append(_figure("Match weight", note, lines, chance))
    return tuple(figures)


def _gradients(diagnosis: Diagnosis) -> tuple[Figure, ...]:
    figures = []
    for part in dict.fromkeys((one.loss_part, one.parameter) for one in diagnosis.gradients):
        own = [one for one in diagnosis.gradients if (one.loss_part, one.parameter) == part]
        name = f"{'L+' if part[0] == 'positive' else 'L-'} on {part[1]}"
        arms = [(arm, label, [one for one in own if one.arm == arm]) for arm, label in ARM_NAMES.items()]
        norms = [_line(label, arm, rows, lambda one: one.norm) for arm, label, rows in arms]
        agreements = [_line(label, arm, rows, _agreement) for arm, label, rows in arms]
        chance = [(one.timestep, one.chance_agreement) for one in own if one.arm == own[0].arm]
        figures.append(_figure(f"{name}: norm", f"{own[0].norm.number} steps a level.", norms))
        figures.append(_figure(f"{name}: agreement of steps", "Dashed: random directions.", agreements, chance))
    return tuple(figures)


def _agreement(one: GradientNorm) -> Estimate:
    return Estimate(mean=one.agreement, low=one.agreement, high=one.agreement, number=one.norm.number)


def _line(label: str, kind: str, rows: Iterable[RowT], of: Callable[[RowT], Estimate | None]) -> Line:
    points = ((row.timestep, of(row)) for row in rows)  # type: ignore[attr-defined]
    return Line(label, kind, tuple((at, found) for at, found in points if found is not None))


def _figure(title: str, note: str, lines: Sequence[Line], chance: Sequence[tuple[int, float]] = ()) -> Figure:
    drawn = [line for line in lines if line.points]
    levels = sorted({at for line in drawn for at, _ in line.points})
    found = [dict(line.points) for line in drawn]
    rows = [(str(at), *(_cell(values[at]) if at in values else "" for values in found)) for at in levels]
    if chance:
        rows = [(*row, f"{dict(chance)[int(row[0])]:.3g}") for row in rows]
    return Figure(
        title=title,
        note=note,
        legend=tuple((line.kind, line.label) for line in drawn),
        chart=level_chart(title, drawn, chance),
        header=("level", *(line.label for line in drawn), *(["dashed"] if chance else [])),
        rows=tuple(rows),
    )


def _cell(one: Estimate) -> str:
    return f"{one.mean:.3g}" if one.low == one.high else f"{one.mean:.3g} ({one.low:.3g} to {one.high:.3g})"
