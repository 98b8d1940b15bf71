"""A few questions to the Prefect server that the environment names."""

import json
import os
import time
import urllib.request


def ask(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    url = os.environ["PREFECT_API_URL"] + path
    question = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(question, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def start_run(deployment, *overrides):
    """Start a run of a deployment, by name, and return its id."""
    deployment_id = ask(f"/deployments/name/{deployment}")["id"]
    return ask(f"/deployments/{deployment_id}/create_flow_run", {"parameters": {"overrides": overrides}})["id"]


def state_of(run_id):
    """Return a run's state and how often it has run."""
    run = ask(f"/flow_runs/{run_id}")
    return run["state"]["type"], run["run_count"]


def wait_until(is_so, seconds=240):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)
