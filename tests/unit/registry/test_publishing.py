import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from softalign.artifacts import ModelVersion, Usage, digest_of
from softalign.config import RegisterConfig, Runtime
from softalign.errors import (
    CompatibilityError,
    ConfigError,
    DataError,
    LeaseLostError,
    RegistryError,
    StorageUnavailableError,
)
from softalign.registry import deciding, history, publishing, register, registry_of_store, rollback
from softalign.registry.connection import public_uri, registry_client, tracking_uri
from softalign.stages.table import row_of
from softalign.store.files import list_files
from softalign.store.leases import Contender
from softalign.store.metrics_log import read_metrics
from softalign.store.store import Store
from softalign.store.usage import keep_usage
from tests.killing import Fuse, is_killed
from tests.registry_samples import BASE, NAME, TAGS, publish_inputs, register_sample

VERSION_FILES = (
    "MLmodel",
    "README.md",
    "adapter_config.json",
    "metrics.jsonl",
    "soft_tokens.safetensors",
    "train_config.json",
)


@pytest.fixture
def client(store):
    with registry_client(registry_of_store(store)) as opened:
        yield opened


def test_a_run_holds_parameters_curves_scores_report_and_lineage(store, client):
    inputs = publish_inputs(store, 0.1)
    version = register_sample(store, 0.1)
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        **{"base_model": "shapes", "batch_size": "4", "dataset": inputs.adapter.dataset_digest[:12]},
        **{"learning_rate": "0.001", "num_negatives": "3"},
    }
    curve = client.get_metric_history(version.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(4 * i, 1 / (i + 1)) for i in range(1, 6)]
    assert run.data.metrics["val/accuracy"] == 0.75
    assert not {"val/loss", "train/is_skipped", "train/step"} & run.data.metrics.keys()
    assert run.data.tags["softalign.dataset_digest"] == inputs.adapter.dataset_digest
    assert run.data.tags["softalign.report_digest.base"] == inputs.reports.base.digest
    data, encoded = sorted((one.dataset for one in run.inputs.dataset_inputs), key=lambda dataset: dataset.name)
    assert (data.name, encoded.name) == ("softalign-test", "softalign-test-encoded")
    assert inputs.adapter.dataset_digest.startswith(data.digest)
    assert inputs.adapter.parents[0].startswith(encoded.digest)
    files = {
        folder: sorted(item.path for item in client.list_artifacts(version.run_id, folder))
        for folder in ("", "model", "report")
    }
    assert files[""] == ["gate.json", "model", "promotion.json", "report", "scores.json"]
    assert files["model"] == sorted(f"model/{name}" for name in (*VERSION_FILES, "initial"))
    assert "report/report.html" in files["report"]


def test_runs_are_compared_by_a_few_scores_and_all_of_them_are_a_table(store, client):
    run = client.get_run(register_sample(store, 0.1).run_id)
    compared = {name: value for name, value in run.data.metrics.items() if not name.startswith(("train/", "val/"))}
    assert set(compared) == {
        *(f"score/{arm}/overall" for arm in ("base", "untrained", "adapter")),
        *(f"score/adapter/{tag}" for tag in TAGS),
        *(f"gain/over_{other}{part}" for other in ("base", "untrained") for part in ("", "_ci_low")),
    }
    assert compared["score/adapter/overall"] == pytest.approx(BASE + 0.1)
    assert compared["gain/over_base_ci_low"] == pytest.approx(0.08)
    listed = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert {"path": "scores.json", "type": "table"} in listed
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "scores.json")).read_text())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert list(rows) == ["overall", *TAGS]
    assert rows["counting"]["base"] == BASE and rows["overall"]["over_base_ci_high"] == pytest.approx(0.12)


def test_a_run_and_its_experiment_are_described_in_sentences(store, client):
    run = client.get_run(register_sample(store, 0.1).run_id)
    said = run.data.tags["mlflow.note.content"]
    assert said.startswith("Soft text tokens for shapes, trained by ")
    assert said.endswith("it scores 60.0, the base model 50.0 and untrained tokens 50.0.")
    assert "Curves are over samples seen" in client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"]


