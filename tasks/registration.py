"""Register: an adapter with its evidence to a version of a registered model, and the decision about its alias."""

from __future__ import annotations

from softalign.artifacts import Adapter, ComparisonReport, EvalReport, ModelVersion
from softalign.config import Recipe
from softalign.stages.run import StageResult, run_register
from softalign.store.store import Store
from tasks.policies import stage_task
from tasks.reporting import publish_stage


@stage_task("register")
def register(
    recipe: Recipe,
    adapter: Adapter,
    comparison: ComparisonReport,
    reports: tuple[EvalReport, EvalReport, EvalReport],
    store_uri: str,
) -> StageResult[ModelVersion]:
    """Register an adapter and decide its alias, or reuse what is there."""
    result = run_register(recipe, adapter, comparison, reports, Store(store_uri))
    publish_stage(result, recipe.name)
    return result
