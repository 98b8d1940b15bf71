"""A version whose files were lost while its registry was kept."""

import shutil
from pathlib import Path

import pytest

from softalign.errors import IntegrityError
from softalign.registry import publishing, pull, registry_of_store
from softalign.registry.connection import registry_client
from softalign.store.store import Store
from tests.registry_samples import NAME, register_sample


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """A store that has lost a version's files and its record, and the version as it was."""
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    store = Store(str(tmp_path / "store"))
    version = register_sample(store, 0.1)
    with registry_client(registry_of_store(store)) as client:
        artifacts = client.get_run(version.run_id).info.artifact_uri
    shutil.rmtree(Path(artifacts.removeprefix("file://")) / "model")
    shutil.rmtree(store.prefix("register", version.stage_key))
    return store, version


def test_registering_again_brings_them_back_under_the_same_version(lost, tmp_path, caplog):
    store, version = lost
    again = register_sample(store, 0.1)
    assert (again.version, again.run_id) == (version.version, version.run_id)
    assert "its files are uploaded again" in caplog.text
    assert (
        pull(f"{NAME}/1", tmp_path / "out", tracking_uri=registry_of_store(store)) / "adapter_config.json"
    ).is_file()


def test_other_content_does_not_take_their_place(lost, monkeypatch):
    store, _ = lost
    made = publishing.build_model_folder

    def changed(*arguments):
        return tuple(entry.model_copy(update={"sha256": "0" * 64}) for entry in made(*arguments))

    monkeypatch.setattr(publishing, "build_model_folder", changed)
    with pytest.raises(IntegrityError, match="are gone, and other ones"):
        register_sample(store, 0.1)
