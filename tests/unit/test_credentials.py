"""Secrets planted in every form of address appear in nothing that commands say, log or keep."""

import json
import logging
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from softalign.artifacts import digest_of
from softalign.cli.app import main
from softalign.config.runtime import Runtime
from softalign.credentials import holds_secret, secrets_of, without_credentials, without_secrets
from softalign.doctor.places import look_at_clock, look_at_registry, look_at_secrets
from softalign.errors import SoftAlignError
from softalign.registry import public_uri, tracking_uri
from softalign.run_context import orchestrator_run_url
from softalign.store.store import Store

HEAD, TAIL = "s3cr3tHead", "s3cr3tTail"
HOST = "127.0.0.1:9"
FORMS = {
    "plain": f"http://bob:{HEAD}{TAIL}@{HOST}",
    "at": f"http://bob:{HEAD}@{TAIL}@{HOST}",
    "slash": f"http://bob:{HEAD}/{TAIL}@{HOST}",
    "colon": f"http://bob:{HEAD}:{TAIL}@{HOST}",
    "percent": f"http://bob:{HEAD}%40{TAIL}@{HOST}",
    "bare percent, hash": f"http://bob:{HEAD}%zz#{TAIL}@{HOST}",
    "at, slash": f"http://bob:{HEAD}@x/{TAIL}@{HOST}",
    "user only": f"http://{HEAD}{TAIL}@{HOST}",
    "token in the query": f"http://{HOST}/?token={HEAD}{TAIL}",
    "signed": f"http://{HOST}/ml?X-Amz-Credential={HEAD}&X-Amz-Signature={TAIL}&sig={HEAD}%2B{TAIL}",
    "database": f"postgresql://bob:{HEAD}{TAIL}@{HOST}/mlflow",
}
COMMANDS = {
    "pull": ["pull", "x@champion", "--to", "out"],
    "history": ["history", "x", "--json"],
    "promote": ["promote", "x", "--json"],
    "open": ["open", "--json"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_or_keeps_a_secret(form, command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", FORMS[form])
    monkeypatch.setenv("PREFECT_API_URL", FORMS[form])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sys, "argv", ["softalign", "-v", *COMMANDS[command]])
    with pytest.raises(SystemExit):
        main()
    shown = "".join(capfd.readouterr())
    kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    kept += "".join(str(path) for path in tmp_path.rglob("*"))
    assert shown.strip()
    assert [word for word in (HEAD, TAIL) if word in shown + kept] == [], shown


def test_what_the_log_says_of_an_address_is_clean(monkeypatch, capfd):
    from softalign.cli.console import narrating

    uri = FORMS["slash"]
    monkeypatch.setenv("SOFTALIGN_LOG", "json")
    with narrating(sys.stderr):
        secrets_of(uri, is_noted=True)
        logging.getLogger("another").error("GET %s failed: host %r", uri, f"{HEAD}/{TAIL}")
        try:
            raise ValueError(uri)
        except ValueError:
            logging.getLogger("another").exception("failed")
    shown = "".join(capfd.readouterr())
    assert "another" not in shown and "GET http://" in shown
    assert HEAD not in shown and TAIL not in shown


@pytest.mark.parametrize("form", FORMS)
def test_records_errors_and_tags_hold_no_secret(form, tmp_path, monkeypatch):
    uri = FORMS[form]
    monkeypatch.setenv("SOFTALIGN_RUN_URL", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = Store(str(tmp_path))
    said = [str(SoftAlignError(f"asked {uri}", found=uri, where=f"'{uri}/x'", fix=uri)), orchestrator_run_url()]
    said += [without_credentials(uri), without_secrets(f"see {uri}.")]
    try:
        said.append(public_uri(tracking_uri(Runtime(), store), store))
    except SoftAlignError as error:
        said.append(str(error))
    for look in (lambda: look_at_registry(Runtime(), store), lambda: look_at_clock(Runtime(), store), look_at_secrets):
        try:
            said.append(look().model_dump_json())
        except SoftAlignError as error:
            said.append(str(error))
    assert [text for text in said if HEAD in text or TAIL in text] == []
    assert holds_secret(uri)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "s3://bucket/models@v2/x",
        "models:/name@champion",
        "models://name@champion",
        "https://host/page?design=2&page=3",
        "http://[::1]:5000/#/runs/a@b",
        "file:///tmp/a@b",
        "ann@example.org and bob@example.org",
    ],
)
def test_addresses_without_secrets_stay_as_they_are(text):
    assert without_secrets(text) == text and secrets_of(text) == frozenset() and not holds_secret(text)


def test_a_secret_is_known_in_every_spelling_and_short_ones_garble_nothing():
    assert secrets_of("http://ann:p%40ss%2Fw0rd@h") >= {"p%40ss%2Fw0rd", "p@ss/w0rd"}
    secrets_of("http://ann:ab@h", is_noted=True)
    assert without_secrets("about it") == "about it"
    secrets_of("http://ann:share@h", is_noted=True)
    assert without_secrets("a model_share is shared, not 'share'") == "a model_share is shared, not '***'"
    assert digest_of("x") == digest_of("x")


@pytest.fixture
def echoing():
    """A server that says in its error which login it was given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            import base64

            login = base64.b64decode((self.headers.get("Authorization") or "").removeprefix("Basic ")).decode()
            data = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"{login} may not"}).encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_secret_that_a_server_repeats_is_taken_out(echoing, tmp_path, monkeypatch):
    from softalign.registry import history

    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path))
    with pytest.raises(SoftAlignError, match="may not") as caught:
        history("x", f"http://bob:{HEAD}%40{TAIL}@127.0.0.1:{echoing}")
    assert HEAD not in str(caught.value) and TAIL not in str(caught.value)
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
