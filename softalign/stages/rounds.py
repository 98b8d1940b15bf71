"""Evaluations in rounds (``evaluate.stop: when_decided``): what is drawn, what the gate says by then, and what is next.

All of it follows from what is published, so a run that was killed goes on at its round, and a finished one is found
finished: round r of an arm is the arm of a recipe with r images of each prompt. A report with more rounds than are
looked at serves by its first ones; a report that is made takes its images from one that has them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softalign.artifacts import Arm, EvalReport, Record
from softalign.config.recipe import Recipe
from softalign.errors import SoftAlignError
from softalign.stages.held_rounds import holding_report
from softalign.stages.published import Published
from softalign.stages.table import Step, steps_of
from softalign.store.store import Store

if TYPE_CHECKING:
    from softalign.evaluation.deciding_early import Answer

logger = logging.getLogger(__name__)

COMPARED: tuple[Arm, ...] = ("base", "untrained", "adapter", "champion")
"""The arms that the gate looks at; references and sweeps are drawn once it has decided."""
ANSWERS: dict[Answer, str] = {
    "yes": "promotion is certain",
    "no": "promotion is hopeless",
    "open": "the gate's answer is open",
}


@dataclass(frozen=True)
class Round:
    """Where an evaluation in rounds is.

    Attributes:
        number: of the first round that is not drawn of all arms, or of the one that drawing stops after.
        recipe: the recipe, fixed to stop after it.
        is_drawn: of all arms.
        answer: the gate's after it; ``open`` where it is not drawn.
    """

    number: int
    recipe: Recipe
    is_drawn: bool
    answer: Answer

    def to_text(self) -> str:
        """Return in a line what the round came to, or that it is drawn."""
        named = f"Round {self.number} of {self.recipe.evaluate.images_per_prompt}"
        return f"{named}: {ANSWERS[self.answer] if self.is_drawn else 'an image of every prompt and arm'}"


def present_round(recipe: Recipe, published: Published, store: Store) -> Round:
    """Return where an undecided evaluation is, by what is published; looked at from the first round on.

    So the answer is the one that drawing round by round gives, whatever else the store has.

    Args:
        recipe: the recipe, not fixed yet.
        published: what the steps before the evaluation published, as far as it is known.
        store: where arms are looked for.

    Raises:
        SoftAlignError: what an evaluation is asked for cannot be said, or the store did not answer.
    """
    last = recipe.evaluate.images_per_prompt
    for number in range(1, last + 1):
        at = _after(recipe, number)
        held = [_held(step, published, store) for step in compared_steps(at)]
        reports = {report.arm: report for report in held if report is not None}
        if len(reports) < len(held):
            return Round(number, at, is_drawn=False, answer="open")
        answer = _answer(at, reports, store)
        if answer != "open" or number == last:
            return Round(number, at, is_drawn=True, answer=answer)
    raise AssertionError("an evaluation has rounds")


def draw_until_decided(recipe: Recipe, published: Published, store: Store, draw: Callable[[Step], object]) -> Recipe:
    """Draw round after round until the gate's answer is certain, and return the recipe fixed to stop there.

    Args:
        recipe: the recipe, not fixed yet.
        published: what the steps before the evaluation published.
        store: where the arms are.
        draw: runs a step that draws an arm's next round.
    """
    while not (at := present_round(recipe, published, store)).is_drawn:
        logger.info("%s", at.to_text())
        for step in compared_steps(at.recipe):
            if _held(step, published, store) is None:
                draw(step)
    logger.info("%s", at.to_text())
    return at.recipe


class StepsAsDecided:
    """The steps of a recipe in order; those of its evaluation and after it as far as its rounds are decided.

    Where they are not, the steps are those of a stop after the round that is next.

    Args:
        recipe: the recipe.
        store: where it publishes.

    Attributes:
        published: what the steps so far published, as far as ``note`` heard of it.
    """

    def __init__(self, recipe: Recipe, store: Store) -> None:
        self._recipe, self._store = recipe, store
        self.published = Published()

    def __iter__(self) -> Iterator[Step]:
        before = [step for step in steps_of(self._recipe) if step.row.name in ("curate", "encode", "train")]
        yield from before
        yield from steps_of(fixed(self._recipe, self.published, self._store))[len(before) :]

    def note(self, step: Step, record: Record) -> None:
        """Take notice of what a step published."""
        self.published = self.published.plus(step.label, record)


def fixed(recipe: Recipe, published: Published, store: Store) -> Recipe:
    """Return a recipe fixed to the round where its evaluation is; as it is where that is no question.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    if not recipe.evaluate.is_undecided:
        return recipe
    try:
        return present_round(recipe, published, store).recipe
    except SoftAlignError as error:  # of models or prompts: the steps themselves say it
        if error.is_retriable:
            raise
        return _after(recipe, 1)


def compared_steps(recipe: Recipe) -> tuple[Step, ...]:
    """Return the steps that draw the arms which the gate looks at."""
    steps = (step for step in steps_of(recipe) if step.row.record is EvalReport and step.guidance_scale is None)
    return tuple(step for step in steps if step.arm in COMPARED)


def _after(recipe: Recipe, number: int) -> Recipe:
    return recipe.model_copy(update={"evaluate": recipe.evaluate.after_rounds(number)})


def _held(step: Step, published: Published, store: Store) -> EvalReport | None:
    """Return a report with at least the step's rounds; None where there is none, or what it takes is not known."""
    return holding_report(step.inputs(published, store)) if step.is_ready(published) else None


def _answer(recipe: Recipe, reports: dict[Arm, EvalReport], store: Store) -> Answer:
    from softalign.evaluation.looks import answer_after, verdicts_until  # loads SciPy
    from softalign.geneval.scoring import RESULTS_FILENAME

    rounds = recipe.evaluate.num_rounds
    verdicts = {
        arm: verdicts_until(store.fetch(report, under=RESULTS_FILENAME), rounds) for arm, report in reports.items()
    }
    return answer_after(verdicts, recipe.evaluate, recipe.register_.policy)
