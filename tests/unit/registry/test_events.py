import subprocess
import sys

import pytest

from softalign.errors import ConfigError, RegistryError
from softalign.registry import history, promote, registry_of_store, rollback
from softalign.registry.connection import registry_client
from tests.registry_samples import NAME, register_sample


@pytest.fixture
def store(store_of_two):
    register_sample(store_of_two, 0.3)
    return store_of_two


@pytest.fixture
def uri(store):
    return registry_of_store(store)


def champion(uri):
    with registry_client(uri) as client:
        return client.get_registered_model(NAME).aliases["champion"]


def test_rolling_back_twice_goes_two_champions_back_and_then_no_further(uri):
    assert rollback(NAME, "it broke", uri).version == 2 == champion(uri)
    assert rollback(NAME, tracking_uri=uri).version == 1 == champion(uri)
    with pytest.raises(RegistryError, match="no champion to go back to"):
        rollback(NAME, tracking_uri=uri)
    assert champion(uri) == 1


def test_history_holds_every_decision_in_order_with_reasons(uri):
    rollback(NAME, "it broke", uri)
    promote(NAME, 3, "it was the network", uri)
    events = history(NAME, uri)
    assert [(event.action, event.version, event.previous_champion) for event in events] == [
        ("register", 1, None),
        ("register", 2, 1),
        ("register", 3, 2),
        ("rollback", 2, 3),
        ("promote", 3, 2),
    ]
    assert [event.reason for event in events[-2:]] == ["it broke", "it was the network"]
    assert all(event.checks for event in events[:3]) and not events[-1].checks
    assert "rollback" in events[3].to_text() and "it broke" in events[3].to_text()


def test_a_promotion_by_hand_can_be_rolled_back(store, uri):
    register_sample(store, 0.05)
    assert champion(uri) == 3
    promote(NAME, None, "wanted for its style", uri)  # the challenger
    assert champion(uri) == 4
    assert rollback(NAME, tracking_uri=uri).version == 3 == champion(uri)


def test_promoting_the_champion_again_changes_nothing(uri):
    first = promote(NAME, 1, "because", uri)
    assert promote(NAME, 1, "because", uri) == first
    assert len(history(NAME, uri)) == 4


def test_promotion_needs_a_reason_and_an_existing_version(uri):
    with pytest.raises(ConfigError, match="needs a reason"):
        promote(NAME, 1, "  ", uri)
    with pytest.raises(RegistryError, match="no version 9"):
        promote(NAME, 9, "because", uri)
    with pytest.raises(RegistryError, match="No model is registered"):
        history("nothing", uri)
    assert champion(uri) == 3 and len(history(NAME, uri)) == 3


def test_a_deleted_version_is_skipped_when_rolling_back(uri):
    with registry_client(uri) as client:
        client.delete_model_version(NAME, "2")
    assert rollback(NAME, tracking_uri=uri).version == 1 == champion(uri)


def test_an_alias_moved_by_another_tool_goes_back_to_the_recorded_champion(uri):
    with registry_client(uri) as client:
        client.set_registered_model_alias(NAME, "champion", "1")
    assert rollback(NAME, tracking_uri=uri).version == 3


def test_a_rollback_that_died_before_the_alias_moved_is_finished_by_the_next(uri, monkeypatch):
    with registry_client(uri) as client:
        kind = type(client)

    def crash(*_args):
        raise RuntimeError

    monkeypatch.setattr(kind, "set_registered_model_alias", crash)
    with pytest.raises(RuntimeError):
        rollback(NAME, tracking_uri=uri)
    monkeypatch.undo()
    assert champion(uri) == 3
    assert rollback(NAME, tracking_uri=uri).version == 2 == champion(uri)


def test_importing_the_registry_loads_no_mlflow():
    code = "import sys, softalign.registry; sys.exit(bool({'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
