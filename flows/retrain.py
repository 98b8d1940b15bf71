"""All stages in order: captions to a registered adapter."""

from __future__ import annotations

import sys

from prefect import flow

from flows.command import run_command
from flows.names import run_name
from flows.parameters import OverridesParameter, RecipeParameter, StoreParameter
from flows.walk import run_stages
from softalign.stages.chain import stages_through, summarize
from softalign.stages.ending import ChainSummary
from softalign.stages.recipe_sources import open_recipe
from softalign.store.store import DEFAULT_STORE, Store


@flow(name="softalign-retrain", flow_run_name=run_name, persist_result=False)
def retrain(
    recipe: RecipeParameter, overrides: OverridesParameter = (), store: StoreParameter = DEFAULT_STORE
) -> ChainSummary:
    """Curate, encode, train, evaluate three arms, compare and register; what is already there is reused.

    Args:
        recipe: a recipe's name, path or address, or the recipe itself.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published.
    """
    opened = Store(store)
    loaded = open_recipe(recipe, overrides, opened)
    return summarize(run_stages(loaded, opened, *stages_through("register")), loaded, opened)


if __name__ == "__main__":
    sys.exit(run_command(retrain))
