"""The run of a training while it trains: one run whatever happens, and a training that no registry can harm."""

import importlib.util
import json
import logging
import time
from pathlib import Path

import pytest

from softalign.config import PromotionPolicy, load_recipe
from softalign.errors import LeaseLostError, PreemptedError, TrainingError, WorkerDiedError
from softalign.registry import live, live_run, registry_of_store
from softalign.registry.connection import registry_client
from softalign.registry.training_runs import training_run
from softalign.run_context import is_to_register, to_register
from softalign.stages import work
from softalign.stages.chain import walk
from softalign.stages.requests import StageInputs
from softalign.store.metrics_log import GrowingLog
from softalign.store.store import Store
from tests.killing import is_killed
from tests.registry_samples import publish_inputs, register_sample
from tests.sample_records import ADAPTER, ENCODED
from tests.steps import published_of

RECIPE = load_recipe("shapes")
KEY = "k" * 64


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(live, "INTERVAL_S", 0.05)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")


@pytest.fixture
def client(store):
    with registry_client(registry_of_store(store)) as opened:
        yield opened


def write_rows(store, *steps, key=KEY):
    rows = [{"split": "train", "step": step, "samples_seen": 4 * step, "loss": 1 / step} for step in steps]
    path = store.work_path("train", key) / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def runs_of(client):
    experiment = client.get_experiment_by_name("softalign")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def wait_for_step(client, samples_seen):
    def held():
        runs = runs_of(client)
        points = client.get_metric_history(runs[0].info.run_id, "train/loss") if runs else []
        return runs[0] if points and points[-1].step >= samples_seen else None

    return wait_for(held, f"no point at {samples_seen}")


def losses(client, run):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_training_on_refreshed_captions_says_of_what_they_are_a_refresh(store, client):
    lineage = {"dataset_parent_key": "d" * 64, "parents": ("c" * 64, "b" * 64)}
    with live_run(RECIPE, ENCODED.model_copy(update=lineage), store, KEY):
        wait_for(lambda: runs_of(client), "no run")
        run = wait_for(lambda: next((run for run in runs_of(client) if run.inputs.dataset_inputs), None), "no inputs")
        sources = [json.loads(one.dataset.source) for one in client.get_run(run.info.run_id).inputs.dataset_inputs]
    assert sorted(map(sorted, sources)) == [
        ["dataset_digest", "dataset_parent_key"],
        ["encoded_digest", "encoded_parent_digest"],
    ]
    assert run.data.tags["softalign.dataset_parent_key"] == "d" * 64
    assert run.data.tags["softalign.encoded_parent_digest"] == "b" * 64


def test_a_run_grows_with_its_training_and_is_taken_up_again_after_a_stop(store, client):
    with pytest.raises(PreemptedError), live_run(RECIPE, ENCODED, store, KEY):
        write_rows(store, 1, 2)
        folder = store.work_path("train", KEY) / "samples"
        folder.mkdir()
        (folder / "step-00000002.png").write_bytes(b"png")
        (folder / ".step-00000003.png").write_bytes(b"half")
        run = wait_for_step(client, 8)
        assert run.info.status == "RUNNING"
        wait_for(lambda: client.list_artifacts(run.info.run_id, "samples"), "no sample images")
        raise PreemptedError("stopped")
    stopped = client.get_run(run.info.run_id)
    assert stopped.info.status == "KILLED"
    assert "system/cpu_utilization_percentage" in stopped.data.metrics
    with live_run(RECIPE, ENCODED, store, KEY):
        write_rows(store, 1)  # as resumed from the checkpoint at step 1
        wait_for(lambda: client.get_run(run.info.run_id).info.status == "RUNNING", "not resumed")
        write_rows(store, 1, 2, 3)
        wait_for_step(client, 12)
    (found,) = runs_of(client)
    assert (found.info.run_id, found.info.status) == (run.info.run_id, "FINISHED")
    assert losses(client, found) == [(4, 1.0), (8, 1 / 2), (12, 1 / 3)]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "samples")] == ["samples/step-00000002.png"]


