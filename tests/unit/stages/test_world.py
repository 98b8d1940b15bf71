"""Before the first stage runs, store, disk and registry are asked whether they would take what comes."""

import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from softalign.config import load_recipe
from softalign.errors import ConfigError, RegistryError, StorageUnavailableError
from softalign.registry import ask_registry, reachability
from softalign.stages import readiness, world
from softalign.stages.checks import check_training
from softalign.stages.plan import plan
from softalign.stages.readiness import check_ready
from softalign.store import probing
from softalign.store.store import Store

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@contextmanager
def server(status, body=b"{}"):
    """An HTTP server that gives one answer to everything, and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.server_port}", asked
    finally:
        listening.shutdown()
        thread.join()


def rows_of(recipe, store):
    return {row.label: row for row in plan(recipe, store)}


def test_a_store_that_can_be_written_is_no_obstacle_and_stays_as_it_was(store, tmp_path):
    check_ready(load_recipe("shapes"), store)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_blocks_every_stage(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(store.uri))

    monkeypatch.setattr(probing.tempfile, "TemporaryFile", refuse)
    rows = rows_of(load_recipe("shapes"), store)
    assert {row.state for row in rows.values()} == {"blocked"}
    assert "refused access" in rows["curate"].reason
    with pytest.raises(ConfigError, match="refused access"):
        check_ready(load_recipe("shapes"), store)


def test_a_disk_without_room_blocks_the_stages_that_do_not_fit(store, monkeypatch):
    recipe = load_recipe("shapes")
    sizes = [row.predicted_bytes for row in plan(recipe, store)]
    free = world.SPARE_BYTES + sizes[0] + sizes[1] // 2
    monkeypatch.setattr(probing.shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))
    rows = rows_of(recipe, store)
    assert rows["curate"].state == "run"
    assert {row.state for label, row in rows.items() if label != "curate"} == {"blocked"}
    assert "not enough room" in rows["encode"].reason
    check_ready(recipe, store, "curate")
    with pytest.raises(StorageUnavailableError, match="not enough room"):
        check_ready(recipe, store)


def test_with_nothing_left_to_run_nothing_is_asked(store, monkeypatch):
    monkeypatch.setattr(readiness, "open_steps", lambda *_: ())
    monkeypatch.setattr(world, "probe", lambda _: pytest.fail("asked"))
    check_ready(load_recipe("shapes"), store)


def test_a_registry_that_is_down_blocks_the_registration_alone(store):
    recipe = load_recipe("shapes", ["runtime.tracking_uri=http://127.0.0.1:9"])
    rows = rows_of(recipe, store)
    assert {label for label, row in rows.items() if row.state == "blocked"} == {"register"}
    assert "did not answer" in rows["register"].reason
    with pytest.raises(StorageUnavailableError, match="registry did not answer"):
        check_ready(recipe, store)
    check_ready(recipe, store, "evaluate")


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, RegistryError, "refuses this account"),
        (403, RegistryError, "MLFLOW_TRACKING_USERNAME"),
        (404, RegistryError, "no model registry"),
        (500, StorageUnavailableError, "error of its own: HTTP 500"),
        (503, StorageUnavailableError, "error of its own: HTTP 503"),
    ],
)
def test_what_a_registry_answers_is_said(status, error, text):
    with server(status) as (address, _), pytest.raises(error, match=text):
        ask_registry(f"http://{address}")


@pytest.mark.parametrize(
    ("date", "skew_s"),
    [
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 -0000", 0),
        ("Thu, 01 Jan 1970 00:00:00", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT, Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 99:00:00 GMT", None),
        ("garbage", None),
        (None, None),
    ],
)
def test_a_date_that_cannot_be_read_says_nothing_of_the_clock(date, skew_s):
    found = reachability._skew_s(date)
    assert found is None if skew_s is None else abs(found - time.time()) < 60


def test_the_registry_is_asked_as_its_client_would(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss")
    with server(200, b"3.17.2") as (address, asked):
        assert ask_registry(f"http://{address}/").version == "3.17.2"
        ask_registry(f"http://ben:p%2Fss@{address}")
    assert [path for path, _ in asked] == ["/api/2.0/mlflow/experiments/search?max_results=1", "/version"] * 2
    assert [login for _, login in asked] == ["Basic YW5uOnBAc3M="] * 2 + ["Basic YmVuOnAvc3M="] * 2


def test_no_password_stands_in_what_is_said_of_a_registry():
    with server(401) as (address, _), pytest.raises(RegistryError) as refused:
        ask_registry(f"http://ben:hidden@{address}")
    assert "hidden" not in str(refused.value)


def test_more_processes_than_images_in_a_batch_are_refused_before_any_starts(tmp_path):
    recipe = load_recipe("shapes", ["runtime.num_processes=99999"])
    with pytest.raises(ConfigError, match="more training processes than images in a batch"):
        check_training(recipe, Store(str(tmp_path)))
