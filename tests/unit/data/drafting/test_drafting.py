"""A recipe for what lies in a folder: looked at, reported, accepted by plan; all else is a message that helps."""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softalign.cli import app
from softalign.config import load_recipe
from softalign.data.drafting import draft_recipe
from softalign.data.drafting.tables import judge_columns
from softalign.errors import ConfigError, DataError, MissingInputError
from softalign.stages.chain import run_until
from softalign.stages.plan import plan
from softalign.store.store import Store

SHARED_COCO = Path(__file__).parents[5] / "shared" / "data" / "coco"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_images(folder, names, size=(640, 480)):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (index, 0, 0)).save(Path(folder) / name)


def make_coco(path, names, *, captions=2, field="caption", value="a photo of a cat"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)],
        "annotations": [{"image_id": index, field: value} for index in range(len(names)) for _ in range(captions)],
    }
    Path(path).write_text(json.dumps(table))


def make_parquet(target, **columns):
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), target)


def draft(place, out="recipe.yaml", family="sd15", images=None, *, is_forced=False):
    return draft_recipe(Path(place), Path(out), family, images, is_forced=is_forced)


def planned(out="recipe.yaml"):
    return [row.state for row in plan(load_recipe(out), Store("store"))]


NAMES = [f"{index:04d}.jpg" for index in range(6)]
SMALL = "more than half of the images have a shorter side below 512 px (backbone.resolution_px) and are enlarged"


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sd3", "sd35"])
def test_a_coco_layout_becomes_a_recipe_that_plan_accepts(here, family):
    make_images("my data!/train2017", NAMES)
    make_images("my data!/val2017", NAMES[:2])
    make_coco("my data!/annotations/captions_train2017.json", NAMES)
    make_coco("my data!/annotations/instances_train2017.json", NAMES, field="bbox", value=[0, 0, 1, 1])
    report = draft("my data!", family=family)
    (source,) = report.found.sources
    assert source.source.images == "my data!/train2017"
    assert (source.num_images, source.num_captions, source.num_missing, source.num_unlisted) == (6, 12, 0, 0)
    assert (source.look.smallest_side_px, source.look.num_looked_at) == (480, 6)
    assert report.found.notes == ("my data!/annotations/instances_train2017.json: instances, no captions",)
    recipe = load_recipe("recipe.yaml")
    assert (recipe.name, recipe.backbone.family, recipe.register_.name) == ("my-data", family, "softalign-my-data")
    assert recipe.backbone.resolution_px == recipe.evaluate.resolution_px
    assert planned()[0] == "run"


def test_problems_are_counted(here):
    make_images("data/images", NAMES[:3])
    make_images("data/images", ["long.jpg"], size=(400, 40))
    make_images("data/images", ["small.jpg"], size=(20, 20))
    (here / "data/images/broken.jpg").write_bytes(b"no image")
    make_coco("data/captions.json", [*NAMES[:4], "long.jpg", "small.jpg", "broken.jpg"], value=" ")
    make_images("data/images", ["extra.png"])
    report = draft("data")
    assert report.problems == (
        "1 of 7 listed images are not in data/images",
        "7 listed images have no caption",
        "1 images in data/images are not listed",
        "1 of 6 images looked at cannot be opened",
        "1 of 6 images looked at are below curation.filters.min_side_px",
        "1 of 6 images looked at are above curation.filters.max_aspect_ratio",
        SMALL,
    )
    text = report.to_text()
    assert "problem: 1 of 7 listed" in text
    assert text.endswith("next: softalign plan recipe.yaml")


def test_other_readings_are_listed_and_stand_as_comments(here):
    make_images("data/a", NAMES)
    make_images("data/b", NAMES)
    make_coco("data/captions_a.json", NAMES, captions=3)
    make_coco("data/captions_b.json", NAMES, captions=1)
    report = draft("data")
    assert report.found.sources[0].source.table == "data/captions_a.json"
    assert report.found.sources[0].source.images == "data/a"
    assert [other.why for other in report.found.alternatives] == [
        "the same file names are in this folder too",
        "another table: 6 images, 6 captions",
    ]
    text = Path("recipe.yaml").read_text()
    assert text.count("    # - type: coco") == 2
    uncommented = text.replace("    # - type", "    - type").replace("    #   ", "      ")
    Path("all.yaml").write_text(uncommented)
    assert len(load_recipe("all.yaml").curation.sources) == 3


