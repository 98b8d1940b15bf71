"""What is there is reused, what changed runs, and plan says which."""

import time

import pytest

from softalign.artifacts import DatasetManifest, EvalReport
from softalign.config import load_recipe
from softalign.data.encoding.budget import DIGEST_BYTES
from softalign.errors import DataError, MissingInputError
from softalign.stages.diagnosing import published_through
from softalign.stages.published import Published
from softalign.stages.requests import StageRequest
from softalign.stages.run import require
from softalign.stages.table import steps_of
from softalign.store.files import list_files
from softalign.store.store import Store
from tests.killing import exit_codes
from tests.sample_records import ADAPTER
from tests.steps import key_of, request_of, run_stage, step_of


def publish_dataset(recipe, store):
    key = key_of(recipe, "curate")
    folder = store.work_path("curate", key) / "out"
    folder.mkdir(parents=True)
    (folder / "shard-000000.tar").write_bytes(b"x" * 100)
    counts = {"num_samples": 10, "num_captions": 20, "num_val_samples": 1, "num_shards": 1, "num_seen": 12}
    return store.publish(DatasetManifest(stage_key=key, name="shapes", total_bytes=100, **counts), folder)


def test_a_published_stage_is_reused_without_calling_the_library(tmp_path, monkeypatch):
    recipe, store = load_recipe("shapes"), Store(str(tmp_path))
    published = publish_dataset(recipe, store)
    from softalign.data.curation import pipeline

    monkeypatch.setattr(pipeline, "curate", lambda *_: pytest.fail("ran again"))
    result = run_stage(recipe, "curate", store)
    assert result.is_reused
    assert result.record.digest == published.digest
    assert "already there" in result.message


def test_two_writers_of_one_request_give_one_output(tmp_path):
    source = "curation.sources=[{type: shapes, num_scenes: 300, seed: 1}]"
    recipe = load_recipe("shapes", [source, "curation.samples_per_shard=20"])
    expected = run_stage(recipe, "curate", Store(str(tmp_path / "alone"))).record
    store = Store(str(tmp_path / "shared"))

    def work(rank):
        time.sleep(0.2 * rank)
        assert run_stage(recipe, "curate", store).record.digest == expected.digest

    assert exit_codes(work, 3) == [0, 0, 0]
    published = store.find(DatasetManifest, expected.stage_key)
    assert published.files_digest == expected.files_digest
    assert not [entry.path for entry in list_files(tmp_path / "shared") if entry.path.rpartition("/")[2][0] == "."]
    assert not store.work_path("curate", "x").parent.joinpath(expected.stage_key).exists()


def test_a_changed_configuration_is_another_key():
    before = load_recipe("shapes")
    after = load_recipe("shapes", ["curation.val_share=0.2"])
    assert key_of(before, "curate") != key_of(after, "curate")


def test_a_changed_source_is_another_key(tmp_path):
    (tmp_path / "images").mkdir()
    table = tmp_path / "captions.json"
    table.write_text("{}")
    source = f"[{{type: coco, annotations_uri: {table}, images_uri: {tmp_path / 'images'}}}]"
    recipe = load_recipe("shapes", [f"curation.sources={source}"])
    first = key_of(recipe, "curate")
    assert key_of(recipe, "curate") == first
    table.write_text('{"images": []}')
    second = key_of(recipe, "curate")
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    assert len({first, second, key_of(recipe, "curate")}) == 3


def test_the_base_arm_does_not_depend_on_the_adapter_and_runtime_changes_no_key(tmp_path):
    recipe, store = load_recipe("shapes"), Store(str(tmp_path))
    other = load_recipe("shapes", ["train.num_steps=7", "runtime.generation_batch_size=3"])
    assert key_of(recipe, "evaluate (base)", store) == key_of(other, "evaluate (base)", store)


def test_the_reference_changes_no_key_of_the_arms_and_is_a_key_of_its_own(tmp_path):
    store = Store(str(tmp_path))
    recipe = load_recipe("shapes")
    without = load_recipe("shapes", ["evaluate.reference_guidance_scale=null"])
    stronger = load_recipe("shapes", ["evaluate.reference_guidance_scale=3"])
    assert recipe.evaluate.arms == (*without.evaluate.arms, "guided_base")
    assert len({key_of(one, "evaluate (base)", store) for one in (recipe, without, stronger)}) == 1
    assert len({key_of(one, "evaluate (guided base)", store) for one in (recipe, stronger)}) == 2