def test_a_run_says_what_the_stages_cost_and_the_report_is_without_it(store, client):
    inputs = publish_inputs(store, 0.1)
    for record in (inputs.adapter, inputs.comparison):
        keep_usage(store, record, Usage(attempts=2, gpu_s=7.5))
    run = client.get_run(register_sample(store, 0.1).run_id)
    assert run.data.metrics["usage/gpu_s"] == 15.0
    stages = json.loads(Path(client.download_artifacts(run.info.run_id, "usage.json")).read_text())
    assert stages.keys() == {"train", "compare"} and stages["train"]["attempts"] == 2
    assert "report/usage.json" not in {item.path for item in client.list_artifacts(run.info.run_id, "report")}


def test_the_record_and_the_version_say_the_same(store, client):
    version = register_sample(store, 0.1)
    registered = client.get_model_version(NAME, str(version.version))
    assert version == store.find(ModelVersion, version.stage_key)
    assert version.alias == "champion" and registered.aliases == ["champion"]
    assert registered.description == version.reason
    assert registered.tags["softalign.stage_key"] == version.stage_key
    listed = {entry["path"]: entry["sha256"] for entry in json.loads(registered.tags["softalign.files"])}
    assert listed["soft_tokens.safetensors"] == version.weights_sha256
    published = b"".join(path.read_bytes() for path in Path(version.uri).iterdir())
    assert store.uri.encode() not in published and version.tracking_uri == "store"


def test_mlflow_itself_resolves_the_alias_and_reads_the_model(store, tmp_path, monkeypatch):
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    register_sample(store, 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_of_store(store))
    folder = download_artifacts(f"models:/{NAME}@champion", dst_path=str(tmp_path / "copy"))
    assert Model.load(folder).flavors["softalign"]["base_model"] == "shapes"
    assert b'"weights":"0.1 ' in (Path(folder) / "soft_tokens.safetensors").read_bytes()


def test_nothing_is_written_beside_the_store(store, tmp_path, capfd):
    register_sample(store, 0.1)
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "cache"}
    assert capfd.readouterr() == ("", "")


def test_the_same_key_again_makes_no_other_version_even_when_the_record_is_lost(store, client):
    first = register_sample(store, 0.1)
    (Path(first.uri) / "version.json").unlink()
    second = register_sample(store, 0.1)
    assert second.digest == first.digest
    assert (
        len(client.search_model_versions(f"name='{NAME}'")) == 1 and len(history(NAME, registry_of_store(store))) == 1
    )


def test_registering_again_after_a_rollback_does_not_bring_it_back(store, client):
    register_sample(store, 0.1)
    second = register_sample(store, 0.2)
    rollback(NAME, tracking_uri=registry_of_store(store))
    (Path(second.uri) / "version.json").unlink()
    assert register_sample(store, 0.2).digest == second.digest
    assert client.get_registered_model(NAME).aliases["champion"] == 1


def test_a_worse_candidate_becomes_challenger_with_the_reason(store, client):
    register_sample(store, 0.2)
    worse = register_sample(store, 0.1)
    assert worse.alias == "challenger" and "it scores 60.0, below the champion's 70.0" in worse.reason
    assert client.get_registered_model(NAME).aliases == {"champion": 1, "challenger": 2}
    assert client.get_model_version(NAME, "2").description == worse.reason


def test_reports_that_the_comparison_was_not_made_of_are_refused(store):
    one, other = publish_inputs(store, 0.1), publish_inputs(store, 0.2)
    config, key = RegisterConfig(name=NAME), digest_of("k")
    for reports, adapter in ((other.reports, one.adapter), (one.reports, other.adapter)):
        with pytest.raises(CompatibilityError, match="not made of what is registered"):
            register(adapter, one.comparison, reports, config, Runtime(), store, key)
    assert store.find(ModelVersion, key) is None


