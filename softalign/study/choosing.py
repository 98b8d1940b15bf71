"""What the selection set chooses: of each arm its length, of several arms one. The report set is not looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from softalign.study.cells import Cell
from softalign.study.matrix import StudyFile
from softalign.study.outcomes import CellOutcome
from softalign.study.results import Choice


def choose(study: StudyFile, outcomes: Mapping[Cell, CellOutcome]) -> tuple[Choice, ...]:
    """Return the length of each recipe's arms: the best mean overall score over seeds and guidance.

    Of equals the shorter is taken.

    Args:
        study: the file.
        outcomes: of all cells of the selection set.
    """
    return tuple(
        max(
            (_choice(study, outcomes, recipe, arm, num_steps) for num_steps in sorted(study.matrix.num_steps)),
            key=lambda choice: choice.selection_score,
        )
        for recipe in study.recipes
        for arm in study.arms
    )


def best_of(choices: Sequence[Choice], recipe: str, arms: Sequence[str]) -> Choice:
    """Return the choice of the arm that scored best on the selection set, of those named; of equals the first."""
    by_arm = {choice.arm: choice for choice in choices if choice.recipe == recipe}
    return max((by_arm[arm] for arm in arms), key=lambda choice: choice.selection_score)


def _choice(study: StudyFile, outcomes: Mapping[Cell, CellOutcome], recipe: str, arm: str, num_steps: int) -> Choice:
    cells = [
        Cell(recipe=recipe, arm=arm, seed=seed, num_steps=num_steps, scored_on="selection")
        for seed in study.matrix.seeds
    ]
    scores = [
        outcomes[cell].at("adapter", guidance).overall_score for cell in cells for guidance in study.selection.guidance
    ]
    return Choice(recipe=recipe, arm=arm, num_steps=num_steps, selection_score=round(fmean(scores), 6))
