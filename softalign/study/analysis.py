"""From published scores to ``study.json``: choices, scores, comparisons with controls, verdicts, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softalign.artifacts import EvalReport, digest_of
from softalign.evaluation.statistics import holm
from softalign.study.cells import Cell, Cells
from softalign.study.choosing import choose
from softalign.study.hypotheses import CONTROLS
from softalign.study.outcomes import CellOutcome
from softalign.study.results import (
    MEASURED,
    ArmScore,
    CellResult,
    Choice,
    Comparison,
    CurvePoint,
    Measured,
    Score,
    StudyResult,
    TagMean,
)
from softalign.study.scores import Scores, Values
from softalign.study.statistics import Estimate, estimate, mean_weights, minus
from softalign.study.testing import verdicts
from softalign.version import __version__


def analyse(cells: Cells, outcomes: Mapping[Cell, CellOutcome]) -> StudyResult:
    """Return what a study came to.

    Args:
        cells: of the study.
        outcomes: of every cell of both sets.
    """
    study = cells.study
    selected = {cell: outcome for cell, outcome in outcomes.items() if cell.scored_on == "selection"}
    choices, scores = choose(study, selected), Scores(study, outcomes, cells.store)
    calls = _calls(cells)
    tables = Tables(scores, choices, calls)
    halves = next(iter(cells.halves.values()))
    return StudyResult(
        name=study.name,
        about=study.about,
        study_digest=digest_of(study.model_dump(mode="json")),
        library_version=__version__,
        store=cells.store.uri,
        suite=next(iter(outcomes.values())).reports[0].suite.partition("+")[0],
        confidence=study.confidence,
        seeds=study.matrix.seeds,
        num_prompts={name: halves.number(name) for name in ("selection", "report")},
        selection_guidance=study.selection.guidance,
        cells=tuple(_cell(cell, outcome, cells) for cell, outcome in outcomes.items()),
        choices=choices,
        scores=tuple(tables.scores()),
        tag_scores=tuple(tables.tag_scores()),
        comparisons=tables.comparisons(),
        verdicts=verdicts(scores, choices, calls),
        curves=tuple(_curves(cells, scores)),
        published=study.published,
    )


def _calls(cells: Cells) -> dict[tuple[str, float], int]:
    """Return how often the denoiser sees an image, by recipe and guidance."""
    first = {cell.recipe: cells.recipe_of(cell) for cell in reversed(cells.to_select())}
    return {
        (name, guidance): recipe.evaluate.at_guidance(guidance).denoiser_calls_per_image
        for name, recipe in first.items()
        for guidance in cells.study.matrix.guidance
    }


def _cell(cell: Cell, outcome: CellOutcome, cells: Cells) -> CellResult:
    return CellResult(
        recipe=cell.recipe,
        arm=cell.arm,
        seed=cell.seed,
        num_steps=cell.num_steps,
        samples_seen=_samples_seen(cell, cells),
        scored_on=cell.scored_on,
        train_key=outcome.adapter.stage_key,
        adapter_digest=outcome.adapter.digest,
        arms=tuple(_arm(report) for report in outcome.reports),
    )


def _samples_seen(cell: Cell, cells: Cells) -> int:
    return cell.num_steps * cells.recipe_of(cell).train.batch_size


def _arm(report: EvalReport) -> ArmScore:
    return ArmScore.model_validate(
        {
            "arm": report.arm,
            "guidance_scale": report.guidance_scale,
            "stage_key": report.stage_key,
            "digest": report.digest,
            "overall_score": report.overall_score,
            "tags": {tag.tag: tag.score for tag in report.tags},
        }
    )


@dataclass(frozen=True)
class Tables:
    """The report set's tables: every arm at every guidance, and against every control."""

    of: Scores
    choices: Sequence[Choice]
    calls: Mapping[tuple[str, float], int]

    def scores(self) -> Iterator[Score]:
        """Yield what base, untrained tokens and every arm score at each guidance."""
        for choice, guidance, values in self._every():
            yield from self._scores(choice, guidance, values)

    def tag_scores(self) -> Iterator[TagMean]:
        """Yield the same by tag."""
        for choice, guidance, values in self._every():
            for tag, values_SP in values.items():
                yield TagMean(
                    recipe=choice.recipe,
                    arm=choice.arm,
                    guidance_scale=guidance,
                    tag=tag,
                    value=round(float(values_SP.mean()), 6),
                )

    def _every(self) -> Iterator[tuple[Choice, float, Values]]:
        for recipe in self.of.study.recipes:
            choices = [one for one in self.choices if one.recipe == recipe]
            for guidance in self.of.study.matrix.guidance:
                for name in CONTROLS:
                    control = Choice(recipe=recipe, arm=name, num_steps=0, selection_score=0.0)
                    yield (
                        control,
                        guidance,
                        self.of.control(recipe, name, choices[0].arm, choices[0].num_steps, guidance),
                    )
                for choice in choices:
                    yield choice, guidance, self._arm(choice, guidance)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return every arm against every control at each guidance, corrected for how many there are."""
        found = list(self._comparisons())
        adjusted = holm({str(number): one.p_value for number, one in enumerate(found)})
        return tuple(one.model_copy(update={"p_adjusted": adjusted[str(number)]}) for number, one in enumerate(found))

    def _arm(self, choice: Choice, guidance: float) -> Values:
        return self.of.values(choice.recipe, choice.arm, choice.num_steps, guidance)

    def _controls(self, choice: Choice, guidance: float) -> Iterator[tuple[str, Values]]:
        for name in CONTROLS:
            yield name, self.of.control(choice.recipe, name, choice.arm, choice.num_steps, guidance)
        positive_only = self.of.study.positive_only
        if positive_only is not None and positive_only != choice.arm:
            other = next(one for one in self.choices if (one.recipe, one.arm) == (choice.recipe, positive_only))
            yield positive_only, self._arm(other, guidance)

    def _scores(self, choice: Choice, guidance: float, values: Values) -> Iterator[Score]:
        for measured in MEASURED:
            found = estimate(values, mean_weights(self.of.tags_of(measured)))
            low, high = found.interval(self.of.study.confidence)
            yield Score(
                recipe=choice.recipe,
                arm=choice.arm,
                num_steps=choice.num_steps,
                guidance_scale=guidance,
                denoiser_calls_per_image=self.calls[choice.recipe, guidance],
                measured=measured,
                value=round(found.value, 6),
                low=round(max(0.0, low), 6),
                high=round(min(1.0, high), 6),
                num_seeds=found.num_seeds,
            )

    def _comparisons(self) -> Iterator[Comparison]:
        for choice in self.choices:
            for guidance in self.of.study.matrix.guidance:
                mine = self._arm(choice, guidance)
                for name, values in self._controls(choice, guidance):
                    for measured in MEASURED:
                        found = estimate(minus(mine, values), mean_weights(self.of.tags_of(measured)))
                        yield self._comparison(choice, name, guidance, measured, found)

    def _comparison(
        self, choice: Choice, control: str, guidance: float, measured: Measured, found: Estimate
    ) -> Comparison:
        low, high = found.interval(self.of.study.confidence)
        return Comparison(
            recipe=choice.recipe,
            arm=choice.arm,
            control=control,
            guidance_scale=guidance,
            measured=measured,
            value=round(found.value, 6),
            low=round(low, 6),
            high=round(high, 6),
            p_value=found.p_value("two_sided"),
            p_adjusted=1.0,
            detectable=round(found.detectable(self.of.study.confidence), 6),
        )


def _curves(cells: Cells, scores: Scores) -> Iterator[CurvePoint]:
    """Yield the selection set's means by images seen, over seeds and the set's guidance."""
    study = cells.study
    guidance = study.selection.guidance
    for cell in cells.to_select():
        if cell.seed != study.matrix.seeds[0]:
            continue
        parts = [scores.values(cell.recipe, cell.arm, cell.num_steps, one, "selection") for one in guidance]
        values = {tag: np.mean([part[tag] for part in parts], axis=0) for tag in parts[0]}
        for measured in MEASURED:
            found = estimate(values, mean_weights(scores.tags_of(measured)))
            low, high = found.interval(study.confidence)
            yield CurvePoint(
                recipe=cell.recipe,
                arm=cell.arm,
                samples_seen=_samples_seen(cell, cells),
                measured=measured,
                value=round(found.value, 6),
                low=round(max(0.0, low), 6),
                high=round(min(1.0, high), 6),
            )
