"""Registration and pulling against a real MLflow server with its artifact proxy, on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from softalign.errors import IntegrityError, RegistryError
from softalign.registry import history, pull, pull_version, rollback
from softalign.storage import Store
from tests.registry_samples import NAME, register_sample

START_TIMEOUT_S = 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process):
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root / 'server.db'}", "--serve-artifacts"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=root, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    uri, begin = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                is_alive = process.poll() is None and time.monotonic() - begin < START_TIMEOUT_S
                assert is_alive, (root / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield uri, root, process
    finally:
        if process.poll() is None:
            stop(process)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    return Store(str(tmp_path / "store"))


def test_register_pull_roll_back_and_go_offline(server, environment, tmp_path, monkeypatch):
    uri, root, process = server
    first = register_sample(environment, 0.1, tracking_uri=uri)
    second = register_sample(environment, 0.2, tracking_uri=uri)
    assert (first.version, second.version, second.alias) == (1, 2, "champion")
    assert second.tracking_uri == uri and not (tmp_path / "store" / "mlflow.db").exists()

    folder = pull(f"models:/{NAME}@champion", tmp_path / "out", tracking_uri=uri)
    assert (folder / "soft_tokens.safetensors").read_bytes().startswith(b"weights 0.2")
    assert rollback(NAME, "it broke", uri).version == 1
    assert pull(f"{NAME}@champion", tracking_uri=uri).name.startswith("1-")
    assert [event.action for event in history(NAME, uri)] == ["register", "register", "rollback"]
    with pytest.raises(RegistryError, match="champion -> 1"):
        pull(f"{NAME}@best", tracking_uri=uri)

    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "other cache"))
    (stored,) = (root / "artifacts").rglob(f"{second.run_id}/artifacts/model/soft_tokens.safetensors")
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match=rf"(?s){NAME}/2/soft_tokens"):
        pull(f"{NAME}/2", tracking_uri=uri)

    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    stop(process)
    found = pull_version(f"{NAME}@champion", tracking_uri=uri)
    assert (found.version, found.is_offline) == (1, True)
