"""Evaluate: one arm's images and scores in a supervised child process, then the arms side by side."""

from __future__ import annotations

from softalign.artifacts import Adapter, Arm, ComparisonReport, EvalReport
from softalign.config import Recipe
from softalign.stages.keys import Reports, evaluate_key
from softalign.stages.run import StageResult, run_compare, run_evaluate
from softalign.store.store import Store
from tasks.policies import gpu_slot, stage_task
from tasks.progress import progress_of
from tasks.reporting import publish_comparison, publish_stage, run_logger


@stage_task("evaluate", uses_gpu=True)
def evaluate(recipe: Recipe, arm: Arm, adapter: Adapter | None, store_uri: str) -> StageResult[EvalReport]:
    """Generate and score the images of one arm (the base's take no adapter), or reuse what is there."""
    store = Store(store_uri)
    is_needed = store.find(EvalReport, evaluate_key(recipe, arm, adapter, store)) is None
    with gpu_slot(recipe.runtime.device, is_needed=is_needed), progress_of(recipe.name):
        result = run_evaluate(recipe, arm, adapter, store, run_logger().info)
    publish_stage(result, recipe.name)
    return result


@stage_task("compare")
def compare(
    recipe: Recipe, reports: Reports, guided_base: EvalReport | None, adapter: Adapter, store_uri: str
) -> StageResult[ComparisonReport]:
    """Compare base, untrained tokens and adapter and write the report, or reuse what is there."""
    result = run_compare(recipe, reports, guided_base, adapter, Store(store_uri))
    publish_stage(result, recipe.name)
    publish_comparison(result, reports, recipe.name)
    return result
