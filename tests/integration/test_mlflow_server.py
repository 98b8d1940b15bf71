"""Registration and pulling against the stack's MLflow server: its proxy hands out what lies in the bucket."""

import logging
import time

import fsspec
import pytest

from softalign.config import load_recipe
from softalign.errors import IntegrityError, RegistryError
from softalign.registry import history, live_run, pull, pull_version, rollback, run_url
from softalign.registry.connection import registry_client
from softalign.store.store import Store
from tests.registry_samples import NAME, publish_inputs, register_sample
from tests.sample_records import ENCODED


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    return Store(str(tmp_path / "store"))


def test_register_pull_and_roll_back(stack, environment, tmp_path, monkeypatch):
    uri = stack.exports["MLFLOW_TRACKING_URI"]
    first = register_sample(environment, 0.1, tracking_uri=uri)
    second = register_sample(environment, 0.2, tracking_uri=uri)
    assert (first.version, second.version, second.alias) == (1, 2, "champion")
    assert second.tracking_uri == uri and not (tmp_path / "store" / "mlflow.db").exists()

    folder = pull(f"models:/{NAME}@champion", tmp_path / "out", tracking_uri=uri)
    assert b'"weights":"0.2 ' in (folder / "soft_tokens.safetensors").read_bytes()
    assert rollback(NAME, "it broke", uri).version == 1
    assert pull_version(f"{NAME}@champion", tracking_uri=uri).version == 1
    assert [event.action for event in history(NAME, uri)] == ["register", "register", "rollback"]
    with pytest.raises(RegistryError, match="champion -> 1"):
        pull(f"{NAME}@best", tracking_uri=uri)

    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "other cache"))
    keys = {"key": stack.exports["AWS_ACCESS_KEY_ID"], "secret": stack.exports["AWS_SECRET_ACCESS_KEY"]}
    bucket = fsspec.filesystem("s3", endpoint_url=stack.exports["AWS_ENDPOINT_URL"], **keys)
    (stored,) = bucket.glob(f"softalign/mlflow/**/{second.run_id}/artifacts/model/soft_tokens.safetensors")
    bucket.pipe_file(stored, bucket.cat_file(stored)[:-1] + b"?")
    with pytest.raises(IntegrityError, match=rf"(?s){NAME}/2/soft_tokens"):
        pull(f"{NAME}/2", tracking_uri=uri)


def test_a_training_is_on_the_server_while_it_trains_and_its_registration_has_the_same_page(stack, environment, caplog):
    uri = stack.exports["MLFLOW_TRACKING_URI"]
    recipe = load_recipe("shapes", [f"runtime.tracking_uri={uri}"])
    key = publish_inputs(environment, 0.35).adapter.stage_key
    with caplog.at_level(logging.INFO, "softalign"), registry_client(uri) as client:
        with live_run(recipe, ENCODED, environment, key):
            deadline = time.monotonic() + 60
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.1)
            (said,) = (record.getMessage() for record in caplog.records)
            run = client.get_run(said.rpartition("/")[2])
            assert run.info.status == "RUNNING" and run.data.params["objective"] == "agsm"
            assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["recipe.yaml"]
        version = register_sample(environment, 0.35, tracking_uri=uri, name="seen")
        assert said == f"This training can be watched at {run_url(version)}"
        assert client.get_run(version.run_id).info.status == "FINISHED"
