"""What a study would run: cells that are there and that are not, hours by measured rates, and bytes; runs nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import Arm, Frozen
from softalign.backbones.sizes import model_sizes
from softalign.config.recipe import Recipe
from softalign.data.encoding.budget import EncodedBytes
from softalign.errors import DataError, MissingInputError
from softalign.stages.planned_bytes import encode_bytes, evaluate_bytes, train_bytes
from softalign.stages.published import Published
from softalign.store.store import Store
from softalign.study.cells import Cell, Cells, open_cells
from softalign.study.choosing import choose
from softalign.study.matrix import StudyFile
from softalign.study.outcomes import published_outcome


class PlannedModel(Frozen):
    """What one base model's cells need; what several cells share is counted once.

    Attributes:
        hours: of one worker, for what is not there, without curation and encoding.
        num_bytes: that it writes; None where a source does not say how much it holds.
        measured: where the rates are from.
    """

    recipe: str
    num_cells: int
    num_there: int
    num_trainings: int
    num_images: int
    hours: float
    num_bytes: int | None
    measured: str


class StudyPlan(Frozen):
    """The whole plan.

    Attributes:
        about: what the study's file says of itself.
        is_report_known: whether the selection is done, so that it is known what is reported.
    """

    name: str
    about: str
    num_workers: int
    is_report_known: bool
    models: tuple[PlannedModel, ...]

    @property
    def hours(self) -> float:
        """How long the workers need together, if none waits for another."""
        return sum(model.hours for model in self.models) / self.num_workers

    def to_text(self) -> str:
        """Return the plan for people."""
        sizes = [model.num_bytes for model in self.models]
        total = "unknown" if None in sizes else f"{sum(size or 0 for size in sizes) / 1e9:,.2f} GB"
        lines = [f"study {self.name}: {self.about}", *(line for model in self.models for line in _lines(model))]
        known = "" if self.is_report_known else "; report cells, which the selection chooses, counted in full"
        lines.append(f"in all  {self.hours:,.1f} hours with {self.num_workers} workers, {total}{known}")
        return "\n".join(lines)


def plan_study(study: StudyFile, store: Store, num_workers: int, beside: Path) -> StudyPlan:
    """Return what a study would run in a store.

    Args:
        study: the file.
        store: where everything would be published.
        num_workers: how many cells would run at a time.
        beside: the folder of the study's file.

    Raises:
        ConfigError: the study has an impossible cell.
    """
    with tempfile.TemporaryDirectory(prefix="softalign-study-") as folder:
        cells = open_cells(study, store, Path(folder), beside)
        asked, is_known = _cells_of(cells)
        models = tuple(_planned(name, cells, [cell for cell in asked if cell.recipe == name]) for name in study.recipes)
    return StudyPlan(
        name=study.name, about=study.about, num_workers=num_workers, is_report_known=is_known, models=models
    )


def _cells_of(cells: Cells) -> tuple[tuple[Cell, ...], bool]:
    """Return all cells of both sets, and whether the report's are those that the selection chose."""
    selection = cells.to_select()
    found = {cell: published_outcome(cells, cell) for cell in selection}
    there = {cell: outcome for cell, outcome in found.items() if outcome is not None}
    if len(there) == len(selection):
        chosen = {(one.recipe, one.arm): one.num_steps for one in choose(cells.study, there)}
    else:
        chosen = {(cell.recipe, cell.arm): _unnamed_length(cells.study, cell.arm) for cell in selection}
    return (*selection, *cells.to_report(chosen)), len(there) == len(selection)


def _unnamed_length(study: StudyFile, arm: str) -> int:
    """Return the longest length that no hypothesis names for an arm anyway: what the selection may add at most."""
    named = {length for one in study.hypotheses if arm in (*one.left, *one.right) for length in one.num_steps or ()}
    return max(set(study.matrix.num_steps) - named or named)


@dataclass(frozen=True)
class _Work:
    """One piece of work: its name, which equal pieces share, seconds, bytes and images."""

    name: tuple[object, ...]
    seconds: float
    num_bytes: int
    num_images: int = 0


