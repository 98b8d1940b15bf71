"""Refreshing a published dataset: tables of changes as people write them, and the command."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.artifacts import DatasetManifest
from softalign.cli.app import app
from softalign.config import Recipe, load_recipe
from softalign.data.curation.changes import read_edits
from softalign.data.curation.published import OpenedDataset
from softalign.data.versions.changes_file import COLUMNS
from softalign.data.versions.changes_table import read_changes
from softalign.errors import ConfigError, DataError, MissingInputError
from softalign.stages.chain import run_until
from softalign.stages.refresh import prepare_refresh, published_dataset
from softalign.stages.requests import encoded_before
from softalign.store.store import Store
from tests.sample_records import ENCODED
from tests.steps import published_of, request_of, step_of
from tests.unit.data.curation.conftest import Handover

SCENES = {"type": "shapes", "num_scenes": 40, "captions_per_scene": 2, "incomplete_share": 0.0, "wrong_share": 0.0}
RECIPE = {
    "name": "tiny",
    "curation": {"name": "tiny", "sources": [SCENES, {**SCENES, "seed": 7}], "samples_per_shard": 16},
    "register": {"name": "tiny"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a store with a curated dataset, which no test changes."""
    store = Store(str(tmp_path_factory.mktemp("made") / "store"))
    recipe = Recipe.model_validate(RECIPE)
    run_until("curate", recipe, store, lambda line: None, is_through=True)
    dataset = published_dataset(recipe, store)
    rows = [one.row for one in OpenedDataset(dataset, store).samples()]
    return store, recipe, dataset, rows


def table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_tables_of_every_kind_give_the_same_edits(made, tmp_path):
    store, _, dataset, rows = made
    first, second, third = rows[0], rows[1], next(row for row in rows if row.source == "1-shapes")
    wanted = [
        {
            "action": "change",
            "key": first.key,
            "before": first.captions[0],
            "caption": 'in "other", words\nof two lines',
        },
        {"action": "remove", "image_digest": second.image_digest, "before": second.captions[-1]},
        {"action": "add", "file_name": third.file_name, "source": third.source, "caption": "кот"},
    ]
    filled = [{name: row.get(name, "") for name in COLUMNS} for row in wanted]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, wanted)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(filled), tmp_path / "a.parquet")
    places = [table(tmp_path / name, filled) for name in ("a.csv", "a.tsv", "utf16.tsv")]
    Path(places[-1]).write_bytes(Path(places[-1]).read_bytes().decode().encode("utf-16"))
    opened = OpenedDataset(dataset, store)
    found = [
        read_changes(place, opened, ("0-shapes", "1-shapes"))
        for place in (*places, str(tmp_path / "a.jsonl"), str(tmp_path / "a.parquet"))
    ]
    assert [(edit.source, edit.file_name, edit.action) for edit in found[0]] == [
        (first.source, first.file_name, "change"),
        (second.source, second.file_name, "remove"),
        (third.source, third.file_name, "add"),
    ]
    assert all(edits == found[0] for edits in found)


