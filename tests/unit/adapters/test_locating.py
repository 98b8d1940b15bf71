"""Where adapters come from besides folders and registries: the hub, through its own client, and other stores."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock
from urllib.request import urlopen

import pytest
from huggingface_hub import constants

from softalign.adapters.locating import resolve_adapter
from softalign.errors import ConfigError, MissingInputError
from softalign.store.offline import hub_silence
from tests.fake_registry import write_adapter

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub as far as its client needs it for a repository ``ann/tokens`` with two revisions; counts requests."""
    folders = {COMMITS[name]: write_adapter(tmp_path / name, value) for name, value in (("main", 2.0), ("v1", 1.0))}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts == [""]:
                return self.answer(200, b"")
            if parts[:3] == ["api", "models", "ann"] and parts[3:5] == ["tokens", "tree"]:
                names = ("adapter_config.json", "soft_tokens.safetensors", "huge.bin")
                tree = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
                return self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            if parts[:3] == ["api", "models", "ann"] and parts[3] == "tokens":
                commit = COMMITS.get(parts[5] if len(parts) > 5 else "main")
                if commit is None:
                    return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                body = {"id": "ann/tokens", "sha": commit, "siblings": []}
                return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            if parts[:3] == ["ann", "tokens", "resolve"] and parts[3] in folders:
                data = (folders[parts[3]] / parts[4]).read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                return self.answer(200, data, {"ETag": etag, "X-Repo-Commit": parts[3]})
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def answer(self, status, data, headers=()):
            self.send_response(status)
            for name, value in {**dict(headers), "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path / "hub"))):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.chdir(tmp_path)
    yield asked
    server.shutdown()
    server.server_close()


def value_in(folder):
    return json.loads((folder / "adapter_config.json").read_text())["value"]


def test_a_hub_id_brings_the_adapter_of_a_revision_and_nothing_else(hub, monkeypatch):
    assert value_in(resolve_adapter("ann/tokens")) == 2.0
    folder = resolve_adapter("ann/tokens", "v1")
    assert value_in(folder) == 1.0
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "soft_tokens.safetensors"}
    assert not [path for path in hub if "huge" in path]
    hub.clear()
    monkeypatch.setenv("SOFTALIGN_OFFLINE", "1")
    assert (value_in(resolve_adapter("ann/tokens")), value_in(resolve_adapter("ann/tokens", "v1"))) == (2.0, 1.0)
    with pytest.raises(MissingInputError, match=r"(?s)hub's cache.*SOFTALIGN_OFFLINE is set"):
        resolve_adapter("ann/other")
    assert hub == []


def test_what_the_hub_lacks_is_said(hub, tmp_path):
    with pytest.raises(MissingInputError, match="nor a repository"):
        resolve_adapter("ann/nothing")
    with pytest.raises(MissingInputError, match=r"(?s)no such revision.*ann/tokens at v9"):
        resolve_adapter("ann/tokens", "v9")
    (tmp_path / "ann" / "tokens").mkdir(parents=True)
    assert str(resolve_adapter("ann/tokens")) == "ann/tokens"  # a folder comes first
    for source in ("ann/tokens", "s3://bucket/x", "models:/n@champion"):
        with pytest.raises(ConfigError, match="has a revision"):
            resolve_adapter(source, "v1")


def test_a_hub_out_of_reach_is_said_at_once_and_tried_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with mock.patch("softalign.store.offline.urlopen", wraps=urlopen) as opened:
        with pytest.raises(MissingInputError, match=r"127\.0\.0\.1:9 was not reached"):
            resolve_adapter("ann/tokens")
        assert opened.call_count == 1
    assert "not reached" in hub_silence()


def test_a_base_model_out_of_reach_is_named_first_and_at_once(tmp_path, monkeypatch):
    from softalign.backbones.loading import family_of

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with mock.patch("huggingface_hub.utils._http.time.sleep", side_effect=AssertionError("it tries again")):
        with pytest.raises(MissingInputError, match=r"(?s)^The base model cannot be loaded: it is not cached.*reached"):
            family_of("someone/no-such-model")


def test_an_adapter_of_another_store_is_kept_for_offline_use(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    folder, files = write_adapter(tmp_path / "here", 3.0), fsspec.filesystem("memory")
    for name in ("adapter_config.json", "soft_tokens.safetensors"):
        files.pipe_file(f"/offline/{name}", (folder / name).read_bytes())
    assert value_in(resolve_adapter("memory://offline")) == 3.0
    files.rm("/offline", recursive=True)
    with pytest.raises(MissingInputError):
        resolve_adapter("memory://offline")
    monkeypatch.setenv("SOFTALIGN_OFFLINE", "1")
    assert value_in(resolve_adapter("memory://offline")) == 3.0
    with pytest.raises(MissingInputError, match="not loaded before"):
        resolve_adapter("memory://another")
