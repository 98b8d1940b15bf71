"""A registry on SQLite: the migrated database is made once and copied, so that each test starts with an empty one."""

import shutil

import pytest

from softalign.storage import Store


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory):
    from softalign.registry.connection import registry_client

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    with registry_client(f"sqlite:///{path}") as client:
        client.search_registered_models()
        client.get_experiment_by_name("softalign")
    return path


@pytest.fixture
def store(tmp_path, migrated_database, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SOFTALIGN_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copyfile(migrated_database, folder / "mlflow.db")
    return Store(str(folder))
