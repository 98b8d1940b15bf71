"""The registry client against an MLflow server that asks for a password, started as compose.yaml starts it."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from softalign.errors import RegistryError
from softalign.registry import history, pull
from softalign.store.store import Store
from tests.registry_samples import NAME, register_sample
from tests.unit.test_dashboard import used

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "p@ss/w:rd #%41$x"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    text = (ROOT / "infra/mlflow-auth.ini").read_text()
    database = f"database_uri = sqlite:///{folder}/auth.db"
    (folder / "auth.ini").write_text(re.sub("database_uri = .*", database, text))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": "softalign",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
    }
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--app-name=basic-auth", "--host=127.0.0.1"]
    command += [f"--port={port}", "--workers=1", "--serve-artifacts", f"--artifacts-destination={folder / 'files'}"]
    command += [f"--expose-prometheus={folder / 'metrics'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url, process, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return url
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def registered(server, tmp_path_factory):
    """A version in the server's registry; yields the folder that it was made in."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTALIGN_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        store = Store(str(folder / "store"))
        with pytest.raises(RegistryError, match=r"(?s)MLFLOW_TRACKING_USERNAME"):
            register_sample(store, 0.1, tracking_uri=server)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "softalign")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        register_sample(store, 0.1, tracking_uri=server)
    return folder


def test_the_registry_works_with_the_password_and_not_without(server, registered, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "softalign")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    folder = pull(f"{NAME}/1", tmp_path / "out", tracking_uri=server)
    assert b'"weights":"0.1 ' in (folder / "soft_tokens.safetensors").read_bytes()
    assert [event.action for event in history(NAME, server)] == ["register"]
    files = [path for place in (tmp_path, registered) for path in place.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    assert PASSWORD.encode() not in written


def test_its_metrics_ask_for_the_password_too(server):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server}/metrics", timeout=10)


def asked(url, password, body=None):
    """Return the answer to a request of the administrator; with a body it changes something."""
    login = base64.b64encode(f"softalign:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method="GET" if body is None else "PATCH")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def test_the_dashboards_figures_are_those_of_the_server(server, registered):
    answer = asked(f"{server}/metrics", PASSWORD)
    assert used("mlflow_") <= {re.split(r"[{ ]", line)[0] for line in answer.splitlines()}


def test_the_password_changes_as_the_runbook_says_and_the_old_one_is_refused(server, registered, tmp_path, monkeypatch):
    new = "another p@ssword 12"
    change_password(server, PASSWORD, new)
    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            asked(f"{server}/metrics", PASSWORD)
        monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path))
        address = server.replace("//", f"//softalign:{urllib.parse.quote(new, safe='')}@")
        assert [event.action for event in history(NAME, address)] == ["register"]
        with pytest.raises(RegistryError, match="refused"):
            history(NAME, server.replace("//", "//softalign:wrong@"))
    finally:
        change_password(server, new, PASSWORD)


def change_password(server, old, new):
    body = {"username": "softalign", "current_password": old, "password": new}
    asked(f"{server}/api/2.0/mlflow/users/update-password", old, body)