def test_a_sweep_adds_arms_whose_keys_are_those_of_recipes_with_that_guidance(tmp_path):
    store, recipe = Store(str(tmp_path)), load_recipe("shapes")
    swept = load_recipe("shapes", ["evaluate.guidance_sweep=[1,3,1.5]"])
    added = [step.label for step in steps_of(swept) if step.label not in {step.label for step in steps_of(recipe)}]
    assert added == [
        f"evaluate ({arm} at guidance {at})" for at in ("3", "1.5") for arm in ("base", "untrained", "adapter")
    ]
    stronger = load_recipe("shapes", ["evaluate.guidance_scale=3"])
    for arm in ("base", "adapter"):
        own, at_3 = f"evaluate ({arm})", f"evaluate ({arm} at guidance 3)"
        assert key_of(swept, own, store, ADAPTER) == key_of(recipe, own, store, ADAPTER)
        assert key_of(swept, at_3, store, ADAPTER) == key_of(stronger, own, store, ADAPTER)
    assert set(added) < set(step_of(swept, "compare").parents)
    assert step_of(swept, "evaluate (base at guidance 3)").parents == ()
    asked = request_of(recipe, "compare", store, ADAPTER)
    assert "guidance_sweep" not in asked.config["evaluate"]  # as it was before there were any
    assert asked.key != key_of(swept, "compare", store, ADAPTER)


def test_metrics_are_asked_of_arms_with_the_content_of_their_models(tmp_path):
    store, recipe, model = Store(str(tmp_path / "store")), load_recipe("shapes"), tmp_path / "clip"
    model.mkdir()
    scored = load_recipe("shapes", [f"evaluate.metrics=[{{name: clip_score, model: {model}}}]"])
    keys = []
    for content in ("{}", '{"a": 1}'):
        (model / "config.json").write_text(content)
        keys.append(key_of(scored, "evaluate (base)", store))
    assert len({*keys, key_of(recipe, "evaluate (base)", store)}) == 3
    assert key_of(scored, "evaluate (guided base)", store) == key_of(recipe, "evaluate (guided base)", store)
    assert key_of(scored, "compare", store, ADAPTER) != key_of(recipe, "compare", store, ADAPTER)


def test_a_distance_is_asked_of_arms_with_the_content_of_its_reference_at_every_guidance(tmp_path):
    store, recipe, reference = Store(str(tmp_path / "store")), load_recipe("shapes"), tmp_path / "r.npz"
    asked = [f"evaluate.distance={{reference: {reference}, features: org/model}}", "evaluate.guidance_sweep=[3]"]
    measured, plain = load_recipe("shapes", asked), load_recipe("shapes", asked[1:])
    for label in ("evaluate (base)", "evaluate (base at guidance 3)"):
        keys = []
        for content in (b"a", b"b"):
            reference.write_bytes(content)
            keys.append(key_of(measured, label, store))
        assert len({*keys, key_of(plain, label, store)}) == 3
    assert key_of(measured, "evaluate (guided base)", store) == key_of(recipe, "evaluate (guided base)", store)
    assert key_of(measured, "compare", store, ADAPTER) != key_of(plain, "compare", store, ADAPTER)


def test_reports_of_a_sweep_stand_beside_the_arms():
    scores = dict.fromkeys(("overall_score", "overall_ci_low", "overall_ci_high"), 0.5)
    counts = dict.fromkeys(("num_images", "num_prompts", "num_prompts_any_correct"), 1)
    one = EvalReport(
        stage_key="k", arm="base", suite="shapes", adapter_digest="", tags=(), guidance_scale=1.0, **scores, **counts
    )
    other = one.model_copy(update={"guidance_scale": 3.0})
    published = Published().plus("evaluate (base)", one).plus("evaluate (base at guidance 3)", other)
    assert (published.eval_reports, published.sweep_reports) == ((one,), (other,))


def test_how_soft_tokens_act_changes_no_key_of_the_arms_without_any(tmp_path):
    store, recipe = Store(str(tmp_path)), load_recipe("shapes")
    for override in ("evaluate.scale=0.5", "evaluate.use_ema=true"):
        other = load_recipe("shapes", [override])
        for label in ("evaluate (base)", "evaluate (guided base)"):
            assert key_of(other, label, store) == key_of(recipe, label, store)
        assert key_of(other, "evaluate (adapter)", store) != key_of(recipe, "evaluate (adapter)", store)


def test_a_missing_stage_says_what_to_run(tmp_path):
    recipe = load_recipe("shapes")
    for label, command in (("curate", "curate"), ("compare", "evaluate")):
        with pytest.raises(MissingInputError, match=f"`softalign {command} RECIPE` first, with the same"):
            require(step_of(recipe, label), Published(), Store(str(tmp_path)))


def test_the_advice_is_of_the_command_that_asked(tmp_path):
    recipe, store = load_recipe("shapes"), Store(str(tmp_path))
    with pytest.raises(MissingInputError) as walked:
        require(step_of(recipe, "curate"), Published(), store)
    assert walked.value.fix.endswith("or repeat with --through")
    for last in ("encode", "train"):
        with pytest.raises(MissingInputError) as looked:
            published_through(last, recipe, store)
        assert "`softalign curate RECIPE` first" in looked.value.fix
        assert f"or `softalign {last} RECIPE --through`" in looked.value.fix and "repeat" not in looked.value.fix


