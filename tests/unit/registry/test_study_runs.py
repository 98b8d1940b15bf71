"""The runs of a study: one parent, a child for each cell, however often it is logged; no registry can harm it."""

import pytest

from softalign.config import load_recipe
from softalign.registry import CellFacts, StudyFacts, log_study, registry_of_store
from softalign.registry.connection import registry_client

RECIPE = load_recipe("shapes")


@pytest.fixture
def facts(tmp_path):
    page = tmp_path / "study.html"
    page.write_text("<p>", encoding="utf-8")
    cells = [
        CellFacts(f"mmdit agsm seed {seed}", {"seed": str(seed)}, {"guidance_1/overall": 0.5}, f"{seed}" * 64, "k" * 64)
        for seed in (0, 1)
    ]
    return StudyFacts("tiny", "d" * 64, "what for", {"H1/mmdit/value": 0.1}, (page,), cells)


def test_a_study_is_a_parent_and_a_child_for_each_cell_once(store, facts):
    parent_id = log_study(facts, RECIPE, store)
    assert log_study(facts, RECIPE, store) == parent_id
    with registry_client(registry_of_store(store)) as client:
        experiment = client.get_experiment_by_name("softalign")
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent_id]
        assert ([run.info.run_id for run in parents], len(children)) == ([parent_id], 2)
        assert parents[0].data.metrics == {"H1/mmdit/value": 0.1}
        assert {run.data.params["seed"] for run in children} == {"0", "1"}
        assert all(run.info.status == "FINISHED" for run in runs)
        assert [item.path for item in client.list_artifacts(parent_id)] == ["study.html"]


def test_a_registry_that_does_not_answer_costs_a_warning(store, facts, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    assert log_study(facts, RECIPE, store) == ""
    assert "no MLflow runs" in caplog.text
