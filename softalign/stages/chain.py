"""The stages in their order, in this process: what a shell or notebook runs, with no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

from softalign.artifacts import (
    Adapter,
    ComparisonReport,
    DatasetManifest,
    ModelVersion,
    PairStatistics,
    Stage,
    TaskStatistics,
    read_known,
)
from softalign.artifacts.fronts import FRONTS_FILENAME, GuidanceFronts
from softalign.artifacts.scores import STATISTICS_FILENAME
from softalign.config.recipe import Recipe
from softalign.processes.supervise import OnLine
from softalign.run_context import log_fields, to_register
from softalign.stages.champion import with_champion
from softalign.stages.ending import ChainSummary
from softalign.stages.published import Published
from softalign.stages.readiness import check_ready
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
    """
    recipe = with_champion(recipe, store, stages)
    steps = steps_of(recipe)
    end = max(number for number, step in enumerate(steps, start=1) if step.row.name in stages)
    results: list[StageResult] = []
    published = Published()
    for step in steps[:end]:
        about = log_fields(recipe=recipe.name, stage=step.label, **known_digests(published))
        with about, to_register("register" in stages):
            if step.row.name in stages:
                results.append(run(step, published))
                record = results[-1].record
            else:
                record = require(step, published, store)
        published = published.plus(step.label, record)
    return Walked(tuple(results), published)


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
