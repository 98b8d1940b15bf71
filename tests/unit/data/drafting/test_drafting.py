"""A recipe for what lies in a folder: looked at, reported, accepted by plan; all else is a message that helps."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softalign.cli import app
from softalign.config import load_recipe
from softalign.data.drafting import draft_recipe
from softalign.data.drafting.parquet import judge_columns
from softalign.errors import ConfigError, DataError, MissingInputError
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
        "more than half of the images have a shorter side below 512 px (backbone.resolution_px) and are enlarged",
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
        "this column holds file names too",
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
        "data: of 3 Parquet files the first 2 were looked at",
    )


def test_images_with_text_files_become_a_table(here):
    make_images("data", NAMES)
    for name in NAMES[:4]:
        Path("data", name).with_suffix(".txt").write_text("two  cats,\n on a mat\n")
    Path("data", NAMES[4]).with_suffix(".txt").write_bytes(b"\xff\xfe")
    report = draft("data", "out/cats.yaml")
    assert pq.read_table("out/cats-captions.parquet").to_pydict() == {
        "file_name": NAMES[:4],
        "caption": ["two cats, on a mat"] * 4,
    }
    assert "run this again when they change" in report.found.notes[0]
    assert report.problems[0] == "2 images in data are not listed"
    assert planned("out/cats.yaml")[0] == "run"
    Path("out/cats.yaml").unlink()
    with pytest.raises(ConfigError, match=r"cats-captions\.parquet(?s:.)*--force"):
        draft("data", "out/cats.yaml")
    draft("data", "out/cats.yaml", is_forced=True)
    draft("data", "data/recipe.yaml")
    Path("data", NAMES[0]).with_suffix(".txt").write_text("changed")
    draft("data", "data/recipe.yaml", is_forced=True)
    assert pq.read_table("data/recipe-captions.parquet")["caption"][0].as_py() == "changed"


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
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "a cat"}\n')


def images_alone(folder):
    make_images(folder, NAMES)


def instances(folder):
    make_coco(folder / "annotations" / "instances_train2017.json", NAMES, field="bbox", value=[0, 0, 1, 1])


def boxes_of_another_name(folder):
    make_coco(folder / "labels.json", NAMES, field="category_id", value=3)


def images_elsewhere(folder):
    make_coco(folder / "captions.json", NAMES)


def images_in_the_table(folder):
    make_parquet(folder / "t.parquet", image=[{"bytes": b"x", "path": "a.jpg"}], text=["a cat"])


def lists_of_captions(folder):
    make_parquet(folder / "t.parquet", file_name=["a.jpg"], captions=[["a cat", "a dog"]])


def urls(folder):
    make_parquet(folder / "t.parquet", url=["https://example.org/a.jpg"], text=["a cat"])


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
        (csv, ConfigError, r"read_csv\('data/captions.csv'\), 'data/captions.parquet'"),
        (jsonl, ConfigError, "read_json"),
        (images_alone, ConfigError, r"6 images(?s:.)*\.txt file of the same name"),
        (instances, DataError, "holds no captions but instances"),
        (boxes_of_another_name, DataError, r"captions_\*\.json"),
        (images_elsewhere, MissingInputError, r"0000\.jpg(?s:.)*--images"),
        (images_in_the_table, DataError, "column image holds images themselves"),
        (lists_of_captions, DataError, "column captions holds lists"),
        (urls, DataError, r"https://example\.org/a\.jpg(?s:.)*downloaded first"),
        (absolute, DataError, "not relative to a folder"),
        (too_long, MissingInputError, "--images"),
        (broken, DataError, "no sound Parquet file"),
        (other_columns, DataError, "no column of image files and none of captions"),
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
        ("a.csv", ConfigError, "read_csv"),
        ("a.tsv", ConfigError, "delimiter"),
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
    assert (columns.images, columns.captions, columns.problems) == (("img",), ("caption", "note"), ())


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
