"""A recipe's dataset anew: changed sources or captions become a new version, and what is new of it is encoded."""

from __future__ import annotations

import sys
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.command import run_command
from flows.events import announce
from flows.names import run_name
from flows.parameters import OverridesParameter, RecipeParameter, StoreParameter
from flows.summary import FlowSummary, summarize_stages
from flows.walk import run_stages
from softalign.stages.recipe_sources import open_recipe
from softalign.stages.refresh import log_lineage, prepare_refresh, published_dataset
from softalign.store.store import DEFAULT_STORE, Store

CaptionsParameter = Annotated[
    str,
    Field(
        title="Captions",
        description="a table (csv, tsv, jsonl, parquet) of captions that come, go or change in the recipe's dataset; "
        "empty: only the sources are looked at",
    ),
]


@flow(name="softalign-refresh", flow_run_name=run_name, persist_result=False)
def refresh(
    recipe: RecipeParameter,
    overrides: OverridesParameter = (),
    store: StoreParameter = DEFAULT_STORE,
    captions: CaptionsParameter = "",
) -> FlowSummary:
    """Curate and encode a recipe's sources again; a new version is announced, so that a retrain can follow.

    Args:
        recipe: a recipe's name, path or address, or the recipe itself.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published.
        captions: a table of changes to the captions of the dataset that the recipe has by now.
    """
    opened = Store(store)
    loaded, asked = open_recipe(recipe, overrides, opened), None
    if captions:
        asked = prepare_refresh(published_dataset(loaded, opened), captions, opened, loaded)
        loaded, overrides = asked.recipe, [*overrides, asked.override]
    results = run_stages(loaded, opened, "curate", "encode").results
    if asked is not None:
        log_lineage(asked, [one.record for one in results], opened)
    summary = summarize_stages(loaded.name, results)
    announce("dataset", summary.stages[0], recipe, overrides, store)
    return summary


if __name__ == "__main__":
    sys.exit(run_command(refresh))