def test_a_parquet_table_has_its_columns_guessed_and_said(here):
    make_images("data/pictures/deep", NAMES)
    make_parquet(
        "data/table.parquet",
        id=list(range(6)),
        thumb=[f"small/{name}" for name in NAMES],
        path=[f"deep/{name}" for name in NAMES],
        source=["the web"] * 6,
        text=["two cats on a mat"] * 6,
        language=["en"] * 6,
    )
    report = draft("data/table.parquet")
    (source,) = report.found.sources
    assert (source.source.image_column, source.source.caption_column) == ("path", "text")
    assert source.source.images == "data/pictures"
    assert (source.num_images, source.num_captions) == (6, 6)
    assert {other.why for other in report.found.alternatives} == {
        "this column holds images too",
        "this column holds text too",
    }
    assert planned()[0] == "run"
    with pytest.raises(MissingInputError, match="--images"):
        draft("data/table.parquet", "other.yaml", images=here / "data" / "pictures" / "deep")
    assert not Path("other.yaml").exists()


def test_parts_of_one_table_are_all_used(here):
    make_images("data/images", NAMES)
    for part in range(2):
        make_parquet(f"data/part-{part}.parquet", file_name=NAMES[3 * part :][:3], caption=["a cat"] * 3)
    make_parquet("data/other.parquet", file_name=NAMES[:1], title=["a dog"])
    report = draft("data")
    assert [source.source.table for source in report.found.sources] == ["data/part-0.parquet", "data/part-1.parquet"]
    assert [other.why for other in report.found.alternatives] == ["another table: 1 images, 1 captions"]
    assert len(load_recipe("recipe.yaml").curation.sources) == 2


def test_what_is_too_much_to_look_at_is_said(here, monkeypatch):
    from softalign.data.drafting import survey

    monkeypatch.setattr(survey, "MAX_TABLES", 2)
    make_images("data/images", NAMES)
    for part in range(3):
        make_parquet(f"data/part-{part}.parquet", file_name=NAMES[2 * part :][:2], caption=["a cat"] * 2)
        make_coco(f"data/images/{part}.json", NAMES)
    notes = draft("data").found.notes
    assert notes == (
        "data/images: 3 JSON files, more than 2, were not looked at",
        "data: of 3 tables the first 2 were looked at",
    )


def test_images_with_text_files_become_a_folder(here):
    make_images("data", NAMES)
    for name in NAMES[:4]:
        Path("data", name).with_suffix(".txt").write_text("two cats on a mat")
    Path("data", NAMES[4]).with_suffix(".caption").write_bytes(b"caf\xe9")
    report = draft("data", "out/cats.yaml")
    (source,) = report.found.sources
    assert (source.source.type, source.num_images, source.num_captions) == ("folder", 6, 4)
    assert report.problems == ("2 listed images have no caption", SMALL)
    assert planned("out/cats.yaml")[0] == "run"
    assert sorted(path.name for path in Path("out").iterdir()) == ["cats.yaml"]


def rows_of(suffix, folder):
    """Write a table of three images and their captions in a format, named relative to ``folder``."""
    table = pa.table({"file_name": NAMES[:3], "text": ["two cats", "a dog", "one bird"]})
    path = Path(folder, f"table{suffix}")
    if suffix == ".csv":
        path.write_text(
            "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in table.to_pylist())
        )
    elif suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        text = "".join(f"{json.dumps(row)}\n" for row in table.to_pylist())
        path.write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl.gz", ".arrow"])
def test_tables_of_other_formats(here, suffix):
    make_images("data/images", NAMES)
    rows_of(suffix, "data")
    for place in ("data", f"data/table{suffix}"):
        (source,) = draft(place, is_forced=True).found.sources
        assert (source.source.type, source.source.images) == ("table", "data/images")
        assert (source.num_images, source.num_captions, source.num_unlisted) == (3, 3, 3)
        assert planned()[0] == "run"
    assert load_recipe("recipe.yaml").curation.sources[0].caption_columns == ("text",)


def test_a_column_with_a_few_empty_cells_holds_captions_all_the_same(here):
    make_images("data/images", NAMES)
    cells = ["", "  ", "two cats", "a cat", "nan", "a dog"]
    rows = "".join(f'{name},"{text}",\n' for name, text in zip(NAMES, cells, strict=True))
    Path("data/table.csv").write_text(f"path,caption,note\n{rows}")
    report = draft("data")
    assert report.found.sources[0].source.caption_column == "caption"
    assert report.problems[0] == "2 listed images have no caption"