def _planned(name: str, cells: Cells, asked: Sequence[Cell]) -> PlannedModel:
    found = {cell: published_outcome(cells, cell) for cell in asked}
    missing = [cell for cell in asked if found[cell] is None]
    work = {one.name: one for cell in missing for one in _work_of(cell, cells)}
    for cell in set(asked) - set(missing):
        for one in _work_of(cell, cells):
            work.pop(one.name, None)
    encoded = _encoded_bytes(missing, cells)
    written = sum(one.num_bytes for one in work.values())
    return PlannedModel(
        recipe=name,
        num_cells=len(asked),
        num_there=len(asked) - len(missing),
        num_trainings=sum(one.name[0] == "train" for one in work.values()),
        num_images=sum(one.num_images for one in work.values()),
        hours=round(sum(one.seconds for one in work.values()) / 3600, 3),
        num_bytes=None if encoded is None else written + encoded,
        measured=cells.study.recipes[name].measured,
    )


def _encoded_bytes(missing: Sequence[Cell], cells: Cells) -> int | None:
    """Return what the encodings take, once for each number of hard negatives that cells are trained with."""
    by_number = {cells.recipe_of(cell).train.negatives.num_hard: cell for cell in missing}
    sizes: list[int | None] = []
    for num_hard, cell in by_number.items():
        recipe, given = cells.recipe_of(cell), cells.study.recipes[cell.recipe]
        if given.num_images is not None and given.num_captions is not None:
            num_texts = 1 + given.num_captions * (1 + num_hard)
            sizes.append(EncodedBytes(given.num_images, num_texts, model_sizes(recipe.backbone)).total)
        else:
            sizes.append(_counted_bytes(recipe))
    return None if None in sizes else sum(size or 0 for size in sizes)


def _counted_bytes(recipe: Recipe) -> int | None:
    try:
        return encode_bytes(recipe, Published())
    except (DataError, MissingInputError):  # sources that are not there yet
        return None


def _work_of(cell: Cell, cells: Cells) -> Iterator[_Work]:
    recipe, rates = cells.recipe_of(cell), cells.study.recipes[cell.recipe]
    training = recipe.model_dump_json(exclude={"evaluate", "register_"})  # arms may differ in how they are drawn alone
    seconds = recipe.train.num_steps * rates.seconds_per_step + rates.seconds_per_stage
    yield _Work(("train", cell.recipe, training), seconds, train_bytes(recipe, Published()) or 0)
    num_images = cells.halves[cell.recipe].number(cell.scored_on) * recipe.evaluate.images_per_prompt
    of_arms: dict[Arm, str] = {"base": "", "untrained": _start(recipe), "adapter": training}
    for guidance in cells.guidance_of(cell.scored_on):
        drawn = recipe.evaluate.at_guidance(guidance)
        seconds = num_images * drawn.denoiser_calls_per_image * rates.seconds_per_image_call + rates.seconds_per_stage
        size = evaluate_bytes(recipe, Published()) or 0
        for arm, tokens in of_arms.items():
            name = ("evaluate", arm, cell.recipe, tokens, drawn.of_arm(arm).model_dump_json())
            yield _Work(name, seconds, size, num_images)


def _start(recipe: Recipe) -> str:
    """Return what the step-0 tokens depend on: objectives with as many banks share them, of padding all seeds."""
    objective, tokens = recipe.train.objective, recipe.train.soft_tokens
    is_dual = objective.name == "agsm" and objective.banks == "dual"
    seed = "" if tokens.init == "padding" else recipe.train.seed
    return f"{is_dual} {seed} {tokens.model_dump_json()}"


def _lines(model: PlannedModel) -> Iterator[str]:
    size = (
        "unknown (a source does not say how much it holds)"
        if model.num_bytes is None
        else f"{model.num_bytes / 1e9:,.2f} GB"
    )
    yield f"{model.recipe}: {model.num_there} of {model.num_cells} cells are there"
    yield (
        f"    to run: {model.num_trainings} trainings, {model.num_images:,} images; "
        f"{model.hours:,.1f} hours of one worker, {size}"
    )
    yield f"    rates: {model.measured}"
