"""`softalign deploy` on a real server: forms that refuse, new data that retrains, failures that are told."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import TINY
from tests.integration.prefect_api import ask, wait_until

OWN = {
    "name": "cats",
    "curation": {"name": "cats", "sources": [{"type": "shapes", "num_scenes": 24}]},
    "register": {"name": "softalign-cats"},
}


@pytest.fixture(autouse=True)
def server(stack, monkeypatch):
    """The server that questions go to."""
    monkeypatch.setenv("PREFECT_API_URL", stack.exports["PREFECT_API_URL"])


@pytest.fixture
def told():
    """What a receiver of notifications was told, and its address."""
    messages = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield messages, f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    thread.join()


def deploy(stack, *arguments, **variables):
    command = [sys.executable, "-m", "softalign", "deploy", "--json", *arguments]
    environment = {**os.environ, **stack.exports, "PREFECT_HOME": str(stack.state / "deployer"), **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def start(name, **parameters):
    deployment = ask(f"/deployments/name/softalign-{name}/{name}")["id"]
    return ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]


def test_deployments_refuse_announce_and_tell(stack, told):
    messages, address = told
    settled = deploy(
        stack, "--schedule", "curate=0 3 * * 1", "--timezone", "Europe/Berlin", "--notify", "webhook:HOOK", HOOK=address
    )
    assert settled.returncode == 0, settled.stderr
    assert address not in settled.stdout + settled.stderr
    again = deploy(stack, "--notify", "webhook:HOOK", HOOK=address)
    assert "curate keeps 1 schedule(s) of before" in json.loads(again.stdout)["done"]
    assert len([one for one in ask("/automations/filter", {}) if one["name"].startswith("softalign")]) == 5
    schedule = ask("/deployments/name/softalign-curate/curate")["schedules"][0]["schedule"]
    assert (schedule["cron"], schedule["timezone"]) == ("0 3 * * 1", "Europe/Berlin")

    for bad in (
        {"overrides": ["nonsense"]},
        {"recipe": {**OWN, "name": "Cats!"}},
        {"recipe": {**OWN, "train": {"num_steps": "abc"}}},
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            start("retrain", **bad)
        assert refused.value.code == 409
    nameless = start("curate", recipe="nope")
    fresh = [*TINY, "train.num_steps=2"]
    refreshed = start("refresh", recipe="shapes", overrides=fresh)

    wait_until(lambda: messages, seconds=300)
    failed = ask(f"/flow_runs/{nameless}")
    assert failed["state"]["type"] == "FAILED" and failed["run_count"] == 1
    assert "no recipe named 'nope'" in messages[0]["message"]
    logs = ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [nameless]}}})
    assert not [line for line in logs if "Traceback" in line["message"]]

    def retrained():
        runs = ask("/flow_runs/filter", {"flow_runs": {"name": {"like_": "retrain-shapes"}}})
        return [
            run for run in runs if run["parameters"].get("overrides") == fresh and run["state"]["type"] == "COMPLETED"
        ]

    wait_until(retrained, seconds=300)
    (follower,) = retrained()
    assert ask(f"/flow_runs/{refreshed}")["state"]["type"] == "COMPLETED"
    assert follower["parameters"]["store"] == stack.exports["SOFTALIGN_STORE"]
    assert follower["name"].startswith("retrain-shapes-set")
