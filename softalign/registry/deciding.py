"""The decision about a registered version: made once, recorded in the history, and followed by its alias.

The event in the history is what counts. Until it stands the decision may be made anew, against the champion there is
then; once it stands, every later attempt finds it and only finishes what is left.
"""

from __future__ import annotations

import json
from typing import Any

from softalign.artifacts import ComparisonReport
from softalign.config.evaluation import PromotionPolicy
from softalign.registry.events import PromotionEvent, new_event
from softalign.registry.gate import Decision, decide
from softalign.registry.ledger import Ledger, append, settle
from softalign.registry.versions import comparison_of, known
from softalign.store.store import Store

DECISION_TAG = "softalign.decision"
DECIDED_TAG = "softalign.settled"
"""Its value is the name that registries already hold."""


def decide_once(
    client: Any, name: str, version: Any, comparison: ComparisonReport, policy: PromotionPolicy, store: Store
) -> Decision:
    """Decide about a version, record it, move its alias and mark it; continues where an earlier attempt stopped.

    Raises:
        LeaseLostError: another process registers it by now.
    """
    number, tags = int(version.version), dict(version.tags)
    while DECIDED_TAG not in tags:
        ledger = settle(client, name)
        if (recorded := _recorded(ledger, number)) and DECISION_TAG in tags:
            settle(client, name, {recorded.alias})  # an earlier version recorded it before it moved the alias
            _finish(client, name, version, _stored(version, tags), recorded)
            break
        decision = decide(comparison, comparison_of(client, name, ledger.champion), policy)
        client.set_model_version_tag(name, str(number), DECISION_TAG, decision.model_dump_json())
        tags[DECISION_TAG] = decision.model_dump_json()
        event = new_event(
            "register",
            number,
            ledger.champion,
            decision.reason,
            is_promoted=decision.is_promoted,
            checks=decision.checks,
        )
        store.require_held()
        append(client, name, event, ledger)  # where another event came first, it is decided again
    return _stored(version, tags)


def _stored(version: Any, tags: dict[str, str]) -> Decision:
    where = f"{version.name}/{version.version}, tag {DECISION_TAG}"
    return known(Decision, json.loads(tags[DECISION_TAG]), where)


def _recorded(ledger: Ledger, number: int) -> PromotionEvent | None:
    found = [event for event in ledger.events if event.action == "register" and event.version == number]
    return found[0] if found else None


def _finish(client: Any, name: str, version: Any, decision: Decision, event: PromotionEvent) -> None:
    number = str(version.version)
    client.update_model_version(name, number, description=decision.reason)
    client.log_dict(
        version.run_id,
        {"version": int(number), "previous_champion": event.previous_champion, **decision.model_dump()},
        "promotion.json",
    )
    client.set_model_version_tag(name, number, DECIDED_TAG, "true")
