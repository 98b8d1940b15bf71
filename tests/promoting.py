"""Several people who promote at the same moment, and what must hold afterwards."""

import itertools
import threading

from softalign.errors import RegistryError
from softalign.registry import history, promote
from softalign.registry.connection import registry_client
from softalign.registry.ledger import ledger_of


def agreed(uri, name):
    """Return the champion that alias and history agree on."""
    with registry_client(uri) as client:
        ledger = ledger_of(client, name)
    assert ledger.aliases.get("champion") == ledger.meant("champion"), "history and alias disagree"
    return ledger.champion


def promote_at_once(pool, uri, name, versions, reason):
    """Have each version promoted at once, by a thread each; check that it won or was refused; return the answers."""
    ready, before = threading.Barrier(len(versions)), history(name, uri)

    def one(number, version):
        ready.wait(60)
        try:
            return promote(name, version, f"{reason}, thread {number}", uri)
        except RegistryError as error:
            assert "another one came first" in str(error), str(error)
            return None

    answers = [*pool.map(one, range(len(versions)), versions)]
    champion, after = agreed(uri, name), history(name, uri)
    assert after[: len(before)] == before, "the history is only appended to"
    new = [event for event in after[len(before) :]]
    assert all(event in after for event in answers if event is not None)
    assert not new or new[-1].version == champion
    assert {event.reason for event in new} <= {event.reason for event in answers if event is not None}
    for earlier, later in itertools.pairwise(new):
        assert later.previous_champion == earlier.version
    return answers