def test_plan_of_an_empty_store_and_after_curation(tmp_path):
    from softalign.stages.plan import plan

    recipe, store = load_recipe("shapes"), Store(str(tmp_path))
    rows = plan(recipe, store)
    states = [row.state for row in rows]
    assert rows[0].predicted_bytes > 0
    assert plan(load_recipe("shapes", ["curation.image_format=webp"]), store)[0].predicted_bytes is None
    assert [row.label for row in rows][:3] == ["curate", "encode", "train"]
    assert states == ["run", "wait", "wait", "run", "wait", "wait", "run", "wait", "wait"]
    assert list(tmp_path.iterdir()) == []
    dataset = publish_dataset(recipe, store)
    rows = plan(recipe, store)
    assert [row.state for row in rows][:3] == ["done", "run", "wait"]
    text = (16 + 8) * 256 + 256  # CLIP's positions and T5's zeros, and the pooled states
    latent_and_text = 2 * (10 * 4 * 4 * 16 + 21 * text)  # the empty text is one too
    assert rows[1].predicted_bytes == latent_and_text + 31 * DIGEST_BYTES
    assert rows[1].uri == store.prefix("encode", key_of(recipe, "encode", store, dataset))
    hard = load_recipe("shapes", ["train.negatives.num_hard=2"])
    assert plan(hard, store)[1].predicted_bytes == 2 * (10 * 4 * 4 * 16 + 61 * text) + 71 * DIGEST_BYTES
    assert key_of(hard, "encode", store, dataset) != key_of(recipe, "encode", store, dataset)
    other = load_recipe("shapes", ["curation.val_share=0.2"])
    reason = plan(other, store)[0].reason
    assert "differ from what is published (1), which does not say what it was asked for" in reason


@pytest.mark.parametrize("table", ['{"images": ', "[1, 2]", '{"images": 5}', "[" * 100_000, '{"images": [1]}'])
def test_a_captions_file_that_cannot_be_used_is_named_by_plan_and_curate(tmp_path, table):
    from softalign.stages.plan import plan

    path = tmp_path / "captions.json"
    path.write_text(table)
    source = f"curation.sources=[{{type: coco, annotations_uri: {path}, images_uri: {tmp_path}}}]"
    recipe, store = load_recipe("shapes", [source]), Store(str(tmp_path / "store"))
    with pytest.raises(DataError, match=r"captions\.json"):
        run_stage(recipe, "curate", store)
    row = plan(recipe, store)[0]
    assert (row.state, "captions.json" in row.reason) == ("blocked", True)


def test_a_chain_up_to_a_stage_needs_the_earlier_ones(tmp_path):
    from softalign.stages.chain import run_until

    with pytest.raises(MissingInputError, match="curate"):
        run_until("encode", load_recipe("shapes"), Store(str(tmp_path)), lambda _: None, is_through=False)


@pytest.mark.parametrize(
    ("family", "values_per_latent", "values_per_text", "token_values"),
    [
        ("sd15", 4 * 64 * 64, 77 * 768, (2 * 4 + 100) * 768),
        ("sdxl", 4 * 64 * 64, 77 * 2048 + 1280, (2 * 4 + 100) * 2048),
        ("sd3", 16 * 64 * 64, (77 + 256) * 4096 + 2048, (2 * 4 + 100) * 5 * 1536),
    ],
)
def test_a_plan_knows_the_sizes_of_published_models(
    tmp_path, monkeypatch, family, values_per_latent, values_per_text, token_values
):
    from softalign.stages import plan as planning
    from softalign.stages.plan import plan

    monkeypatch.setattr(planning, "check_machine", lambda _recipe: None)
    overrides = [f"backbone={{family: {family}, model: some/model}}", "train.num_steps=1"]
    recipe, store = load_recipe("shapes-unet", overrides), Store(str(tmp_path))
    publish_dataset(recipe, store)
    rows = plan(recipe, store)
    assert rows[1].predicted_bytes == 2 * (10 * values_per_latent + 21 * values_per_text) + 31 * DIGEST_BYTES
    assert rows[2].predicted_bytes == 3 * 4 * token_values + 300


def test_every_part_of_a_request_changes_its_key():
    asked = {
        "stage": "train",
        "variant": "v",
        "config": {"train": {"seed": 0}},
        "content": {"m": "c"},
        "inputs": {"encode": "e"},
    }
    changes = [
        {"stage": "encode"},
        {"variant": "w"},
        {"config": {"train": {"seed": 1}}},
        {"content": {"m": "d"}},
        {"inputs": {"encode": "f"}},
        {"library_version": "0.0"},
    ]
    keys = [StageRequest(**{**asked, **change}).key for change in ({}, *changes)]
    assert len(set(keys)) == len(keys)
    assert set(StageRequest.model_fields) - {"schema_version"} == {name for change in changes for name in change}
