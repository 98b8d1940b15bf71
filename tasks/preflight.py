"""The task that looks, before the first stage, whether store, disk and registry will take what comes."""

from __future__ import annotations

from softalign.artifacts import Stage
from softalign.config import Recipe
from softalign.stages.readiness import check_ready
from softalign.stages.table import row_of
from softalign.store.store import Store
from tasks.policies import stage_task


@stage_task("preflight", run_name="preflight")
def _preflight(recipe: Recipe, last: Stage, store_uri: str) -> None:
    check_ready(recipe, Store(store_uri), last)


def check_before(recipe: Recipe, last: Stage, store: Store) -> None:
    """Look whether a recipe can run up to a stage; what may pass (a registry that is away) is waited for."""
    _preflight(recipe, row_of(last).asked_by, store.uri)
