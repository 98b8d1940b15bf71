"""The history of a registered model: a log that is only appended to, in an order that the server decides.

MLflow sets aliases and tags whatever was there before. One thing it does atomically on every server: of all who create
the next version of a registered model exactly one gets a number. So the log of ``NAME`` is a registered model of its
own, ``NAME.history``, and each of its versions is one event, written in the request that creates it.

- Compare and swap: who appends names the entry that it read last (``after``). An entry stands unless one that stands
  came in between; every reader sees by itself which stand, so a loser is refused by all alike.
- The alias follows the log, never the other way round. Who has moved an alias reads the log again and repairs it until
  both agree: a late write of a process that was followed meanwhile is taken back by that process.
- An entry whose alias was not moved yet (its process was killed) is settled by the next one who promotes, rolls back
  or registers, before anything else.
- An answer that is lost on the way changes nothing: an entry is known by its ``event_id``.

Earlier versions kept their events in tags of the registered model; these are read as the log's beginning. What a newer
version wrote is read as far as it is understood, and named where it is not.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from softalign.config.registration import LEDGER_SUFFIX
from softalign.registry.events import EVENT_PREFIX, PromotionEvent, champions, read_event
from softalign.registry.versions import CHAMPION, find_model, versions_of

logger = logging.getLogger(__name__)

EVENT_TAG = "softalign.event"
EVENT_ID_TAG = "softalign.event_id"
AFTER_TAG = "softalign.after"
APPLIED_TAG = "softalign.applied"
NUM_ATTEMPTS = 8
"""Of creating an entry while others do, and of setting an alias right."""
RETRY_CODES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "BAD_REQUEST"}
"""What MLflow answers where several create a version at once and it has given up after three numbers, where its
database is locked, and where two set the same tag or alias for the first time."""


@dataclass(frozen=True)
class Entry:
    """One version of ``NAME.history``: its number, the entry it was written after, and its event where it is read."""

    number: int
    after: int
    event_id: str
    event: PromotionEvent | None
    is_applied: bool


@dataclass(frozen=True)
class Ledger:
    """The log of a model as it is now.

    Attributes:
        events: those that stand and are understood, oldest first.
        entries: of ``NAME.history`` that stand, those that are not understood included.
        there: the numbers of the model's versions that exist.
        aliases: as they were right before the log was read.
    """

    events: tuple[PromotionEvent, ...]
    entries: tuple[Entry, ...]
    there: frozenset[int]
    aliases: dict[str, int]

    @property
    def last(self) -> int:
        """The number of the newest entry that stands; 0 where there is none."""
        return self.entries[-1].number if self.entries else 0

    @property
    def champions(self) -> list[PromotionEvent]:
        """The stack of events that made champions, without those whose version was deleted."""
        return [event for event in champions(self.events) if event.version in self.there]

    @property
    def champion(self) -> int | None:
        """The version that consumers get: the alias's, unless it names a version that is gone."""
        number = self.aliases.get(CHAMPION)
        return number if number in self.there else None

    def has(self, event_id: str) -> bool:
        """Return whether an entry stands."""
        return any(entry.event_id == event_id for entry in self.entries)

    def meant(self, alias: str) -> int | None:
        """Return the version that an alias should name by the log; None where the log says nothing of it."""
        if alias == CHAMPION:
            return self.champions[-1].version if self.champions else None
        newest = [event.version for event in self.events if not event.is_promoted and event.version in self.there]
        return newest[-1] if newest else None


def ledger_of(client: Any, name: str) -> Ledger:
    """Return the log of a model; entries that are not understood are named in a warning and left where they are.

    Raises:
        RegistryError: no such model; lists the names there are.
    """
    model = find_model(client, name)
    there = frozenset(int(version.version) for version in versions_of(client, name))
    entries = _standing(versions_of(client, f"{name}{LEDGER_SUFFIX}"))
    tagged = (
        read_event(text, f"{name}, tag {tag}") for tag, text in model.tags.items() if tag.startswith(EVENT_PREFIX)
    )
    earlier = sorted((event for event in tagged if event), key=lambda event: (event.at_ms, event.version))
    logged = tuple(entry.event for entry in entries if entry.event is not None)
    aliases = {alias: int(number) for alias, number in model.aliases.items()}
    return Ledger((*earlier, *logged), entries, there, aliases)


