"""A study's file: what is varied, on what its cells are chosen and reported, and which statements it tests."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_GUIDANCE, MAX_NAME_CHARS, Count, Name, Seed
from softalign.study.hypotheses import CONTROLS, Hypothesis, repeats

ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_CHARS)]
Guidance = Annotated[float, Field(ge=1.0, le=MAX_GUIDANCE)]
MAX_SECONDS = 86_400.0
Seconds = Annotated[float, Field(gt=0.0, le=MAX_SECONDS)]
MAX_ARMS = 1000
SET_BY_STUDY = {
    "train.seed": "matrix.seeds",
    "train.num_steps": "matrix.num_steps",
    "evaluate.prompts_uri": "prompts",
    "evaluate.prompts_per_tag": "prompts",
    "evaluate.seed": "selection.seed and report.seed",
    "evaluate.images_per_prompt": "selection.images_per_prompt and report.images_per_prompt",
    "evaluate.guidance_scale": "selection.guidance and matrix.guidance",
    "evaluate.guidance_sweep": "selection.guidance and matrix.guidance",
    "evaluate.reference_guidance_scale": "selection.guidance and matrix.guidance",
    "evaluate.stop": "report.images_per_prompt",
    "evaluate.champion": "no field: its arms are base, untrained tokens and adapter",
}
"""Fields of its recipes that a study sets, each with its own field for them."""
OF_THE_PROMPTS = ("evaluate.prompts_uri", "evaluate.prompts_per_tag")
"""Of these, what a base model's recipe may say where the study names no prompts."""
ADHERENCE = ("two_object", "colors", "position", "color_attr")


class StudyRecipe(Frozen):
    """One base model, with its recipe."""

    recipe: str | dict[str, Any] = Field(description="a recipe's name or path, or the recipe itself")
    fields: dict[str, JsonValue] = Field({}, description="overrides of it, by path, for this study")
    seconds_per_step: Seconds = Field(description="of training, on the machine that `measured` names")
    seconds_per_image_call: Seconds = Field(description="of the denoiser for one image, when images are drawn")
    seconds_per_stage: Annotated[float, Field(ge=0.0, le=MAX_SECONDS)] = Field(
        description="to start a training, or to start and score an arm's images"
    )
    measured: Annotated[str, Field(min_length=1)] = Field(description="where these numbers were measured, and how")
    num_images: Count | None = Field(
        None, description="of its sources, for the plan's bytes where they are not there; null: they are counted"
    )
    num_captions: Count | None = Field(None, description="likewise; belongs to num_images")

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if (self.num_images is None) != (self.num_captions is None):
            raise ValueError("num_images and num_captions belong together")
        return self


class Matrix(Frozen):
    """What is varied; every combination is trained."""

    objectives: Annotated[dict[ArmName, dict[str, JsonValue]], Field(min_length=1)] = Field(
        description="by name, the overrides that make each, by path"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2)] = Field(
        description="of training; below two nothing is known of how much they matter"
    )
    num_steps: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(description="lengths of training")
    guidance: Annotated[tuple[Guidance, ...], Field(min_length=1)] = Field(
        description="at which the report's cells are scored"
    )
    fields: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(
        {}, description="further fields by path, with the values that each takes"
    )

    @model_validator(mode="after")
    def _check_lists(self) -> Self:
        lists = {name: getattr(self, name) for name in ("seeds", "num_steps", "guidance")}
        for name, values in (lists | {f"fields {path}": values for path, values in self.fields.items()}).items():
            _require_different(name, values)
        number = math.prod((len(self.objectives), *(len(values) for values in self.fields.values())))
        if number > MAX_ARMS:
            raise ValueError(f"objectives and fields make {number:,} arms; a study has at most {MAX_ARMS:,}")
        _require_own("", chain(*self.objectives.values(), self.fields), SET_BY_STUDY)
        return self


def _require_different(name: str, values: Sequence[object]) -> None:
    if repeats(values):
        raise ValueError(f"{name} names a value twice")


def _require_own(where: str, fields: Iterable[str], set_by_study: Container[str]) -> None:
    for path in fields:
        if path in set_by_study:
            raise ValueError(f"{where}{path} is set by the study: by {SET_BY_STUDY[path]}")


class CellSet(Frozen):
    """On which half of the suite's prompts, and with which noise, cells are scored."""

    seed: Seed = Field(description="of the images' noise")
    images_per_prompt: Count = Field(description="images of each prompt and arm")


class SelectionSet(CellSet):
    """What lengths and arms are chosen on: the mean score of all tags there, over seeds and guidance."""

    guidance: Annotated[tuple[Guidance, ...], Field(min_length=1)] = Field(description="at which cells are chosen")

    @model_validator(mode="after")
    def _check_guidance(self) -> Self:
        _require_different("guidance", self.guidance)
        return self


