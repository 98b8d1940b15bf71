"""What a person decides: which version is champion, and the history of who was and why.

The champions before the current one are a stack: promotions push, a rollback pops.
"""

from __future__ import annotations

import logging

from softalign.errors import ConfigError, RegistryError
from softalign.registry.connection import consumer_uri, registry_client, require_database
from softalign.registry.events import CHALLENGER, PromotionEvent, champions, new_event, one_line
from softalign.registry.ledger import Ledger, append, ledger_of, settle
from softalign.registry.versions import CHAMPION, Reference, find_version

logger = logging.getLogger(__name__)


def history(name: str, tracking_uri: str | None = None) -> tuple[PromotionEvent, ...]:
    """Return a model's registrations, promotions and rollbacks, oldest first.

    What is not understood is passed over with a warning; so is an alias that is not where the history has it.

    Raises:
        RegistryError: no such model; lists the names there are.
        MissingInputError: there is no registry at this place.
    """
    with registry_client(_existing(tracking_uri)) as client:
        ledger = ledger_of(client, name)
    meant, found = ledger.meant(CHAMPION), ledger.aliases.get(CHAMPION)
    if meant != found:
        logger.warning(
            "The champion alias is at version %s, the history has %s: another tool moved it, or a promotion was "
            "stopped half-way. `softalign promote %s --version N` sets it right",
            found or "none",
            meant or "none",
            name,
        )
    return ledger.events


def promote(name: str, version: int | None, reason: str, tracking_uri: str | None = None) -> PromotionEvent:
    """Make a version champion by a person's decision, whatever the gate said, and record why.

    Without a version it is the challenger. Doing it again changes nothing and returns the event that made it champion.

    Raises:
        ConfigError: the reason is empty.
        RegistryError: no such model or version, or somebody else made another version champion meanwhile.
    """
    if not one_line(reason):
        raise ConfigError(
            "A promotion needs a reason.",
            expected="a sentence",
            found="nothing",
            where=f"{name}/{version or CHALLENGER}",
        )
    with registry_client(_existing(tracking_uri)) as client:
        begun = ledger = settle(client, name)
        wanted = Reference(name=name, alias=CHALLENGER) if version is None else Reference(name=name, version=version)
        version = int(find_version(client, wanted).version)
        while True:
            stack = ledger.champions
            if ledger.champion == version and stack and stack[-1].version == version:
                logger.info("%s/%d is champion already: nothing was changed", name, version)
                return stack[-1]
            _refuse_if_followed(name, begun, ledger, version)
            event = new_event("promote", version, ledger.champion, reason)
            if append(client, name, event, ledger):
                return event
            ledger = settle(client, name)


def rollback(name: str, reason: str = "", tracking_uri: str | None = None) -> PromotionEvent:
    """Give the champion alias back to the champion before this one, and record it.

    Rolling back twice goes two champions back; one that was stopped half-way is finished by the next. Versions deleted
    meanwhile are skipped.

    Raises:
        RegistryError: no such model, no champion before, or somebody else moved the champion meanwhile.
    """
    with registry_client(_existing(tracking_uri)) as client:
        begun = ledger_of(client, name)
        ledger = settle(client, name)
        if (finished := _finished(begun)) is not None:
            return finished
        begun = ledger
        while True:
            _refuse_if_followed(name, begun, ledger, None)
            event = _back(name, ledger, reason)
            if append(client, name, event, ledger):
                return event
            ledger = settle(client, name)


def _finished(begun: Ledger) -> PromotionEvent | None:
    """Return the rollback that had been recorded, but had not moved the alias."""
    head = begun.entries[-1] if begun.entries else None
    is_open = head is not None and not head.is_applied and begun.aliases.get(CHAMPION) != begun.meant(CHAMPION)
    return head.event if head and is_open and head.event and head.event.action == "rollback" else None


def _back(name: str, ledger: Ledger, reason: str) -> PromotionEvent:
    recorded = champions(ledger.events)
    stack = [event.version for event in recorded]
    current = ledger.champion
    is_recorded = bool(stack) and (stack[-1] == current or stack[-1] not in ledger.there)
    earlier = stack[:-1] if is_recorded else stack
    target = next((one for one in reversed(earlier) if one in ledger.there and one != current), None)
    if target is None:
        raise RegistryError(
            f"{name!r} has no champion to go back to.",
            expected="a champion before the current one",
            found=f"champion {current or 'none'}, before it {', '.join(map(str, earlier)) or 'none'}",
            fix=f"`softalign history {name}` shows the record; `softalign promote {name} --version N` sets a version",
        )
    sentence = one_line(reason) or f"Rolled back from version {current or 'none'} to the champion before it."
    return new_event("rollback", target, current, sentence)


def _refuse_if_followed(name: str, begun: Ledger, now: Ledger, version: int | None) -> None:
    """Refuse to go on where another one moved the champion since this one began: what it decided on is gone."""
    newer = now.events[len(begun.events) :]
    other = next((event for event in reversed(newer) if event.is_promoted), None)
    if other is None:
        return
    asked = "The rollback" if version is None else f"The promotion of version {version}"
    raise RegistryError(
        f"{asked} is refused: another one came first.",
        expected=f"champion {begun.champion or 'none'}, as it was when this began",
        found=f"version {other.version}, made champion by {one_line(other.actor)} meanwhile: {other.reason}",
        where=name,
        fix=f"look at `softalign history {name}`, and ask again if it is still wanted",
    )


def _existing(uri: str | None) -> str:
    chosen = consumer_uri(uri)
    require_database(chosen)
    return chosen
