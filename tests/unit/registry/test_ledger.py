import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from softalign.errors import RegistryError
from softalign.registry import history, promote, registry_of_store, rollback
from softalign.registry.connection import registry_client
from softalign.registry.ledger import ledger_of
from softalign.registry.versions import LEDGER_SUFFIX, find_version, parse_reference
from tests.promoting import agreed, promote_at_once
from tests.registry_samples import NAME, register_sample

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
)


@pytest.fixture
def uri(store_of_two):
    return registry_of_store(store_of_two)


@pytest.fixture
def client(uri):
    with registry_client(uri) as client:
        yield client


def champion(client):
    return client.get_registered_model(NAME).aliases["champion"]


def test_of_concurrent_promotions_history_and_alias_agree_and_losers_are_refused(store_of_two, uri):
    register_sample(store_of_two, 0.05)
    with ThreadPoolExecutor(4) as pool:
        for number in range(3):
            promote_at_once(pool, uri, NAME, [1, 2, 3, 1], f"round {number}")


class Killed(BaseException):
    """No handler of errors meets it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_promotion_that_was_killed_is_settled_by_the_next_one(client, uri, monkeypatch, number, after):
    kind, calls = type(client), []

    def killing(original):
        def call(*args, **kwargs):
            calls.append(original.__name__)
            if len(calls) == number and not after:
                raise Killed
            found = original(*args, **kwargs)
            if len(calls) == number:
                raise Killed
            return found

        return call

    for name in WRITES:
        monkeypatch.setattr(kind, name, killing(getattr(kind, name)))
    with pytest.raises(Killed):
        promote(NAME, 1, "killed", uri)
    monkeypatch.undo()
    was_recorded = [event.reason for event in history(NAME, uri)][-1] == "killed"
    again = promote(NAME, 1, "again", uri)
    assert agreed(uri, NAME) == 1
    assert again.reason == ("killed" if was_recorded else "again")
    assert [event.version for event in history(NAME, uri) if event.action == "promote"] == [1]
    assert rollback(NAME, "", uri).version == 2 == champion(client)


def test_who_writes_the_alias_late_takes_it_back(client, uri, monkeypatch, store_of_two):
    register_sample(store_of_two, 0.05)
    kind, original = type(client), type(client).set_registered_model_alias

    def late(self, *args):
        monkeypatch.setattr(kind, "set_registered_model_alias", original)
        promote(NAME, 3, "the other", uri)
        original(self, *args)

    monkeypatch.setattr(kind, "set_registered_model_alias", late)
    promote(NAME, 1, "the late one", uri)
    assert [event.reason for event in history(NAME, uri)][-2:] == ["the late one", "the other"]
    assert agreed(uri, NAME) == 3


def test_who_is_overtaken_is_refused_with_who_came_first(client, uri, monkeypatch, store_of_two):
    register_sample(store_of_two, 0.05)
    kind, original = type(client), type(client).create_model_version

    def overtaken(self, *args, **kwargs):
        monkeypatch.setattr(kind, "create_model_version", original)
        promote(NAME, 3, "for its style", uri)
        return original(self, *args, **kwargs)

    for act in (lambda: promote(NAME, 1, "because", uri), lambda: rollback(NAME, "because", uri)):
        promote(NAME, 2, "start", uri)
        monkeypatch.setattr(kind, "create_model_version", overtaken)
        with pytest.raises(RegistryError, match=r"(?s)refused: another one came first.*version 3.*for its style"):
            act()
        assert agreed(uri, NAME) == 3
    stored = client.search_model_versions(f"name = '{NAME}{LEDGER_SUFFIX}'")
    assert len(stored) > len(ledger_of(client, NAME).entries), "the losers' entries stay, and do not stand"


def test_a_registration_in_between_is_no_reason_to_refuse(client, uri, monkeypatch, store_of_two):
    kind, original = type(client), type(client).create_model_version

    def after_a_registration(self, *args, **kwargs):
        monkeypatch.setattr(kind, "create_model_version", original)
        assert register_sample(store_of_two, 0.01).alias == "challenger"
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, "create_model_version", after_a_registration)
    promote(NAME, 1, "because", uri)
    assert agreed(uri, NAME) == 1 and client.get_registered_model(NAME).aliases["challenger"] == 3


def test_a_request_that_is_sent_twice_is_one_event(client, uri, monkeypatch):
    kind, original = type(client), type(client).create_model_version

    def twice(self, *args, **kwargs):
        original(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, "create_model_version", twice)
    promote(NAME, 1, "because", uri)
    assert [event.reason for event in history(NAME, uri)].count("because") == 1


def test_an_alias_that_another_tool_moved_is_said(client, uri, caplog):
    client.set_registered_model_alias(NAME, "champion", "1")
    assert len(history(NAME, uri)) == 2
    assert "alias is at version 1, the history has 2" in caplog.text
    promote(NAME, 1, "so it shall be", uri)
    assert agreed(uri, NAME) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "not by softalign"),
        (json.dumps({"action": "quarantine", "version": 1, "library_version": "99.1"}), "softalign 99.1 wrote it"),
        ("[" * 100_000, "not by softalign"),
        (json.dumps({"hello": "\x1b[31mred"}), "not by softalign"),
    ],
)
def test_what_is_not_understood_is_named_and_stops_nothing(client, uri, caplog, text, said):
    client.set_registered_model_tag(NAME, "softalign.event.9", text)
    about = client.get_model_version(NAME, "1")
    for tags in ({}, {"softalign.event": text, "softalign.after": "2", "softalign.event_id": "x"}):
        client.create_model_version(f"{NAME}{LEDGER_SUFFIX}", about.source, run_id=about.run_id, tags=tags)
    caplog.set_level(logging.WARNING)
    assert [event.version for event in history(NAME, uri)] == [1, 2]
    assert "tag softalign.event.9" in caplog.text and f"{NAME}{LEDGER_SUFFIX}/4" in caplog.text
    assert said in caplog.text and "\x1b" not in caplog.text
    assert promote(NAME, 1, "because", uri).version == 1 == agreed(uri, NAME)
    assert rollback(NAME, "", uri).version == 2 == agreed(uri, NAME)


def test_fields_that_are_not_known_are_left_out_with_a_warning(client, uri, caplog):
    event = json.loads(history(NAME, uri)[0].model_dump_json())
    newer = {**event, "signed_by": "a key", "checks": [{"name": "x", "kind": "new"}], "library_version": "99.1"}
    client.set_registered_model_tag(NAME, "softalign.event.1", json.dumps(newer | {"reason": "from the future"}))
    assert "from the future" in [event.reason for event in history(NAME, uri)]
    assert "signed_by" in caplog.text and "99.1" in caplog.text


def test_events_of_earlier_versions_are_the_beginning_of_the_history(client, uri):
    first, second = history(NAME, uri)
    client.delete_registered_model(f"{NAME}{LEDGER_SUFFIX}")
    for event in (first, second):
        stored = event.model_dump_json(exclude={"library_version"})
        client.set_registered_model_tag(NAME, f"softalign.event.register-{event.version:06d}", stored)
    assert [event.version for event in history(NAME, uri)] == [1, 2]
    assert rollback(NAME, "it broke", uri).version == 1 == agreed(uri, NAME)
    assert [event.action for event in history(NAME, uri)] == ["register", "register", "rollback"]


def test_control_characters_of_a_reason_reach_no_terminal(uri):
    event = promote(NAME, 1, "bad \x1b[31m\nsecond\tline \x07", uri)
    assert event.reason == "bad [31m second line" and "\n" not in event.to_text()
    stored = event.model_copy(update={"reason": "old \x1b[2J\n", "actor": "a\x1bb"})
    assert "\x1b" not in stored.to_text() and "\n" not in stored.to_text()


def test_with_the_champion_deleted_the_commands_go_on(client, uri, store_of_two):
    client.delete_model_version(NAME, "2")
    assert len(history(NAME, uri)) == 2
    assert rollback(NAME, "its version is gone", uri).version == 1 == agreed(uri, NAME)


def test_a_candidate_meets_no_deleted_champion(client, uri, store_of_two, monkeypatch):
    client.delete_model_version(NAME, "2")
    kind, original = type(client), type(client).get_registered_model

    def dangling(self, name):
        found = original(self, name)
        found._aliases = {"champion": "2", **found.aliases}
        return found

    monkeypatch.setattr(kind, "get_registered_model", dangling)  # as servers leave it that keep a deleted one's alias
    with pytest.raises(RegistryError, match=r"(?s)no version 2: its alias 'champion' names one that was deleted"):
        find_version(client, parse_reference(f"{NAME}@champion"))
    version = register_sample(store_of_two, 0.3)
    monkeypatch.undo()
    assert version.is_promoted and agreed(uri, NAME) == 3