def test_a_run_says_from_the_start_what_is_trained_on_what_and_by_whom(store, client, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_RUN_URL", "http://prefect/runs/flow-run/1")
    with live_run(RECIPE, ENCODED, store, KEY):
        run = wait_for(lambda: [run for run in runs_of(client) if "mlflow.user" in run.data.tags], "no run")[0]
        wait_for(lambda: client.list_artifacts(run.info.run_id), "no recipe")
    run = client.get_run(run.info.run_id)
    assert run.data.params == {
        **{"objective": "agsm", "base_model": RECIPE.backbone.model, "dataset": ENCODED.digest[:12], "seed": "0"},
        **{"num_steps": "1000", "batch_size": "4", "num_negatives": "3", "learning_rate": "0.006"},
        **{"num_soft_tokens": "4", "token_layers": "first 4"},
        **{"temperature": "0.1", "gamma_positive": "2.0", "gamma_negative": "0.0"},
    }
    assert run.data.tags["softalign.orchestrator_run_url"] == "http://prefect/runs/flow-run/1"
    assert "mlflow.source.git.commit" not in run.data.tags  # this test's folder is no checkout
    assert {one.tags[0].value for one in run.inputs.dataset_inputs} == {"training"}
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"shapes", "shapes-encoded"}
    kept = client.download_artifacts(run.info.run_id, "recipe.yaml", str(tmp_path))
    assert load_recipe(kept) == RECIPE


def test_the_commit_is_that_of_the_folder_that_is_worked_in(store, tmp_path, monkeypatch):
    from git import Actor, Repo

    from softalign.registry.run_facts import source_commit

    person = Actor("ann", "ann@example.org")
    commit = Repo.init(tmp_path / "checkout").index.commit("first", author=person, committer=person).hexsha
    (tmp_path / "checkout" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "checkout" / "below")
    assert source_commit() == commit
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit() == ""


@pytest.mark.parametrize("what_fails", ["disk_usage", "net_io_counters", "switched off"])
def test_where_the_machine_cannot_be_looked_at_the_curves_are_there_all_the_same(
    store, client, monkeypatch, what_fails
):
    import psutil

    if what_fails == "switched off":
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    else:
        monkeypatch.setattr(psutil, what_fails, lambda *_: None)
    with live_run(RECIPE, ENCODED, store, KEY):
        write_rows(store, 1)
        wait_for_step(client, 4)
        write_rows(store, 1, 2)
        run = wait_for_step(client, 8)
    assert not [name for name in client.get_run(run.info.run_id).data.metrics if name.startswith("system/")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(WorkerDiedError("died"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (LeaseLostError("lost"), "RUNNING")],
    ids=["FAILED", "KILLED", "RUNNING"],
)
def test_the_run_says_how_its_training_ended(store, client, error, status):
    with pytest.raises(type(error)), live_run(RECIPE, ENCODED, store, KEY):
        write_rows(store, 1)
        wait_for_step(client, 4)
        raise error
    assert [run.info.status for run in runs_of(client)] == [status]


def test_a_killed_process_leaves_a_run_that_the_next_one_takes_up(store):
    def train_until_killed():
        import os
        import signal

        with live_run(RECIPE, ENCODED, store, KEY), registry_client(registry_of_store(store)) as client:
            write_rows(store, 1, 2)
            (Path(store.uri) / "first").write_text(wait_for_step(client, 8).info.run_id)
            os.kill(os.getpid(), signal.SIGKILL)

    assert is_killed(train_until_killed)
    with registry_client(registry_of_store(store)) as client:
        with live_run(RECIPE, ENCODED, store, KEY):
            write_rows(store, 1, 2, 3)
            wait_for_step(client, 12)
        (run,) = runs_of(client)
    assert run.info.run_id == (Path(store.uri) / "first").read_text()


def test_of_two_that_make_a_run_at_once_both_keep_the_first(client, monkeypatch):
    experiment = client.create_experiment("softalign")
    create, others = type(client).create_run, []

    def create_after_another(self, *args, **kwargs):
        monkeypatch.setattr(type(client), "create_run", create)
        others.append(training_run(client, experiment, KEY, "the other's"))
        time.sleep(0.002)
        return create(self, *args, **kwargs)

    monkeypatch.setattr(type(client), "create_run", create_after_another)
    run = training_run(client, experiment, KEY, "mine")
    assert [one.info.run_id for one in runs_of(client)] == [run.info.run_id] == [others[0].info.run_id]


def test_what_a_registry_lacks_is_no_matter_of_the_training(store, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:planted-password@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.INFO), live_run(RECIPE, ENCODED, store, KEY):
        wait_for(lambda: caplog.records, "no warning")
        time.sleep(0.3)  # some more attempts
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "did not answer" in record.message and "planted" not in record.message


def test_an_error_of_the_training_stays_its_own_when_the_registry_fails_too(store, monkeypatch):
    def fail(*_):
        raise RuntimeError("of the registry")

    monkeypatch.setattr(live, "training_run", fail)
    with pytest.raises(TrainingError, match="diverged"), live_run(RECIPE, ENCODED, store, KEY):
        raise TrainingError("diverged")


def test_a_run_that_somebody_deleted_meanwhile_is_begun_anew(store, client):
    with live_run(RECIPE, ENCODED, store, KEY):
        write_rows(store, 1)
        first = wait_for_step(client, 4)
        client.delete_run(first.info.run_id)
        write_rows(store, 1, 2)
        second = wait_for_step(client, 8)
    assert second.info.run_id != first.info.run_id
    assert losses(client, second) == [(4, 1.0), (8, 1 / 2)]


def test_the_registration_completes_the_trainings_run(store, client):
    inputs = publish_inputs(store, 0.1)
    with to_register(True), live_run(RECIPE, ENCODED, store, inputs.adapter.stage_key):
        wait_for(lambda: [run for run in runs_of(client) if run.data.params], "no run")
    version = register_sample(store, 0.1)
    (run,) = runs_of(client)
    assert (run.info.run_id, run.info.status) == (version.run_id, "FINISHED")
    assert len(losses(client, run)) == 5 and run.data.metrics["score/adapter/overall"] == pytest.approx(0.6)
    assert run.data.params["num_steps"] == str(RECIPE.train.num_steps)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"recipe.yaml", "model", "report"}


