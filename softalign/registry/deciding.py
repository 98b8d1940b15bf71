"""The decision about a registered version: made once, recorded in the history, and followed by its alias.

The event in the history is what counts. Until it stands the decision may be made anew, against the champion there is
then; once it stands, every later attempt finds it and only finishes what is left.
"""

from __future__ import annotations

import json
from typing import Any

from softalign.artifacts import ComparisonReport
from softalign.config.registration import PromotionPolicy
from softalign.registry.events import Look, PromotionEvent, new_event
from softalign.registry.gate import Decision, PresentChampion, decide
from softalign.registry.ledger import Ledger, append, settle
from softalign.registry.tables import log_table
from softalign.registry.versions import BASE_MODEL_TAG, WEIGHTS_TAG, comparison_of, known, pin_of
from softalign.store.store import Store

DECISION_TAG = "softalign.decision"
GATE_TABLE = "gate.json"
"""A row for each check, in the form that MLflow's pages show as a table."""
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
    weights_sha256 = tags.get(WEIGHTS_TAG, "")
    while DECIDED_TAG not in tags:
        ledger = settle(client, name)
        if (recorded := _recorded(ledger, number)) and DECISION_TAG in tags:
            settle(client, name, {recorded.alias})  # an earlier version recorded it before it moved the alias
            _finish(client, name, version, _stored(version, tags), recorded)
            break
        look = _look(ledger, weights_sha256, comparison)
        champion = comparison_of(client, name, ledger.champion)
        present = _present(client, name, ledger.champion, tags)
        decision = decide(comparison, champion, policy, look=look.number, present=present)
        tags[DECISION_TAG] = decision.model_dump_json()
        client.set_model_version_tag(name, str(number), DECISION_TAG, tags[DECISION_TAG])
        event = new_event(
            "register",
            number,
            ledger.champion,
            decision.reason,
            is_promoted=decision.is_promoted,
            checks=decision.checks,
            look=look,
        )
        store.require_held()
        append(client, name, event, ledger)  # where another event came first, it is decided again
    return _stored(version, tags)


def _look(ledger: Ledger, weights_sha256: str, comparison: ComparisonReport) -> Look:
    """Return which look at some weights this is: by the history, so that deleting a version takes none back."""
    looks = [event.look for event in ledger.events if event.look is not None]
    seen = {look.comparison_digest for look in looks if look.weights_sha256 == weights_sha256}
    return Look(
        number=len(seen - {comparison.digest}) + 1,
        weights_sha256=weights_sha256,
        suite=comparison.suite,
        num_images=comparison.num_images_per_arm,
        seed=comparison.seed,
        comparison_digest=comparison.digest,
        champion=comparison.champion,
    )


def _present(client: Any, name: str, champion: int | None, tags: dict[str, str]) -> PresentChampion | None:
    """Return the champion there is now; None where there is none, or other tools registered it."""
    if champion is None:
        return None
    found = client.get_model_version(name, str(champion)).tags
    if WEIGHTS_TAG not in found:
        return None
    return PresentChampion(
        pin=pin_of(name, champion, found[WEIGHTS_TAG]),
        base_model=found.get(BASE_MODEL_TAG, ""),
        candidate_base_model=tags.get(BASE_MODEL_TAG, ""),
    )


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
    log_table(client, version.run_id, decision.to_table(), GATE_TABLE)
    client.set_tag(version.run_id, DECISION_TAG, decision.reason)
    client.set_model_version_tag(name, number, DECIDED_TAG, "true")
