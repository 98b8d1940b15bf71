"""What the doctor says of store, registry, clocks, hub and credentials."""

import urllib.error

import pytest

from softalign.config.runtime import Runtime
from softalign.doctor import places
from softalign.registry import RegistryAnswer
from softalign.store.probing import Probe
from softalign.store.store import Store

SERVER = Runtime(tracking_uri="http://registry:5000")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_a_store_and_its_own_registry_are_well(store):
    assert places.look_at_store(store).status == "ok"
    assert "SQLite" in places.look_at_registry(Runtime(), store).found


def test_a_remote_store_without_a_registry_is_warned_of(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = places.look_at_registry(Runtime(), Store("s3://bucket/store"))
    assert (found.status, "tracking_uri" in found.fix) == ("warning", True)


@pytest.mark.parametrize(("version", "status"), [("3.10.1", "failed"), ("3.11.0", "ok"), ("4.0", "ok"), ("", "ok")])
def test_a_registry_with_known_holes_is_refused(monkeypatch, store, version, status):
    monkeypatch.setattr(places, "ask_registry", lambda _: RegistryAnswer(version))
    found = places.look_at_registry(SERVER, store)
    assert found.status == status
    assert ("CVE-2026-4137" in found.found, "3.11 or newer" in found.fix) == (status == "failed",) * 2


@pytest.mark.parametrize(
    ("of_store", "of_registry", "status", "said"),
    [
        (2.0, 1.0, "ok", "within 2 s"),
        (None, None, "skipped", "nothing"),
        (7200.0, None, "failed", "7200 s ahead of"),
        (1.0, -900.0, "failed", "900 s behind http://registry:5000"),
    ],
)
def test_clocks_are_compared(monkeypatch, store, of_store, of_registry, status, said):
    monkeypatch.setattr(places, "probe", lambda _: Probe(0.1, of_store))
    monkeypatch.setattr(places, "ask_registry", lambda _: RegistryAnswer("", of_registry))
    found = places.look_at_clock(SERVER, store)
    assert found.status == status
    assert said in found.found


def test_a_password_in_an_address_is_warned_of_and_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hidden@registry")
    found = places.look_at_secrets()
    assert found.status == "warning"
    assert "hidden" not in found.model_dump_json()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert places.look_at_secrets().status == "ok"


def test_a_hub_that_is_not_reached_is_warned_of(monkeypatch):
    from huggingface_hub import constants

    def refuse(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(places, "urlopen", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert places.look_at_hub().status == "warning"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert places.look_at_hub().status == "ok"
