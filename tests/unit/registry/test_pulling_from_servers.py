"""Pulling over HTTP: how often a server is asked, what one cache serves, what is said where something is missing."""

import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from softalign.errors import ConfigError, MissingInputError, RegistryError, StorageUnavailableError
from softalign.registry import pull, pull_version
from softalign.registry.pulled_cache import one_address
from softalign.store.files import cache_dir, list_files
from tests import racing_pulls
from tests.fake_registry import FakeRegistry, serving, write_adapter

NAME = "served"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("versions")
    return [write_adapter(place / str(number), float(number)) for number in (1, 2)]


@pytest.fixture
def registry(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return FakeRegistry(NAME, folders)


@pytest.fixture
def uri(registry):
    with serving(registry) as address:
        yield address


def test_an_immutable_version_in_the_cache_asks_for_nothing(registry, uri, tmp_path, folders):
    first = pull_version(f"{NAME}/1", tracking_uri=uri)
    files = [path for path in registry.asked if "mlflow-artifacts" in path]
    assert (
        len(files) == len(list_files(folders[0])) and len(registry.asked) - len(files) <= 2
    )  # the version, the server
    registry.asked.clear()
    assert pull_version(f"models:/{NAME}/1", tracking_uri=uri) == first
    pull(f"{NAME}/1", tmp_path / "out", tracking_uri=uri)
    assert registry.asked == []


def test_an_alias_is_asked_for_once_and_then_its_version_is_meant(registry, uri, monkeypatch):
    answer = registry.answer

    def move_meanwhile(path, query):
        result = answer(path, query)
        registry.aliases["champion"] = 1
        return result

    monkeypatch.setattr(registry, "answer", move_meanwhile)
    found = pull_version(f"{NAME}@champion", tracking_uri=uri)
    assert (found.version, list_files(found.path)) == (2, list_files(registry.folders[1]))
    registry.asked.clear()
    assert pull_version(f"{NAME}@champion", tracking_uri=uri).version == 1
    registry.asked.clear()
    assert pull_version(f"{NAME}@champion", tracking_uri=uri).version == 1
    assert len(registry.asked) == 1


def test_spellings_of_one_registry_are_one_world_and_one_content(registry, uri):
    port = uri.rpartition(":")[2]
    pull(f"{NAME}@champion", tracking_uri=uri)
    registry.asked.clear()
    for other in (f"{uri}/", f"http://localhost:{port}", f"HTTP://LocalHost:{port}//".replace("HTTP", "http")):
        assert pull_version(f"{NAME}/2", tracking_uri=other).version == 2
        assert pull_version(f"{NAME}@champion", tracking_uri=other, offline=True).version == 2
    assert registry.asked == []
    registry.folders.append(registry.folders[1])
    registry.files_tags.append(registry.files_tags[1])
    assert pull(f"{NAME}/3", tracking_uri=uri) == pull(f"{NAME}/2", tracking_uri=uri)  # the same files


def test_addresses_are_compared_as_registries():
    same = ("http://host", "http://host/", "http://HOST:80", "http://ann:secret@host")
    assert {one_address(uri) for uri in same} == {"http://host"}
    assert one_address("https://host:443/ml/") == one_address("https://host/ml") != one_address("http://host/ml")
    assert one_address("http://127.0.0.1:5000") == one_address("http://[::1]:5000") == "http://localhost:5000"
    assert one_address("sqlite:///a/mlflow.db") == one_address(f"sqlite:///{Path('a').resolve()}/mlflow.db")


def test_offline_asks_nobody_and_says_what_there_is(registry, uri, monkeypatch):
    pull(f"{NAME}@champion", tracking_uri=uri)
    registry.asked.clear()
    monkeypatch.setenv("SOFTALIGN_OFFLINE", "1")
    found = pull_version(f"{NAME}@champion", tracking_uri=uri)
    assert (found.version, found.is_offline) == (2, True)
    with pytest.raises(MissingInputError, match=rf"(?s)not in the cache.*{NAME}@champion, {NAME}/2"):
        pull(f"{NAME}/1", tracking_uri=uri)
    monkeypatch.setenv("SOFTALIGN_OFFLINE", "0")
    assert registry.asked == []
    pull(f"{NAME}/1", tracking_uri=uri)
    assert registry.asked


def test_a_cache_that_cannot_be_written_serves_what_it_holds(registry, uri, tmp_path, monkeypatch):
    expected = pull(f"{NAME}/2", tracking_uri=uri)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for function in ("mkdir", "write_bytes", "rename", "replace", "chmod"):
        monkeypatch.setattr(Path, function, refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert pull(f"{NAME}/2", tracking_uri=uri) == expected
    assert pull(f"{NAME}@champion", tracking_uri=uri) == expected  # though the alias cannot be noted
    with pytest.raises(ConfigError, match="cannot be written"):
        pull(f"{NAME}/1", tracking_uri=uri)


def test_a_target_is_updated_though_its_version_had_other_files(registry, uri, tmp_path):
    pictures = write_adapter(tmp_path / "with pictures", 3.0)
    (pictures / "pictures").mkdir()
    (pictures / "pictures" / "0.png").write_bytes(b"png")
    registry.folders.append(pictures)
    registry.files_tags.append(registry.files_tag(list_files(pictures)))
    for number in (3, 1):
        pull(f"{NAME}/{number}", tmp_path / "out", tracking_uri=uri)
        assert list_files(tmp_path / "out") == list_files(registry.folders[number - 1])


def test_a_full_disk_is_called_one(registry, uri, monkeypatch):
    pull(f"{NAME}@champion", tracking_uri=uri)
    registry.aliases["champion"] = 1
    free = shutil.disk_usage(cache_dir())._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda *_: free)
        with pytest.raises(StorageUnavailableError, match=r"(?s)no room in the cache.*make room"):
            pull(f"{NAME}@champion", tracking_uri=uri)  # and what the alias meant before does not take its place
    monkeypatch.setattr("mlflow.store.artifact.http_artifact_repo.HttpArtifactRepository._download_file", no_space)
    with pytest.raises(StorageUnavailableError, match="no room in the cache"):
        pull(f"{NAME}/1", tracking_uri=uri)


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_server_that_never_answers_is_given_up_in_time(registry, uri, tmp_path, caplog):
    pull(f"{NAME}@champion", tracking_uri=uri)
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="did not answer"):
            pull_version(f"{NAME}@champion", tracking_uri=address, timeout_s=2)
        assert time.monotonic() - begun < 20  # MLflow's own patience would be minutes
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"


