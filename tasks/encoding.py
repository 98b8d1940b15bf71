"""Encode: a dataset to latents and text encodings."""

from __future__ import annotations

from softalign.artifacts import DatasetManifest, EncodedManifest
from softalign.config import Recipe
from softalign.stages.keys import encode_key
from softalign.stages.run import StageResult, run_encode
from softalign.store.store import Store
from tasks.policies import gpu_slot, stage_task
from tasks.progress import progress_of
from tasks.reporting import publish_stage


@stage_task("encode", uses_gpu=True)
def encode(recipe: Recipe, dataset: DatasetManifest, store_uri: str) -> StageResult[EncodedManifest]:
    """Encode a dataset with the recipe's frozen model, or reuse what is there."""
    store = Store(store_uri)
    is_needed = store.find(EncodedManifest, encode_key(recipe, dataset)) is None
    with gpu_slot(recipe.runtime.device, is_needed=is_needed), progress_of(recipe.name):
        result = run_encode(recipe, dataset, store)
    publish_stage(result, recipe.name)
    return result
