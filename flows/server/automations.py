"""The server's own look-out for lost runs: two automations that start the flow ``softalign-recover`` for a run.

They set no state themselves: an event may come late, and what it speaks of may be over by then.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.server.asking import HEARTBEAT

logger = logging.getLogger("prefect.workers.softalign")
DEPLOYMENT = "softalign-recover/recover"
SILENT_S = 95.0
"""Three heartbeats of 30 s and some slack; whoever is started then waits for one more."""
TAGGED = {"prefect.resource.id": "prefect.tag.softalign"}
"""The runs that are looked after. The flow that does so has another tag: if it crashed, it would call for itself."""
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Scheduled", "AwaitingRetry", "Paused", "Suspended")
"""States after which no heartbeat is expected."""


def install(pool: str) -> bool:
    """Make the automations, or renew those that differ; return whether this pool's workers are to do so.

    Args:
        pool: a worker's pool; only those of the pool that ``softalign-recover`` runs in install them, not all at once.
    """
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return False
        if deployment.work_pool_name != pool:
            return False
        for automation in automations(deployment.id):
            install_one(client, automation)
    return True


def automations(deployment_id: Any) -> list[AutomationCore]:
    """Return the automations; their descriptions end in a digest of what they do."""
    start = RunDeployment(
        source="selected",
        deployment_id=deployment_id,
        parameters={"run": {"__prefect_kind": "jinja", "template": "{{ event.resource.id }}"}},
    )
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    each: dict[str, Any] = {"match": runs, "match_related": TAGGED, "for_each": {"prefect.resource.id"}, "threshold": 1}
    lost = EventTrigger(
        **each,
        after={HEARTBEAT},
        expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in ENDS)},
        posture=Posture.Proactive,
        within=timedelta(seconds=SILENT_S),
    )
    crashed = EventTrigger(**each, expect={"prefect.flow-run.Crashed"}, posture=Posture.Reactive)
    return [
        _automation("softalign: a run is silent", lost, start),
        _automation("softalign: a run crashed", crashed, start),
    ]


def _automation(name: str, trigger: EventTrigger, start: RunDeployment) -> AutomationCore:
    made = AutomationCore(name=name, trigger=trigger, actions=[start])
    return described(made, "Somebody looks at the run, and lets it go on.")


def described(made: AutomationCore, purpose: str) -> AutomationCore:
    """Return an automation with a description that ends in a digest of what it does: so changes are seen."""
    stated = json.dumps(made.model_dump(exclude={"trigger": {"id"}}), sort_keys=True, default=_in_order)
    digest = hashlib.sha256(stated.encode()).hexdigest()[:12]
    return made.model_copy(update={"description": f"{purpose} ({digest})"})


def _in_order(value: object) -> object:
    return sorted(value) if isinstance(value, set) else str(value)


def install_one(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Make an automation, or renew the one of that name if it does something else; a switched off one stays so."""
    present = sorted(client.read_automations_by_name(automation.name), key=lambda one: str(one.id))
    if not present:
        client.create_automation(automation)
        logger.info("Made the automation %r", automation.name)
        return
    for double in present[1:]:  # of two workers that started at once
        client.delete_automation(double.id)
    if present[0].description != automation.description:
        client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))
        logger.info("Renewed the automation %r", automation.name)
