"""What flows announce to the orchestrator, so that its automations can start what follows.

Only what is new is announced, and only by a flow that ends with it: ``retrain`` makes datasets and adapters on its way
and announces neither, so no retrain leads to another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect.events import emit_event

from flows.summary import StageOutcome
from tasks.posting import post

EVENTS = {"dataset": "softalign.dataset.published", "adapter": "softalign.adapter.published"}
logger = logging.getLogger("softalign.events")


def announce(
    kind: Literal["dataset", "adapter"],
    outcome: StageOutcome,
    recipe: str | Mapping[str, Any],
    overrides: Sequence[str],
    store: str,
) -> None:
    """Announce what a stage has published, unless it was there already.

    Args:
        kind: what it is.
        outcome: of the stage.
        recipe: as the flow was given it: what follows is given the same.
        overrides: likewise.
        store: likewise.
    """
    if outcome.is_reused:
        return
    payload = {"recipe": recipe, "overrides": list(overrides), "store": store, "uri": outcome.uri}
    name = outcome.digest[:12]
    resource = {"prefect.resource.id": f"softalign.{kind}.{outcome.digest}", "prefect.resource.name": name}
    post(f"A new {kind}", lambda: emit_event(EVENTS[kind], resource, payload=payload))
    logger.info("Announced %s %s", EVENTS[kind], name)
