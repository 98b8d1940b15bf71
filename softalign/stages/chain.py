"""The stages in their order, in this process: what a shell or notebook runs, with no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from softalign.artifacts import (
    Adapter,
    ComparisonReport,
    DatasetManifest,
    EvalReport,
    ModelVersion,
    PairStatistics,
    Record,
    Stage,
    TaskStatistics,
    read_known,
)
from softalign.artifacts.fronts import FRONTS_FILENAME, GuidanceFronts
from softalign.artifacts.paired import STATISTICS_FILENAME
from softalign.config.recipe import Recipe
from softalign.errors import UndetectedError
from softalign.processes.supervise import OnLine
from softalign.run_context import log_fields, to_register
from softalign.stages.champion import with_champion
from softalign.stages.ending import ChainSummary
from softalign.stages.published import Published
from softalign.stages.readiness import check_ready
from softalign.stages.rounds import draw_until_decided
from softalign.stages.run import StageResult, require, run_step
from softalign.stages.spending import spending_of
from softalign.stages.table import COMMANDS, STAGES, Step, steps_of
from softalign.store.store import Store

RunStep = Callable[[Step, Published], StageResult]
"""Runs one step, given what the steps before it published."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk along the chain came to.

    Attributes:
        results: of the steps that were to run, in order.
        published: the records of these and of the steps before them.
    """

    results: tuple[StageResult, ...]
    published: Published


def walk(recipe: Recipe, store: Store, stages: Collection[Stage], run: RunStep) -> Walked:
    """Run the steps of some stages in order; those of earlier stages must be published.

    Args:
        recipe: the recipe.
        store: where everything is published.
        stages: which to run.
        run: runs one step, in this process or as a task of an orchestrator.

    Raises:
        MissingInputError: an earlier stage has not run; says how to run it.
        UndetectedError: the detector is not there yet; the images of all arms are drawn and kept.
    """
    recipe = with_champion(recipe, store, stages)
    return _Walk(store, stages, run).along(recipe)


class _Walk:
    """Runs steps one after the other, and remembers what they came to."""

    def __init__(self, store: Store, stages: Collection[Stage], run: RunStep) -> None:
        self.store, self.stages, self.run = store, stages, run
        self.results: list[StageResult] = []
        self.published = Published()

    def along(self, recipe: Recipe) -> Walked:
        """Run the steps up to the last stage that is asked for, and of an evaluation as many rounds as decide it."""
        undetected: dict[str, UndetectedError] = {}
        for step in self._steps(recipe):
            if undetected and step.row.record is not EvalReport:
                break
            try:
                self.published = self.published.plus(step.label, self._record(step))
            except UndetectedError as error:  # the other arms' images can be drawn all the same
                undetected[step.label] = error
        if undetected:
            raise _of_all(undetected)
        return Walked(tuple(self.results), self.published)

    def _steps(self, recipe: Recipe) -> Iterator[Step]:
        steps = steps_of(recipe)
        end = max(number for number, step in enumerate(steps, start=1) if step.row.name in self.stages)
        for number in range(end):
            if recipe.evaluate.is_undecided and steps[number].row.record is EvalReport:
                recipe = draw_until_decided(recipe, self.published, self.store, self._record)
                steps = steps_of(recipe)
            yield steps[number]

    def _record(self, step: Step) -> Record:
        """Run or require a step, unless this walk did it already, and return what it published."""
        about = log_fields(recipe=step.recipe.name, stage=step.label, **known_digests(self.published))
        with about, to_register("register" in self.stages):
            if step.row.name not in self.stages:
                return require(step, self.published, self.store)
            if (made := self._made(step)) is not None:
                return made
            self.results.append(self.run(step, self.published))
            return self.results[-1].record

    def _made(self, step: Step) -> Record | None:
        """Return what a step of this walk made: the last round's arms are drawn before the walk comes to them."""
        if not step.recipe.evaluate.is_in_rounds or step.row.record is not EvalReport:
            return None
        key = step.request(self.published, self.store).key
        return next((one.record for one in self.results if one.record.stage_key == key), None)


def _of_all(undetected: dict[str, UndetectedError]) -> UndetectedError:
    """Return one error for all arms, which lack the same, with the places of their images."""
    last, where = list(undetected.values())[-1], [f"{label}: {error.where}" for label, error in undetected.items()]
    return UndetectedError(
        last.what, expected=last.expected, found=last.found, where=f"images of {'; '.join(where)}", fix=last.fix
    )


def known_digests(published: Published) -> dict[str, str]:
    """Return the digests of dataset and adapter, as far as they are published."""
    records = {"dataset": published.find(DatasetManifest), "adapter": published.find(Adapter)}
    return {name: record.digest for name, record in records.items() if record is not None}


