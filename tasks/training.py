"""Train: encoded data to an adapter, in a supervised child process."""

from __future__ import annotations

from softalign.artifacts import Adapter, EncodedManifest
from softalign.config import Recipe
from softalign.stages.keys import train_key
from softalign.stages.run import StageResult, run_train
from softalign.store.store import Store
from tasks.policies import gpu_slot, stage_task
from tasks.progress import progress_of
from tasks.reporting import publish_stage, run_logger


@stage_task("train", uses_gpu=True)
def train(recipe: Recipe, encoded: EncodedManifest, store_uri: str) -> StageResult[Adapter]:
    """Train the soft tokens, or reuse what is there; a repeated attempt continues at the last checkpoint."""
    store = Store(store_uri)
    is_needed = store.find(Adapter, train_key(recipe, encoded)) is None
    with gpu_slot(recipe.runtime.device, is_needed=is_needed), progress_of(recipe.name):
        result = run_train(recipe, encoded, store, run_logger().info)
    publish_stage(result, recipe.name)
    return result
