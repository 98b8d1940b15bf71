"""The server's automations of a deployment: what new data and new adapters start, and who hears of failures."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from flows.events import EVENTS
from flows.server.automations import TAGGED, described
from softalign.errors import ConfigError

KINDS = ("slack", "webhook", "block")
SUBJECT = "softalign: {{ flow_run.name }} failed"
BODY = "{{ flow_run.name }} of {{ flow.name }} failed: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def following(dataset: UUID, adapter: UUID) -> list[AutomationCore]:
    """Return what follows what is announced: a new dataset a retrain, a new adapter its evaluation.

    Args:
        dataset: the deployment that is run for a new dataset.
        adapter: the deployment that is run for a new adapter.
    """
    return [
        _following("softalign: a new dataset retrains", "dataset", dataset),
        _following("softalign: a new adapter is evaluated", "adapter", adapter),
    ]


def _following(name: str, kind: str, deployment: UUID) -> AutomationCore:
    trigger = EventTrigger(
        expect={EVENTS[kind]},
        match={"prefect.resource.id": f"softalign.{kind}.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    given = {name: _of_event(name) for name in ("recipe", "overrides", "store")}
    start = RunDeployment(source="selected", deployment_id=deployment, parameters=given)
    return described(AutomationCore(name=name, trigger=trigger, actions=[start]), "It is given what the event says.")


def _of_event(name: str) -> dict[str, Any]:
    """Return a parameter that takes a value of the event's payload, of whatever type."""
    template = f"{{{{ event.payload.{name} | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


@dataclass(frozen=True, slots=True)
class Notification:
    """Whom to tell of a failed run: the words that ask for it, its kind, and an address or the name of a block."""

    text: str
    kind: str
    target: str = field(repr=False)


def notification_of(text: str) -> Notification:
    """Return what is asked for.

    Args:
        text: ``slack:VARIABLE`` or ``webhook:VARIABLE``, where the environment variable holds the address, which is a
            secret; or ``block:TYPE/NAME`` of a notification block of one's own, such as e-mail.

    Raises:
        ConfigError: it is neither, or the variable is not set.
    """
    kind, _, what = text.partition(":")
    if kind not in KINDS or not what:
        raise ConfigError(
            "It is not said how to notify.",
            expected="slack:VARIABLE, webhook:VARIABLE (an environment variable with the address), or block:TYPE/NAME",
            found=text,
        )
    if kind == "block":
        return Notification(text, kind, what)
    address = os.environ.get(what, "")
    if not address:
        raise ConfigError(
            "The address to notify is not there.", expected=f"an address in the variable {what}", where=what
        )
    return Notification(text, kind, address)


def failing(notification: Notification) -> AutomationCore:
    """Return the automation that tells somebody of a failed run; the block that holds the address is made."""
    name = f"softalign-{hashlib.sha256(notification.text.encode()).hexdigest()[:8]}"
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=TAGGED,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    action = _action(notification, name)
    made = AutomationCore(name=f"softalign: a run failed ({notification.text})", trigger=trigger, actions=[action])
    return described(made, "Somebody is told.")


def _action(notification: Notification, name: str) -> Any:
    if notification.kind == "block":
        block: Any = Block.load(notification.target)
        return SendNotification(block_document_id=block._block_document_id, subject=SUBJECT, body=BODY)
    address = SecretStr(notification.target)
    if notification.kind == "slack":
        identity = SlackWebhook(url=address).save(name, overwrite=True)
        return SendNotification(block_document_id=identity, subject=SUBJECT, body=BODY)
    identity = Webhook(method="POST", url=address, allow_private_urls=True).save(name, overwrite=True)
    payload = (
        '{"subject": {{ ("softalign: " ~ flow_run.name ~ " failed")|tojson }}, "run": {{ flow_run.name|tojson }}, '
    )
    payload += '"message": {{ flow_run.state.message|tojson }}, "url": {{ flow_run|ui_url|tojson }}}'
    return CallWebhook(block_document_id=identity, payload=payload)
