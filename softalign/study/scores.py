"""From published verdicts of images to arrays: of each tag a ratio for each seed and prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from softalign.artifacts import EvalReport
from softalign.evaluation.intervals import counts_by_tag
from softalign.geneval.scoring import RESULTS_FILENAME, read_results
from softalign.store.store import Store
from softalign.study.cells import Cell
from softalign.study.hypotheses import CONTROLS
from softalign.study.matrix import StudyFile
from softalign.study.outcomes import CellOutcome
from softalign.study.prompts import SetName
from softalign.study.results import Measured

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a study's cells.

    Attributes:
        study: the file.
        outcomes: what its cells came to.
        store: where they lie.
    """

    study: StudyFile
    outcomes: Mapping[Cell, CellOutcome]
    store: Store
    _read: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def values(self, recipe: str, arm: str, num_steps: int, guidance: float, on: SetName = "report") -> Values:
        """Return an arm's scores by tag, (S, P), seeds in their order.

        Args:
            recipe: the base model's name.
            arm: what was trained.
            num_steps: its length.
            guidance: of the images.
            on: the half of the prompts.
        """
        return self._stacked(
            [self.outcome(recipe, arm, seed, num_steps, on).at("adapter", guidance) for seed in self.seeds]
        )

    def control(self, recipe: str, name: str, beside: str, num_steps: int, guidance: float) -> Values:
        """Return base (one row) or untrained tokens (S rows) as they stand beside an arm on the report set."""
        outcomes = [self.outcome(recipe, beside, seed, num_steps, "report") for seed in self.seeds]
        reports = [outcome.at(name, guidance) for outcome in outcomes]
        return self._stacked(reports[:1] if name == "base" else reports)

    def outcome(self, recipe: str, arm: str, seed: int, num_steps: int, on: SetName) -> CellOutcome:
        """Return what one cell came to."""
        return self.outcomes[Cell(recipe=recipe, arm=arm, seed=seed, num_steps=num_steps, scored_on=on)]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds, in order."""
        return self.study.matrix.seeds

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The tags of the prompts, in the suite's order."""
        return tuple(score.tag for score in next(iter(self.outcomes.values())).reports[0].tags)

    def tags_of(self, measured: Measured) -> tuple[str, ...]:
        """Return the tags whose mean a column of the tables is."""
        return {"overall": self.tags, "adherence": self.study.adherence, "counting": (self.study.counting,)}[measured]

    def _stacked(self, reports: list[EvalReport]) -> Values:
        read = [self._ratios(report) for report in reports]
        return {tag: np.stack([one[tag] for one in read]) for tag in read[0]}

    def _ratios(self, report: EvalReport) -> dict[str, NDArray[np.float64]]:
        if report.digest not in self._read:
            results = read_results(self.store.fetch_file(report, RESULTS_FILENAME))
            counts = counts_by_tag(results)
            self._read[report.digest] = {tag: one.correct_P / one.images_P for tag, one in counts.items()}
        return self._read[report.digest]


def is_control(name: str) -> bool:
    """Return whether a name is that of base or untrained tokens."""
    return name in CONTROLS