def test_a_store_beside_the_data_is_none_of_them(here):
    make_images("data", NAMES)
    make_coco("data/captions.json", NAMES, captions=1)
    draft("data")
    store = Store("data/softalign-store")
    walked = run_until("curate", load_recipe("recipe.yaml"), store, lambda _: None, is_through=True)
    published = walked.results[-1].record.uri
    (source,) = (report := draft("data", is_forced=True)).found.sources
    assert (source.source.table, report.found.alternatives, report.found.notes) == ("data/captions.json", (), ())
    assert draft(published, is_forced=True).found.sources[0].source.table.startswith(published)


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_in_a_table_and_lists_of_captions(here):
    cells = [{"bytes": picture(), "path": None}, {"bytes": b"no image", "path": None}]
    make_parquet("data/t.parquet", image=cells, captions=[["a cat", "two cats"], []], id=[1, 2])
    report = draft("data")
    (source,) = report.found.sources
    assert (source.source.image_column, source.source.caption_column) == ("image", "captions")
    assert (source.num_images, source.num_captions, source.look.smallest_side_px) == (2, 2, 480)
    assert report.problems == ("1 listed images have no caption", "1 of 2 images looked at cannot be opened", SMALL)
    assert "held there" in report.to_text()
    assert planned()[0] == "run"


def test_urls_in_a_table(here):
    make_parquet("data/t.parquet", url=["https://example.org/a", "https://example.org/b?x=1"], text=["a cat", "two"])
    report = draft("data")
    assert load_recipe("recipe.yaml").curation.sources[0].allow_urls
    assert report.found.notes == ("data/t.parquet: images behind URLs were not looked at",)
    assert (report.problems, planned()[0]) == ((), "run")


def test_absolute_paths_below_the_folder_that_is_said(here):
    make_images("data/images", NAMES)
    names = [str((here / "data/images" / name).absolute()) for name in NAMES]
    make_coco("data/captions.json", names)
    make_parquet("data/t.parquet", file_name=names, caption=["a cat"] * 6)
    for place in ("data/captions.json", "data/t.parquet"):
        (source,) = draft(place, images=here / "data/images", is_forced=True).found.sources
        assert (source.num_images, source.num_missing, source.num_unlisted) == (6, 0, 0)