class PublishedTable(Frozen):
    """Numbers of others, shown beside the study's own."""

    source: Annotated[str, Field(min_length=1)] = Field(description="where they were published")
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="what each number is; a tag's name, or overall, has the study's own number beside it"
    )
    rows: Annotated[dict[str, tuple[float, ...]], Field(min_length=1)] = Field(
        description="by the name of an arm, or base; in the units of the source"
    )

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if any(len(row) != len(self.columns) for row in self.rows.values()):
            raise ValueError("every row needs a number for each column")
        return self


class StudyFile(Frozen):
    """A whole study; its digest names it."""

    name: Name = Field(description="of the study: lower-case letters, digits and dashes")
    about: str = Field("", description="what it is for, and whether it was run; the page shows it")
    recipes: Annotated[dict[Name, StudyRecipe], Field(min_length=1)] = Field(description="by name, the base models")
    matrix: Matrix = Field(description="what is varied")
    prompts: str | None = Field(
        None,
        description="a file of prompts beside this one, as `softalign geneval prompts` writes it; null: the suite's",
    )
    selection: SelectionSet = Field(description="what cells are chosen on")
    report: CellSet = Field(description="what the chosen ones are reported on")
    positive_only: str | None = Field(None, description="the objective that sees no negatives, a third control")
    adherence: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ADHERENCE, description="tags whose mean is the adherence"
    )
    counting: str = Field("counting", description="the tag that fronts hold against the adherence")
    confidence: Annotated[float, Field(gt=0.5, le=0.9999)] = Field(0.95, description="of all intervals, a ratio")
    hypotheses: tuple[Hypothesis, ...] = Field((), description="the statements, in order")
    published: tuple[PublishedTable, ...] = Field((), description="numbers of others")

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of what is trained on each recipe: objectives, with each combination of further fields."""
        return tuple(name for name, _ in arm_fields(self.matrix))

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        _require_different("adherence", self.adherence)
        if self.prompts is not None and "\0" in self.prompts:
            raise ValueError("prompts names no file: it holds the character 0")
        are_free = OF_THE_PROMPTS if self.prompts is None else ()
        for name, given in self.recipes.items():
            _require_own(f"recipes.{name}.fields: ", given.fields, SET_BY_STUDY.keys() - {*are_free})
        return self

    @model_validator(mode="after")
    def _check_sets(self) -> Self:
        if self.selection.seed == self.report.seed:
            raise ValueError("selection.seed and report.seed are equal: a choice would be reported on its own noise")
        if self.positive_only is not None and self.positive_only not in self.arms:
            raise ValueError(f"positive_only {self.positive_only!r} is none of {', '.join(self.arms)}")
        if taken := {*self.arms} & {*CONTROLS}:
            raise ValueError(f"an objective cannot be called {' or '.join(sorted(taken))}, as the controls are")
        return self

    @model_validator(mode="after")
    def _check_hypotheses(self) -> Self:
        if repeats([one.name for one in self.hypotheses]):
            raise ValueError("hypotheses names one twice")
        for hypothesis in self.hypotheses:
            for problem in self._problems_of(hypothesis):
                raise ValueError(f"hypotheses: {hypothesis.name} {problem}")
        return self

    def _problems_of(self, hypothesis: Hypothesis) -> Iterator[str]:
        for name in hypothesis.left:
            if name not in self.arms:
                yield f"has {name!r} on its left, which is none of {', '.join(self.arms)}"
        for name in hypothesis.right:
            if name not in (*self.arms, *CONTROLS):
                yield f"has {name!r} on its right, which is none of {', '.join((*self.arms, *CONTROLS))}"
        for guidance in (*hypothesis.guidance, *hypothesis.against_guidance):
            if guidance not in self.matrix.guidance:
                yield f"looks at guidance {guidance:g}, which matrix.guidance does not have"
        for num_steps in hypothesis.num_steps or ():
            if num_steps not in self.matrix.num_steps:
                yield f"looks at {num_steps} steps, which matrix.num_steps does not have"
        if hypothesis.measure == "change" and {*hypothesis.right} & {*CONTROLS}:
            yield "compares changes with length, which base and untrained tokens do not have"
        if hypothesis.measure == "at_equal_adherence" and len(self.matrix.guidance) < 2:
            yield "needs a front: at least two values of matrix.guidance"


def arm_fields(matrix: Matrix) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return each arm's name and overrides: every objective with every combination of the further fields."""
    found = [(name, dict(fields)) for name, fields in matrix.objectives.items()]
    for path, values in matrix.fields.items():
        found = [(f"{name} {path}={value}", fields | {path: value}) for name, fields in found for value in values]
    return tuple(found)
