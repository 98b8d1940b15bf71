"""Encode a recipe's dataset and train its adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefect import flow

from flows.command import run_command
from flows.names import run_name
from flows.summary import FlowSummary, summarize_stages
from flows.walk import run_stages
from softalign.config import load_recipe
from softalign.store.store import DEFAULT_STORE, Store


@flow(name="softalign-train", flow_run_name=run_name, persist_result=False)
def train(recipe: str, overrides: Sequence[str] = (), store: str = DEFAULT_STORE) -> FlowSummary:
    """Encode the curated dataset with the frozen model, then train the soft tokens.

    Args:
        recipe: a recipe's name or the path of a YAML file.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published; the dataset must be there.
    """
    loaded = load_recipe(recipe, overrides)
    return summarize_stages(loaded.name, run_stages(loaded, Store(store), "encode", "train").results)


if __name__ == "__main__":
    sys.exit(run_command(train))
