"""What a person reads when an MLflow server answers with an error: that it did answer, and with what."""

import base64
import os
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from softalign.errors import ConfigError, MissingInputError, RegistryError, StorageUnavailableError
from softalign.registry import pull, registry_of_store
from tests.registry_samples import NAME

BODY = b'{"error_code": "INTERNAL_ERROR", "message": "No module named boto3"}'


@pytest.fixture
def logins():
    """Return what each request to a server logged in with."""
    return []


@pytest.fixture
def serve(monkeypatch, tmp_path, logins):
    """Return a function that starts a server which answers every request with one status; it returns the address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path))
    servers = []

    def start(status):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                logins.append(self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            do_PUT = do_POST = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_of_the_server_is_not_called_silence(serve, status):
    with pytest.raises(StorageUnavailableError, match=f"answered with an error of its own: HTTP {status}") as caught:
        pull("name@champion", tracking_uri=serve(status))
    assert caught.value.is_retriable
    assert "server's log" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_files_that_the_server_refuses_are_refused_not_missing(serve, status, store_of_two, monkeypatch):
    """The registry knows the version; the place of its files answers with the status."""
    proxied = f"{serve(status)}/api/2.0/mlflow-artifacts/artifacts/1/x"
    monkeypatch.setattr("softalign.registry.pulling._present_source", lambda *_: proxied)
    with pytest.raises(RegistryError, match="refused") as caught:
        pull(f"{NAME}/1", tracking_uri=registry_of_store(store_of_two))
    assert str(status) in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(store_of_two, monkeypatch):
    """A server without proxy sends clients to the bucket itself, for which MLflow's client needs boto3."""
    monkeypatch.setattr("softalign.registry.pulling._present_source", lambda *_: "s3://bucket/1/x")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match="pip install boto3"):
        pull(f"{NAME}/1", tracking_uri=registry_of_store(store_of_two))


@pytest.mark.parametrize("status", [400, 404, 500])
def test_the_login_of_an_address_is_used_and_no_traceback_shows_it(serve, logins, status, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "another")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    address = serve(status).replace("//", "//ann:planted%207@")
    with pytest.raises((RegistryError, StorageUnavailableError, MissingInputError)) as caught:
        pull("name@champion", tracking_uri=address)
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    assert set(logins) == {f"Basic {base64.b64encode(b'ann:planted 7').decode()}"}
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "another"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
