"""One event of a model's history: a registration, a promotion or a rollback, as it is stored and read again."""

from __future__ import annotations

import getpass
import json
import logging
import time
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from softalign.artifacts import Frozen, read_known
from softalign.problems import problems
from softalign.registry.gate import Check
from softalign.registry.versions import CHAMPION
from softalign.version import __version__

logger = logging.getLogger(__name__)

EVENT_PREFIX = "softalign.event."
"""Of the tags in which earlier versions kept events."""
CHALLENGER = "challenger"
Action = Literal["register", "promote", "rollback"]


class Look(Frozen):
    """What a decision looked at: who asks again about the same weights is counted by it.

    Attributes:
        number: which look at these weights it was, from 1.
        weights_sha256: of the adapter.
        suite: of the comparison, as are ``num_images`` (an arm) and ``seed`` (None: of a version that kept none).
        comparison_digest: of its record.
        champion: that was drawn beside it, ``NAME/VERSION#sha256``; empty: none was.
    """

    number: int
    weights_sha256: str
    suite: str
    num_images: int
    seed: int | None
    comparison_digest: str
    champion: str = ""

    def __str__(self) -> str:
        """Return it in words."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return (
            f"look {self.number} at weights {self.weights_sha256[:12]}: {self.suite}, {self.num_images:,} images an "
            f"arm{seed}, comparison {self.comparison_digest[:12]}"
        )


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
        library_version: of the softalign that wrote it; empty: one that did not say.
        look: what the gate looked at; None where a person decided, and in events of earlier versions.
    """

    action: Action
    version: int
    is_promoted: bool
    previous_champion: int | None
    reason: str
    checks: tuple[Check, ...] = ()
    at_ms: int
    actor: str
    library_version: str = ""
    look: Look | None = None

    @property
    def alias(self) -> str:
        """The alias that it moves."""
        return CHAMPION if self.is_promoted else CHALLENGER

    def to_text(self) -> str:
        """Return the event as one line for people."""
        moment = datetime.fromtimestamp(self.at_ms / 1000, tz=UTC).isoformat(sep=" ", timespec="seconds")
        before = f"champion before: {self.previous_champion or 'none'}"
        return (
            f"{moment}  {self.action:<8}  version {self.version} {self.alias} "
            f"({before}, by {one_line(self.actor)}): {one_line(self.reason)}"
        )


def new_event(
    action: Action,
    version: int,
    previous_champion: int | None,
    reason: str,
    *,
    is_promoted: bool = True,
    checks: tuple[Check, ...] = (),
    look: Look | None = None,
) -> PromotionEvent:
    """Return an event of this moment and this user; control characters of the reason become spaces."""
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        actor = "unknown"
    return PromotionEvent(
        action=action,
        version=version,
        is_promoted=is_promoted,
        previous_champion=previous_champion,
        reason=one_line(reason),
        checks=checks,
        at_ms=time.time_ns() // 1_000_000,
        actor=actor,
        library_version=__version__,
        look=look,
    )


def one_line(text: str) -> str:
    """Return a text in one line that no terminal obeys: what cannot be printed becomes a space."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def read_event(text: str, where: str) -> PromotionEvent | None:
    """Return a stored event; fields that are not known are left out with a warning.

    None where it is not understood at all; a warning names its place, and the softalign that wrote it.
    """
    payload: object = None
    try:
        payload = json.loads(text)
        event, ignored = read_known(PromotionEvent, payload, optional=("checks", "look"))
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        found = problems(error, PromotionEvent)[0] if isinstance(error, ValidationError) else f"no JSON: {text[:60]!r}"
        writer = payload.get("library_version") if isinstance(payload, dict) else None
        by = f"softalign {writer} wrote it, this is {__version__}: update softalign" if writer else "not by softalign"
        logger.warning("An event of the history is passed over: %s (%s; %s)", where, one_line(found), one_line(by))
        return None
    if ignored:
        by = event.library_version or "unknown"
        logger.warning("%s has fields that softalign %s does not know (by %s): %s", where, __version__, by, ignored)
    return event


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