def test_a_second_registration_of_an_adapter_has_a_run_below_its_trainings(store, client):
    first = register_sample(store, 0.1)
    second = register_sample(store, 0.1, key="another gate", policy=PromotionPolicy(max_tag_drop=0.5))
    assert second.run_id != first.run_id
    below = client.get_run(second.run_id)
    assert below.data.tags["mlflow.parentRunId"] == first.run_id and below.info.status == "FINISHED"
    assert len(losses(client, below)) == 5


def test_the_train_stage_keeps_a_run_on_the_machine_of_rank_0_alone(store, client, monkeypatch):
    def train_in_child(*_):
        write_rows(store, 1)
        if is_watched:
            wait_for_step(client, 4)
        return ADAPTER.model_dump(mode="json")

    monkeypatch.setattr(work, "_in_child", train_in_child)
    several = load_recipe("shapes", ["runtime.num_nodes=2", "runtime.rendezvous_endpoint=host:1"])
    monkeypatch.setenv("NODE_RANK", "1")
    for recipe, is_watched in ((several, False), (RECIPE, True)):
        given = StageInputs(recipe, store, published_of(ENCODED))
        assert work.train(given, KEY, lambda _line: None) == ADAPTER
        assert [run.info.status for run in runs_of(client)] == ["FINISHED"] * is_watched


def test_steps_know_whether_the_walk_ends_with_a_registration(tmp_path):
    class SeenError(Exception):
        pass

    def look(_step, _published):
        raise SeenError(is_to_register())

    for stages, expected in ((("curate", "train"), False), (("curate", "register"), True)):
        with pytest.raises(SeenError, match=str(expected)):
            walk(RECIPE, Store(str(tmp_path)), stages, look)
    assert not is_to_register()


def test_a_training_alone_makes_no_registry_that_nobody_asked_for(tmp_path, store, monkeypatch):
    empty = Store(str(tmp_path / "empty"))
    assert live.registry_meant(RECIPE, empty) is None and live.registry_meant(RECIPE, Store("s3://bucket")) is None
    assert live.registry_meant(RECIPE, store) == registry_of_store(store)
    with to_register(True):
        assert live.registry_meant(RECIPE, empty) == registry_of_store(empty)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        assert live.registry_meant(RECIPE, empty) is None
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert live.registry_meant(RECIPE, empty) == "http://127.0.0.1:1"


def test_a_log_is_read_as_it_grows_and_anew_when_it_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = GrowingLog(path)

    def row(step, note=""):
        return json.dumps({"step": step, "samples_seen": step, "note": note}) + "\n"

    assert log.new_rows() == ()
    path.write_text(row(1) + row(2)[:5])
    assert [one.step for one in log.new_rows()] == [1]
    path.write_text(row(1) + row(2))
    assert [one.step for one in log.new_rows()] == [2] and log.new_rows() == ()
    path.write_text(row(1))
    assert [one.step for one in log.new_rows()] == [1]
    path.write_text(row(1, "longer than before") + row(2))
    assert log.new_rows() == () and [one.step for one in log.new_rows()] == [1, 2]
