"""Who is champion, who was, and why: an append-only record of promotions in the registered model's tags.

Every registration, promotion and rollback is one event under a tag of its own, so concurrent writers never overwrite
each other. The champions before the current one are a stack: promotions push, a rollback pops.
"""

from __future__ import annotations

import getpass
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from softalign.artifacts import Frozen
from softalign.errors import ConfigError, RegistryError
from softalign.registry.connection import consumer_uri, registry_client, require_database
from softalign.registry.gate import Check
from softalign.registry.versions import CHAMPION, Reference, champion_of, find_model, find_version, versions_of

EVENT_PREFIX = "softalign.event."


class PromotionEvent(Frozen):
    """One entry of a model's history.

    Attributes:
        action: ``register`` (the gate decided), ``promote`` or ``rollback`` (a person did).
        version: the version that was registered, or made champion.
        is_promoted: whether it became champion by this event.
        previous_champion: the champion before; None if there was none.
        reason: one or two sentences.
        checks: what the gate measured; empty for ``promote`` and ``rollback``.
        at_ms: when, in milliseconds since 1970.
        actor: the operating system's user name of the process.
    """

    action: Literal["register", "promote", "rollback"]
    version: int
    is_promoted: bool
    previous_champion: int | None
    reason: str
    checks: tuple[Check, ...] = ()
    at_ms: int
    actor: str

    def to_text(self) -> str:
        """Return the event as one line for people."""
        moment = datetime.fromtimestamp(self.at_ms / 1000, tz=UTC).isoformat(sep=" ", timespec="seconds")
        before = f"champion before: {self.previous_champion or 'none'}"
        outcome = "champion" if self.is_promoted else "challenger"
        return (
            f"{moment}  {self.action:<8}  version {self.version} {outcome} ({before}, by {self.actor}): {self.reason}"
        )


def new_event(
    action: Literal["register", "promote", "rollback"],
    version: int,
    previous_champion: int | None,
    reason: str,
    *,
    is_promoted: bool = True,
    checks: tuple[Check, ...] = (),
) -> PromotionEvent:
    """Return an event of this moment and this user."""
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        actor = "unknown"
    return PromotionEvent(
        action=action,
        version=version,
        is_promoted=is_promoted,
        previous_champion=previous_champion,
        reason=reason,
        checks=checks,
        at_ms=time.time_ns() // 1_000_000,
        actor=actor,
    )


def record_event(client: Any, name: str, event: PromotionEvent) -> None:
    """Append an event. A version's registration has one fixed place, so that a resumed one is not listed twice."""
    suffix = f"register-{event.version:06d}" if event.action == "register" else f"{event.at_ms}-{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, f"{EVENT_PREFIX}{suffix}", event.model_dump_json())


def history(name: str, tracking_uri: str | None = None) -> tuple[PromotionEvent, ...]:
    """Return a model's registrations, promotions and rollbacks, oldest first.

    Raises:
        RegistryError: no such model; lists the names there are.
        MissingInputError: there is no registry at this place.
    """
    uri = _existing(tracking_uri)
    with registry_client(uri) as client:
        return events_of(client, name)


def events_of(client: Any, name: str) -> tuple[PromotionEvent, ...]:
    """Return the recorded events of a model, oldest first."""
    tags = find_model(client, name).tags
    events = [
        PromotionEvent.model_validate(json.loads(value)) for tag, value in tags.items() if tag.startswith(EVENT_PREFIX)
    ]
    return tuple(sorted(events, key=lambda event: (event.at_ms, event.version)))


def promote(name: str, version: int | None, reason: str, tracking_uri: str | None = None) -> PromotionEvent:
    """Make a version champion by a person's decision, whatever the gate said, and record why.

    Without a version it is the challenger. Doing it again changes nothing and returns the event that made it champion.

    Raises:
        ConfigError: the reason is empty.
        RegistryError: no such model or version.
    """
    if not reason.strip():
        raise ConfigError(
            "A promotion needs a reason.",
            expected="a sentence",
            found="nothing",
            where=f"{name}/{version or 'challenger'}",
        )
    uri = _existing(tracking_uri)
    with registry_client(uri) as client:
        wanted = Reference(name=name, alias="challenger") if version is None else Reference(name=name, version=version)
        version = int(find_version(client, wanted).version)
        current = champion_of(client, name)
        stack = champions(events_of(client, name))
        if current == version and stack and stack[-1].version == version:
            return stack[-1]
        event = new_event("promote", version, current if current != version else None, reason)
        return _make_champion(client, name, event)


def rollback(name: str, reason: str = "", tracking_uri: str | None = None) -> PromotionEvent:
    """Give the champion alias back to the champion before this one, and record it.

    Rolling back twice goes two champions back. Versions deleted meanwhile are skipped.

    Raises:
        RegistryError: no such model, no champion, or no champion before it.
    """
    uri = _existing(tracking_uri)
    with registry_client(uri) as client:
        current = champion_of(client, name)
        there = {int(version.version) for version in versions_of(client, name)}
        stack = [event.version for event in champions(events_of(client, name))]
        earlier = stack[:-1] if stack and stack[-1] == current else stack
        target = next((version for version in reversed(earlier) if version in there and version != current), None)
        if current is None or target is None:
            raise RegistryError(
                f"{name!r} has no champion to go back to.",
                expected="a current champion and one before it",
                found=f"champion {current or 'none'}, before it {', '.join(map(str, earlier)) or 'none'}",
                fix=f"`softalign history {name}` shows the record; `softalign promote {name}` sets a version",
            )
        sentence = reason.strip() or f"Rolled back from version {current} to the champion before it."
        return _make_champion(client, name, new_event("rollback", target, current, sentence))


def champions(events: tuple[PromotionEvent, ...]) -> list[PromotionEvent]:
    """Return the stack of events that made champions; the last is the current champion's."""
    stack: list[PromotionEvent] = []
    for event in events:
        if not event.is_promoted:
            continue
        if event.action == "rollback":
            position = max((i for i, entry in enumerate(stack) if entry.version == event.version), default=-1)
            stack = [*stack[:position], event] if position >= 0 else [event]
        else:
            stack.append(event)
    return stack


def _make_champion(client: Any, name: str, event: PromotionEvent) -> PromotionEvent:
    # The record first: an alias that moved without a record could not be rolled back.
    record_event(client, name, event)
    client.set_registered_model_alias(name, CHAMPION, str(event.version))
    return event


def _existing(uri: str | None) -> str:
    chosen = consumer_uri(uri)
    require_database(chosen)
    return chosen
