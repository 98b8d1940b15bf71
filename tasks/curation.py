"""Curate: sources to a dataset."""

from __future__ import annotations

from softalign.artifacts import DatasetManifest
from softalign.config import Recipe
from softalign.stages.run import StageResult, run_curate
from softalign.store.store import Store
from tasks.policies import stage_task
from tasks.progress import progress_of
from tasks.reporting import publish_stage


@stage_task("curate")
def curate(recipe: Recipe, store_uri: str) -> StageResult[DatasetManifest]:
    """Curate the recipe's sources, or reuse what is there."""
    with progress_of(recipe.name):
        result = run_curate(recipe, Store(store_uri))
    publish_stage(result, recipe.name)
    return result
