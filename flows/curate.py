"""Curate a recipe's sources into a dataset."""

from __future__ import annotations

import sys

from prefect import flow

from flows.command import run_command
from flows.names import run_name
from flows.parameters import OverridesParameter, RecipeParameter, StoreParameter
from flows.summary import FlowSummary, summarize_stages
from flows.walk import run_stages
from softalign.stages.recipe_sources import open_recipe
from softalign.store.store import DEFAULT_STORE, Store


@flow(name="softalign-curate", flow_run_name=run_name, persist_result=False)
def curate(
    recipe: RecipeParameter, overrides: OverridesParameter = (), store: StoreParameter = DEFAULT_STORE
) -> FlowSummary:
    """Read the sources, filter, and write the dataset's shards.

    Args:
        recipe: a recipe's name, path or address, or the recipe itself.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published.
    """
    opened = Store(store)
    loaded = open_recipe(recipe, overrides, opened)
    return summarize_stages(loaded.name, run_stages(loaded, opened, "curate").results)


if __name__ == "__main__":
    sys.exit(run_command(curate))
