"""Registries on SQLite, made once (the schema's migration takes seconds) and copied for each test."""

import shutil
import sqlite3

import pytest

from softalign.store.store import Store
from tests.registry_samples import register_sample


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory):
    """A store with a migrated, empty registry."""
    from softalign.registry.connection import registry_client

    folder = tmp_path_factory.mktemp("empty") / "store"
    with registry_client(f"sqlite:///{folder / 'mlflow.db'}") as client:
        client.search_registered_models()
    return folder


@pytest.fixture(scope="session")
def registry_of_two(tmp_path_factory, empty_registry):
    """A store with two registered versions, each champion in its time."""
    folder = tmp_path_factory.mktemp("two") / "store"
    shutil.copytree(empty_registry, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for gain in (0.1, 0.2):
            register_sample(Store(str(folder)), gain)
    return folder


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SOFTALIGN_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


@pytest.fixture
def store(isolated, empty_registry):
    """A store of this test with an empty registry."""
    shutil.copytree(empty_registry, isolated)
    return Store(str(isolated))


@pytest.fixture
def store_of_two(isolated, registry_of_two):
    """A store of this test with two registered versions; the places in its database are its own."""
    shutil.copytree(registry_of_two, isolated)
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "model_versions": "source"}
    with sqlite3.connect(isolated / "mlflow.db") as database:
        for table, column in columns.items():
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(registry_of_two), str(isolated))
            )
    database.close()
    return Store(str(isolated))