def test_a_version_whose_registry_is_gone_is_no_more_registered_and_registers_anew(store, empty_registry, tmp_path):
    register_sample(store, 0.05)
    before = register_sample(store, 0.1)
    row = row_of("register")
    assert row.published(before.stage_key, store) == before
    shutil.copytree(store.uri, tmp_path / "copy")  # MLflow keeps the file open that it knows
    store = Store(str(tmp_path / "copy"))
    database = tmp_path / "copy" / "mlflow.db"
    database.unlink()
    assert row.published(before.stage_key, store) is None
    shutil.copyfile(empty_registry / "mlflow.db", database)
    assert row.published(before.stage_key, store) is None, "another database"
    anew = register_sample(store, 0.1)
    assert (before.version, anew.version) == (2, 1) and row.published(anew.stage_key, store) == anew
    assert register_sample(store, 0.1) == anew


def test_a_newer_comparison_of_the_champion_stops_no_registration(store, client, caplog):
    register_sample(store, 0.1)
    tags = client.get_model_version(NAME, "1").tags
    newer = json.loads(tags["softalign.comparison"]) | {"more": 1}
    client.set_model_version_tag(NAME, "1", "softalign.comparison", json.dumps(newer))
    assert register_sample(store, 0.2).is_promoted
    assert "fields that are not known here" in caplog.text and "more" in caplog.text


STEPS = (
    "create_run",
    "log_batch",
    "log_inputs",
    "log_artifacts",
    "set_terminated",
    "create_model_version",
    "set_model_version_tag",
    "log_dict",
    "update_model_version",
    "set_registered_model_alias",
)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_after_any_step_is_continued_to_the_same_end(store_of_two, monkeypatch, step):
    class CrashError(RuntimeError):
        pass

    uri = registry_of_store(store_of_two)
    with registry_client(uri) as client:
        original = getattr(type(client), step)

        def crash(self, *args, **kwargs):
            original(self, *args, **kwargs)
            raise CrashError

        monkeypatch.setattr(type(client), step, crash)
        with pytest.raises(CrashError):
            register_sample(store_of_two, 0.3)
        monkeypatch.setattr(type(client), step, original)
        version = register_sample(store_of_two, 0.3)
        assert (version.version, version.alias) == (3, "champion")
        assert client.get_registered_model(NAME).aliases == {"champion": 3}
        assert [(event.version, event.previous_champion) for event in history(NAME, uri)] == [(1, None), (2, 1), (3, 2)]
        experiment = client.get_experiment_by_name("softalign").experiment_id
        assert len(client.search_runs([experiment])) == 3
        assert len(client.get_metric_history(version.run_id, "train/loss")) == 5


def test_a_decision_left_unfinished_is_made_again_when_the_champion_changed_meanwhile(store, monkeypatch):
    class CrashError(RuntimeError):
        pass

    def crash(*_args):
        raise CrashError

    monkeypatch.setattr(deciding, "append", crash)
    with pytest.raises(CrashError):
        register_sample(store, 0.1)
    monkeypatch.undo()
    register_sample(store, 0.2)
    late = register_sample(store, 0.1)
    assert (late.version, late.alias) == (1, "challenger")


def test_the_registry_comes_from_the_recipe_then_the_environment_then_the_store(store, monkeypatch):
    assert tracking_uri(Runtime(), store) == f"sqlite:///{store.uri}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri(Runtime(), store) == "http://127.0.0.1:1"
    assert tracking_uri(Runtime(tracking_uri="http://127.0.0.1:2"), store) == "http://127.0.0.1:2"
    assert public_uri("https://user:secret@registry.example:8443/x", store) == "https://registry.example:8443/x"


def test_a_remote_store_without_a_server_is_refused(store):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        tracking_uri(Runtime(), Store("s3://bucket/prefix"))