def test_all_rows_that_name_nothing_are_listed(made, tmp_path):
    store, _, dataset, rows = made
    path = table(
        tmp_path / "a.csv",
        [
            {"action": "burn", "key": rows[0].key},
            {"action": "add", "caption": "of nothing"},
            {"action": "add", "key": "0" * 32, "caption": "of nobody"},
            {"action": "remove", "file_name": rows[0].file_name},
            {"action": "add", "file_name": "new.png", "caption": "of which source?"},
            {"action": "add", "key": rows[0].key, "image_digest": rows[0].image_digest, "caption": "twice"},
        ],
    )
    with pytest.raises(DataError) as caught:
        read_changes(path, OpenedDataset(dataset, store), ("0-shapes", "1-shapes"))
    said = str(caught.value)
    for text in ("6 caption changes", "row 1: action 'burn'", "row 2: one of", "row 3: no image", "row 4: file_name"):
        assert text in said
    assert "row 5: 'new.png' is new" in said and "row 6: one of key" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"action,what\nadd,x\n", "columns that mean nothing here: what"),
        ("a.csv", b",action,filename\n0,add,x\n", r"an index\?\), filename \(meant: file_name\?\)"),
        ("a.csv", b"action;key;caption\nadd;x;y\n", "a header with ';' between"),
        ("a.csv", b"action,key,key\nadd,x,x\n", "several columns 'key'"),
        ("a.csv", b"key,caption\nx,y\n", "no column action"),
        ("a.csv", b"action,caption\nadd,y\n", "no column of key, file_name"),
        ("a.csv", b'action,key,caption\nadd,x,y\nadd,x,"y\nadd,z,w\n', "after row 1: .* quotation mark"),
        ("a.jsonl", b'{"action": "add", "key": "x"}\n{"action"\n', "line 2 is no JSON"),
        ("a.csv", b"action,key\n\xff,x\n", "cannot be read"),
        ("a.csv", b"action,key\nadd,x,more\n", "row 1: more cells than"),
        ("a.jsonl", b"[1]\n", "no object"),
        ("a.jsonl", b'{"action": 1, "key": "x"}\n', "row 1: action holds int"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.xlsx", b"", "ends otherwise"),
    ],
)
def test_a_table_of_another_kind_is_refused(made, tmp_path, name, content, said):
    store, _, dataset, _ = made
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_changes(str(tmp_path / name), OpenedDataset(dataset, store), ("0-shapes",))


