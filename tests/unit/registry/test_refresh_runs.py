"""The run of a refresh: child and parent on MLflow's pages before anybody trains; no registry can harm it."""

import json
import socket

import pytest

from softalign.artifacts import DatasetManifest
from softalign.cli.app import app
from softalign.config import Recipe, load_recipe
from softalign.data.curation.published import OpenedDataset
from softalign.registry import RefreshFacts, live_run, log_refresh, refresh_runs, registry_of_store
from softalign.registry.connection import registry_client
from softalign.stages.chain import run_until
from softalign.stages.refresh import published_dataset
from softalign.store.store import Store
from tests.sample_records import ENCODED
from tests.unit.registry.test_live import fast, wait_for  # noqa: F401  # a fixture

RECIPE = load_recipe("shapes")
PARENT = DatasetManifest(
    stage_key="a" * 64,
    name="tiny",
    num_samples=8,
    num_captions=16,
    num_val_samples=1,
    num_shards=1,
    total_bytes=100,
    num_seen=8,
    rejected=(),
)
CHILD = PARENT.model_copy(
    update={"stage_key": "b" * 64, "parent_key": "a" * 64, "files_digest": "c" * 64, "num_samples": 7}
)
FACTS = RefreshFacts(RECIPE, PARENT, CHILD, "s3://bucket/changes.jsonl", 3)


@pytest.fixture
def client(store):
    with registry_client(registry_of_store(store)) as opened:
        yield opened


def runs_of(client):
    experiment = client.get_experiment_by_name("softalign")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def datasets_of(client, run):
    """Return digests and sources of a run's datasets, by what they are to it."""
    found = client.get_run(run.info.run_id).inputs.dataset_inputs
    return {one.tags[0].value: (one.dataset.name, one.dataset.digest, json.loads(one.dataset.source)) for one in found}


def test_a_refresh_is_one_run_with_its_parent_and_its_child(store, client):
    for _ in range(2):
        log_refresh(FACTS, store)
    (run,) = runs_of(client)
    assert (run.info.status, run.data.tags["softalign.kind"]) == ("FINISHED", "refresh")
    assert run.data.tags["softalign.dataset_parent_digest"] == PARENT.digest
    assert run.data.tags["softalign.dataset_parent_key"] == PARENT.stage_key
    assert (run.data.metrics["num_edits"], run.data.metrics["num_samples"]) == (3, 7)
    assert run.data.params["caption_changes"] == "s3://bucket/changes.jsonl"
    assert datasets_of(client, run) == {
        "input": (RECIPE.name, PARENT.digest[:36], {"dataset_digest": PARENT.digest}),
        "output": (
            RECIPE.name,
            CHILD.digest[:36],
            {"dataset_digest": CHILD.digest, "dataset_parent_key": PARENT.stage_key},
        ),
    }


def test_a_training_on_it_names_the_same_dataset(store, client):
    log_refresh(FACTS, store)
    (refreshed,) = runs_of(client)
    encoded = ENCODED.model_copy(update={"parents": (CHILD.digest,), "dataset_parent_key": PARENT.stage_key})
    with live_run(RECIPE, encoded, store, "k" * 64):
        runs = wait_for(
            lambda: [run for run in runs_of(client) if run.inputs.dataset_inputs][1:] and runs_of(client), ""
        )
    trained = next(run for run in runs if run.info.run_id != refreshed.info.run_id)
    found = {one.dataset.name: one.dataset for one in client.get_run(trained.info.run_id).inputs.dataset_inputs}
    output = datasets_of(client, refreshed)["output"]
    assert (found[RECIPE.name].name, found[RECIPE.name].digest, json.loads(found[RECIPE.name].source)) == output


def test_a_registry_that_is_away_costs_a_warning(store, monkeypatch, caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:word@127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_refresh(FACTS, store)
    assert "published all the same" in caplog.text and "word" not in caplog.text


def test_a_registry_that_says_nothing_is_not_waited_for(store, monkeypatch, caplog):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(refresh_runs, "TIMEOUT_S", 0.2)
        log_refresh(FACTS, store)
        assert "no answer" in caplog.text


def test_nothing_is_made_where_no_registry_is_meant(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_refresh(FACTS, Store(str(tmp_path / "plain")))
    assert not (tmp_path / "plain" / "mlflow.db").exists()


def test_the_command_leaves_the_run(store, client, tmp_path):
    scenes = {"type": "shapes", "num_scenes": 8, "captions_per_scene": 1, "incomplete_share": 0.0, "wrong_share": 0.0}
    curation = {"name": "tiny", "sources": [scenes]}
    recipe = Recipe.model_validate({"name": "tiny", "curation": curation, "register": {"name": "tiny"}})
    run_until("curate", recipe, store, lambda line: None, is_through=True)
    parent = published_dataset(recipe, store)
    first = next(OpenedDataset(parent, store).samples()).row.key
    (tmp_path / "a.jsonl").write_text(json.dumps({"action": "add", "key": first, "caption": "one more"}))
    command = ["refresh", "tiny", "--captions", str(tmp_path / "a.jsonl"), "--store", store.uri]
    app(command, standalone_mode=False)
    (run,) = runs_of(client)
    assert datasets_of(client, run)["input"][1] == parent.digest[:36]
