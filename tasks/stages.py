"""A task for each stage: one library call with its retry policy, and what is left for people to see."""

from __future__ import annotations

from contextlib import suppress

from prefect import Task

from softalign.artifacts import Stage
from softalign.config import Recipe
from softalign.errors import SoftAlignError
from softalign.stages.published import Published
from softalign.stages.run import StageResult, run_step
from softalign.stages.table import STAGES, StageRow, Step, steps_of
from softalign.store.store import Store
from tasks.attempts import remember
from tasks.policies import stage_task
from tasks.progress import progress_of
from tasks.reporting import publish_stage, run_logger
from tasks.run_log import identified


def _task_of(row: StageRow) -> Task[[Recipe, str, Published, str], StageResult]:
    @stage_task(row.name, uses_gpu=row.uses_model, run_name="{label}")
    def run(recipe: Recipe, label: str, published: Published, store_uri: str) -> StageResult:
        store = Store(store_uri)
        (step,) = (one for one in steps_of(recipe) if one.label == label)
        try:
            with identified(), progress_of(recipe.name):
                result = run_step(step, published, store, run_logger().info)
        except Exception as error:
            _remember_kept(error, step, published, store)
            raise
        publish_stage(result, published, recipe.name)
        return result

    return run


def _remember_kept(error: Exception, step: Step, published: Published, store: Store) -> None:
    """Note on a failed attempt's error how far it got: attempts that get further are repeated without end."""
    with suppress(SoftAlignError, OSError):  # of the store, which may be what failed
        given = step.inputs(published, store)
        remember(error, step.row.so_far(given, step.row.request(given).key))


TASKS: dict[Stage, Task[[Recipe, str, Published, str], StageResult]] = {row.name: _task_of(row) for row in STAGES}
"""The tasks by their stages. A repeated attempt goes on where the one before it stopped; what is there is reused."""


def run_task(step: Step, published: Published, store: Store) -> StageResult:
    """Run a step as a task of the present flow, given what it takes of what is published."""
    return TASKS[step.row.name](step.recipe, step.label, published.only(step.parents), store.uri)