def _standing(stored: list[Any]) -> tuple[Entry, ...]:
    """Return the entries that stand: those with none that stands between them and what they were written after."""
    standing: list[Entry] = []
    for version in stored:
        entry = _entry(version)
        if entry is not None and entry.after >= (standing[-1].number if standing else 0):
            standing.append(entry)
    return tuple(standing)


def _entry(version: Any) -> Entry | None:
    where, after = f"{version.name}/{version.version}", version.tags.get(AFTER_TAG, "")
    if not after.isdecimal():
        logger.warning("%s is no entry that softalign wrote; it is passed over", where)
        return None
    return Entry(
        number=int(version.version),
        after=int(after),
        event_id=version.tags.get(EVENT_ID_TAG, ""),
        event=read_event(version.tags.get(EVENT_TAG, ""), where),
        is_applied=APPLIED_TAG in version.tags,
    )


def append(client: Any, name: str, event: PromotionEvent, read: Ledger) -> bool:
    """Append an event right after what was read, and move the alias; False where another event came first.

    Raises:
        MlflowException: the server refused, or does not answer.
    """
    from mlflow.exceptions import MlflowException

    if not read.last:
        _make(client, name)
    event_id = uuid.uuid4().hex
    for attempt in range(1, NUM_ATTEMPTS + 1):
        try:
            _create(client, name, event, event_id, read.last)
        except MlflowException as error:
            if error.error_code not in RETRY_CODES or attempt == NUM_ATTEMPTS:
                raise
        now = ledger_of(client, name)
        if now.has(event_id):
            settle(client, name, {event.alias})
            return True
        if now.last != read.last:
            return False
        _wait(attempt)
    return False


def _again(write: Callable[..., Any], *arguments: str) -> None:
    """Write what may be written twice, again where another one wrote it in the same moment."""
    from mlflow.exceptions import MlflowException

    for attempt in range(1, NUM_ATTEMPTS + 1):
        try:
            write(*arguments)
        except MlflowException as error:
            if error.error_code not in RETRY_CODES or attempt == NUM_ATTEMPTS:
                raise
            _wait(attempt)
        else:
            return


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0.02, 0.1) * attempt)  # noqa: S311 (no secret: so that two do not meet again)


def _create(client: Any, name: str, event: PromotionEvent, event_id: str, after: int) -> None:
    about = client.get_model_version(name, str(event.version))
    tags = {EVENT_TAG: event.model_dump_json(), EVENT_ID_TAG: event_id, AFTER_TAG: str(after)}
    client.create_model_version(
        f"{name}{LEDGER_SUFFIX}", about.source, run_id=about.run_id, tags=tags, description=event.to_text()
    )


def _make(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    text = f"The history of {name}: each version is one event, in order. softalign writes and reads it; keep it."
    try:
        client.create_registered_model(f"{name}{LEDGER_SUFFIX}", description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def settle(client: Any, name: str, moved: Collection[str] = ()) -> Ledger:
    """Make the aliases what the log says, and return the log.

    Args:
        client: of MLflow.
        name: of the model.
        moved: aliases that this process has moved, or is to; beside them only that of an entry that was not applied,
            so that an alias moved by another tool stays until somebody promotes.

    Raises:
        RegistryError: no such model.
    """
    mine = set(moved)
    while True:
        ledger = ledger_of(client, name)
        head = ledger.entries[-1] if ledger.entries else None
        is_open = head is not None and head.event is not None and not head.is_applied
        if head is not None and head.event is not None and is_open:
            mine.add(head.event.alias)
        wrong = {alias: number for alias in mine if (number := ledger.meant(alias)) != ledger.aliases.get(alias)}
        for alias, number in wrong.items():
            if number is not None:
                _again(client.set_registered_model_alias, name, alias, str(number))
        if any(number is not None for number in wrong.values()):
            continue
        if head is not None and is_open:
            _again(client.set_model_version_tag, f"{name}{LEDGER_SUFFIX}", str(head.number), APPLIED_TAG, "true")
        return ledger
