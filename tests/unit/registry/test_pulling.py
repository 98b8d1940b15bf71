import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from softalign.adapters.files import load_adapter, read_adapter_config
from softalign.errors import ConfigError, IntegrityError, MissingInputError, RegistryError, StorageUnavailableError
from softalign.registry import history, parse_reference, pull, pull_version, registry_of_store
from softalign.registry.connection import registry_client
from softalign.registry.versions import comparison_of
from softalign.store.files import list_files
from tests.registry_samples import NAME

ARTIFACTS = Path(__file__).parents[2] / "artifacts"


@pytest.fixture
def store(store_of_two):
    return store_of_two


@pytest.fixture
def uri(store):
    return registry_of_store(store)


def artifact(store, version, name):
    with registry_client(registry_of_store(store)) as client:
        source = client.get_model_version(NAME, str(version)).source
    return Path(source.removeprefix("file://")) / name


@pytest.mark.parametrize(
    ("text", "number"),
    [(f"{NAME}@champion", 2), (f"models:/{NAME}@champion", 2), (f"{NAME}/1", 1), (f"models:/{NAME}/1", 1)],
)
def test_every_form_of_reference_brings_the_right_files(uri, text, number):
    folder = pull(text, tracking_uri=uri)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")} == {
        "soft_tokens.safetensors",
        "initial/soft_tokens.safetensors",
    }
    assert b'"weights":"0.%d ' % number in (folder / "soft_tokens.safetensors").read_bytes()


@pytest.mark.parametrize(
    "version", sorted(path.parent for path in ARTIFACTS.glob("*/registry")), ids=lambda path: path.name
)
def test_a_version_that_an_earlier_softalign_registered_is_pulled_and_told_of(uri, version, tmp_path):
    described = json.loads((version / "registry" / "version.json").read_text())
    name, alias = described["name"], described["alias"]
    with registry_client(uri) as client:
        client.create_registered_model(name, tags=described["model_tags"])
        source = (version / "registry" / "model").as_uri()
        number = client.create_model_version(name, source, tags=described["tags"]).version
        client.set_registered_model_alias(name, alias, number)
        assert comparison_of(client, name, number).suite == "shapes"
    pulled = pull_version(f"{name}@{alias}", tmp_path / "pulled", uri)
    assert {entry.path for entry in list_files(pulled.path)} >= {"MLmodel", "README.md", "train_config.json"}
    for place in (pulled.path, pulled.path / "initial"):
        assert load_adapter(place).num_soft_tokens == read_adapter_config(place).num_soft_tokens
    assert [(event.action, event.version, event.is_promoted) for event in history(name, uri)] == [
        ("register", int(number), alias == "champion")
    ]


@pytest.mark.parametrize("text", ["", NAME, f"{NAME}@", f"{NAME}/x", f"{NAME}/1/2", "../x@y", "a b@c", "models:/@c"])
def test_a_malformed_reference_is_refused(text):
    with pytest.raises(ConfigError, match="not a reference"):
        parse_reference(text)


def test_unknown_names_aliases_and_versions_are_answered_with_those_there_are(uri):
    with pytest.raises(RegistryError, match=rf"(?s)No model is registered as 'nothing'.*{NAME}"):
        pull("nothing@champion", tracking_uri=uri)
    with pytest.raises(RegistryError, match=r"(?s)no alias 'best'.*champion -> 2; versions: 1, 2"):
        pull(f"{NAME}@best", tracking_uri=uri)
    with pytest.raises(RegistryError, match=r"(?s)no version 7.*versions: 1, 2"):
        pull(f"{NAME}/7", tracking_uri=uri)


def test_without_a_registry_the_message_says_so_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(MissingInputError, match="no model registry"):
        pull(f"{NAME}@champion", tracking_uri=uri)
    assert list(tmp_path.iterdir()) == []


def test_the_registry_is_found_in_the_default_store_or_the_named_one(uri, store, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_STORE", store.uri)
    expected = pull(f"{NAME}/1")
    monkeypatch.delenv("SOFTALIGN_STORE")
    (tmp_path / "softalign-store").symlink_to(store.uri)
    assert list_files(pull(f"{NAME}/1")) == list_files(expected)


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_artifact_is_detected_and_nothing_is_kept(uri, store, tmp_path, damage):
    path = artifact(store, 2, "soft_tokens.safetensors")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + b"?")
    with pytest.raises(IntegrityError, match=rf"(?s){NAME}/2/soft_tokens.safetensors"):
        pull(f"{NAME}@champion", tmp_path / "out", tracking_uri=uri)
    assert not (tmp_path / "out").exists()
    assert not [item for item in (tmp_path / "cache").rglob("*") if item.is_file()]


def test_a_removed_artifact_folder_is_an_integrity_error(uri, store):
    shutil.rmtree(artifact(store, 2, ""))
    with pytest.raises(IntegrityError, match="not there"):
        pull(f"{NAME}/2", tracking_uri=uri)


def test_a_damaged_cached_copy_is_fetched_again(uri):
    folder = pull(f"{NAME}/2", tracking_uri=uri)
    good = (folder / "soft_tokens.safetensors").read_bytes()
    (folder / "soft_tokens.safetensors").write_bytes(b"damaged")
    (folder / "extra.bin").write_bytes(b"not listed")
    assert (pull(f"{NAME}/2", tracking_uri=uri) / "soft_tokens.safetensors").read_bytes() == good
    assert not (folder / "extra.bin").exists()