def test_a_token_is_sent_and_without_it_the_server_refuses(registry, uri, monkeypatch):
    registry.token = "t0ken"
    with pytest.raises(RegistryError, match=r"(?s)refused.*MLFLOW_TRACKING_TOKEN"):
        pull(f"{NAME}/1", tracking_uri=uri)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    registry.logins.clear()
    pull(f"{NAME}/1", tracking_uri=uri)
    assert registry.logins == {"Bearer t0ken"}


def test_what_was_used_longest_ago_goes_when_the_cache_is_full(registry, uri, monkeypatch):
    first = pull(f"{NAME}/1", tracking_uri=uri)
    monkeypatch.setenv("SOFTALIGN_CACHE_LIMIT", "1kB")
    second = pull(f"{NAME}/2", tracking_uri=uri)
    assert first.is_dir() and second.is_dir()  # both are just in use
    os.utime(first, (1, 1))
    shutil.rmtree(second)
    assert pull(f"{NAME}/2", tracking_uri=uri).is_dir() and not first.exists()
    monkeypatch.setenv("SOFTALIGN_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError, match="no size"):
        pull(f"{NAME}/1", tracking_uri=uri)


def test_workers_that_start_together_all_succeed():
    assert set(racing_pulls.main(workers=4, rounds=3)) == {(2, 2)}


@pytest.mark.slow
def test_eight_workers_pull_fifty_times():
    assert set(racing_pulls.main(workers=8, rounds=50)) == {(2, 2)}


def test_threads_of_one_process_pull_at_once(registry, uri, tmp_path):
    found, workers = [], 4
    threads = [
        threading.Thread(target=lambda: found.append(pull(f"{NAME}/1", tmp_path / "out", tracking_uri=uri)))
        for _ in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == workers and list_files(tmp_path / "out") == list_files(registry.folders[0])
    assert logging.getLogger("mlflow").level == logging.WARNING