def stages_through(last: Stage) -> tuple[Stage, ...]:
    """Return the stages up to what a stage's command runs, that included."""
    wanted = COMMANDS[: COMMANDS.index(last) + 1]
    return tuple(row.name for row in STAGES if row.asked_by in wanted)


def stages_of_command(command: Stage) -> tuple[Stage, ...]:
    """Return the stages that a stage's command runs: its own, and what goes with it."""
    return tuple(row.name for row in STAGES if row.asked_by == command)


def run_until(last: Stage, recipe: Recipe, store: Store, on_line: OnLine, *, is_through: bool) -> Walked:
    """Run what one stage's command runs, and with ``is_through`` the stages before it.

    Args:
        last: a stage with a command of its own (``COMMANDS``).
        recipe: the recipe.
        store: where everything is published.
        on_line: takes the lines of child processes, and one for each step.
        is_through: run or reuse the earlier stages too, instead of requiring them.

    Raises:
        ConfigError: a stage up to this one would be refused.
        MissingInputError: an earlier stage has not run and ``is_through`` is False, or a source or model is not there.
        DataError: a source or model cannot be used.
    """
    check_ready(recipe, store, last)

    def run(step: Step, published: Published) -> StageResult:
        result = run_step(step, published, store, on_line)
        result.say(on_line)
        return result

    return walk(recipe, store, stages_through(last) if is_through else stages_of_command(last), run)


def run_chain(recipe: Recipe, store: Store, on_line: OnLine) -> ChainSummary:
    """Run the whole chain and return its summary."""
    return summarize(run_until("register", recipe, store, on_line, is_through=True), recipe, store)


OF_COMPARISON = (
    "denoiser_calls_per_image",
    "guided_base",
    "suite",
    "adapter_vs_base",
    "adapter_vs_untrained",
    "champion",
    "adapter_vs_champion",
    "over_base",
    "over_untrained",
    "over_champion",
    "stopping",
    "detector",
)
"""Fields of a summary that are those of its comparison."""


def summarize(walked: Walked, recipe: Recipe, store: Store) -> ChainSummary:
    """Return the summary of a finished chain."""
    from softalign.registry import reachable_uri, registered_decision, registry_of_store, report_url, run_url

    published, results, reports = walked.published, walked.results, walked.published.arm_reports
    adapter, comparison, version = published.get(Adapter), published.get(ComparisonReport), published.get(ModelVersion)
    registry, gate = reachable_uri(version.tracking_uri, store), registered_decision(version, store)
    scores = zip(*(report.tags for report in reports.compared), strict=True)
    return ChainSummary(
        name=adapter.name,
        store=store.uri,
        num_stages_run=sum(not result.is_reused for result in results),
        num_stages_reused=sum(result.is_reused for result in results),
        overall_base=reports.base.overall_score,
        overall_untrained=reports.untrained.overall_score,
        overall_adapter=reports.adapter.overall_score,
        tags=tuple((one.tag, one.score, two.score, three.score) for one, two, three in scores),
        model=version.name,
        version=version.version,
        alias=version.alias,
        reason=version.reason,
        adapter_uri=adapter.uri,
        report_uri=f"{comparison.uri}/report.html",
        tracking_uri=registry,
        confidence=recipe.evaluate.confidence,
        checks=gate.checks,
        is_promoted=gate.is_promoted,
        is_registry_of_store=store.is_local and registry == registry_of_store(store),
        num_inference_steps=recipe.evaluate.num_inference_steps,
        guidance_scale=recipe.evaluate.guidance_scale,
        seconds=round(sum(result.seconds for result in results), 3),
        registered_run_url=run_url(version),
        registered_report_url=report_url(version),
        spending=spending_of(results, recipe.runtime),
        statistics=_statistics(comparison, store),
        fronts=_fronts(comparison, recipe, store),
        **{name: getattr(comparison, name) for name in OF_COMPARISON},
    )


def _statistics(comparison: ComparisonReport, store: Store) -> tuple[TaskStatistics, ...]:
    """Return what each tag's gain over the base shows; nothing for a comparison of an earlier version."""
    if comparison.over_base is None:
        return ()
    path = store.fetch_file(comparison, STATISTICS_FILENAME)
    return read_known(PairStatistics, json.loads(path.read_bytes()))[0].adapter_vs_base


def _fronts(comparison: ComparisonReport, recipe: Recipe, store: Store) -> GuidanceFronts | None:
    if not recipe.evaluate.guidance_sweep:
        return None
    path = store.fetch_file(comparison, FRONTS_FILENAME)
    return read_known(GuidanceFronts, json.loads(path.read_bytes()))[0]