def test_offline_the_last_verified_copy_is_used_and_the_log_says_so(uri, store, tmp_path, caplog):
    online = pull_version(f"{NAME}@champion", tracking_uri=uri)
    assert (online.name, online.version, online.alias, online.is_offline) == (NAME, 2, "champion", False)
    assert not caplog.records
    Path(store.uri, "mlflow.db").rename(tmp_path / "away.db")
    assert pull_version(f"{NAME}@champion", tracking_uri=uri) == replace(online, is_offline=True)
    (record,) = caplog.records
    assert (record.levelname, f"{NAME}/2" in record.message) == ("WARNING", True)
    online = online.path
    with pytest.raises(MissingInputError):  # never pulled by this reference
        pull(f"{NAME}/1", tracking_uri=uri)
    (online / "soft_tokens.safetensors").write_bytes(b"damaged")
    with pytest.raises(MissingInputError):
        pull(f"{NAME}@champion", tracking_uri=uri)


def test_a_dead_server_without_a_copy_is_retriable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageUnavailableError, match="did not answer"):
        pull(f"{NAME}@champion", tracking_uri="http://127.0.0.1:9")


def test_an_alias_that_moved_brings_the_new_version(uri, store):
    from softalign.registry import rollback

    before = pull(f"{NAME}@champion", tracking_uri=uri)
    rollback(NAME, tracking_uri=uri)
    after = pull_version(f"{NAME}@champion", tracking_uri=uri)
    assert before != after.path and (after.version, after.is_offline) == (1, False)


def test_a_moved_store_still_serves_its_versions(uri, store, tmp_path):
    moved = tmp_path / "a new place"
    Path(store.uri).rename(moved)
    folder = pull(f"{NAME}/1", tracking_uri=f"sqlite:///{moved / 'mlflow.db'}")
    assert (folder / "adapter_config.json").is_file()


def test_a_pulled_folder_is_updated_and_repaired(uri, tmp_path):
    target = tmp_path / "out"
    weights = target / "soft_tokens.safetensors"
    assert pull(f"{NAME}/1", target, tracking_uri=uri) == target
    inode = weights.stat().st_ino
    assert pull(f"{NAME}/1", target, tracking_uri=uri) == target
    assert weights.stat().st_ino == inode  # nothing was written
    second = list_files(pull(f"{NAME}/2", target, tracking_uri=uri))
    assert second == list_files(pull(f"{NAME}/2", tracking_uri=uri))
    for damage in (weights.unlink, lambda: weights.write_bytes(b"x"), lambda: weights.symlink_to(tmp_path / "away")):
        weights.unlink(missing_ok=True)
        damage() if damage != weights.unlink else None
        pull(f"{NAME}/2", target, tracking_uri=uri)
        assert list_files(target) == second and not weights.is_symlink()
    (target / "MLmodel").unlink()  # what is there is all of this version
    pull(f"{NAME}/2", target, tracking_uri=uri)
    assert list_files(target) == second and [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_copies_go_only_where_nothing_is_lost(uri, tmp_path):
    target, own, file = tmp_path / "out", tmp_path / "own", tmp_path / "file"
    pull(f"{NAME}/1", target, tracking_uri=uri)
    kept = [target / name for name in ("notes.txt", "pictures/mine.png", "initial/notes.txt", ".part-mine/a")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    own.mkdir()
    (own / "adapter_config.json").write_text("{}")  # somebody's own adapter, which no pull made
    file.write_text("x")
    for place, found in ((target, "notes.txt"), (own, "adapter_config.json"), (file, "a file")):
        with pytest.raises(ConfigError, match=f"(?s)holds other files.*{found}"):
            pull(f"{NAME}/2", place, tracking_uri=uri)
    assert b'"weights":"0.1 ' in (target / "soft_tokens.safetensors").read_bytes()
    assert {path.read_text() for path in kept} == {"mine"}
    kept[0].unlink()
    with pytest.raises(ConfigError, match=r"(?s)holds other files.*mine"):
        pull(f"{NAME}/2", target, tracking_uri=uri)


def test_a_target_that_cannot_be_renamed_is_filled_file_by_file(uri, tmp_path, monkeypatch):
    """As where a volume is mounted at it."""
    target = tmp_path / "out"
    pull(f"{NAME}/1", target, tracking_uri=uri)
    (target / "initial" / "README.md").write_text("an older version had it")
    rename = Path.rename

    def busy(self, other):
        if target in (self, Path(other)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", busy)
    pull(f"{NAME}/2", target, tracking_uri=uri)
    assert list_files(target) == list_files(pull(f"{NAME}/2", tracking_uri=uri))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, RegistryError, "no file list"),
        ("not json", IntegrityError, "damaged"),
        ("[" * 3000, IntegrityError, "damaged"),
        ('[{"path": "a/../../evil", "size_bytes": 1, "sha256": "0"}]', IntegrityError, "outside of its folder"),
        ('[{"path": "../evil", "size_bytes": 1, "sha256": "0"}]', IntegrityError, "outside of its folder"),
        ('[{"path": "/evil", "size_bytes": 1, "sha256": "0"}]', IntegrityError, "outside of its folder"),
    ],
)
def test_a_version_whose_file_list_cannot_be_trusted_is_refused(uri, value, error, message):
    with registry_client(uri) as client:
        client.delete_model_version_tag(NAME, "1", "softalign.files")
        if value is not None:
            client.set_model_version_tag(NAME, "1", "softalign.files", value)
    with pytest.raises(error, match=message):
        pull(f"{NAME}/1", tracking_uri=uri)
