"""No credential of the environment is written anywhere: not by a run that ends well, not by one that fails."""

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.register import register
from tests.conftest import PLANTED

PASSWORD = "planted-in-address"
REFUSAL = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}'
SECRETS = [value.encode() for value in (*PLANTED.values(), "planted-", PASSWORD)]


def leaks(folder):
    """Return which files below a folder hold a secret, databases, logs and unfinished work included."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return [f"{path}: {secret!r}" for path in paths for secret in SECRETS if secret in path.read_bytes()]


def orchestrators_database():
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url.get_secret_value()
    path = Path(url.rpartition(":///")[2])
    return b"".join(part.read_bytes() for part in path.parent.glob(f"{path.name}*"))


@pytest.fixture
def refusing_registry(monkeypatch):
    """Let the environment name a registry with a password in its address, which answers, but refuses all work."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            is_asked = "experiments/search" in self.path or self.path == "/version"
            self.send_response(200 if is_asked else 400)
            self.send_header("Content-Length", str(len(REFUSAL)))
            self.end_headers()
            self.wfile.write(REFUSAL)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PASSWORD}@127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_finished_run_leaves_no_secret(finished_run):
    assert leaks(finished_run.store) == []
    assert (finished_run.store / "mlflow.db").is_file()
    assert leaks(os.environ["SOFTALIGN_CACHE"]) == []
    kept = orchestrators_database()
    assert str(finished_run.id).replace("-", "").encode() in kept.replace(b"-", b"")
    assert [secret for secret in SECRETS if secret in kept] == []


def test_a_run_that_fails_at_the_registry_leaves_and_shows_no_secret(finished_run, tmp_path, refusing_registry):
    store = shutil.copytree(finished_run.store, tmp_path / "store", symlinks=True)
    overrides = [*finished_run.overrides, "register.name=refused"]
    state = register("shapes", overrides, str(store), return_state=True)
    assert "refused a request" in state.message
    words = ["-v", "register", "shapes", "--store", str(store)]
    words += [part for each in overrides for part in ("--set", each)]
    shown = subprocess.run([sys.executable, "-m", "softalign", *words], capture_output=True, timeout=120, check=False)
    assert (shown.returncode, b"refused a request" in shown.stderr) == (1, True), shown.stderr
    assert leaks(store) == []
    places = orchestrators_database() + shown.stdout + shown.stderr
    assert [secret for secret in SECRETS if secret in places] == []