def test_a_dead_server_is_retriable_and_nothing_is_published(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    inputs = publish_inputs(store, 0.1)
    with pytest.raises(StorageUnavailableError, match="did not answer") as caught:
        register(
            inputs.adapter,
            inputs.comparison,
            inputs.reports,
            RegisterConfig(name=NAME),
            Runtime(tracking_uri="http://user:secret@127.0.0.1:9"),
            store,
            digest_of("key"),
        )
    assert caught.value.is_retriable and "secret" not in str(caught.value)
    assert store.find(ModelVersion, digest_of("key")) is None


@pytest.mark.parametrize("line", ["not json", '{"step": 1}', "[]"])
def test_a_damaged_training_log_is_named(store, line):
    path = Path(store.uri) / "metrics.jsonl"
    path.write_text('{"samples_seen": 4, "loss": 1.0, "is_finite": true}\n' + line + "\n")
    with pytest.raises(DataError, match=r"metrics.jsonl:2"):
        read_metrics(path)


def test_the_version_folder_is_the_same_bytes_every_time(store, tmp_path):
    from softalign.registry.model_folder import build_model_folder

    inputs = publish_inputs(store, 0.1)
    adapter, files = inputs.adapter, store.files(inputs.adapter)

    def build(name, files):
        path, compared = store.fetch(adapter), store.fetch(inputs.comparison)
        return build_model_folder(path, files, tmp_path / name, adapter, inputs.comparison, inputs.reports, compared)

    assert build("a", files) == build("b", files) == list_files(tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("# softalign-test\n\nA card.") and "| counting | 50.0 [50.0, 50.0] |" in card
    with pytest.raises(DataError, match=r"adapter_config\.json"):
        build("c", tuple(entry for entry in files if entry.path != "adapter_config.json"))


@pytest.mark.parametrize("address", ["foo://nowhere", "file:///nowhere", "sqlite:///{tmp_path}/damaged.db"])
def test_an_address_that_is_no_registry_is_refused_in_one_message(tmp_path, address):
    (tmp_path / "damaged.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryError, match=r"(?s)refused.*expected: a server"):
        history(NAME, address.format(tmp_path=tmp_path))


def test_a_registry_whose_making_was_killed_is_made_anew(tmp_path):
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    fuse = Fuse(25)

    def killed():
        event.listen(Engine, "after_execute", fuse.wrap(lambda *_: None))  # in this child alone
        with registry_client(uri) as client:
            client.search_registered_models()

    assert is_killed(killed)
    with registry_client(uri) as client:
        assert client.search_registered_models() == []


def test_of_two_that_register_the_same_at_once_both_return_the_first_version(store, monkeypatch, tmp_path):
    uri, key = registry_of_store(store), digest_of("the same")
    with registry_client(uri) as client:
        original = type(client).create_model_version

        def create_after_another(self, *args, **kwargs):
            monkeypatch.setattr(type(client), "create_model_version", original)
            other = register_sample(Store(str(tmp_path / "other")), 0.3, key=key, tracking_uri=uri)
            assert other.version == 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(type(client), "create_model_version", create_after_another)
        version = register_sample(store, 0.3, key=key)
        assert version.version == 1
        (registered,) = client.search_model_versions(f"name = '{NAME}'")
        assert registered.version == 1
        assert client.get_registered_model(NAME).aliases == {"champion": 1}
        assert [event.version for event in history(NAME, uri)] == [1]
        assert register_sample(Store(str(tmp_path / "third")), 0.3, key=key, tracking_uri=uri).version == 1


def test_the_record_of_who_published_first_is_everybodys(store, monkeypatch):
    key = digest_of("the same")
    publish = publishing._publish

    def publish_after_another(record, decision, store, work):
        other = record.model_copy(update={"reason": "as another process saw it"})
        (work / "other").mkdir()
        published.append(store.publish(other, work / "other"))
        return publish(record, decision, store, work)

    published = []
    monkeypatch.setattr(publishing, "_publish", publish_after_another)
    assert register_sample(store, 0.3, key=key) == published[0] == store.find(ModelVersion, key)


@pytest.mark.parametrize("step", ["create_model_version", "set_registered_model_alias"])
def test_who_lost_the_lease_meanwhile_registers_nothing(store, client, monkeypatch, step):
    lease = Contender(store.uri, "stages/register/k").attempt()
    monkeypatch.setattr(store, "held", (lease.held,))
    before = "set_terminated" if step == "create_model_version" else "create_model_version"
    original = getattr(type(client), before)

    def lose_it(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        lease.release()
        Contender(store.uri, "stages/register/k").attempt()
        return found

    monkeypatch.setattr(type(client), before, lose_it)
    monkeypatch.setattr(type(client), step, lambda *_, **__: pytest.fail("wrote to the registry"))
    with pytest.raises(LeaseLostError):
        register_sample(store, 0.3, key=digest_of("k"))
