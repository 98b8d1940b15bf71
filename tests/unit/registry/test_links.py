"""A version's pages at its registry, and the run that made it."""

import json

from typer.testing import CliRunner

from softalign.artifacts import ModelVersion
from softalign.cli.options import app
from softalign.registry import registry_of_store, report_url, run_url, version_links
from softalign.registry.connection import registry_client
from softalign.registry.links import ORCHESTRATOR_TAG, VersionLinks
from tests.registry_samples import NAME, register_sample


def version_at(uri):
    return ModelVersion(
        **{"stage_key": "k", "name": "m", "version": 3, "alias": "champion", "is_promoted": True, "reason": "r"},
        **{"run_id": "abc", "tracking_uri": uri, "weights_sha256": ""},
    )


def test_a_server_has_pages_and_a_database_has_none():
    version = version_at("https://mlflow.example/ml/")
    assert run_url(version) == "https://mlflow.example/ml/#/runs/abc"
    expected = "https://mlflow.example/ml/get-artifact?path=report%2Freport.html&run_uuid=abc"
    assert report_url(version) == expected
    for uri in ("store", "sqlite:////x/mlflow.db", "postgresql://db/mlflow"):
        assert (run_url(version_at(uri)), report_url(version_at(uri))) == ("", "")


def test_run_and_version_name_the_orchestrators_run_and_registering_again_does_not_change_it(store, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_RUN_URL", "http://prefect/runs/flow-run/1")
    first = register_sample(store, 0.1)
    monkeypatch.setenv("SOFTALIGN_RUN_URL", "http://prefect/runs/flow-run/2")
    register_sample(store, 0.1)
    (links,) = version_links(NAME, registry_of_store(store))
    assert links == VersionLinks(version=1, orchestrator_run_url="http://prefect/runs/flow-run/1")
    assert links.to_lines() == ["  made by  http://prefect/runs/flow-run/1"]
    with registry_client(registry_of_store(store)) as client:
        assert client.get_run(first.run_id).data.tags[ORCHESTRATOR_TAG] == "http://prefect/runs/flow-run/1"


def test_without_one_there_is_no_tag(store):
    register_sample(store, 0.1)
    (links,) = version_links(NAME, registry_of_store(store))
    assert links == VersionLinks(version=1)


def test_history_shows_them_below_the_registration(store, monkeypatch):
    import softalign.cli  # noqa: F401  # which adds the commands

    monkeypatch.setenv("SOFTALIGN_RUN_URL", "http://prefect/runs/flow-run/1")
    register_sample(store, 0.1)
    asked = ["history", NAME, "--store", store.uri]
    first, look, second = CliRunner().invoke(app, asked).stdout.splitlines()
    assert look.startswith("  look 1 at weights ") and "24 images an arm, seed 0" in look
    assert "version 1 champion" in first and second == "  made by  http://prefect/runs/flow-run/1"
    (links,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["links"]
    assert links["orchestrator_run_url"] == "http://prefect/runs/flow-run/1" and links["report_url"] == ""
