"""What all tests share: no test reads or writes a person's own settings, caches or servers."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import shape_checks

_PRIVATE = tempfile.mkdtemp(prefix="softalign-tests-")
atexit.register(shutil.rmtree, _PRIVATE, ignore_errors=True)
for _name in (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_PROFILE",
    "MLFLOW_TRACKING_URI",
    "SOFTALIGN_STORE",
    "SOFTALIGN_LOG",
):
    os.environ.pop(_name, None)
for _name in ("SOFTALIGN_GPU_SLOTS", "SOFTALIGN_NODE"):
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.update(
    PREFECT_HOME=f"{_PRIVATE}/prefect",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    SOFTALIGN_CACHE=f"{_PRIVATE}/cache",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
)

shape_checks.install()  # ahead of the modules' first import, which the test modules do


SERVERS = ("prefect_server", "stack", "cluster")
"""Fixtures that start servers, once for all tests that need them."""


def server_of(item):
    return next((name for name in SERVERS if name in item.fixturenames), None)


def pytest_collection_modifyitems(items):
    """Start the servers first: their tests take longest."""
    items.sort(key=lambda item: server_of(item) is None)


TINY = (
    "curation.sources=[{type: shapes, num_scenes: 24, captions_per_scene: 2, seed: 1}]",
    "train.num_steps=3",
    "evaluate.images_per_prompt=1",
    "evaluate.num_inference_steps=1",
    "evaluate.num_bootstrap=100",
    "register.name=tiny",
    "runtime.checkpoint_every_steps=1",
)
"""The recipe ``shapes`` on a few scenes: every stage for real, in little time."""


PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0000",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "AWS_SESSION_TOKEN": "planted-aws-session",
    "HF_TOKEN": "hf_plantedtoken",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "MLFLOW_TRACKING_TOKEN": "planted-mlflow-token",
    "PREFECT_API_AUTH_STRING": "softalign:planted-prefect-auth",
    "PREFECT_API_KEY": "pnu_plantedkey",
}
"""Credentials in the environment of the finished run, each to be recognised wherever it is written."""


@dataclass(frozen=True)
class FlowRun:
    """A finished flow run: what it returned, its id on the server, where it published, what it was asked."""

    summary: Any
    id: Any
    store: Path
    overrides: tuple[str, ...] = TINY


@pytest.fixture
def without_shape_checks():
    """Take the checks of shapes away: torch.compile shall see the functions as users have them."""
    with shape_checks.disabled():
        yield


@pytest.fixture(scope="session")
def prefect_server():
    """A real Prefect server with its own database, once for all tests."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def run_flow(prefect_server):
    """Return a function that runs a flow of the tiny recipe in a store."""

    def run(flow, store):
        state = flow("shapes", list(TINY), str(store), return_state=True)
        return FlowRun(summary=state.result(), id=state.state_details.flow_run_id, store=Path(store))

    return run


@pytest.fixture(scope="session")
def finished_run(run_flow, tmp_path_factory):
    """The whole chain, run once on Prefect; tests read its store, and copy it before they write."""
    from flows.retrain import retrain

    with pytest.MonkeyPatch.context() as environment:
        for name, value in PLANTED.items():
            environment.setenv(name, value)
        return run_flow(retrain, tmp_path_factory.mktemp("chain") / "store")


@pytest.fixture(scope="session", autouse=True)
def no_workers_on_a_slow_machine():
    """Keep ``runtime.engine.num_processes: auto`` to the test's process, whose functions tests replace."""
    from softalign.engines import opening

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "STARTING_AFTER_S", float("inf"))
        yield


@pytest.fixture(autouse=True)
def no_orchestrators_run(monkeypatch):
    """Forget afterwards which flow run a test's tasks worked for: this process runs other tests, too."""
    from softalign import run_context

    monkeypatch.setattr(run_context._RUN, "id", run_context._RUN.id)
    monkeypatch.setattr(run_context._RUN, "url", "")


@pytest.fixture(autouse=True)
def no_noted_secrets(monkeypatch):
    """Forget afterwards which secrets a test planted: they would be taken out of other tests' texts."""
    from softalign import credentials

    monkeypatch.setattr(credentials, "_NOTED", set())


@pytest.fixture(autouse=True)
def no_remembered_buckets():
    """Forget afterwards the connections to buckets: they were opened with a test's own address and keys."""
    yield
    if (remembering := sys.modules.get("s3fs")) is not None:
        remembering.S3FileSystem.clear_instance_cache()
