"""The gate and the history against the stack's MLflow server: Postgres, a bucket, several who share nothing else."""

import json
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from softalign.artifacts import digest_of
from softalign.config import PromotionPolicy
from softalign.errors import IntegrityError, RegistryError
from softalign.evaluation.versions import compare_versions
from softalign.registry import history, promote, pull, pulling, rollback
from softalign.registry.connection import registry_client
from softalign.store.store import Store
from tests.killing import Fuse, is_killed
from tests.promoting import agreed, promote_at_once
from tests.registry_samples import register_sample


@pytest.fixture
def uri(stack, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    return stack.exports["MLFLOW_TRACKING_URI"]


@pytest.fixture
def register(uri, tmp_path):
    """Return a function that registers a sample under a name, from one store."""
    store = Store(str(tmp_path / "store"))

    def register(name, gain, **fields):
        key = digest_of([name, gain])  # the stack's other tests register samples too: no run is shared
        return register_sample(store, gain, name=name, tracking_uri=uri, key=key, **fields)

    return register


def test_the_gate_decides_and_people_promote_roll_back_and_compare(uri, register):
    name = "gate-decides"
    first = register(name, 0.125)
    pin = f"{name}/1#{first.weights_sha256}"
    beside = {
        "loss": register(name, 0.1, champion=pin, beside=-0.04),
        "few": register(name, 0.3, policy=PromotionPolicy(min_images=100)),
        "tie": register(name, 0.15, champion=pin, beside=0.0, half_width=0.01),
    }
    assert first.is_promoted and [one.is_promoted for one in beside.values()] == [False, False, True]
    assert "not enough to say it is as good as the champion" in beside["loss"].reason
    assert "too few images: 24 an arm, of 100 asked" in beside["few"].reason
    won = register(name, 0.375, champion=f"{name}/4#{beside['tie'].weights_sha256}", beside=0.2)
    assert won.is_promoted and f"Beside champion {name}/4: +20.0 points" in won.reason
    assert agreed(uri, name) == 5
    assert promote(name, 2, "wanted for its style", uri).previous_champion == 5
    assert rollback(name, "it broke", uri).version == 5 == agreed(uri, name)
    events = history(name, uri)
    assert [event.action for event in events] == ["register"] * 5 + ["promote", "rollback"]
    found = compare_versions(f"{name}/1", f"{name}@champion", uri)
    assert (found.b, found.differences[0].difference) == (f"{name}/5", 0.25)
    with registry_client(uri) as client:
        table = client.get_model_version(name, "5")
        assert json.loads(table.tags["softalign.decision"])["is_promoted"]
        assert {item.path for item in client.list_artifacts(table.run_id)} >= {"gate.json", "promotion.json"}


def test_asking_again_about_the_same_weights_is_counted_and_widens_the_intervals(uri, tmp_path):
    """The same weights in three evaluations: what passed at the first look does not at the third."""
    name, answers = "gate-looks", []
    for number in range(3):
        store = Store(str(tmp_path / f"store {number}"))
        look = {"half_width": 0.02, "guidance_scale": 1.0 + number, "key": digest_of([name, number])}
        answers.append(register_sample(store, 0.022, name=name, tracking_uri=uri, **look))
    assert len({one.weights_sha256 for one in answers}) == 1
    looks = [event.look for event in history(name, uri)]
    assert [look.number for look in looks] == [1, 2, 3]
    assert len({look.comparison_digest for look in looks}) == 3 and {look.num_images for look in looks} == {24}
    assert answers[0].is_promoted and not answers[2].is_promoted
    assert "It is look 3 at these weights" in answers[2].reason


@pytest.mark.slow
def test_of_eight_at_once_in_twenty_rounds_history_and_alias_always_agree(uri, register):
    name = "gate-eight"
    for gain in (0.1, 0.2, 0.3):
        register(name, gain)
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            answers = promote_at_once(pool, uri, name, [1, 2, 3, 1, 2, 3, 1, 2], f"round {number}")
            assert any(answers)


def test_of_four_at_once_history_and_alias_agree(uri, register):
    name = "gate-four"
    for gain in (0.1, 0.2):
        register(name, gain)
    with ThreadPoolExecutor(4) as pool:
        for number in range(2):
            promote_at_once(pool, uri, name, [1, 2, 1, 2], f"round {number}")


def test_a_registration_that_was_killed_is_one_version_and_one_run_in_the_end(uri, register):
    name = "gate-killed"
    register(name, 0.1)
    for number, num_calls in enumerate((3, 6)):
        gain = 0.2 + number / 10

        def killed(num_calls=num_calls, gain=gain):
            with registry_client(uri) as client:
                fuse = Fuse(num_calls)
                for call in ("log_batch", "create_model_version", "set_model_version_tag", "log_dict"):
                    setattr(type(client), call, fuse.wrap(getattr(type(client), call)))
            register(name, gain)

        assert is_killed(killed)
        version = register(name, gain)
        assert version.version == number + 2 == agreed(uri, name)
        with registry_client(uri) as client:
            assert len(client.search_model_versions(f"name = '{name}'")) == number + 2
            runs = client.search_runs([client.get_run(version.run_id).info.experiment_id])
            assert [run.info.run_id for run in runs].count(version.run_id) == 1
            assert sum(run.data.tags.get("softalign.stage_key") == version.stage_key for run in runs) == 1


def test_what_was_changed_in_the_bucket_is_refused(stack, uri, register, tmp_path):
    version = register("gate-tampered", 0.1)
    keys = {"key": stack.exports["AWS_ACCESS_KEY_ID"], "secret": stack.exports["AWS_SECRET_ACCESS_KEY"]}
    bucket = fsspec.filesystem("s3", endpoint_url=stack.exports["AWS_ENDPOINT_URL"], **keys)
    (stored,) = bucket.glob(f"softalign/mlflow/**/{version.run_id}/artifacts/model/soft_tokens.safetensors")
    bucket.pipe_file(stored, bucket.cat_file(stored)[:-1] + b"?")
    with pytest.raises(IntegrityError, match="gate-tampered/1"):
        pull("gate-tampered@champion", tmp_path / "out", tracking_uri=uri)
    assert not (tmp_path / "out" / "soft_tokens.safetensors").exists()


def test_an_alias_that_moves_during_a_pull_changes_nothing_of_it(uri, register, tmp_path, monkeypatch):
    name = "gate-moving"
    for gain in (0.1, 0.2):
        register(name, gain)
    original = pulling.registered_files

    def moved_meanwhile(version):
        monkeypatch.setattr(pulling, "registered_files", original)
        promote(name, 1, "in the middle of a pull", uri)
        return original(version)

    monkeypatch.setattr(pulling, "registered_files", moved_meanwhile)
    folder = pull(f"{name}@champion", tmp_path / "out", tracking_uri=uri)
    assert (folder / "soft_tokens.safetensors").read_bytes()[8:].startswith(b'{"__metadata__":{"weights":"0.2 ')
    assert agreed(uri, name) == 1
    with pytest.raises(RegistryError, match="no version 3"):
        promote(name, 3, "not there", uri)