def test_the_command_makes_a_version_that_the_recipe_goes_on_from(made, tmp_path, capsys):
    store, recipe, dataset, rows = made
    path = table(tmp_path / "a.csv", [{"action": "add", "key": rows[0].key, "caption": "one more"}])
    app(["refresh", "tiny", "--captions", path, "--store", store.uri, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["num_edits"], said["parent_key"], said["stages"][0]["is_reused"]) == (1, dataset.stage_key, False)
    assert said["num_captions"] == dataset.num_captions + 1
    assert Path(said["uri"], "data_report.html").is_file()
    (uri,) = json.loads(said["override"].partition("=")[2])
    assert read_edits([uri])[0].caption == "one more"
    curation = recipe.curation.model_copy(update={"caption_changes": (uri,)})
    again = published_dataset(recipe.model_copy(update={"curation": curation}), store)
    assert again.digest == said["digest"], "a recipe with the override finds it"
    app(["data", "diff", dataset.stage_key, said["digest"], "--store", store.uri, "--json"], standalone_mode=False)
    difference = json.loads(capsys.readouterr().out)
    assert difference["is_child"] and [one["after"] for one in difference["captions"]] == ["one more"]
    with pytest.raises(ConfigError, match="--set belongs to a recipe"):
        command = ["refresh", "tiny", "--captions", path, "--store", store.uri, "--set", "name=x"]
        app(command, standalone_mode=False)


def files_of(store):
    """Return the files of a store and when each was written; what a stage notes of an attempt is none of a version."""
    places = (path for path in Path(store.uri).rglob("*") if path.is_file() and ".work" not in path.parts)
    return {str(path): path.stat().st_mtime_ns for path in places}


def test_changes_that_are_in_the_newest_version_already_are_said_to_be(made, tmp_path, capsys, caplog):
    _, _, dataset, rows = made
    store = Store(str(shutil.copytree(made[0].uri, tmp_path / "store")))
    again = ["--store", store.uri, "--json"]
    edits = [
        {"action": "add", "key": rows[0].key, "caption": "one more"},
        *({"action": "remove", "key": rows[1].key, "before": caption} for caption in rows[1].captions),
        {"action": "change", "key": rows[2].key, "before": rows[2].captions[0], "caption": "other words"},
    ]
    path, said = table(tmp_path / "a.csv", edits), []
    app(["refresh", dataset.stage_key, "--captions", path, *again], standalone_mode=False)
    first = json.loads(capsys.readouterr().out)
    before = files_of(store)
    for reference in ("tiny", first["digest"], dataset.stage_key):  # the newest, and what it is of
        caplog.clear()
        with caplog.at_level("INFO"):
            app(["refresh", reference, "--captions", path, *again], standalone_mode=False)
        said.append(json.loads(capsys.readouterr().out))
        assert f"{len(edits)} caption changes are in tiny {first['stage_key'][:16]} already" in caplog.text
    stages = [{**one, "is_reused": True} for one in first["stages"]]
    assert first["stages"] != stages and said == [{**first, "is_applied": True, "stages": stages}] * 3
    assert files_of(store) == before, "nothing is changed"
    app(["refresh", "tiny", "--captions", path, "--store", store.uri], standalone_mode=False)
    assert "caption changes: 3, all there already" in capsys.readouterr().out
    other = table(tmp_path / "b.csv", [*edits[:-1], {**edits[-1], "caption": "yet other words"}])
    with pytest.raises(DataError, match="3 caption changes cannot be applied"):
        app(["refresh", "tiny", "--captions", other, *again], standalone_mode=False)


def refreshed(store, tmp_path, reference, edits, capsys):
    path = table(tmp_path / "edits.csv", edits)
    app(["refresh", reference, "--captions", path, "--store", store.uri, "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)["stage_key"]


def test_a_comparison_says_what_caption_changes_did(made, tmp_path, capsys):
    _, _, dataset, rows = made
    store = Store(str(shutil.copytree(made[0].uri, tmp_path / "store")))
    double = [row for row in rows if len(row.captions) > 1]
    one, two, three, four = double[:4]
    gone = next(row for row in rows if row not in double[:4])
    edits = [
        {"action": "remove", "key": one.key, "before": one.captions[0]},
        {"action": "add", "key": one.key, "caption": "quite another one"},
        {"action": "change", "key": two.key, "before": two.captions[1], "caption": "said otherwise"},
        {"action": "change", "key": three.key, "before": three.captions[0], "caption": "no"},
        {"action": "remove", "key": three.key, "before": three.captions[1]},
        {"action": "add", "key": three.key, "caption": "so that the image stays"},
        {"action": "remove", "key": gone.key},
    ]
    child = refreshed(store, tmp_path, dataset.stage_key, edits, capsys)
    last = {"action": "change", "key": two.key, "before": "said otherwise", "caption": "and once more"}
    grandchild = refreshed(store, tmp_path, child, [last, {"action": "remove", "key": four.key}], capsys)
    page = str(tmp_path / "diff.html")
    app(
        ["data", "diff", dataset.stage_key, child, "--store", store.uri, "--json", "--out", page], standalone_mode=False
    )
    said = json.loads(capsys.readouterr().out)
    assert [(c["before"], c["after"], c["kind"], c["reason"]) for c in said["captions"]] == [
        (one.captions[0], "", "removed", "removed by a caption change"),
        ("", "quite another one", "added", "added by a caption change"),
        (two.captions[1], "said otherwise", "changed", "changed by a caption change"),
        (three.captions[0], "", "removed", "caption_too_short"),
        (three.captions[1], "", "removed", "removed by a caption change"),
        ("", "so that the image stays", "added", "added by a caption change"),
    ]
    assert [(i["key"], i["kind"], i["reason"]) for i in said["images"]] == [
        (gone.key, "removed", "removed by a caption change")
    ]
    assert "removed by a caption change" in Path(page).read_text(encoding="utf-8")
    app(["data", "diff", dataset.stage_key, grandchild, "--store", store.uri, "--json"], standalone_mode=False)
    both = json.loads(capsys.readouterr().out)
    assert {(i["key"], i["reason"]) for i in both["images"]} == {
        (image.key, "removed by a caption change") for image in (gone, four)
    }
    (change,) = (c for c in both["captions"] if c["before"] == two.captions[1])
    assert (change["after"], change["reason"]) == ("and once more", "changed by a caption change")
    shutil.rmtree(Path(store.uri, "captions"))
    app(["data", "diff", dataset.stage_key, child, "--store", store.uri], standalone_mode=False)
    assert "images removed: 1 (no_caption)" in capsys.readouterr().out, "as before, without what changed"


def test_a_refresh_that_was_stopped_goes_on(made, tmp_path, capsys):
    _, _, dataset, rows = made
    store = Store(str(shutil.copytree(made[0].uri, tmp_path / "store")))
    path = table(tmp_path / "a.csv", [{"action": "add", "key": rows[0].key, "caption": "a last word"}])
    first = prepare_refresh(dataset, path, store)  # killed here: the changes are kept, nothing is published
    assert first.applied is None
    assert prepare_refresh(dataset, path, store) == first
    app(["refresh", dataset.stage_key, "--captions", path, "--store", store.uri, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["parent_key"], said["is_applied"]) == (dataset.stage_key, False)
    child = store.find(DatasetManifest, said["stage_key"])
    encoded = prepare_refresh(child, path, store, load_recipe("shapes"))  # killed here: it is not encoded
    assert (encoded.applied, encoded.dataset.digest) == (child, dataset.digest)
    assert encoded.recipe.curation == first.recipe.curation and encoded.recipe.name == "shapes"


def test_encodings_of_the_version_before_are_gone_by_where_they_are(made, tmp_path):
    store, recipe, dataset, rows = made
    recipe = load_recipe("shapes").model_copy(update={"curation": recipe.curation})
    path = table(tmp_path / "a.csv", [{"action": "add", "key": rows[1].key, "caption": "one more"}])
    asked = prepare_refresh(dataset, path, store, recipe)
    child = run_until("curate", asked.recipe, store, lambda line: None, is_through=True).results[0].record
    alone = request_of(asked.recipe, "encode", store, child)
    key = request_of(recipe, "encode", store, dataset).key
    folder = store.work_path("encode", key) / "output"
    folder.mkdir()
    before = store.publish(ENCODED.model_copy(update={"stage_key": key}), folder)
    request = request_of(asked.recipe, "encode", store, child)
    assert request.inputs == {**alone.inputs, "encode (before the refresh)": before.digest}
    assert request.key != alone.key
    assert encoded_before(step_of(asked.recipe, "encode").inputs(published_of(child), store)) == before


def test_a_dataset_that_does_not_say_what_it_is_of_is_refused(made, tmp_path):
    store, recipe, dataset, rows = made
    path = table(tmp_path / "a.csv", [{"action": "add", "key": rows[0].key, "caption": "one more"}])
    other = DatasetManifest.model_validate(dataset.model_dump() | {"stage_key": "0" * 64})
    with pytest.raises(MissingInputError, match="does not say what it was made of"):
        prepare_refresh(other, path, store)
    with pytest.raises(MissingInputError, match="not published"):
        published_dataset(recipe, Store(str(tmp_path / "empty")))


def test_new_captions_that_the_filters_leave_out_are_said(made, tmp_path, caplog):
    store, _, dataset, rows = made
    edits = [{"action": "add", "key": row.key, "caption": "x"} for row in rows[:2]]
    prepare_refresh(dataset, table(tmp_path / "a.csv", edits), store)
    assert f"leave out 2 new captions: caption_too_short, such as 'x' of {rows[0].file_name}" in caplog.text


def test_sources_that_changed_since_are_said(tmp_path):
    handover, store = Handover(tmp_path / "handover").add_pictures(3), Store(str(tmp_path / "store"))
    source = handover.coco().model_dump()
    recipe = Recipe.model_validate({**RECIPE, "curation": {"name": "tiny", "sources": [source]}})
    run_until("curate", recipe, store, lambda line: None, is_through=True)
    dataset = published_dataset(recipe, store)
    path = table(tmp_path / "a.csv", [{"action": "add", "file_name": "000.png", "caption": "one more"}])
    asked = prepare_refresh(dataset, path, store)
    child = run_until("curate", asked.recipe, store, lambda line: None, is_through=True).results[0].record
    (handover.images / "another.png").write_bytes(b"a file more")
    with pytest.raises(DataError, match="the files it names changed"):
        prepare_refresh(dataset, path, store)
    assert prepare_refresh(child, path, store).applied == child, "a retry has nothing to do with them"
    with pytest.raises(DataError, match="the files it names changed"):
        prepare_refresh(child, path, store, recipe)
