"""Encode a recipe's dataset and train its adapter."""

from __future__ import annotations

import sys

from prefect import flow

from flows.command import run_command
from flows.events import announce
from flows.names import run_name
from flows.parameters import OverridesParameter, RecipeParameter, StoreParameter
from flows.summary import FlowSummary, summarize_stages
from flows.walk import run_stages
from softalign.stages.recipe_sources import open_recipe
from softalign.store.store import DEFAULT_STORE, Store


@flow(name="softalign-train", flow_run_name=run_name, persist_result=False)
def train(
    recipe: RecipeParameter, overrides: OverridesParameter = (), store: StoreParameter = DEFAULT_STORE
) -> FlowSummary:
    """Encode the curated dataset with the frozen model, then train the soft tokens.

    Args:
        recipe: a recipe's name, path or address, or the recipe itself.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published; the dataset must be there.
    """
    opened = Store(store)
    loaded = open_recipe(recipe, overrides, opened)
    summary = summarize_stages(loaded.name, run_stages(loaded, opened, "encode", "train").results)
    announce("adapter", summary.stages[-1], recipe, overrides, store)
    return summary


if __name__ == "__main__":
    sys.exit(run_command(train))
