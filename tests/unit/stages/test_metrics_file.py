"""The file for node_exporter: Prometheus' own parser reads it, counters go on, and no fault in it fails a stage."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from softalign.artifacts import Usage
from softalign.config import load_recipe
from softalign.errors import DataError
from softalign.stages.metrics_file import COUNTERS, GAUGES, note_stage
from softalign.store.store import Store
from tests.steps import run_stage

ATTEMPT = Usage(wall_s=2.0, gpu_s=4.0, cpu_s=3.0, written_bytes=10, slot_wait_s=0.5, rates={"step": 8.0, "images": 2.0})


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "softalign.prom"
    monkeypatch.setenv("SOFTALIGN_METRICS_FILE", str(path))
    return path


def samples(path):
    families = list(text_string_to_metric_families(path.read_text()))
    assert all((COUNTERS | GAUGES)[family.name] == family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(path, name, **labels):
    return samples(path)[f"softalign_stage_{name}", tuple(sorted(labels.items()))]


def test_counters_add_up_and_gauges_are_the_last(path):
    of = {"recipe": "cats", "stage": 'evaluate ("base")'}
    note_stage("cats", of["stage"], "failed", ATTEMPT)
    note_stage("cats", of["stage"], "done", ATTEMPT.model_copy(update={"wall_s": 5.0, "peak_memory_bytes": 7}))
    note_stage("cats", of["stage"], "reused")
    note_stage("dogs", "train", "done", ATTEMPT)
    assert value(path, "seconds_total", **of) == 7.0
    assert value(path, "gpu_seconds_total", **of) == 8.0
    assert value(path, "gpu_slot_wait_seconds_total", **of) == 1.0
    assert [value(path, "runs_total", outcome=how, **of) for how in ("done", "reused", "failed")] == [1.0, 1.0, 1.0]
    assert (value(path, "last_seconds", **of), value(path, "peak_memory_bytes", **of)) == (5.0, 7.0)
    assert value(path, "items_per_second", unit="step", **of) == 8.0
    assert value(path, "last_success_timestamp_seconds", recipe="dogs", stage="train") > 1.7e9
    assert value(path, "seconds_total", recipe="dogs", stage="train") == 2.0


def test_a_stage_is_noted_when_it_fails_is_done_and_is_reused(path, tmp_path, monkeypatch):
    from softalign.data.curation import pipeline

    recipe = load_recipe("shapes", ["curation.sources=[{type: shapes, num_scenes: 8, seed: 1}]"])
    store, of = Store(str(tmp_path / "store")), {"recipe": "shapes", "stage": "curate"}

    def fail(*_):
        raise DataError("bad")

    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(pipeline, "curate", fail)
        run_stage(recipe, "curate", store)
    for _ in range(2):
        result = run_stage(recipe, "curate", store)
    assert [value(path, "runs_total", outcome=how, **of) for how in ("failed", "done", "reused")] == [1.0, 1.0, 1.0]
    assert value(path, "written_bytes_total", **of) >= result.record.total_bytes


def test_a_file_that_cannot_be_used_is_said_and_left_alone(path, caplog):
    path.parent.mkdir()
    path.write_text("not { metrics")
    note_stage("cats", "train", "done", ATTEMPT)
    assert "The metrics of train are not in" in caplog.text and path.read_text() == "not { metrics"


def test_without_the_variable_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    note_stage("cats", "train", "done", ATTEMPT)
    assert not list(tmp_path.iterdir())
