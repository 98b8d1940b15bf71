"""Tables of caption changes against a dataset with copies, mended captions and mistakes in the rows."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.config import TableSource
from softalign.config.captions import CaptionFilterConfig
from softalign.data.curation.changes import changed_listing, list_samples_of, to_lines
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.reuse import Beside
from softalign.data.versions.changes_table import read_changes
from softalign.errors import DataError
from softalign.store.store import Store
from tests.unit.data.curation.conftest import Handover, picture

RAW, SHOWN = "A cafÃ© in Paris", "A café in Paris"


@dataclass
class Refreshing:
    """A dataset whose captions are changed by rows."""

    config: object
    store: Store
    root: Path
    sources: tuple = ("0-coco",)

    def __post_init__(self):
        self.dataset = OpenedDataset(curate(self.config, self.store, "parent"), self.store)
        self.rows = {one.row.file_name: one.row for one in self.dataset.samples()}

    def listed(self):
        return list_samples_of(self.config, self.root / "listed")

    def read(self, *rows):
        path = self.root / "changes.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        repair = self.config.filters.captions.repair
        return read_changes(str(path), self.dataset, self.sources, self.listed(), repair=repair)

    def captions(self, *rows):
        """Return what is listed after the changes, by file name."""
        repair = self.config.filters.captions.repair
        found = changed_listing(self.listed(), self.read(*rows), repair=repair)
        return {one.filename: list(one.captions) for one in found}

    def refused(self, *rows):
        with pytest.raises(DataError, match="nothing was changed") as caught:
            self.read(*rows)
        return caught.value.found

    def curated(self, *rows):
        """Return the rows of the child version, which is that of curating from nothing, by file name."""
        path = self.root / "edits.jsonl"
        path.write_bytes(to_lines(self.read(*rows)))
        changed = self.config.model_copy(update={"caption_changes": (str(path),)})
        child = curate(changed, self.store, "child", beside=Beside("parent"))
        scratch = curate(changed, Store(str(self.root / "scratch")), "child")
        assert child.digest == scratch.digest
        return {one.row.file_name: one.row for one in OpenedDataset(child, self.store).samples()}


@pytest.fixture
def made(tmp_path, configure):
    handover = Handover(tmp_path / "handover").add_pictures(3)
    first = (handover.images / "001.png").read_bytes()
    handover.add("copy.png", ["from the copy"], data=first)
    handover.add("same.png", ["picture number 1"], data=first)
    handover.add("mended.png", [RAW, "Tom &amp; Jerry <b>run</b>", "no"], picture(50))
    handover.add("mute.png", [], picture(51))
    return Refreshing(configure(handover.coco()), Store(str(tmp_path / "store")), tmp_path)


@pytest.mark.parametrize("before", [RAW, SHOWN, f" {SHOWN.replace(' ', '  ')}"])
def test_a_caption_is_named_as_listed_or_as_shown(made, before):
    assert SHOWN in made.rows["mended.png"].captions
    change = {"action": "change", "file_name": "mended.png", "before": before, "caption": "new"}
    assert made.captions(change)["mended.png"] == ["new", "Tom &amp; Jerry <b>run</b>", "no"]
    remove = {"action": "remove", "file_name": "mended.png", "before": before}
    assert made.captions(remove)["mended.png"] == ["Tom &amp; Jerry <b>run</b>", "no"]
    for action in ({"action": "add"}, {"action": "change", "before": "no"}):
        said = made.refused({**action, "file_name": "mended.png", "caption": before})
        assert f"row 1: {SHOWN!r} is there already" in said


def test_without_repairs_captions_are_what_is_listed(made, tmp_path):
    filters = made.config.filters.model_copy(update={"captions": CaptionFilterConfig(repair=False)})
    config = made.config.model_copy(update={"filters": filters})
    plain = Refreshing(config, Store(str(tmp_path / "other")), tmp_path)
    add = {"action": "add", "file_name": "mended.png", "caption": SHOWN}
    assert plain.captions(add)["mended.png"] == [RAW, "Tom &amp; Jerry <b>run</b>", "no", SHOWN]
    assert "no caption" in plain.refused({"action": "remove", "file_name": "mended.png", "before": "Tom & Jerry run"})


def test_a_caption_of_two_forms_is_one(made):
    (made.root / "handover" / "images" / "two.png").write_bytes(b"x")
    add = {"action": "add", "file_name": "two.png"}
    said = made.refused({**add, "caption": RAW}, {**add, "caption": SHOWN})
    assert said == f"row 2: {SHOWN!r} is there already"


@pytest.mark.parametrize("identifier", ["key", "image_digest"])
def test_an_image_is_changed_wherever_it_is_listed(made, identifier):
    image = {identifier: getattr(made.rows["001.png"], identifier)}
    assert made.rows["001.png"].captions == ["picture number 1", "another view of 1", "from the copy"]
    after = made.captions(
        {"action": "change", **image, "before": "picture number 1", "caption": "changed in both"},
        {"action": "change", **image, "before": "from the copy", "caption": "of the copy"},
        {"action": "remove", **image, "before": "another view of 1"},
        {"action": "add", **image, "caption": "added"},
    )
    assert (after["001.png"], after["copy.png"], after["same.png"]) == (
        ["changed in both", "added"],
        ["of the copy"],
        ["changed in both"],
    )
    assert "'from the copy' is there already" in made.refused({"action": "add", **image, "caption": "from the copy"})
    assert "no caption 'nobody'" in made.refused({"action": "remove", **image, "before": "nobody"})


def test_a_removed_image_does_not_come_back_as_its_copy(made):
    rows = made.curated({"action": "remove", "key": made.rows["001.png"].key})
    assert sorted(rows) == ["000.png", "002.png", "mended.png"]


def test_a_merged_caption_that_goes_is_gone(made):
    key = made.rows["001.png"].key
    rows = made.curated(
        {"action": "remove", "key": key, "before": "picture number 1"},
        {"action": "change", "key": key, "before": "from the copy", "caption": "in other words"},
    )
    assert rows["001.png"].captions == ["another view of 1", "in other words"]


def test_a_file_name_is_that_listing_alone(made):
    after = made.captions({"action": "remove", "file_name": "001.png"})
    assert (after["001.png"], after["copy.png"]) == ([], ["from the copy"])
    said = made.refused({"action": "remove", "file_name": "001.png", "before": "from the copy"})
    assert "row 1: no caption 'from the copy' to remove; it is listed for 'copy.png'" in said


def test_all_rows_that_do_not_fit_are_said_at_once(made):
    key = made.rows["000.png"].key
    rows = [
        {"action": "change", "key": key, "before": "picture number 0", "caption": "a"},
        {"action": "change", "key": key, "before": "picture number 0", "caption": "a"},
        {"action": "remove", "key": key, "before": "picture number 0"},
        {"action": "remove", "key": key},
        {"action": "remove", "file_name": "002.png", "caption": "picture number 2"},
        {"action": "add", "file_name": "002.png", "caption": "b", "before": "picture number 2"},
        {"action": "add", "file_name": "002.pgn", "caption": "b"},
        {"action": "add", "key": "0" * 32, "caption": "b"},
        {"action": "remove", "file_name": "images/002.png"},
        {"action": "add", "file_name": "002.png", "caption": "b", "source": "3-coco"},
        {"action": "add", "file_name": "002.png", "caption": 7},
        {"action": "add", "file_name": "002.png", "caption": "<br>"},
        {"action": "remove", "file_name": "002.png", "before": "not said"},
        {"action": "change", "file_name": "002.png", "before": "picture number 2", "caption": "picture  number 2"},
        {"action": "remove", "file_name": "copy.png", "before": "from the copy"},
        {"action": "remove", "file_name": "copy.png"},
        {"action": "remove", "file_name": "mute.png"},
    ]
    lines = made.refused(*rows).split("\n")
    said = {int(line.strip().split(":")[0].split()[1]): line for line in lines if line.strip()}
    for number, text in {
        2: "the same as row 1",
        3: "row 1 says what becomes of 'picture number 0'",
        4: "removes all captions of an image that row 1 changes",
        5: "the caption that goes is in `before`",
        6: "`change` puts a caption in another's place",
        7: "is not listed, and there is no such image",
        8: "no image of test has the key",
        9: "'002.png' is there",
        10: "no source is called '3-coco'",
        11: "caption holds int",
        12: "an empty caption",
        13: "no caption 'not said' to remove",
        14: "'picture number 2' is there already",
        16: "removes all captions of an image that row 15 changes",
        17: "no caption is left to remove",
    }.items():
        assert text in said.pop(number), number
    assert not said


def test_a_table_that_holds_its_images_has_no_place_for_another(tmp_path, configure):
    def png(seed):
        buffer = io.BytesIO()
        picture(seed).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": f"{min(seed, 2)}.png"}

    rows = [{"image": png(seed), "caption": f"picture number {seed}"} for seed in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    source = TableSource(table_uri=str(tmp_path / "table.parquet"), image_column="image")
    made = Refreshing(configure(source), Store(str(tmp_path / "store")), tmp_path, ("0-table",))
    assert made.captions({"action": "add", "file_name": "1.png", "caption": "more"})["1.png"][-1] == "more"
    assert "holds its images itself" in made.refused({"action": "add", "file_name": "new.png", "caption": "more"})
    keys = [row.row.key for row in made.dataset.samples() if row.row.file_name == "2.png"]
    assert len(keys) == 2
    said = made.refused({"action": "add", "key": keys[1], "caption": "of which?"})
    assert "'2.png' is what several images of 0-table are called" in said


def test_of_two_listings_with_one_name_what_goes_goes_from_both(made):
    listed = list(made.listed())
    twice = [*listed, next(one for one in listed if one.filename == "000.png")]
    edits = made.read(
        {"action": "remove", "file_name": "000.png", "before": "picture number 0"},
        {"action": "add", "file_name": "000.png", "caption": "once"},
    )
    found = [one.captions for one in changed_listing(twice, edits) if one.filename == "000.png"]
    assert found == [("another view of 0", "once"), ("another view of 0",)]
