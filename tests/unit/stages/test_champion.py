"""Which champion stands beside the arms: the registry's when a run begins, and the same one ever after."""

import logging

import pytest

from softalign.artifacts import DatasetManifest, EvalReport, ModelVersion
from softalign.config import load_recipe
from softalign.errors import StorageUnavailableError
from softalign.registry import pinned_champion, registry_of_store
from softalign.stages import champion
from softalign.stages.champion import pinned, with_champion
from softalign.stages.plan import plan
from softalign.stages.published import Published
from softalign.stages.requests import asking
from softalign.stages.table import steps_of
from softalign.store.store import Store
from tests.registry_samples import comparison_of, register_sample
from tests.sample_records import ADAPTER, ENCODED
from tests.steps import key_of

NAME = "softalign-shapes"
PIN, LATER = f"{NAME}/1#{'1' * 64}", f"{NAME}/2#{'2' * 64}"
ALL = ("evaluate", "compare", "register")


@pytest.fixture
def recipe():
    return load_recipe("shapes", ["evaluate.reference_guidance_scale=null"])


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(str(tmp_path / "store"))


@pytest.fixture
def registry(monkeypatch):
    """Return a function that sets what the registry answers."""
    return lambda answer: monkeypatch.setattr("softalign.registry.pinned_champion", answer)


def record_of(step, key):
    match step.row.name:
        case "curate":
            counts = {"num_samples": 10, "num_captions": 20, "num_val_samples": 1, "total_bytes": 1}
            return DatasetManifest(stage_key=key, name="shapes", num_shards=1, num_seen=12, **counts)
        case "encode":
            return ENCODED.model_copy(update={"stage_key": key})
        case "train":
            return ADAPTER.model_copy(update={"stage_key": key})
        case "evaluate":
            scores = dict.fromkeys(("overall_score", "overall_ci_low", "overall_ci_high"), 0.5)
            counts = dict.fromkeys(("num_images", "num_prompts", "num_prompts_any_correct"), 1)
            named = {"arm": step.arm, "suite": "shapes", "adapter_digest": "", "tags": (), "guidance_scale": 1.0}
            return EvalReport(stage_key=key, **named, **scores, **counts)
        case "compare":
            return comparison_of(0.1, key=key, champion=step.recipe.evaluate.pinned_champion)
        case _:
            texts = {"alias": "champion", "reason": "r", "run_id": "i", "tracking_uri": "http://x"}
            return ModelVersion(stage_key=key, name=NAME, version=2, is_promoted=True, weights_sha256="w", **texts)


def publish_chain(recipe, store, last="register"):
    published = Published()
    for step in steps_of(recipe):
        request = step.request(published, store)
        folder = store.work_path(step.row.name, request.key) / "out"
        (folder / "initial").mkdir(parents=True)
        (folder / "initial" / "soft_tokens.safetensors").write_bytes(b"0")
        (folder / "initial" / "adapter_config.json").write_text('{"placement": {}}')
        with asking(request, store):
            published = published.plus(step.label, store.publish(record_of(step, request.key), folder))
        if step.row.name == last:
            return


def test_the_champion_is_an_arm_of_its_own_that_changes_no_other_arms_key(recipe, store):
    beside = pinned(recipe, PIN)
    assert beside.evaluate.arms == (*recipe.evaluate.arms, "champion")
    for label in ("evaluate (base)", "evaluate (untrained)", "evaluate (adapter)"):
        assert key_of(beside, label, store) == key_of(recipe, label, store)
    assert key_of(beside, "evaluate (champion)", store) != key_of(pinned(recipe, LATER), "evaluate (champion)", store)
    assert key_of(beside, "compare", store) != key_of(recipe, "compare", store)
    assert key_of(pinned(recipe, "none"), "compare", store) == key_of(recipe, "compare", store)
    compare = next(step for step in steps_of(beside) if step.label == "compare")
    assert "evaluate (champion)" in compare.parents


def test_a_rerun_takes_the_champion_of_its_comparison_and_asks_nobody(recipe, store, registry):
    registry(lambda *_: PIN)
    begun = with_champion(recipe, store, ALL)
    assert begun.evaluate.champion == PIN
    publish_chain(begun, store)
    registry(lambda *_: pytest.fail("asked the registry"))  # where the version is champion itself by now
    assert with_champion(recipe, store, ALL) == begun
    assert {row.state for row in plan(recipe, store)} == {"done"}


def test_an_unfinished_run_takes_the_champion_there_is_now_unless_the_arms_are_drawn_already(recipe, store, registry):
    publish_chain(pinned(recipe, PIN), store, last="compare")
    registry(lambda *_: LATER)
    assert with_champion(recipe, store, ALL).evaluate.champion == LATER
    assert with_champion(recipe, store, ("register",)).evaluate.champion == PIN
    assert {row.label: row.state for row in plan(recipe, store)}["evaluate (champion)"] == "run"


def test_a_champion_that_cannot_be_looked_up_is_left_out_and_a_named_one_is_taken(recipe, store, registry, caplog):
    def away(*_):
        raise StorageUnavailableError("The model registry did not answer.")

    registry(away)
    assert with_champion(recipe, store, ALL).evaluate.champion == "none"
    assert "Compared without the champion" in caplog.text and "did not answer" in caplog.text
    for named in ("none", PIN):
        assert with_champion(pinned(recipe, named), store, ALL).evaluate.champion == named


def test_the_registry_names_its_champion_by_number_and_content(store, caplog):
    caplog.set_level(logging.WARNING, logger="softalign")
    uri = registry_of_store(store)
    assert pinned_champion(NAME, "shapes", uri) == ""
    version = register_sample(store, 0.1, name=NAME)
    assert pinned_champion(NAME, "shapes", uri) == f"{NAME}/1#{version.weights_sha256}"
    assert pinned_champion("another", "shapes", uri) == ""
    assert pinned_champion(NAME, "another model", uri) == ""
    assert "it is of another base model, shapes" in caplog.text
    assert champion.with_champion(load_recipe("shapes"), store, ALL).evaluate.champion.endswith(version.weights_sha256)
