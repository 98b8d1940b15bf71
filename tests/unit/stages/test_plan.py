"""A plan has a row for every stage of every recipe: why it cannot run here, or what changed so that it runs again."""

import json
import re
from pathlib import Path

import pytest

from softalign.artifacts import Adapter, DatasetManifest
from softalign.config import load_recipe
from softalign.errors import ConfigError, DataError, MissingInputError
from softalign.stages import checks
from softalign.stages import plan as planning
from softalign.stages.plan import plan, plan_text
from softalign.stages.preflight import check_chain
from softalign.stages.readiness import check_ready
from softalign.stages.requests import asking
from softalign.stages.what_changed import changes, nearest_changes
from softalign.store.store import Store
from tests.sample_records import ENCODED
from tests.steps import request_of, run_stage

COUNTS = {"num_samples": 10, "num_captions": 20, "num_val_samples": 1, "total_bytes": 1}


def publish(store, record, request, *, has_request=True):
    folder = store.work_path(record.stage, record.stage_key) / "out"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(record.stage_key.encode())
    if not has_request:
        return store.publish(record, folder)
    with asking(request, store):
        return store.publish(record, folder)


def publish_dataset(recipe, store, **options):
    request = request_of(recipe, "curate")
    record = DatasetManifest(stage_key=request.key, name="shapes", num_shards=1, num_seen=12, **COUNTS)
    return publish(store, record, request, **options)


def publish_encoded(recipe, store, dataset):
    request = request_of(recipe, "encode", store, dataset)
    record = ENCODED.model_copy(update={"stage_key": request.key})
    return publish(store, record, request)


def coco(table, images):
    return f"curation.sources=[{{type: coco, annotations_uri: {table}, images_uri: {images}}}]"


def rows_of(recipe, store):
    return {row.label: row for row in plan(recipe, store)}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def photographs(tmp_path):
    """A recipe's overrides for photographs that are there, and a hub model that is not."""
    (tmp_path / "images").mkdir()
    table = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(table))
    detector = "evaluate.detector.segmenter=./nowhere"
    known = coco(tmp_path / "captions.json", tmp_path / "images")
    return [known, "backbone={family: sd15}", "evaluate.suite=geneval", detector]