@pytest.mark.parametrize("field", ["caption", "captions"])
def test_tars(here, field):
    Path("data").mkdir()
    for number in range(2):
        with tarfile.open(f"data/{number:05d}.tar", "w") as tar:
            for name, data in (("a.png", picture()), ("a.json", json.dumps({field: ["one cat", "two"]}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    report = draft("data")
    (source,) = report.found.sources
    assert (source.source.table, source.num_images, source.num_captions) == ("data/*.tar", 1, 2)
    assert report.found.notes == ("data/*.tar: counted in the first of 2 tars",)
    assert "1 images, 2 captions; data/*.tar: counted in the first of 2 tars." in Path("recipe.yaml").read_text()
    assert load_recipe("recipe.yaml").curation.sources[0].caption_field == field
    assert planned()[0] == "run"
    assert draft("data/00001.tar", is_forced=True).found.sources[0].source.table == "data/00001.tar"
    Path("data/00001.tar").write_bytes(b"")
    with pytest.raises(DataError):
        draft("data/00001.tar", is_forced=True)


def test_a_saved_hugging_face_dataset(here):
    table = pa.table({"image": [{"bytes": picture(), "path": "a.png"}], "text": ["two cats"]})
    for split in ("train", "test"):
        Path("data", split).mkdir(parents=True)
        with pa.ipc.new_stream(f"data/{split}/data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
        Path("data", split, "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    report = draft("data")
    (source,) = report.found.sources
    assert (source.source.type, source.source.table, source.num_captions) == ("hf", "data/test", 1)
    assert [other.source.table for other in report.found.alternatives] == ["data/train"]
    assert planned()[0] == "run"
    assert draft("data/train", is_forced=True).found.sources[0].source.table == "data/train"


def test_nothing_is_overwritten_unless_asked(here):
    make_images("data", NAMES)
    make_coco("data/captions.json", NAMES)
    Path("recipe.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        draft("data")
    assert Path("recipe.yaml").read_text() == "mine"
    draft("data", is_forced=True)
    assert load_recipe("recipe.yaml").name == "data"
    with pytest.raises(ConfigError, match=r"\.yaml or \.yml"):
        draft("data", "recipe.txt")


def empty(folder):
    pass


def csv(folder):
    (folder / "captions.csv").write_text("file_name,caption\na.jpg,a cat\n")


def jsonl(folder):
    (folder / "metadata.jsonl").write_text("[1]\n")


def images_alone(folder):
    make_images(folder, NAMES)


def instances(folder):
    make_coco(folder / "annotations" / "instances_train2017.json", NAMES, field="bbox", value=[0, 0, 1, 1])


def boxes_of_another_name(folder):
    make_coco(folder / "labels.json", NAMES, field="category_id", value=3)


def images_elsewhere(folder):
    make_coco(folder / "captions.json", NAMES)


def lists_of_numbers(folder):
    make_parquet(folder / "t.parquet", file_name=["a.jpg"], captions=[[1, 2]])


def absolute(folder):
    make_images(folder, NAMES)
    make_coco(folder / "captions.json", [str((folder / name).absolute()) for name in NAMES])


def too_long(folder):
    make_coco(folder / "captions.json", ["n" * 300 + ".jpg"])


def broken(folder):
    (folder / "t.parquet").write_bytes(b"PAR1")


def other_columns(folder):
    make_parquet(folder / "t.parquet", number=[1], vector=[2.0])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (empty, ConfigError, "nothing here"),
        (csv, MissingInputError, r"a\.jpg(?s:.)*--images"),
        (jsonl, DataError, "not a sound file of JSON lines"),
        (images_alone, ConfigError, r"6 images(?s:.)*\.txt file of the same name"),
        (instances, DataError, "holds no captions but instances"),
        (boxes_of_another_name, DataError, r"captions_\*\.json"),
        (images_elsewhere, MissingInputError, r"0000\.jpg(?s:.)*--images"),
        (lists_of_numbers, DataError, "no column of captions"),
        (absolute, DataError, "not relative to a folder(?s:.)*--images"),
        (too_long, MissingInputError, "--images"),
        (broken, DataError, "not a sound Parquet file"),
        (other_columns, DataError, "no column of images and none of captions"),
    ],
)
def test_what_is_no_source_gets_a_message_that_helps(here, make, error, said):
    Path("data").mkdir()
    make(Path("data"))
    with pytest.raises(error, match=said):
        draft("data")
    assert not Path("recipe.yaml").exists()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("a.csv", DataError, "no column"),
        ("a.zip", ConfigError, "unpack"),
        ("a.png", ConfigError, "name the folder"),
        ("a.json", DataError, "no captions file in COCO's format"),
        ("nowhere", MissingInputError, "nothing to look at"),
    ],
)
def test_a_file_that_is_no_source_gets_a_message_that_helps(here, name, error, said):
    if name != "nowhere":
        Path(name).write_text("[]")
    with pytest.raises(error, match=said):
        draft(name)


def test_the_captions_beside_a_file_of_boxes_are_named(here):
    make_coco("annotations/captions_val2017.json", NAMES)
    make_coco("annotations/instances_val2017.json", NAMES, field="bbox", value=[0, 0, 1, 1])
    with pytest.raises(DataError, match=r"softalign init annotations/captions_val2017\.json"):
        draft("annotations/instances_val2017.json")
    make_images("val2017", NAMES)
    draft("annotations/captions_val2017.json")
    assert load_recipe("recipe.yaml").curation.sources[0].images_uri == "val2017"


def test_odd_names_survive_the_recipe(here):
    odd = 'Bücher "x": #1 — 日本 😀 \x07\x85\n{y} \\'
    make_images(odd, NAMES)
    make_coco(f"{odd}/captions.json", NAMES)
    draft(odd)
    assert load_recipe("recipe.yaml").curation.sources[0].images_uri == odd
    assert load_recipe("recipe.yaml").name == "b-cher-x-1-y"


@pytest.mark.parametrize("place", ["2017", "null", "no", "1e5", "2026-11-26"])
def test_a_place_that_is_called_like_a_number_or_a_word_of_yaml(here, place):
    make_images(place, NAMES)
    make_coco(f"{place}/captions.json", NAMES)
    draft(place)
    assert load_recipe("recipe.yaml").name == load_recipe("recipe.yaml").curation.name == place


def test_columns_are_judged_by_their_values():
    columns = judge_columns(
        {
            "weights": ["a.bin", "b.bin"],
            "img": ["a.jpg", None],
            "caption": ["cat", "dog"],
            "code": ["x1", "x2"],
            "note": ["seen by me", "and by you all"],
            "empty": [None, None],
        }
    )
    assert (columns.images, columns.captions) == (("img",), ("caption", "note"))


def test_the_command_reports_in_json_and_for_people(here, monkeypatch, capsys):
    make_images("data", NAMES)
    make_coco("data/captions.json", NAMES)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", "init", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code or 0

    assert command("data", "--json", "--family", "sd3", "--images", "data") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recipe"], printed["family"]) == ("recipe.yaml", "sd3")
    assert printed["found"]["sources"][0]["num_captions"] == 12
    assert command("data") == 2
    assert command("data", "--force") == 0
    assert "6 images, 12 captions" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED_COCO.is_dir(), reason="no sample of COCO beside the repository")
def test_a_part_of_coco_itself(here):
    report = draft(SHARED_COCO)
    assert (report.found.sources[0].num_images, report.found.sources[0].num_captions) == (80, 400)
    assert planned()[0] == "run"
