"""The cells of a study: which recipe each is, with everything that is varied set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softalign.artifacts import Frozen, Stage
from softalign.config.evaluation import NEVER
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError
from softalign.stages.recipe_sources import open_recipe
from softalign.store.store import Store
from softalign.study.matrix import StudyFile, arm_fields
from softalign.study.prompts import Halves, SetName, halves_of, write_halves

CELL_STAGES: tuple[Stage, ...] = ("curate", "encode", "train", "evaluate")
"""What a cell runs: no comparison of its own, no registration."""


class Cell(Frozen):
    """One training and one set that it is scored on.

    Attributes:
        recipe: the name of its base model in the study.
        arm: what is trained.
        seed: of the training.
        num_steps: its length.
        scored_on: the half of the prompts.
    """

    recipe: str
    arm: str
    seed: int
    num_steps: int
    scored_on: SetName

    @property
    def label(self) -> str:
        """What it is called in logs."""
        return f"{self.recipe}, {self.arm}, seed {self.seed}, {self.num_steps:,} steps, {self.scored_on} set"


@dataclass(frozen=True, eq=False)
class Cells:
    """All that makes a study's cells.

    Attributes:
        study: the file.
        store: where everything is published.
        halves: of each recipe's prompts.
        prompts: where each half lies, by recipe.
    """

    study: StudyFile
    store: Store
    halves: Mapping[str, Halves]
    prompts: Mapping[str, Mapping[SetName, Path]]
    _recipes: dict[Cell, Recipe] = field(default_factory=dict)

    def to_select(self) -> tuple[Cell, ...]:
        """Return every training, on the selection set, short ones first."""
        matrix = self.study.matrix
        return tuple(
            Cell(recipe=recipe, arm=arm, seed=seed, num_steps=num_steps, scored_on="selection")
            for num_steps in sorted(matrix.num_steps)
            for recipe in self.study.recipes
            for arm in self.study.arms
            for seed in matrix.seeds
        )

    def to_report(self, chosen: Mapping[tuple[str, str], int]) -> tuple[Cell, ...]:
        """Return what is scored on the report set: of each arm its chosen length, and those that a hypothesis names.

        Args:
            chosen: the length of each recipe and arm.
        """
        lengths = {key: {num_steps} for key, num_steps in chosen.items()}
        for (_, arm), numbers in lengths.items():
            for hypothesis in self.study.hypotheses:
                if hypothesis.num_steps is not None and arm in (*hypothesis.left, *hypothesis.right):
                    numbers.update(hypothesis.num_steps)
        return tuple(
            Cell(recipe=recipe, arm=arm, seed=seed, num_steps=number, scored_on="report")
            for (recipe, arm), numbers in lengths.items()
            for number in sorted(numbers)
            for seed in self.study.matrix.seeds
        )

    def recipe_of(self, cell: Cell) -> Recipe:
        """Return a cell's recipe.

        Raises:
            ConfigError: what the study varies makes no recipe.
        """
        if cell not in self._recipes:
            self._recipes[cell] = self._make_recipe(cell)
        return self._recipes[cell]

    def _make_recipe(self, cell: Cell) -> Recipe:
        given = self.study.recipes[cell.recipe]
        named = given.fields | dict(arm_fields(self.study.matrix))[cell.arm]
        said = "".join(f"; {path}: {json.dumps(value)}" for path, value in named.items())
        where = f"study {self.study.name}: {cell.label}{said}"
        if {*self.guidance_of(cell.scored_on)} == {1.0} != {*self.study.matrix.guidance}:  # there it divides by 1
            named = {path: value for path, value in named.items() if path != "evaluate.divide_by_guidance"}
        return _opened(given.recipe, named | self._cell_fields(cell), self.store, where)

    def guidance_of(self, scored_on: SetName) -> tuple[float, ...]:
        """Return the guidance values of a set."""
        return self.study.selection.guidance if scored_on == "selection" else self.study.matrix.guidance

    def _cell_fields(self, cell: Cell) -> dict[str, Any]:
        scored = self.study.selection if cell.scored_on == "selection" else self.study.report
        first, *others = self.guidance_of(cell.scored_on)
        return {
            "train.seed": cell.seed,
            "train.num_steps": cell.num_steps,
            "evaluate.prompts_uri": str(self.prompts[cell.recipe][cell.scored_on]),
            "evaluate.prompts_per_tag": None,
            "evaluate.seed": scored.seed,
            "evaluate.images_per_prompt": scored.images_per_prompt,
            "evaluate.guidance_scale": first,
            "evaluate.guidance_sweep": others,
            "evaluate.reference_guidance_scale": None,
            "evaluate.stop": NEVER,
            "evaluate.champion": "none",
        }


def open_cells(study: StudyFile, store: Store, folder: Path, beside: Path) -> Cells:
    """Return a study's cells; writes both halves of the prompts, and refuses a study with an impossible cell.

    Args:
        study: the file.
        store: where everything is published.
        folder: where the halves are written.
        beside: the folder of the study's file, and so of its prompts.

    Raises:
        ConfigError: a recipe is not there, or what the study varies makes none.
        MissingInputError: the file of prompts is not there.
        DataError: it cannot be used.
    """
    own = {} if study.prompts is None else {"evaluate.prompts_uri": str(beside / study.prompts)}
    halves = {
        name: halves_of(_opened(given.recipe, given.fields | own, store, f"study {study.name}: recipes.{name}"))
        for name, given in study.recipes.items()
    }
    prompts = {name: write_halves(both, folder, name) for name, both in halves.items()}
    cells = Cells(study, store, halves, prompts)
    for cell in cells.to_select():
        loaded = cells.recipe_of(cell)
        if cell.seed == study.matrix.seeds[0]:
            cells.recipe_of(cell.model_copy(update={"scored_on": "report"}))
            _check_tags(study, halves[cell.recipe], loaded)
    return cells


def _opened(recipe: str | dict[str, Any], fields: Mapping[str, Any], store: Store, where: str) -> Recipe:
    overrides = [f"{path}={json.dumps(value)}" for path, value in fields.items()]
    try:
        return open_recipe(recipe, overrides, store)
    except ConfigError as error:
        raise ConfigError(error.what, expected=error.expected, found=error.found, where=where, fix=error.fix) from error


def _check_tags(study: StudyFile, halves: Halves, recipe: Recipe) -> None:
    known = {json.loads(line)["tag"] for line in halves.report.splitlines()}
    named = {*study.adherence, study.counting, *(tag for one in study.hypotheses for tag in one.tags)}
    if unknown := sorted(named - known):
        raise ConfigError(
            "The study names tags that its prompts do not have.",
            expected=f"some of {', '.join(sorted(known))}",
            found=", ".join(unknown),
            where=f"study {study.name}, recipe {recipe.name}",
        )
