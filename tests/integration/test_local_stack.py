"""The stack of ``make stack``: a retrain to a registered version, the pages in a browser, all of it after a restart."""

import ast
import json
import os
import shutil
import subprocess
from contextlib import suppress

import psutil
import pytest
import yaml

from softalign.registry import history, pull, pull_version
from tests.conftest import TINY
from tests.integration.conftest import BIN, ROOT
from tests.integration.prefect_api import ask, start_run, state_of, wait_until


def test_every_deployment_names_a_flow_and_its_parameters():
    deployments = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]
    assert {deployment["name"] for deployment in deployments} >= {"retrain", "curate", "train", "evaluate", "register"}
    for deployment in deployments:
        path, function = deployment["entrypoint"].split(":")
        module = ast.parse((ROOT / path).read_text())
        (flow,) = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == function]
        taken = {argument.arg for argument in flow.args.args}
        assert set(deployment["parameters"]) <= taken
        if "recipe" in taken:
            assert set(deployment["parameters"]) == taken
        assert deployment["work_pool"]["name"] in {"cpu", "gpu"}


NAME = "outlasting"
OVERRIDES = (*TINY, f"register.name={NAME}")
ASKED = f"overrides={json.dumps(OVERRIDES)}"
RETRAIN = "softalign-retrain/retrain"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def client(stack, monkeypatch, tmp_path):
    """The environment of somebody who uses the stack: what ``local_stack.py env`` prints."""
    for name, value in stack.exports.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def retrained(stack, client):
    """The id of a finished run of the deployment, on a few scenes."""
    finished = subprocess.run(
        [str(BIN / "prefect"), "deployment", "run", RETRAIN, "--watch", "--param", ASKED],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert "finished successfully" in finished.stdout, finished.stdout + finished.stderr + stack.logs()
    return finished.stdout.split("UUID: ")[1].split()[0]


def test_a_retrain_through_the_worker_is_registered_and_outlives_a_restart(stack, retrained, tmp_path, monkeypatch):
    assert stack("status").stdout.count("ready") == 7
    assert (stack.state / "settings.json").stat().st_mode & 0o077 == 0
    events = history(NAME)
    assert [(event.action, event.version) for event in events] == [("register", 1)]
    files = contents(pull(f"{NAME}/1", tmp_path / "before"))
    endless = start_run(RETRAIN, *OVERRIDES, "train.num_steps=100000")
    look_at_the_pages(stack.exports, retrained, tmp_path)
    wait_for_attempt(1, endless)

    settings = json.loads((stack.state / "settings.json").read_text())
    started, before = processes_of(stack), dict(stack.exports)
    for secret in ("password", "access_key", "secret_key"):
        assert not [line for _, line in started if settings[secret] in line]
    assert stack("down").returncode == 0
    assert stack("status").returncode == 1
    assert [pid for pid, _ in started if psutil.pid_exists(pid)] == []
    assert pull_version(f"{NAME}/1").version == 1  # a version that is here needs no server

    stack.up()
    assert stack.exports == before
    assert history(NAME) == events
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "other cache"))
    assert contents(pull(f"{NAME}/1", tmp_path / "after")) == files
    wait_for_attempt(2, endless)  # what was under way goes on

    for process in [psutil.Process(pid) for pid, _ in processes_of(stack)]:  # as the end of the machine would
        with suppress(psutil.NoSuchProcess):
            process.kill()
    stack.up()
    assert stack.exports == before
    assert history(NAME) == events
    wait_for_attempt(3, endless)
    ask(f"/flow_runs/{endless}/set_state", {"state": {"type": "CANCELLING"}})


def wait_for_attempt(number, run_id):
    wait_until(lambda: state_of(run_id) == ("RUNNING", number), seconds=300)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def processes_of(stack):
    """Return (id, command line) of every process that the stack started."""
    recorded = [json.loads(path.read_text())["pid"] for path in stack.state.glob("*.process.json")]
    assert len(recorded) == 7
    families = [[parent, *parent.children(recursive=True)] for parent in map(psutil.Process, recorded)]
    return [(member.pid, " ".join(member.cmdline())) for family in families for member in family]


def look_at_the_pages(exports, run_id, folder):
    """Open the pages in a browser: Prefect's must speak to this stack's API and show the run, MLflow's the version."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs chromium (apt-get install chromium)")
    api, asked = exports["PREFECT_API_URL"], []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(api.removesuffix("/api"))
        page.get_by_text("Active Work Pools").wait_for()
        page.get_by_text("gpu", exact=True).first.wait_for()  # a work pool
        page.goto(f"{api.removesuffix('/api')}/runs/flow-run/{run_id}")
        for text in ("retrain-shapes", "Completed", "10 Task runs", f"submitting flow run '{run_id}'"):
            page.get_by_text(text).first.wait_for()
        page.screenshot(path=folder / "prefect.png")
        assert {url.split("/api/")[0] for url in asked if "/api/" in url} == {api.removesuffix("/api")}
        page.goto(f"{exports['MLFLOW_TRACKING_URI']}/#/models/{NAME}")
        for text in ("Version 1", "challenger"):
            page.get_by_text(text).first.wait_for()
        page.screenshot(path=folder / "mlflow.png")
        browser.close()