def test_a_recipe_of_photographs_runs_up_to_its_images_and_says_why_no_further(store, photographs, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    recipe = load_recipe("shapes-unet", photographs)
    rows = rows_of(recipe, store)
    assert [row.state for row in rows.values()] == ["run", "wait", "wait", *["blocked"] * 5]
    assert "downloads stable-diffusion-v1-5/stable-diffusion-v1-5 first" in rows["encode"].reason
    assert "no such model of the detector" in rows["evaluate (base)"].reason
    assert "softalign geneval score" in rows["evaluate (base)"].fix
    assert rows["evaluate (adapter)"].reason.startswith(
        "draws 2,212 images, about 7 min (an estimate, on one A100), then"
    )
    assert rows["evaluate (base)"].predicted_images == 2212
    assert 6.5 < rows["evaluate (base)"].predicted_minutes < 7.5  # without guidance
    assert "it needs evaluate" in rows["compare"].reason
    assert "it needs compare" in rows["register"].reason
    text = plan_text(plan(recipe, store))
    assert text.count("softalign geneval score DIR") == 1
    assert len(text.splitlines()) == 9
    check_ready(recipe, store)
    assert "draws its images and stops then: There is no such model of the detector." in caplog.text


def test_without_the_hub_a_model_that_is_not_cached_blocks_what_needs_it(store, photographs, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    rows = rows_of(load_recipe("shapes-unet", photographs), store)
    assert [rows[label].state for label in ("curate", "encode", "train")] == ["run", "blocked", "blocked"]
    assert "HF_HUB_OFFLINE" in rows["encode"].reason
    monkeypatch.setattr(checks, "uncached_models", lambda _backbone: ())
    monkeypatch.setattr(planning, "uncached_models", lambda _backbone: ())
    rows = rows_of(load_recipe("shapes-unet", photographs), store)
    assert (rows["encode"].state, rows["encode"].reason) == ("wait", "waits for curate")


@pytest.mark.parametrize(
    ("override", "blocked_from", "said", "error", "possible"),
    [
        ("backbone.model=./nowhere", "encode", "no such folder of a base model", MissingInputError, "curate"),
        ("backbone.vae=/nowhere/vae", "encode", "backbone.vae", MissingInputError, "curate"),
        ("train.init_from=nowhere", "train", "nowhere/adapter_config.json", MissingInputError, "encode"),
        ("evaluate.suite=geneval", "evaluate (base)", "GenEval's prompts", ConfigError, "train"),
        ("runtime.tracking_uri=null", "register", "no SQLite registry", ConfigError, "evaluate"),
        (coco("captions.json", "nowhere"), "curate", "no folder of images", MissingInputError, "plan"),
        (coco("nowhere.json", "images"), "curate", "nowhere.json", MissingInputError, "plan"),
    ],
)
def test_each_obstacle_is_a_row_and_a_refusal_that_says_what_can_run(
    tmp_path, photographs, monkeypatch, override, blocked_from, said, error, possible
):
    monkeypatch.chdir(tmp_path)
    store = Store("memory://plans" if blocked_from == "register" else "store")
    recipe = load_recipe("shapes-unet", [override])
    blocked = [row for row in plan(recipe, store) if row.state == "blocked"]
    assert (blocked[0].label, said in blocked[0].reason) == (blocked_from, True), blocked[0]
    assert blocked[-1].label == "register"
    with pytest.raises(error, match=f"`softalign {possible} RECIPE"):
        check_chain(recipe, store)


def test_a_stage_that_is_published_is_done_whatever_stands_in_its_way(store, monkeypatch):
    recipe = load_recipe("shapes-unet")
    publish_encoded(recipe, store, publish_dataset(recipe, store))
    monkeypatch.setattr(planning, "obstacle", lambda *_: ConfigError("Nothing works."))
    rows = rows_of(recipe, store)
    assert [rows[label].state for label in ("curate", "encode", "train", "evaluate (base)")] == [
        *("done", "done"),
        *("blocked", "blocked"),
    ]


def test_a_plan_names_the_field_that_makes_a_stage_run_again(store):
    recipe = load_recipe("shapes-unet")
    dataset = publish_dataset(recipe, store)
    encoded = publish_encoded(recipe, store, dataset)
    faster = load_recipe("shapes-unet", ["train.optimizer.learning_rate=0.006"])
    assert rows_of(faster, store)["train"].reason == "this store has no output of this stage"
    request = request_of(recipe, "train", store, encoded)
    with asking(request, store):
        folder = store.work_path("train", "x") / "out"
        folder.mkdir()
        texts = ("name", "base_model", "base_model_revision", "backbone_digest", "family", "objective")
        texts += ("weights_sha256", "dataset_digest")
        numbers = ("num_parameters", "num_steps", "samples_seen")
        store.publish(Adapter(stage_key=request.key, **dict.fromkeys(texts, "x"), **dict.fromkeys(numbers, 1)), folder)
    row = rows_of(faster, store)["train"]
    assert (row.state, row.reason) == ("run", "train.optimizer.learning_rate: 0.003 -> 0.006")
    assert row.model_dump()["changes"] == (
        {"kind": "field", "name": "train.optimizer.learning_rate", "before": 0.003, "after": 0.006, "cause": ()},
    )
    both = load_recipe("shapes-unet", ["train.optimizer.learning_rate=0.006", "curation.val_share=0.2"])
    rows = rows_of(both, store)
    assert rows["curate"].reason == "curation.val_share: 0.05 -> 0.2"
    assert rows["encode"].reason == "waits for curate"
    assert rows["train"].reason == "waits for encode; train.optimizer.learning_rate: 0.003 -> 0.006"
    other_dataset = publish_dataset(both, store)
    assert other_dataset.digest != dataset.digest
    assert rows_of(both, store)["encode"].reason == "another output of curate (curation.val_share: 0.05 -> 0.2)"


def test_a_plan_compares_with_the_nearest_output_and_the_latest_of_the_nearest(store):
    def curated(*overrides):
        return load_recipe("shapes-unet", overrides)

    for overrides in (["curation.val_share=0.2", "curation.samples_per_shard=7"], ["curation.val_share=0.3"]):
        publish_dataset(curated(*overrides), store)
    assert rows_of(curated(), store)["curate"].reason == "curation.val_share: 0.3 -> 0.05"
    assert "of other recipes" in rows_of(curated("curation.name=other"), store)["curate"].reason


def test_many_changes_are_counted_and_all_of_them_are_in_the_json(store):
    overrides = ["curation.val_share=0.2", "curation.samples_per_shard=7", "curation.filters.min_side_px=64"]
    publish_dataset(load_recipe("shapes-unet"), store)
    row = rows_of(load_recipe("shapes-unet", [*overrides, "curation.filters.max_aspect_ratio=9"]), store)["curate"]
    assert row.reason.endswith("; and 1 more")
    assert len(row.changes) == 4


def test_another_version_of_the_library_is_named(store, monkeypatch):
    from softalign import version
    from softalign.stages import requests

    recipe = load_recipe("shapes-unet")
    publish_dataset(recipe, store)
    monkeypatch.setattr(requests, "__version__", "9.9")
    reason = rows_of(recipe, store)["curate"].reason
    assert reason == f"library version {version.__version__} -> 9.9"


def test_changed_images_and_a_changed_place_are_told_apart(tmp_path, store, photographs):
    recipe = load_recipe("shapes-unet", photographs)
    before = request_of(recipe, "curate")
    (tmp_path / "images" / "new.png").write_bytes(b"1")
    texts = [change.text for change in changes(before, request_of(recipe, "curate"))]
    assert texts == ["curation.sources.0: the files it names changed"]
    (tmp_path / "other").mkdir()
    moved = load_recipe("shapes-unet", [photographs[0].replace("/images", "/other")])
    (change,) = changes(before, request_of(moved, "curate"))
    assert (change.name, change.before) == ("curation.sources.0.images_uri", str(tmp_path / "images"))


def test_a_request_is_published_with_the_record_and_changes_no_digest(tmp_path):
    recipe = load_recipe("shapes-unet")
    silent, telling = Store(str(tmp_path / "silent")), Store(str(tmp_path / "telling"))
    without = publish_dataset(recipe, silent, has_request=False)
    record = publish_dataset(recipe, telling)
    assert record.digest == without.digest
    assert telling.files(record) == silent.files(without)
    path = tmp_path / "telling" / "curate" / record.stage_key / "request.json"
    assert path.read_bytes() == request_of(recipe, "curate").to_json()
    assert not (tmp_path / "silent" / "curate" / record.stage_key / "request.json").exists()
    assert not telling.request_path("curate", record.stage_key).exists()
    path.write_text("no request")
    assert nearest_changes(request_of(recipe, "curate"), DatasetManifest, telling) is None


def test_an_attempt_that_fails_leaves_the_request_of_the_one_that_goes_on(store):
    request = request_of(load_recipe("shapes-unet"), "curate")
    with asking(request, store):
        with pytest.raises(RuntimeError), asking(request, store):
            raise RuntimeError("stopped while it waited")
        assert store.request_path("curate", request.key).read_bytes() == request.to_json()
    assert not store.request_path("curate", request.key).exists()


def test_a_folder_in_a_requests_place_is_passed_over(tmp_path, store):
    publish_dataset(load_recipe("shapes-unet"), store)
    (tmp_path / "store" / "curate" / "other" / "request.json").mkdir(parents=True)
    other = load_recipe("shapes-unet", ["curation.val_share=0.2"])
    assert rows_of(other, store)["curate"].reason == "curation.val_share: 0.05 -> 0.2"


def test_the_stages_publish_their_requests(tmp_path):
    source = "curation.sources=[{type: shapes, num_scenes: 5, seed: 1}]"
    recipe, store = load_recipe("shapes-unet", [source]), Store(str(tmp_path))
    record = run_stage(recipe, "curate", store).record
    assert (tmp_path / "curate" / record.stage_key / "request.json").read_bytes() == request_of(
        recipe, "curate"
    ).to_json()


def test_requests_of_a_remote_store_are_found(photographs):
    recipe, store = load_recipe("shapes-unet"), Store("memory://requests")
    publish_dataset(recipe, store)
    other = load_recipe("shapes-unet", ["curation.val_share=0.2"])
    found = nearest_changes(request_of(other, "curate"), DatasetManifest, store)
    assert [change.text for change in found] == ["curation.val_share: 0.05 -> 0.2"]


def test_a_damaged_record_is_a_row(tmp_path, store):
    recipe = load_recipe("shapes-unet")
    record = publish_dataset(recipe, store)
    (tmp_path / "store" / "curate" / record.stage_key / "manifest.json").write_text("{}")
    row = plan(recipe, store)[0]
    assert (row.state, "remove this prefix" in row.fix) == ("blocked", True)


def test_all_sources_that_cannot_be_used_are_named_at_once(tmp_path, store):
    (tmp_path / "t.csv").write_text("file,text\na.png,a cat\n")
    sources = f"[{{type: table, table_uri: {tmp_path}/t.csv}}, {{type: folder, images_uri: {tmp_path}/nowhere}}]"
    row = plan(load_recipe("shapes-unet", [f"curation.sources={sources}"]), store)[0]
    assert row.state == "blocked"
    assert "curation.sources.0: The captions table lacks a column" in row.reason
    assert "curation.sources.1: The image folder is not there" in row.reason


def test_a_table_that_cannot_be_used_is_a_row(tmp_path, store):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"file": ["a.png"], "text": ["a cat"]}), tmp_path / "t.parquet")
    source = f"curation.sources=[{{type: parquet, table_uri: {tmp_path / 't.parquet'}, images_uri: {tmp_path}}}]"
    row = plan(load_recipe("shapes-unet", [source]), store)[0]
    assert (row.state, "file, text" in row.reason) == ("blocked", True)
    with pytest.raises(DataError, match="image_column"):
        check_chain(load_recipe("shapes-unet", [source]), store, "curate")


def test_the_recipe_of_the_readme_is_planned(tmp_path, store, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub import constants

    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", readme, re.S)
    (tmp_path / "images").mkdir()
    table = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(table))
    pq.write_table(pa.table({"file": ["b.jpg"], "text": ["a dog"]}), tmp_path / "more.parquet")
    (tmp_path / "cats.yaml").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    rows = rows_of(load_recipe("cats.yaml"), store)
    assert [row.state for row in rows.values()] == ["run", "wait", "wait", *["blocked"] * 5]
